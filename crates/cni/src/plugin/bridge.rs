//! `bridge`: containers share a bridge of the host, which may be their gateway.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};

use dyad_links::{Handle, Link, LinkChange, Mac, NewLink, netns, sysctl};
use dyad_net::{IpFamily, IpNet};
use serde_json::Value;

mod check;

use super::Plugin;
use crate::announce::announce;
use crate::attach::{self, Subnet};
use crate::conf::Fields;
use crate::result::{Interface, Route};
use crate::{CniError, CniResult, Code, Request, Result, host, ipam};

/// The VLAN every port is in if nothing else is said.
const DEFAULT_VLAN: u16 = 1;
const LAST_VLAN: u32 = 4094;

pub(super) struct Bridge;

/// What the configuration says.
pub(super) struct Settings {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    masquerade: bool,
    hairpin: bool,
    promiscuous: bool,
    mtu: Option<u32>,
    vlan: Option<u16>,
    trunk: Vec<RangeInclusive<u16>>,
    keep_default_vlan: bool,
    isolated: bool,
    checks_sender: bool,
    mac: Option<Mac>,
}

impl Settings {
    const fn has_vlans(&self) -> bool {
        self.vlan.is_some() || !self.trunk.is_empty()
    }

    pub(super) fn of(request: &Request) -> Result<Self> {
        let fields = request.config.fields();
        let is_default_gateway = fields.is("isDefaultGateway")?;
        let vlan = match fields.small("vlan")? {
            None | Some(0) => None,
            Some(vlan) => Some(u16::try_from(vlan).ok().filter(|_| vlan <= LAST_VLAN).ok_or_else(|| {
                CniError::config("vlan", vlan, "must be a number from 1 to 4094, or 0 for none")
            })?),
        };
        let args = fields.object("args")?.object("cni")?;
        let mac = match (fields.object("runtimeConfig")?.text("mac")?, args.text("mac")?, request.arg("MAC"))
        {
            (Some(text), ..) if !text.is_empty() => Some(("runtimeConfig.mac", text)),
            (_, Some(text), _) if !text.is_empty() => Some(("args.cni.mac", text)),
            (.., Some(text)) if !text.is_empty() => Some(("CNI_ARGS: MAC", text)),
            _ => None,
        };
        let settings = Self {
            bridge: fields.text("bridge")?.filter(|name| !name.is_empty()).unwrap_or("cni0").to_owned(),
            is_gateway: is_default_gateway || fields.is("isGateway")?,
            is_default_gateway,
            force_address: fields.is("forceAddress")?,
            masquerade: attach::wants_masquerade(request)?,
            hairpin: fields.is("hairpinMode")?,
            promiscuous: fields.is("promiscMode")?,
            mtu: host::mtu(&fields)?,
            vlan,
            trunk: trunk(&fields)?,
            isolated: fields.is("portIsolation")?,
            checks_sender: fields.is("macspoofchk")?,
            keep_default_vlan: fields.flag("preserveDefaultVlan")?.unwrap_or(true),
            mac: mac.map(|(name, text)| host::parse_mac(name, text)).transpose()?,
        };
        if settings.hairpin && settings.promiscuous {
            let way_out = "cannot be true together with promiscMode: packets would come twice";
            return Err(CniError::config("hairpinMode", true, way_out));
        }
        Ok(settings)
    }
}

/// The field `vlanTrunk`: VLANs by number (`id`), or from `minID` to `maxID`.
fn trunk(fields: &Fields<'_>) -> Result<Vec<RangeInclusive<u16>>> {
    let mut found = Vec::new();
    for entry in fields.objects("vlanTrunk")? {
        let number = |key: &str| -> Result<Option<u16>> {
            let fits = |vlan: u32| u16::try_from(vlan).ok().filter(|_| (1..=LAST_VLAN).contains(&vlan));
            entry.small(key)?.map_or(Ok(None), |vlan| match fits(vlan) {
                Some(vlan) => Ok(Some(vlan)),
                None => Err(CniError::config(&entry.name(key), vlan, "must be a number from 1 to 4094")),
            })
        };
        match (number("minID")?, number("maxID")?) {
            (None, None) => {}
            (Some(first), Some(last)) if first <= last => found.push(first..=last),
            (Some(first), Some(last)) => {
                let way_out = format!("must not be greater than maxID, which is {last}");
                return Err(CniError::config(&entry.name("minID"), first, &way_out));
            }
            (first, last) => {
                let (key, other, said) =
                    if first.is_some() { ("minID", "maxID", first) } else { ("maxID", "minID", last) };
                let way_out = format!("needs {other} beside it; for one VLAN, give id");
                return Err(CniError::config(&entry.name(key), said.unwrap_or_default(), &way_out));
            }
        }
        found.extend(number("id")?.map(|vlan| vlan..=vlan));
    }
    Ok(found)
}

