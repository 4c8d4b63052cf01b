//! IP families, prefixes, sparse pools and address plans: floor 0, pure.
//!
//! A family is a value ([`IpFamily`]), never a branch; what exists once per family is a [`DualStack`].
#![forbid(unsafe_code)]

mod blocks;
mod derive;
mod dual;
mod embed;
mod family;
mod intervals;
mod pool;
mod ports;
mod range;
mod text;

pub use blocks::{BlockError, BlockPool};
pub use derive::{Blocks, BlocksTextError, Derivation, DeriveError};
pub use dual::DualStack;
pub use embed::{Pref64, Pref64Error};
pub use family::IpFamily;
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use pool::{Pool, PoolError, StaticBand};
pub use ports::PortPool;
pub use range::{
    RangeListError, overlaps, parse_range_list, range_list, service_range_contains, usable_addresses,
};
pub use text::{
    CidrTextError, IpTextError, check_canonical_cidr, check_canonical_ip, check_cidr, check_ip,
    parse_cidr_sloppy, parse_ip_sloppy,
};
