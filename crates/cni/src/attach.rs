//! A container's link, its addresses and routes, as `ptp` and `bridge` make them.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dyad_links::{Handle, Link, LinkChange, Mac, NewLink, Route as KernelRoute, netns, pod, sysctl};
use dyad_net::{IpFamily, IpNet};
use dyad_nft::guard;
use dyad_nft::nat::{self, Translation};
use serde_json::Value;

use crate::host::gateway_of;
use crate::request::Request;
use crate::result::{Interface, Route};
use crate::store::Owner;
use crate::{CniError, CniResult, Code, Result, ipam};

/// What the alias of a host's end starts with; the key follows.
const ALIAS: &str = "dyad-cni:";
/// `RTPROT_STATIC`: routes of these plugins are not the agent's.
const STATIC: u8 = 4;

/// What an attachment is called by.
pub(crate) fn key(network: &str, owner: &Owner) -> String {
    format!("{network}/{}/{}", owner.container, owner.ifname.as_deref().unwrap_or_default())
}

/// Digits that go with a text.
fn digits(text: &str) -> String {
    pod::name(text).split_off(2)
}

/// The name of the host's end.
pub(crate) fn host_name(key: &str) -> String {
    format!("veth{}", &digits(key)[2..])
}

/// The name of the tables of an attachment, for what `purpose` says; with no key, what those of a network begin with.
pub(crate) fn table_name(purpose: &str, network: &str, key: Option<&str>) -> String {
    format!("dyad-{purpose}-{}-{}", &digits(network)[5..], key.map(digits).unwrap_or_default())
}

/// Deletes the tables of all attachments of a network but the valid ones.
pub(crate) fn collect_tables(purpose: &str, network: &str, valid: &[Owner]) -> Result<()> {
    let keep: Vec<_> =
        valid.iter().map(|owner| table_name(purpose, network, Some(&key(network, owner)))).collect();
    for (_, name) in nat::list(&table_name(purpose, network, None)).map_err(CniError::from)? {
        if !keep.contains(&name) {
            nat::delete(&name)?;
        }
    }
    Ok(())
}

/// ADD: takes addresses (`none` says what becomes of a list that has nobody for them), and lets `connect` do the rest. If
/// that fails, nothing of it stays; and a container that has such a link already keeps it as it is.
pub(crate) fn add(
    request: &Request,
    none: impl FnOnce() -> Result<CniResult>,
    connect: impl FnOnce(&OwnedFd, &mut CniResult) -> Result<()>,
) -> Result<Value> {
    let netns = request.open_netns()?;
    if netns::within(netns.as_fd(), || Handle::open()?.link(&request.ifname))??.is_some() {
        let msg =
            format!("the container has a link {:?} already: DEL comes before another ADD", request.ifname);
        return Err(CniError::new(Code::Failed, msg));
    }
    let mut result = match ipam::add(request)? {
        Some(result) => result,
        None => none()?,
    };
    if let Err(error) = connect(&netns, &mut result) {
        // The first error is the one that counts.
        let _ = detach(request);
        ipam::undo(request);
        return Err(error);
    }
    Ok(result.to_json(request.config.version))
}

/// A container's link that has been made.
pub(crate) struct Attached {
    pub(crate) host: Link,
    pub(crate) interfaces: [Interface; 2],
    /// The Ethernet address of the container's end.
    pub(crate) mac: Option<Mac>,
}

/// Makes a veth pair between the host and the container. What a DEL that never came has left goes first.
pub(crate) fn add_veth(
    host: &mut Handle,
    request: &Request,
    netns: &OwnedFd,
    mtu: Option<u32>,
    mac: Option<Mac>,
) -> Result<Attached> {
    let key = key(&request.config.name, &request.owner());
    let name = host_name(&key);
    let near = NewLink { mtu, ..NewLink::named(&name) };
    let far = NewLink { mtu, mac, netns: Some(netns.as_fd()), ..NewLink::named(&request.ifname) };
    if host.link(&name)?.is_some() {
        host.delete_link(&name)?;
    }
    host.add_veth(&near, &far)?;
    let alias = format!("{ALIAS}{key}");
    let index = host.index(&name)?;
    host.change_link(
        index,
        &LinkChange {
            alias: Some(&alias).filter(|text| text.len() < 256).map(|text| &**text),
            ..LinkChange::default()
        },
    )?;
    let gone = || CniError::new(Code::Failed, format!("link {name} went away while it was set up"));
    let link = host.link(&name)?.ok_or_else(gone)?;
    let inside = netns::within(netns.as_fd(), || Handle::open()?.link(&request.ifname))??.ok_or_else(gone)?;
    let said = |link: &Link, sandbox: String| Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        sandbox,
        mtu: Some(link.mtu),
    };
    let sandbox = request.netns.to_string_lossy().into_owned();
    let interfaces = [said(&link, String::new()), said(&inside, sandbox)];
    Ok(Attached { host: link, interfaces, mac: inside.mac })
}