/// The bridge, which is made if need be.
fn ensure_bridge(node: &mut Handle, settings: &Settings) -> Result<Link> {
    let name = &*settings.bridge;
    if node.link(name)?.is_none() {
        let new = NewLink { mtu: settings.mtu, ..NewLink::named(name) };
        let made = if settings.has_vlans() { node.add_vlan_bridge(&new) } else { node.add_bridge(&new) };
        match made {
            // Another container came first.
            Err(error) if error.is_exists() => {}
            other => other?,
        }
        // Nobody on the bridge tells its host where to send packets.
        let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
    }
    let link = node.link(name)?.filter(|link| link.kind.as_deref() == Some("bridge"));
    let link = link.ok_or_else(|| {
        CniError::config(
            "bridge",
            format_args!("{name:?}"),
            "is a link already that is no bridge: give another name",
        )
    })?;
    if settings.promiscuous {
        node.set_promiscuous(link.index)?;
    }
    node.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(link)
}

/// Makes a link a port, in the VLAN if there is one.
fn join(node: &mut Handle, port: u32, bridge: u32, settings: &Settings) -> Result<()> {
    node.change_link(port, &LinkChange { master: Some(bridge), ..LinkChange::default() })?;
    if let Some(vlan) = settings.vlan {
        node.add_port_vlan(port, vlan)?;
    }
    if settings.has_vlans() && !settings.keep_default_vlan && settings.vlan != Some(DEFAULT_VLAN) {
        node.delete_port_vlan(port, DEFAULT_VLAN)?;
    }
    Ok(())
}

/// What the container's port has beside that.
fn narrow(node: &mut Handle, port: u32, settings: &Settings) -> Result<()> {
    for vlans in &settings.trunk {
        // Packets of that one come without a tag.
        let own = settings.vlan.filter(|own| vlans.contains(own));
        let parts = match own {
            None => [Some(vlans.clone()), None],
            Some(own) => [Some(*vlans.start()..=own - 1), Some(own + 1..=*vlans.end())],
        };
        for part in parts.into_iter().flatten().filter(|part| !part.is_empty()) {
            node.add_port_trunk(port, part)?;
        }
    }
    if settings.hairpin {
        node.set_hairpin(port)?;
    }
    if settings.isolated {
        node.set_isolated(port)?;
    }
    Ok(())
}

/// Where the gateway's address is: at the bridge, or at a link of its own into the VLAN.
fn ensure_gateway_link(node: &mut Handle, bridge: &Link, settings: &Settings) -> Result<Link> {
    let Some(vlan) = settings.vlan else { return Ok(bridge.clone()) };
    let (name, port) = (format!("{}.{vlan}", settings.bridge), format!("{}.{vlan}p", settings.bridge));
    if node.link(&name)?.is_none() {
        match node.add_veth(&NewLink::named(&name), &NewLink::named(&port)) {
            Err(error) if error.is_exists() => {}
            other => other?,
        }
    }
    let index = node.index(&port)?;
    join(node, index, bridge.index, settings)?;
    node.set_up(&port)?;
    node.set_up(&name)?;
    node.link(&name)?
        .ok_or_else(|| CniError::new(Code::Failed, format!("link {name} went away while it was set up")))
}

/// Gives the bridge the gateway's address, unless it has another one of its network.
fn ensure_address(node: &mut Handle, link: &Link, gateway: IpNet, settings: &Settings) -> Result<()> {
    let family = IpFamily::from(gateway);
    let others: Vec<_> = node
        .addresses()?
        .into_iter()
        .filter(|at| at.link == link.index && at.global && IpFamily::from(at.net) == family)
        .collect();
    if others.iter().any(|at| at.net == gateway) {
        return Ok(());
    }
    for other in others {
        let overlaps = dyad_net::overlaps(&other.net.trunc(), &gateway.trunc());
        // In IPv6 a link has several networks as a matter of course.
        if family == IpFamily::V6 && !overlaps {
            continue;
        }
        if !settings.force_address {
            let way_out = format!(
                "has the address {} already, and not {gateway}: set forceAddress to replace it",
                other.net
            );
            return Err(CniError::config("bridge", format_args!("{:?}", link.name), &way_out));
        }
        node.delete_address(link.index, other.net)?;
    }
    node.replace_address(link.index, gateway)?;
    // A bridge without ports has none; this one has had its first port since `link` was read.
    let mac = node.link(&link.name)?.and_then(|link| link.mac).filter(|mac| mac.0 != [0; 6]);
    if let Some(mac) = mac.filter(|_| link.kind.as_deref() == Some("bridge")) {
        // Set, it stays; left to the kernel it would follow the ports that come and go.
        node.change_link(link.index, &LinkChange { mac: Some(mac), ..LinkChange::default() })?;
    }
    Ok(())
}

