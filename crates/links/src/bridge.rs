//! Bridges and their ports, beyond what any link has.

use std::ops::RangeInclusive;

use crate::link::{IFLA_EXT_MASK, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK, ifinfomsg};
use crate::wire::{self, Message};
use crate::{Handle, NewLink, Result};

const AF_BRIDGE: u8 = 7;
const IFLA_PROTINFO: u16 = 12;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
/// The VLAN of packets without a tag, and whose packets leave without one.
const PVID_UNTAGGED: u16 = 2 | 4;
/// The first and the last VLAN of several.
const RANGE_BEGIN: u16 = 8;
const RANGE_END: u16 = 16;
const IFF_PROMISC: u32 = 0x100;
/// Has VLANs listed, those next to each other as the first and the last.
const RTEXT_FILTER_BRVLAN_COMPRESSED: u32 = 4;
/// Length of `ifinfomsg`.
const LINK_FIXED: usize = 16;

/// A port of a bridge, or a bridge with VLANs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// The index of the link.
    pub link: u32,
    /// The VLANs it is in.
    pub vlans: Vec<PortVlan>,
    /// Whether packets go back to where they came from ([`Handle::set_hairpin`]).
    pub is_hairpin: bool,
    /// Whether it talks to no other that is so, too ([`Handle::set_isolated`]).
    pub is_isolated: bool,
}

/// A VLAN that a port is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortVlan {
    /// Its number.
    pub number: u16,
    /// Whether it is that of packets without a tag.
    pub is_untagged: bool,
}

/// `ifinfomsg` of a bridge's port.
fn of_port(index: u32) -> [u8; 16] {
    let mut fixed = ifinfomsg(index, 0, 0);
    fixed[0] = AF_BRIDGE;
    fixed
}

impl Handle {
    /// Makes a bridge whose ports may be in VLANs. The kernel may have been built without.
    pub fn add_vlan_bridge(&mut self, link: &NewLink<'_>) -> Result<()> {
        self.add_link(link, "bridge", |info| {
            info.nest(IFLA_INFO_DATA, |data| data.put(IFLA_BR_VLAN_FILTERING, &[1]));
        })
    }

    /// Has a link take packets that are not for it.
    pub fn set_promiscuous(&mut self, index: u32) -> Result<()> {
        let what = || format!("setting link {index} promiscuous");
        self.request(what, |flags| {
            Message::new(RTM_SETLINK, flags, &ifinfomsg(index, IFF_PROMISC, IFF_PROMISC))
        })
    }

    /// Has a port of a bridge send packets back to where they came from.
    pub fn set_hairpin(&mut self, index: u32) -> Result<()> {
        self.set_port(|| format!("setting hairpin mode of link {index}"), index, IFLA_BRPORT_MODE)
    }

    /// Has a port of a bridge talk to none of those that are isolated, too.
    pub fn set_isolated(&mut self, index: u32) -> Result<()> {
        self.set_port(|| format!("isolating link {index}"), index, IFLA_BRPORT_ISOLATED)
    }

    fn set_port(&mut self, what: impl FnOnce() -> String, index: u32, switch: u16) -> Result<()> {
        self.request(what, |flags| {
            let mut message = Message::new(RTM_SETLINK, flags, &of_port(index));
            message.nest(IFLA_PROTINFO, |port| port.put(switch, &[1]));
            message
        })
    }

    /// Puts a port of a bridge into a VLAN, of which its packets bear no tag.
    pub fn add_port_vlan(&mut self, index: u32, vlan: u16) -> Result<()> {
        self.change_vlans(RTM_SETLINK, index, &[(PVID_UNTAGGED, vlan)])
    }

    /// Puts a port of a bridge into VLANs whose tags its packets bear.
    pub fn add_port_trunk(&mut self, index: u32, vlans: RangeInclusive<u16>) -> Result<()> {
        let (first, last) = (*vlans.start(), *vlans.end());
        match first == last {
            true => self.change_vlans(RTM_SETLINK, index, &[(0, first)]),
            false => self.change_vlans(RTM_SETLINK, index, &[(RANGE_BEGIN, first), (RANGE_END, last)]),
        }
    }

    /// The ports of all bridges.
    pub fn bridge_ports(&mut self) -> Result<Vec<BridgePort>> {
        let build = |flags| {
            let mut message = Message::new(RTM_GETLINK, flags, &of_port(0));
            message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
            message
        };
        self.dump("listing ports of bridges", RTM_NEWLINK, build, |body| {
            let link = wire::u32_at(body, 4)?;
            let mut port = BridgePort { link, vlans: Vec::new(), is_hairpin: false, is_isolated: false };
            for (kind, value) in wire::attributes(body.get(LINK_FIXED..)?) {
                match kind {
                    IFLA_AF_SPEC => port.vlans = read_vlans(value)?,
                    IFLA_PROTINFO => {
                        let is_on = |switch| {
                            let mut all = wire::attributes(value);
                            all.any(|(kind, value)| kind == switch && value.first() == Some(&1))
                        };
                        port.is_hairpin = is_on(IFLA_BRPORT_MODE);
                        port.is_isolated = is_on(IFLA_BRPORT_ISOLATED);
                    }
                    _ => {}
                }
            }
            Some(port)
        })
    }

    /// Takes a port of a bridge out of a VLAN.
    pub fn delete_port_vlan(&mut self, index: u32, vlan: u16) -> Result<()> {
        crate::error::absent_is_fine(self.change_vlans(RTM_DELLINK, index, &[(0, vlan)]))
    }

    /// `bridge_vlan_info`s: flags, and the number.
    fn change_vlans(&mut self, kind: u16, index: u32, vlans: &[(u16, u16)]) -> Result<()> {
        let what = || format!("changing VLAN {} of link {index}", vlans.first().map_or(0, |(_, vlan)| *vlan));
        self.request(what, |flags| {
            let mut message = Message::new(kind, flags, &of_port(index));
            message.nest(IFLA_AF_SPEC, |spec| {
                for (of, vlan) in vlans {
                    spec.put(IFLA_BRIDGE_VLAN_INFO, &[of.to_ne_bytes(), vlan.to_ne_bytes()].concat());
                }
            });
            message
        })
    }
}

/// Reads a list of `bridge_vlan_info`s.
fn read_vlans(list: &[u8]) -> Option<Vec<PortVlan>> {
    let (mut found, mut first) = (Vec::new(), None);
    for (_, info) in wire::attributes(list).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
        let (flags, number) = (wire::u16_at(info, 0)?, wire::u16_at(info, 2)?);
        if flags & RANGE_BEGIN != 0 {
            first = Some(number);
            continue;
        }
        let is_untagged = flags & PVID_UNTAGGED == PVID_UNTAGGED;
        let start = first.take().filter(|_| flags & RANGE_END != 0).unwrap_or(number);
        found.extend((start..=number).map(|number| PortVlan { number, is_untagged }));
    }
    Some(found)
}
