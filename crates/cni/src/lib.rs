//! The CNI plugin family: what a container runtime calls to connect and disconnect containers.
//!
//! One executable, `dyad-cni`, is the plugin it is called as (`plugin`). It lives for a few milliseconds: no runtime, no
//! thread that waits, nothing read that is not needed. [`Request`], [`NetConf`], [`CniResult`] and [`CniError`] are the
//! specification's; [`store`] notes addresses as host-local does; [`routed`] connects pods by routes, for the plugin
//! `dyad` as well as for the node agent, which it hands the work to over a socket ([`wire`]).
#![forbid(unsafe_code)]

mod announce;
mod attach;
mod conf;
mod delegate;
mod error;
mod host;
mod ipam;
mod lease;
mod local;
mod plugin;
mod range;
mod request;
mod result;
pub mod routed;
pub mod store;
mod version;
pub mod wire;

pub use conf::{Fields, NetConf};
pub use error::{CniError, Code, Result};
pub use plugin::{main, names};
pub use range::{Kind, Range, RangeSet, read_ranges};
pub use request::{Command, Request};
pub use result::{CniResult, Interface, Ip, Route};
pub use version::Version;

#[cfg(test)]
mod tests;
