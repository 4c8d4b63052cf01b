//! The names of a cluster (A.2): from Services, slices and pods to snapshots that readers take without waiting.
//!
//! A snapshot holds no records but what they are made of: one [`Entry`] for each Service, under the two labels of its
//! name, and the names of each address. So one probe tells what there is at a name, and a change costs what it touches.

mod apex;
mod entry;
mod input;
mod label;
mod map;
mod publish;
mod reverse;
mod snapshot;
mod store;

pub use apex::Apex;
pub use input::{
    Endpoint, NameServers, ObjectName, Options, Pod, PodMode, Port, Protocol, Service, ServiceKind, Slice,
};
pub use label::{Dashed, dashed, parse_dashed};
pub use publish::{Published, SnapshotReader};
pub use snapshot::Snapshot;
pub use store::Store;

pub(crate) use entry::{Entry, Host, SELF, Target};
pub(crate) use reverse::{Place, Tree};
pub(crate) use snapshot::{Node, Pointer, QueryName};

#[cfg(test)]
pub(crate) mod tests;