/// Fills in gateways, and default routes if the bridge is to be the gateway for everything.
fn complete(result: &mut CniResult, settings: &Settings) {
    if !settings.is_gateway {
        return;
    }
    for ip in &mut result.ips {
        ip.gateway = ip.gateway.or_else(|| attach::first(ip.address));
    }
    if settings.is_default_gateway {
        for ip in &result.ips {
            let dst = IpFamily::from(ip.address).everything();
            if !result.routes.iter().any(|route| route.dst == dst) {
                result.routes.push(Route { dst, gw: ip.gateway, mtu: None, priority: None, table: None });
            }
        }
    }
}

fn connect(request: &Request, netns: &OwnedFd, settings: &Settings, result: &mut CniResult) -> Result<()> {
    let mut node = Handle::open()?;
    let bridge = ensure_bridge(&mut node, settings)?;
    let made = attach::add_veth(&mut node, request, netns, settings.mtu, settings.mac)?;
    if let Some(mac) = made.mac.filter(|_| settings.checks_sender) {
        attach::keep_sender(request, &made.host, mac)?;
    }
    join(&mut node, made.host.index, bridge.index, settings)?;
    narrow(&mut node, made.host.index, settings)?;
    attach::set_up(&mut node, &made.host, false)?;
    complete(result, settings);
    result.ips.iter_mut().for_each(|ip| ip.interface = Some(2));
    let mut gateway_link = None;
    if settings.is_gateway {
        let link = ensure_gateway_link(&mut node, &bridge, settings)?;
        for ip in &result.ips {
            let length = ip.address.prefix_len();
            let gateway = ip.gateway.and_then(|gateway: IpAddr| IpNet::new(gateway, length).ok());
            if let Some(gateway) = gateway {
                ensure_address(&mut node, &link, gateway, settings)?;
            }
        }
        host::forward(attach::families(result))?;
        gateway_link = Some(link).filter(|link| link.index != bridge.index);
    }
    if result.ips.is_empty() {
        let up = || Handle::open()?.set_up(&request.ifname);
        netns::within(netns.as_fd(), up)??;
    } else {
        attach::configure(request, netns.as_fd(), result, Subnet::OnLink)?;
        announce(&mut node, &made.host.name, request, netns)?;
        if settings.masquerade {
            attach::masquerade(request, result)?;
        }
    }
    // Its Ethernet address may have changed with its first port.
    let bridge = node.link(&settings.bridge)?.unwrap_or(bridge);
    let said = |link: Link| {
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        Interface { name: link.name, mac, sandbox: String::new(), mtu: Some(link.mtu) }
    };
    let [near, far] = made.interfaces;
    result.interfaces = vec![said(bridge), near, far];
    result.interfaces.extend(gateway_link.map(said));
    attach::dns(request, result);
    Ok(())
}

impl Plugin for Bridge {
    fn add(&self, request: &Request) -> Result<Value> {
        let settings = Settings::of(request)?;
        let none = || Ok(CniResult::default());
        attach::add(request, none, |netns, result| connect(request, netns, &settings, result))
    }

    fn del(&self, request: &Request) -> Result<()> {
        ipam::other(request)?;
        attach::detach(request)
    }

    fn check(&self, request: &Request) -> Result<()> {
        let settings = Settings::of(request)?;
        ipam::other(request)?;
        host::check_container(request, &request.open_netns()?, &request.config.needed_previous()?)?;
        check::port(request, &settings)
    }

    fn gc(&self, request: &Request) -> Result<()> {
        ipam::other(request)?;
        attach::collect(request)
    }

    fn status(&self, request: &Request) -> Result<()> {
        Settings::of(request)?;
        ipam::other(request)
    }
}
