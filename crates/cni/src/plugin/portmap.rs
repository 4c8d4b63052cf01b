//! `portmap`: ports of the host lead to a container, by nftables.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use dyad_links::{Handle, RouteKind, sysctl};
use dyad_net::IpFamily;
use dyad_nft::conntrack::Conntrack;
use dyad_nft::nat::{self, Condition, HostPort, Masqueraded, Translation};
use serde_json::Value;

mod condition;

use super::Plugin;
use crate::attach::{collect_tables, key, table_name};
use crate::conf::Fields;
use crate::{CniError, CniResult, Code, Request, Result};

const PURPOSE: &str = "port";
const UDP: u8 = 17;
/// The protocols that have ports, by name.
const PROTOCOLS: [(&str, u8); 3] = [("tcp", 6), ("udp", UDP), ("sctp", 132)];

pub(super) struct Portmap;

/// A mapping as it was asked for.
struct Mapping {
    host: u16,
    container: u16,
    protocol: u8,
    address: Option<IpAddr>,
}

impl Mapping {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let port = |key: &str| {
            let number = fields.small(key)?.unwrap_or(0);
            let read = u16::try_from(number).ok().filter(|port| *port != 0);
            read.ok_or_else(|| CniError::config(&fields.name(key), number, "must be a port: from 1 to 65535"))
        };
        let name = fields.text("protocol")?.filter(|name| !name.is_empty()).unwrap_or("tcp");
        let known = PROTOCOLS.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, protocol) = known.ok_or_else(|| {
            CniError::config(&fields.name("protocol"), format_args!("{name:?}"), "must be tcp, udp or sctp")
        })?;
        let (host, container) = (port("hostPort")?, port("containerPort")?);
        Ok(Self { host, container, protocol, address: fields.ip("hostIP")? })
    }

    /// To a container's address; `None` if the mapping is for the other family.
    fn to(&self, ip: IpAddr, masquerade: Masqueraded, conditions: &[Condition]) -> Option<HostPort> {
        if self.address.is_some_and(|host| IpFamily::from(host) != ip.into()) {
            return None;
        }
        let address = self.address.filter(|host| !host.is_unspecified());
        let to = SocketAddr::new(ip, self.container);
        let conditions = conditions.to_vec();
        Some(HostPort { protocol: self.protocol, address, port: self.host, to, masquerade, conditions })
    }
}

/// The mappings; those without a port of the host are none.
fn mappings(request: &Request) -> Result<Vec<Mapping>> {
    let runtime = request.config.fields().object("runtimeConfig")?;
    let wanted = runtime.objects("portMappings")?.into_iter();
    wanted
        .filter(|one| one.get("hostPort").is_some_and(|port| port != 0))
        .map(|one| Mapping::read(&one))
        .collect()
}

/// Sees that the fields beside the mappings say what can be.
pub(super) fn check_fields(request: &Request) -> Result<()> {
    let fields = request.config.fields();
    for family in IpFamily::BOTH {
        condition::read(&fields, family)?;
    }
    match fields.text("backend")? {
        None | Some("" | "iptables" | "nftables") => Ok(()),
        Some(other) => {
            let way_out = "must be \"nftables\" or \"iptables\"; both write nftables rules here";
            Err(CniError::config("backend", format_args!("{other:?}"), way_out))
        }
    }
}

fn masqueraded(request: &Request) -> Result<Masqueraded> {
    let fields = request.config.fields();
    Ok(match (fields.flag("snat")?.unwrap_or(true), fields.is("masqAll")?) {
        (_, true) => Masqueraded::All,
        (true, false) => Masqueraded::Own,
        (false, false) => Masqueraded::None,
    })
}

/// The first address of each family, the primary one first.
fn containers(result: &CniResult) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in result.container_ips().map(|ip| ip.address.addr()) {
        if !found.iter().any(|other| IpFamily::from(*other) == ip.into()) {
            found.push(ip);
        }
    }
    found
}

pub(super) fn ports(request: &Request, result: &CniResult) -> Result<Vec<HostPort>> {
    let (mappings, masquerade) = (mappings(request)?, masqueraded(request)?);
    let mut found = Vec::new();
    for ip in containers(result) {
        let conditions = condition::read(&request.config.fields(), ip.into())?;
        found.extend(mappings.iter().filter_map(|mapping| mapping.to(ip, masquerade, &conditions)));
    }
    Ok(found)
}