/// Sets a link up, with a link-local address in IPv6 that is there at once.
pub(crate) fn set_up(handle: &mut Handle, link: &Link, has_v6: bool) -> Result<()> {
    let quiet = LinkChange { no_link_local: true, ..LinkChange::default() };
    // A kernel without IPv6 knows no such mode.
    let _ = handle.change_link(link.index, &quiet);
    handle.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    if let Some(mac) = link.mac.filter(|_| has_v6) {
        handle.replace_address(link.index, pod::link_local(mac).into())?;
    }
    Ok(())
}

fn has_v6(result: &CniResult) -> bool {
    result.ips.iter().any(|ip| IpFamily::from(ip.address) == IpFamily::V6)
}

/// Whether the container's subnet is reached through the gateway (`ptp`), or lies on the link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subnet {
    BehindGateway,
    OnLink,
}

/// Gives the container's link its addresses and routes.
pub(crate) fn configure(
    request: &Request,
    netns: BorrowedFd<'_>,
    result: &CniResult,
    subnet: Subnet,
) -> Result<()> {
    netns::within(netns, || {
        let mut handle = Handle::open()?;
        let has_v6 = has_v6(result);
        if has_v6 {
            // Runtimes may start namespaces without IPv6; where there is no such switch nothing is switched off.
            for name in ["lo", &request.ifname] {
                let _ = sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0");
            }
        }
        let gone =
            || CniError::new(Code::Failed, format!("link {} went away while it was set up", request.ifname));
        let link = handle.link(&request.ifname)?.ok_or_else(gone)?;
        set_up(&mut handle, &link, has_v6)?;
        for ip in &result.ips {
            handle.replace_address(link.index, ip.address)?;
            if subnet == Subnet::BehindGateway {
                lead_through_gateway(&mut handle, link.index, ip)?;
            }
        }
        for route in &result.routes {
            add_route(&mut handle, link.index, result, route)?;
        }
        Ok(())
    })?
}

fn lead_through_gateway(handle: &mut Handle, link: u32, ip: &crate::Ip) -> Result<()> {
    let Some(gateway) = ip.gateway else { return Ok(()) };
    let source = Some(ip.address.addr());
    // The kernel takes the subnet to be on the link. Its protocol is the kernel's, its metric is that of the family.
    let subnet = ip.address.trunc();
    let of_kernel = handle.all_routes()?.into_iter().filter(|route| {
        route.destination == subnet && route.hops.iter().any(|hop| hop.link == link && hop.via.is_none())
    });
    for route in of_kernel.collect::<Vec<_>>() {
        handle.delete_route(&route)?;
    }
    let on_link = KernelRoute::on_link(gateway.into(), link).from_source(source);
    handle.replace_route(&KernelRoute { protocol: STATIC, ..on_link })?;
    let through = KernelRoute::via(subnet, gateway, link).from_source(source);
    Ok(handle.replace_route(&KernelRoute { protocol: STATIC, ..through })?)
}

fn add_route(handle: &mut Handle, link: u32, result: &CniResult, route: &Route) -> Result<()> {
    let gateway = route.gw.or_else(|| gateway_of(result, route.dst));
    let made = match gateway {
        Some(gateway) => KernelRoute::via(route.dst.trunc(), gateway, link),
        None => KernelRoute::on_link(route.dst, link),
    };
    let table = route.table.unwrap_or(made.table);
    let (metric, mtu) = (route.priority.unwrap_or(0), route.mtu.unwrap_or(0));
    Ok(handle.replace_route(&KernelRoute { protocol: STATIC, table, metric, mtu, ..made })?)
}

/// A route of the host to one address.
pub(crate) fn host_route(handle: &mut Handle, ip: IpAddr, link: u32) -> Result<()> {
    Ok(handle.replace_route(&KernelRoute { protocol: STATIC, ..KernelRoute::on_link(ip.into(), link) })?)
}

/// Masquerades what the container sends out of its network.
pub(crate) fn masquerade(request: &Request, result: &CniResult) -> Result<()> {
    let network = &request.config.name;
    let rule =
        |ip: &crate::Ip| Translation::Masquerade { source: ip.address.addr(), inside: ip.address.trunc() };
    let rules: Vec<_> = result.ips.iter().map(rule).collect();
    let name = table_name("masq", network, Some(&key(network, &request.owner())));
    Ok(nat::replace(&name, &rules)?)
}

/// Drops what comes from the container with another Ethernet address than its own.
pub(crate) fn keep_sender(request: &Request, host: &Link, mac: Mac) -> Result<()> {
    let network = &request.config.name;
    let name = table_name("mac", network, Some(&key(network, &request.owner())));
    Ok(guard::replace(&name, &host.name, mac.0)?)
}

