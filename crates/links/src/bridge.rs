//! Bridges and their ports, beyond what any link has.

use crate::link::{RTM_DELLINK, RTM_SETLINK, ifinfomsg};
use crate::wire::Message;
use crate::{Handle, NewLink, Result};

const AF_BRIDGE: u8 = 7;
const IFLA_PROTINFO: u16 = 12;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
/// The VLAN of packets without a tag, and whose packets leave without one.
const PVID_UNTAGGED: u16 = 2 | 4;
const IFF_PROMISC: u32 = 0x100;

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
        let what = || format!("setting hairpin mode of link {index}");
        self.request(what, |flags| {
            let mut message = Message::new(RTM_SETLINK, flags, &of_port(index));
            message.nest(IFLA_PROTINFO, |port| port.put(IFLA_BRPORT_MODE, &[1]));
            message
        })
    }

    /// Puts a port of a bridge into a VLAN, of which its packets bear no tag.
    pub fn add_port_vlan(&mut self, index: u32, vlan: u16) -> Result<()> {
        self.port_vlan(RTM_SETLINK, index, vlan, PVID_UNTAGGED)
    }

    /// Takes a port of a bridge out of a VLAN.
    pub fn delete_port_vlan(&mut self, index: u32, vlan: u16) -> Result<()> {
        crate::error::absent_is_fine(self.port_vlan(RTM_DELLINK, index, vlan, 0))
    }

    fn port_vlan(&mut self, kind: u16, index: u32, vlan: u16, of: u16) -> Result<()> {
        let what = || format!("changing VLAN {vlan} of link {index}");
        self.request(what, |flags| {
            let mut message = Message::new(kind, flags, &of_port(index));
            let [a, b] = of.to_ne_bytes();
            let [c, d] = vlan.to_ne_bytes();
            message.nest(IFLA_AF_SPEC, |spec| spec.put(IFLA_BRIDGE_VLAN_INFO, &[a, b, c, d]));
            message
        })
    }
}
