//! CHECK: whether a container's port is what the configuration says.

use dyad_links::{BridgePort, Handle};

use super::{DEFAULT_VLAN, Settings};
use crate::{CniError, Code, Request, Result, attach};

pub(super) fn port(request: &Request, settings: &Settings) -> Result<()> {
    let mut node = Handle::open()?;
    let failed = |what: String| CniError::new(Code::Failed, format!("{what}: make the container anew"));
    let bridge = node.link(&settings.bridge)?;
    let bridge = bridge.ok_or_else(|| failed(format!("the bridge {} is gone", settings.bridge)))?;
    // Of a container that the reference plugin has connected, the name is in its result alone.
    let previous = request.config.needed_previous()?;
    let mut of_host = previous.interfaces.iter().filter(|said| said.sandbox.is_empty());
    let Some(said) = of_host.find(|said| said.name != settings.bridge) else { return Ok(()) };
    let name = &said.name;
    let link = node.link(name)?.ok_or_else(|| failed(format!("the link {name} is gone")))?;
    if link.master != Some(bridge.index) {
        return Err(failed(format!("the link {name} is no port of {}", settings.bridge)));
    }
    let found = node.bridge_ports()?.into_iter().find(|port| port.link == link.index);
    match found.and_then(|port| missing(&port, settings)) {
        Some(what) => Err(failed(format!("the link {name} {what}"))),
        None => attach::check(request),
    }
}

/// What a port has not got that it should have, or the other way round.
fn missing(port: &BridgePort, settings: &Settings) -> Option<String> {
    let has = |number: u16| port.vlans.iter().any(|vlan| vlan.number == number);
    let own = settings.vlan.filter(|own| !port.vlans.iter().any(|of| of.number == *own && of.is_untagged));
    let tagged = || settings.trunk.iter().cloned().flatten().find(|number| !has(*number));
    if let Some(vlan) = own.or_else(tagged) {
        return Some(format!("is not in VLAN {vlan}"));
    }
    let keeps_default =
        !settings.has_vlans() || settings.keep_default_vlan || settings.vlan == Some(DEFAULT_VLAN);
    let wants_default = || settings.trunk.iter().any(|vlans| vlans.contains(&DEFAULT_VLAN));
    if !keeps_default && has(DEFAULT_VLAN) && !wants_default() {
        return Some(format!("is in VLAN {DEFAULT_VLAN}, against preserveDefaultVlan"));
    }
    let switches = [
        ("hairpinMode", settings.hairpin, port.is_hairpin),
        ("portIsolation", settings.isolated, port.is_isolated),
    ];
    let missing = switches.into_iter().find(|(_, wanted, is)| *wanted && !is);
    missing.map(|(name, ..)| format!("has not {name}"))
}
