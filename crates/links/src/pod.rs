//! The routed link between a node and one of its pods.
//!
//! ```text
//!   pod namespace                                   node namespace
//!   eth0  10.244.1.5/32 fd00:10:244:1::5/128  <-->  dy0f3a...  fe80::1/64
//!         default via 169.254.1.1, fe80::1           10.244.1.5, fd00:10:244:1::5 dev dy0f3a...
//! ```
//!
//! No bridge and no address resolution: the Ethernet addresses of both ends follow from the pod's key, and both ends
//! have static neighbour entries, so that 169.254.1.1 need not exist anywhere. No duplicate address detection: a
//! node assigns each of its addresses once. Name, addresses and alias are functions of the key, so adding again
//! repairs what is there, and [`list`] finds everything after a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use dyad_net::{DualStack, IpFamily, IpNet, Ipv6Net};

mod limit;

pub use limit::limit;

use crate::{Handle, LinkChange, Mac, Neighbour, NewLink, Result, Route, netns, sysctl};

/// The name of the link inside the pod.
pub const POD_LINK: &str = "eth0";
/// The group of all pod links.
pub const GROUP: u32 = 0x6479_0001;
/// The group of pod links that [`reap`] deletes.
const DOOMED: u32 = 0x6479_0002;
/// What the alias of a pod link starts with; the key follows.
const ALIAS: &str = "dyad-pod:";

/// The next hop of a pod in each family. Link-local: it costs no address, and is the same for every pod.
pub const fn gateway(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

/// A pod link to be made.
#[derive(Clone, Debug)]
pub struct PodLink<'a> {
    /// What identifies the pod on its node, at most 200 bytes; everything that has a name is named after it.
    pub key: &'a str,
    /// The pod's namespace.
    pub netns: BorrowedFd<'a>,
    /// The pod's addresses.
    pub addresses: DualStack<IpAddr>,
    /// The node's addresses, from which it talks to the pod; those of families the node has.
    pub node: Option<DualStack<IpAddr>>,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// How the pod's end is to look, where somebody else says so (CNI).
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its Ethernet address; one that follows from the key if not given.
    pub mac: Option<Mac>,
}

impl Default for End<'_> {
    fn default() -> Self {
        Self { name: POD_LINK, mac: None }
    }
}

/// A pod link that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// The key it was made with.
    pub key: String,
    /// Its name on the node.
    pub name: String,
    /// Its index on the node.
    pub index: u32,
    /// The pod addresses the node routes to it, in no particular order.
    pub addresses: Vec<IpAddr>,
    /// Whether it is limited ([`limit`]).
    pub is_limited: bool,
}

/// The name of the node's end: `dy` and 13 digits of the key's hash, 15 bytes in all.
pub fn name(key: &str) -> String {
    named("dy", key)
}

fn named(prefix: &str, key: &str) -> String {
    format!("{prefix}{:013x}", hash(key) & 0x000f_ffff_ffff_ffff)
}

/// FNV-1a: stable over versions and machines, as the standard library's hash is not.
pub(crate) fn hash(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The Ethernet addresses of the node's and the pod's end: locally administered, and alike but for one bit.
pub fn macs(key: &str) -> (Mac, Mac) {
    let [_, _, _, a, b, c, d, e] = hash(key).to_be_bytes();
    (Mac([0x0a, a, b, c, d, e]), Mac([0x0e, a, b, c, d, e]))
}

/// The link-local address that goes with an Ethernet address (RFC 4291 appendix A).
pub fn link_local(mac: Mac) -> Ipv6Net {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f);
    Ipv6Net::new_assert(ip, 64)
}

/// Makes the link, or repairs it. `node` is a handle to the node's namespace.
pub fn add(node: &mut Handle, pod: &PodLink<'_>) -> Result<()> {
    add_as(node, pod, End::default())
}

/// The same with a pod's end that looks as it is told to.
pub fn add_as(node: &mut Handle, pod: &PodLink<'_>, end: End<'_>) -> Result<()> {
    let name = name(pod.key);
    let (near_mac, far_mac) = macs(pod.key);
    let far_mac = end.mac.unwrap_or(far_mac);
    let near = NewLink { mac: Some(near_mac), mtu: Some(pod.mtu), group: GROUP, ..NewLink::named(&name) };
    let far = NewLink {
        mac: Some(far_mac),
        mtu: Some(pod.mtu),
        netns: Some(pod.netns),
        ..NewLink::named(end.name)
    };
    match node.add_veth(&near, &far) {
        Err(error) if error.is_exists() => {
            // Ours from before, or what is left of one whose pod end is elsewhere.
            if !netns::within(pod.netns, || has_pod_end(end.name, far_mac))?? {
                node.delete_link(&name)?;
                node.add_veth(&near, &far)?;
            }
        }
        made => made?,
    }
    let far = || configure_pod_end(pod, end.name, near_mac, far_mac);
    let result =
        netns::within(pod.netns, far).flatten().and_then(|()| configure_node_end(node, pod, &name, far_mac));
    if result.is_err() {
        // Nothing half-made stays behind; the first error is the one that counts.
        let _ = node.delete_link(&name);
    }
    result
}