/// Reads `ipMasq`, and sees that `ipMasqBackend` says something that can be.
pub(crate) fn wants_masquerade(request: &Request) -> Result<bool> {
    let fields = request.config.fields();
    match fields.text("ipMasqBackend")? {
        None | Some("" | "iptables" | "nftables") => fields.is("ipMasq"),
        Some(other) => {
            let way_out = "must be \"nftables\" or \"iptables\"; both write nftables rules here";
            Err(CniError::config("ipMasqBackend", format_args!("{other:?}"), way_out))
        }
    }
}

/// CHECK of what [`masquerade`] and [`keep_sender`] have made. Not of a container that the reference plugin has connected, whose
/// rules are elsewhere.
pub(crate) fn check(request: &Request) -> Result<()> {
    let network = &request.config.name;
    let key = key(network, &request.owner());
    if Handle::open()?.link(&host_name(&key))?.is_none() {
        return Ok(());
    }
    let gone = |name: String| {
        let msg = format!(
            "the table {name} of container {} is gone: make the container anew",
            request.container_id
        );
        Err(CniError::new(Code::Failed, msg))
    };
    if wants_masquerade(request)? {
        let name = table_name("masq", network, Some(&key));
        let there = nat::list(&name)?;
        let previous = request.config.needed_previous()?;
        let mut wanted = families(&previous);
        if wanted.any(|family| !there.iter().any(|(of, found)| *of == family && *found == name)) {
            return gone(name);
        }
    }
    if request.config.fields().is("macspoofchk")? {
        let name = table_name("mac", network, Some(&key));
        if !guard::list(&name)?.contains(&name) {
            return gone(name);
        }
    }
    Ok(())
}

/// Undoes [`add_veth`] and [`masquerade`]; anything may be gone.
pub(crate) fn detach(request: &Request) -> Result<()> {
    let network = &request.config.name;
    let key = key(network, &request.owner());
    nat::delete(&table_name("masq", network, Some(&key)))?;
    // Looking for it takes the kernel as long as for all others.
    if request.config.fields().is("macspoofchk").unwrap_or(true) {
        guard::delete(&table_name("mac", network, Some(&key)))?;
    }
    let mut host = Handle::open()?;
    if host.link(&host_name(&key))?.is_some() {
        return Ok(host.delete_link(&host_name(&key))?);
    }
    // Made by the reference plugin, whose links are called anything.
    if let Some(netns) = request.netns_if_there() {
        let delete = || {
            let mut inside = Handle::open()?;
            match inside.link(&request.ifname)? {
                Some(link) if link.kind.as_deref() == Some("veth") => inside.delete_link(&request.ifname),
                Some(_) | None => Ok(()),
            }
        };
        netns::within(netns.as_fd(), delete)??;
    }
    Ok(())
}

/// Removes the links and tables of all attachments of a network but the valid ones.
pub(crate) fn collect(request: &Request) -> Result<()> {
    let (network, valid) = (&request.config.name, request.valid()?);
    let keep: Vec<_> = valid.iter().map(|owner| key(network, owner)).collect();
    collect_tables("masq", network, &valid)?;
    for name in guard::list(&table_name("mac", network, None)).map_err(CniError::from)? {
        if !keep.iter().any(|key| table_name("mac", network, Some(key)) == name) {
            guard::delete(&name)?;
        }
    }
    let prefix = format!("{ALIAS}{network}/");
    let mut host = Handle::open()?;
    for link in host.links()? {
        let key = link
            .alias
            .as_deref()
            .filter(|alias| alias.starts_with(&prefix))
            .map(|alias| &alias[ALIAS.len()..]);
        if key.is_some_and(|key| !keep.iter().any(|kept| kept == key)) {
            host.delete_link(&link.name)?;
        }
    }
    Ok(())
}

/// The families of a result's addresses.
pub(crate) fn families(result: &CniResult) -> impl Iterator<Item = IpFamily> {
    IpFamily::BOTH
        .into_iter()
        .filter(|family| result.ips.iter().any(|ip| IpFamily::from(ip.address) == *family))
}

/// What the configuration says of DNS, in place of what came with the addresses.
pub(crate) fn dns(request: &Request, result: &mut CniResult) {
    let said = request.config.fields().get("dns").and_then(Value::as_object);
    if let Some(dns) = said.filter(|dns| !dns.is_empty()) {
        result.dns.clone_from(dns);
    }
}

/// The first address of a network after its own, where a gateway is if nobody says otherwise.
pub(crate) fn first(net: IpNet) -> Option<IpAddr> {
    match net.network() {
        IpAddr::V4(ip) => Some(std::net::Ipv4Addr::from_bits(ip.to_bits().checked_add(1)?).into()),
        IpAddr::V6(ip) => Some(std::net::Ipv6Addr::from_bits(ip.to_bits().checked_add(1)?).into()),
    }
}
