//! IP families, prefixes, sparse pools and address plans: floor 0, pure.
//!
//! A family is a value ([`IpFamily`]), never a branch; what exists once per family is a [`DualStack`].
#![forbid(unsafe_code)]

mod dual;
mod family;

pub use dual::DualStack;
pub use family::IpFamily;
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
