//! Links, addresses, routes, neighbours and network namespaces, over netlink.
//!
//! Blocking and small: no runtime and no thread of its own, so that a CNI plugin that lives for a millisecond can
//! use it as well as a long-lived agent. A [`Handle`] is a netlink socket; a socket keeps the namespace it was
//! opened in, so one process may hold handles to many namespaces. [`netns`] makes and enters namespaces, [`sysctl`]
//! sets kernel switches, [`pod`] is the routed link between a node and a pod, [`vxlan`] and
//! [`wireguard`] are links between nodes.
//!
//! The codec (`wire`) knows only the attributes we use and steps over all others, so that a newer kernel cannot
//! break a listing.
#![deny(unsafe_code)]

mod address;
mod bridge;
mod error;
mod handle;
mod link;
mod neighbour;
pub mod netns;
pub mod pod;
mod rate;
mod route;
pub mod sysctl;
pub mod vxlan;
mod wire;
pub mod wireguard;

pub use address::Address;
pub use bridge::{BridgePort, PortVlan};
pub use error::{Error, Result};
pub use handle::Handle;
pub use link::{Link, LinkChange, Mac, NewLink};
pub use neighbour::Neighbour;
pub use rate::{Limits, Rate};
pub use route::{NextHop, OURS, Route, RouteKind};

#[cfg(test)]
mod tests;