fn has_pod_end(name: &str, mac: Mac) -> Result<bool> {
    Ok(Handle::open()?.link(name)?.is_some_and(|link| link.mac == Some(mac)))
}

fn configure_pod_end(pod: &PodLink<'_>, name: &str, near_mac: Mac, far_mac: Mac) -> Result<()> {
    let mut handle = Handle::open()?;
    // Routers advertise nothing here; without this the pod would solicit them, and believe any that answered. A
    // kernel without IPv6, or a `/proc` that cannot be written, has no such switch, and needs none.
    let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
    let links = handle.links()?;
    for link in links.iter().filter(|link| link.name == "lo" && !link.up) {
        handle.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    }
    let Some(link) = links.iter().find(|link| link.name == name) else {
        return handle.index(name).map(drop);
    };
    let index = link.index;
    set_up(&mut handle, index, &LinkChange { mtu: Some(pod.mtu), ..LinkChange::default() })?;
    for (family, &ip) in pod.addresses.iter() {
        let gateway = gateway(family);
        if family == IpFamily::V6 {
            handle.replace_address(index, link_local(far_mac).into())?;
        }
        handle.replace_address(index, IpNet::from(ip))?;
        handle.replace_neighbour(&Neighbour { link: index, ip: gateway, mac: near_mac })?;
        handle.replace_route(&Route::on_link(gateway.into(), index))?;
        handle.replace_route(&Route::via(default_route(family), gateway, index).from_source(Some(ip)))?;
    }
    Ok(())
}

fn configure_node_end(node: &mut Handle, pod: &PodLink<'_>, name: &str, far_mac: Mac) -> Result<()> {
    let index = node.index(name)?;
    let alias = format!("{ALIAS}{}", pod.key);
    let change =
        LinkChange { mtu: Some(pod.mtu), alias: Some(&alias), group: Some(GROUP), ..Default::default() };
    set_up(node, index, &change)?;
    for (family, &ip) in pod.addresses.iter() {
        if family == IpFamily::V6 {
            node.replace_address(
                index,
                Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 64).into(),
            )?;
        }
        node.replace_neighbour(&Neighbour { link: index, ip, mac: far_mac })?;
        let source = pod.node.as_ref().and_then(|node| node.get(family)).copied();
        node.replace_route(&Route::on_link(ip.into(), index).from_source(source))?;
    }
    Ok(())
}

/// Sets a link up without an address of the kernel's choosing, which would be subject to detection of duplicates.
fn set_up(handle: &mut Handle, index: u32, change: &LinkChange<'_>) -> Result<()> {
    let quiet = handle.change_link(index, &LinkChange { no_link_local: true, ..*change });
    // A kernel without IPv6 knows no such mode.
    quiet.or_else(|_| handle.change_link(index, change))?;
    handle.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
}

const fn default_route(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => IpNet::V4(dyad_net::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpFamily::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Takes a pod off the network at once: its routes go, its link is marked for [`reap`]. Does nothing if there is
/// none, or if the namespace went first and took the link with it.
pub fn del(node: &mut Handle, key: &str) -> Result<()> {
    if let Some(limiter) = node.link(&limit::name(key))? {
        doom(node, limiter.index)?;
    }
    let Some(link) = node.link(&name(key))? else { return Ok(()) };
    for route in node.routes(crate::OURS)? {
        if route.hops.iter().any(|hop| hop.link == link.index) {
            node.delete_route(&route)?;
        }
    }
    doom(node, link.index)
}

/// Marks a link for [`reap`].
fn doom(node: &mut Handle, index: u32) -> Result<()> {
    crate::error::absent_is_fine(
        node.change_link(index, &LinkChange { group: Some(DOOMED), ..LinkChange::default() }),
    )
}

/// Deletes all links that [`del`] marked, however many, in the tens of milliseconds that the kernel takes for one.
pub fn reap(node: &mut Handle) -> Result<()> {
    node.delete_group(DOOMED)
}

/// The pod links of a node, for adoption after a restart; those that were deleted are left out.
pub fn list(node: &mut Handle) -> Result<Vec<Existing>> {
    let routes = node.routes(crate::OURS)?;
    let links = node.links()?;
    let limited = limit::limited(&links);
    let existing = links.iter().filter(|link| link.group == GROUP).filter_map(|link| {
        let key = link.alias.as_deref()?.strip_prefix(ALIAS)?.to_owned();
        let ours = routes.iter().filter(|route| route.hops.iter().any(|hop| hop.link == link.index));
        let addresses = ours.map(|route| route.destination.addr()).collect();
        let is_limited = limited.contains(&*link.name);
        Some(Existing { key, name: link.name.clone(), index: link.index, addresses, is_limited })
    });
    Ok(existing.collect())
}

/// Deletes what pod links have left that went with their namespaces, of which nobody has told [`del`].
pub fn sweep(node: &mut Handle) -> Result<()> {
    let links = node.links()?;
    limit::leftovers(&links).try_for_each(|name| node.delete_link(name))
}
