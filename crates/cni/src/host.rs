//! What plugins do alike to the host and in containers.

use std::os::fd::{AsFd, OwnedFd};

use dyad_links::{Handle, Mac, RouteKind, netns, sysctl};
use dyad_net::{IpFamily, IpNet};

use crate::conf::Fields;
use crate::{CniError, CniResult, Code, Request, Result};

/// Used where nothing says otherwise, in bytes.
const DEFAULT_MTU: u32 = 1500;
/// The main routing table.
const MAIN: u32 = 254;

/// The field `mtu`; zero is as good as none.
pub(crate) fn mtu(fields: &Fields<'_>) -> Result<Option<u32>> {
    Ok(fields.small("mtu")?.filter(|mtu| *mtu != 0))
}

/// The smallest MTU of links with a default route.
pub(crate) fn uplink_mtu(handle: &mut Handle) -> Result<u32> {
    let mut uplinks = Vec::new();
    for route in handle.all_routes()? {
        if route.destination.prefix_len() == 0 && route.table == MAIN && route.kind == RouteKind::Unicast {
            uplinks.extend(route.hops.iter().map(|hop| hop.link));
        }
    }
    if uplinks.is_empty() {
        return Ok(DEFAULT_MTU);
    }
    let links = handle.links()?;
    let found = links.iter().filter(|link| uplinks.contains(&link.index)).map(|link| link.mtu);
    Ok(found.min().unwrap_or(DEFAULT_MTU))
}

/// Has the host forward packets of these families.
pub(crate) fn forward(families: impl Iterator<Item = IpFamily>) -> Result<()> {
    for family in families {
        sysctl::write(forwarding(family), "1")?;
    }
    Ok(())
}

const fn forwarding(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "net/ipv4/ip_forward",
        IpFamily::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// Reads an Ethernet address.
pub(crate) fn parse_mac(name: &str, text: &str) -> Result<Mac> {
    let octets: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|octet| (octet.len() == 2).then(|| u8::from_str_radix(octet, 16).ok()).flatten())
        .collect();
    let mac = octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok()).map(Mac);
    mac.ok_or_else(|| {
        let way_out = "is no Ethernet address: six pairs of digits, as in 0a:58:0a:01:00:05";
        CniError::config(name, format_args!("{text:?}"), way_out)
    })
}

/// That the link in the container has the addresses and routes of `previous` (CHECK).
pub(crate) fn check_container(request: &Request, netns: &OwnedFd, previous: &CniResult) -> Result<()> {
    let failed = |what: String| {
        let (name, id) = (&request.ifname, &request.container_id);
        CniError::new(Code::Failed, format!("{name} of container {id} {what}: make the container anew"))
    };
    let read = || {
        let mut handle = Handle::open()?;
        let link = handle.link(&request.ifname)?;
        Ok::<_, dyad_links::Error>((link, handle.addresses()?, handle.all_routes()?))
    };
    let (link, addresses, routes) = netns::within(netns.as_fd(), read)??;
    let link = link.ok_or_else(|| failed("is not there".into()))?;
    let said =
        previous.interfaces.iter().find(|said| said.name == request.ifname && !said.sandbox.is_empty());
    if let Some(said) = said.filter(|said| !said.mac.is_empty())
        && link.mac.is_some_and(|mac| !mac.to_string().eq_ignore_ascii_case(&said.mac))
    {
        return Err(failed(format!("has not the Ethernet address {}", said.mac)));
    }
    for ip in previous.container_ips() {
        let link_of_it = ip.interface.and_then(|index| previous.interfaces.get(index));
        if link_of_it.is_some_and(|said| said.name != request.ifname) {
            continue;
        }
        if !addresses.iter().any(|address| address.link == link.index && address.net == ip.address) {
            return Err(failed(format!("has not the address {}", ip.address)));
        }
    }
    for route in &previous.routes {
        let gateway = gateway_of(previous, route.dst).filter(|_| route.gw.is_none());
        let wanted = route.gw.or(gateway);
        let is_there = routes.iter().any(|there| {
            there.destination == route.dst.trunc()
                && (wanted.is_none() || there.hops.iter().any(|hop| hop.via == wanted))
        });
        if !is_there {
            return Err(failed(format!("has no route to {}", route.dst)));
        }
    }
    Ok(())
}

/// The gateway of routes that name none: that of the first address of their family.
pub(crate) fn gateway_of(result: &CniResult, dst: IpNet) -> Option<std::net::IpAddr> {
    let family = IpFamily::from(dst);
    result.ips.iter().filter(|ip| IpFamily::from(ip.address) == family).find_map(|ip| ip.gateway)
}
