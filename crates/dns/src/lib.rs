//! Cluster DNS: the names of Services and pods in both families, forwarding with a cache, DNS64.

pub mod ask;
pub mod cache;
pub mod chain;
pub mod corefile;
pub mod dns64;
#[cfg(feature = "dnssec")]
pub mod dnssec;
pub mod forward;
pub mod metrics;
pub mod respond;
pub mod reverse;
pub mod serve;
pub mod server;
pub mod source;
pub mod wire;
pub mod zone;