fn table(request: &Request) -> String {
    let network = &request.config.name;
    table_name(PURPOSE, network, Some(&key(network, &request.owner())))
}

/// Lets packets from the host's loopback out to a container, which the kernel does per link, and in IPv4 only.
fn open_loopback(ip: IpAddr) -> Result<()> {
    if IpFamily::from(ip) == IpFamily::V6 {
        return Ok(());
    }
    let mut handle = Handle::open()?;
    let routes = handle.all_routes()?.into_iter();
    let to_it = routes.filter(|route| route.kind == RouteKind::Unicast && route.destination.contains(&ip));
    let nearest = to_it.max_by_key(|route| route.destination.prefix_len());
    let Some(link) = nearest.and_then(|route| Some(route.hops.first()?.link)) else { return Ok(()) };
    let name = handle.links()?.into_iter().find(|one| one.index == link).map(|one| one.name);
    if let Some(name) = name {
        sysctl::write(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    }
    Ok(())
}

/// Flows of UDP that began before the port led anywhere, or when it led elsewhere, follow it from now on.
fn forget_flows(ports: &[HostPort]) -> Result<()> {
    let udp = || ports.iter().filter(|port| port.protocol == UDP);
    let families: BTreeSet<IpFamily> = udp().map(|port| port.to.ip().into()).collect();
    for family in families {
        let of_family: Vec<_> = udp().filter(|port| IpFamily::from(port.to.ip()) == family).collect();
        Conntrack::open()?.forget(family, UDP, |flow| {
            let at = flow.original.destination_port();
            let is_ours = |port: &&HostPort| {
                at.is_some_and(|at| at.port() == port.port && port.address.is_none_or(|ip| ip == at.ip()))
            };
            of_family.iter().any(is_ours)
        })?;
    }
    Ok(())
}

impl Plugin for Portmap {
    fn add(&self, request: &Request) -> Result<Value> {
        check_fields(request)?;
        let result = request.config.needed_previous()?;
        let ports = ports(request, &result)?;
        if !ports.is_empty() {
            let rules: Vec<_> = ports.iter().cloned().map(Translation::Port).collect();
            nat::replace(&table(request), &rules)?;
            let opened = match masqueraded(request)? {
                Masqueraded::None => Ok(()),
                Masqueraded::Own | Masqueraded::All => {
                    ports.iter().try_for_each(|port| open_loopback(port.to.ip()))
                }
            };
            if let Err(error) = opened.and_then(|()| forget_flows(&ports)) {
                // The first error is the one that counts.
                let _ = nat::delete(&table(request));
                return Err(error);
            }
        }
        Ok(result.to_json(request.config.version))
    }

    fn del(&self, request: &Request) -> Result<()> {
        nat::delete(&table(request))?;
        match request.config.previous()? {
            Some(result) => forget_flows(&ports(request, &result)?),
            None => Ok(()),
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        let wanted: BTreeSet<_> = ports(request, &request.config.needed_previous()?)?
            .iter()
            .map(|port| IpFamily::from(port.to.ip()))
            .collect();
        let name = table(request);
        let there: BTreeSet<_> = nat::list(&name)?
            .into_iter()
            .filter(|(_, found)| *found == name)
            .map(|(family, _)| family)
            .collect();
        match wanted.difference(&there).next() {
            None => Ok(()),
            Some(family) => {
                let msg = format!(
                    "the {family} table {name} with the ports of {} is gone: make it anew",
                    request.container_id
                );
                Err(CniError::new(Code::Failed, msg))
            }
        }
    }

    fn gc(&self, request: &Request) -> Result<()> {
        collect_tables(PURPOSE, &request.config.name, &request.valid()?)
    }

    fn status(&self, request: &Request) -> Result<()> {
        check_fields(request)?;
        let probe = nat::list("dyad-").map_err(CniError::from);
        probe.map(drop).map_err(|error| CniError { code: Code::NotAvailable as u32, ..error })
    }
}
