//! Addresses of the cluster's DNS Service on this node: a server can listen only on what the node has.

use std::net::IpAddr;

use dyad_links::{Address, Handle, OURS};
use tracing::info;

use crate::AgentError;

/// Gives the network namespace of the calling thread these addresses, on loopback, for a DNS server to listen on. An
/// agent keeps those it is configured with ([`Config::intercept`](crate::Config::intercept)), and takes others of ours
/// away; a server that starts before it needs them at once.
pub fn claim(addresses: &[IpAddr]) -> Result<(), AgentError> {
    let mut links = Handle::open()?;
    let lo = links.index("lo")?;
    Ok(addresses.iter().try_for_each(|ip| links.claim_address(lo, *ip))?)
}

/// Makes our claims those that are wanted, where `present` are all addresses there are.
pub(crate) fn apply(links: &mut Handle, wanted: &[IpAddr], present: &[Address]) -> dyad_links::Result<()> {
    for ip in wanted.iter().filter(|ip| !present.iter().any(|address| address.net.addr() == **ip)) {
        let lo = links.index("lo")?;
        links.claim_address(lo, *ip)?;
        info!(%ip, "address claimed for the DNS server of this node");
    }
    for address in present.iter().filter(|address| is_ours(address) && !wanted.contains(&address.net.addr()))
    {
        links.delete_address(address.link, address.net)?;
        info!(address = %address.net, "claimed address given up");
    }
    Ok(())
}

/// Gives up all of ours.
pub(crate) fn cleanup(links: &mut Handle) -> dyad_links::Result<()> {
    let present = links.addresses()?;
    apply(links, &[], &present)
}

const fn is_ours(address: &Address) -> bool {
    address.protocol == OURS
}
