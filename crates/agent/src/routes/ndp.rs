//! NDP proxy: the node answers for its pods' addresses on its own link (RFC 4389), where a cloud gives it a prefix of that
//! link instead of routing one to it. So pods with global addresses are reached without translation.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_links::{Handle, Result, pod};
use dyad_net::IpFamily;
use tracing::info;

use super::Node;
use crate::switches::Switches;

/// Answers for this node's pods, and for no others of its pod ranges any more, on the link of the node's IPv6 address.
pub(crate) fn answer(kernel: &mut Handle, mine: &Node, switches: &Switches) -> Result<()> {
    let Some(own) = mine.ip(IpFamily::V6) else { return Ok(()) };
    let Some(uplink) = kernel.addresses()?.into_iter().find(|of| of.net.addr() == own).map(|of| of.link)
    else {
        return Ok(());
    };
    let links = kernel.links()?;
    let of_pods: BTreeSet<u32> =
        links.iter().filter(|link| link.group == pod::GROUP).map(|link| link.index).collect();
    let neighbours = kernel.neighbours()?.into_iter();
    let is_of_pods = |ip: &IpAddr| ip.is_ipv6() && mine.pod_ranges.iter().any(|range| range.contains(ip));
    let pods: BTreeSet<IpAddr> =
        neighbours.filter(|of| of_pods.contains(&of.link)).map(|of| of.ip).filter(is_of_pods).collect();
    if let Some(link) = links.iter().find(|link| link.index == uplink) {
        switches.set(&format!("net/ipv6/conf/{}/proxy_ndp", link.name), "1")?;
    }
    let proxied = kernel.proxies()?;
    for ip in pods.iter().filter(|ip| !proxied.contains(&(uplink, **ip))) {
        kernel.set_proxy(uplink, *ip, true)?;
        info!(%ip, "answered for on the node's link");
    }
    for (link, ip) in
        proxied.iter().filter(|(link, ip)| is_of_pods(ip) && (*link != uplink || !pods.contains(ip)))
    {
        kernel.set_proxy(*link, *ip, false)?;
    }
    Ok(())
}
