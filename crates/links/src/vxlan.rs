//! VXLAN (RFC 7348): links whose packets travel in UDP between nodes that share no link.
//!
//! Nothing is learned and nobody is asked: who is where is told ahead, as [`Remote`]s and static neighbours, and the
//! Ethernet address of a node's end follows from the node's name ([`mac`]).

use std::net::IpAddr;

use dyad_net::IpFamily;

use crate::error::absent_is_fine;
use crate::link::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU, RTM_GETLINK,
    RTM_NEWLINK, ifinfomsg,
};
use crate::neighbour::{
    NDA_DST, NDA_LLADDR, NUD_NOARP, NUD_PERMANENT, RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH,
};
use crate::wire::{self, Message, NLM_F_CREATE, NLM_F_REPLACE};
use crate::{Handle, LinkChange, Mac, NewLink, Result, pod};

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
/// The entry is the link's own, not that of a bridge it belongs to.
const NTF_SELF: u8 = 2;
/// Length of `ndmsg`.
const NEIGHBOUR_FIXED: usize = 12;
/// Length of `ifinfomsg`.
const LINK_FIXED: usize = 16;

/// A VXLAN link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Its name.
    pub name: String,
    /// The network it is part of (VNI), of 24 bits.
    pub id: u32,
    /// The UDP port, of all ends.
    pub port: u16,
    /// This host's address, whose family is that of the packets outside.
    pub local: IpAddr,
    /// The Ethernet address of this end.
    pub mac: Mac,
    /// Largest packet inside, in bytes.
    pub mtu: u32,
}

/// Where an Ethernet address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remote {
    /// Who.
    pub mac: Mac,
    /// The address of their host.
    pub ip: IpAddr,
}

/// What VXLAN adds to a packet: the headers of IP, UDP (8), VXLAN (8) and Ethernet (14).
pub const fn overhead(underlay: IpFamily) -> u32 {
    let ip = match underlay {
        IpFamily::V4 => 20,
        IpFamily::V6 => 40,
    };
    ip + 8 + 8 + 14
}

/// The Ethernet address of a node's end: locally administered, and the same wherever it is asked for.
pub fn mac(node: &str) -> Mac {
    let [_, _, _, a, b, c, d, e] = pod::hash(node).to_be_bytes();
    Mac([0x06, a, b, c, d, e])
}

impl Vxlan {
    fn write(&self, data: &mut Message) {
        data.put_u32(IFLA_VXLAN_ID, self.id);
        data.put(IFLA_VXLAN_PORT, &self.port.to_be_bytes());
        data.put(IFLA_VXLAN_LEARNING, &[0]);
        let kind = match IpFamily::from(self.local) {
            IpFamily::V4 => IFLA_VXLAN_LOCAL,
            IpFamily::V6 => IFLA_VXLAN_LOCAL6,
        };
        data.put_ip(kind, self.local);
    }

    /// `None` for a link of another kind, or one without a local address.
    fn read(body: &[u8]) -> Option<Self> {
        let (mut name, mut mac, mut mtu, mut info) = (None, None, None, None);
        for (kind, value) in wire::attributes(body.get(LINK_FIXED..)?) {
            match kind {
                IFLA_IFNAME => name = Some(wire::text(value)),
                IFLA_ADDRESS => mac = value.try_into().ok().map(Mac),
                IFLA_MTU => mtu = wire::u32_at(value, 0),
                IFLA_LINKINFO => info = Some(value),
                _ => {}
            }
        }
        let info = info?;
        let part = |wanted| wire::attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        if wire::text(part(IFLA_INFO_KIND)?) != "vxlan" {
            return None;
        }
        let (mut id, mut port, mut local) = (None, None, None);
        for (kind, value) in wire::attributes(part(IFLA_INFO_DATA)?) {
            match kind {
                IFLA_VXLAN_ID => id = wire::u32_at(value, 0),
                IFLA_VXLAN_PORT => port = wire::u16_at(value, 0).map(u16::from_be),
                IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => local = wire::ip(value),
                _ => {}
            }
        }
        Some(Self { name: name?, id: id?, port: port?, local: local?, mac: mac?, mtu: mtu? })
    }
}

impl Remote {
    fn message(&self, kind: u16, flags: u16, link: u32) -> Message {
        let mut fixed = [0; NEIGHBOUR_FIXED];
        fixed[0] = libc::AF_BRIDGE as u8;
        fixed[4..8].copy_from_slice(&link.to_ne_bytes());
        fixed[8..10].copy_from_slice(&(NUD_PERMANENT | NUD_NOARP).to_ne_bytes());
        fixed[10] = NTF_SELF;
        let mut message = Message::new(kind, flags, &fixed);
        message.put_ip(NDA_DST, self.ip);
        message.put(NDA_LLADDR, &self.mac.0);
        message
    }

    fn read(body: &[u8], link: u32) -> Option<Self> {
        if wire::u32_at(body, 4)? != link {
            return None;
        }
        let (mut ip, mut mac) = (None, None);
        for (kind, value) in wire::attributes(body.get(NEIGHBOUR_FIXED..)?) {
            match kind {
                NDA_DST => ip = wire::ip(value),
                NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        Some(Self { mac: mac?, ip: ip? })
    }
}

impl Handle {
    /// The VXLAN link called `name`, if there is one with an address of this host.
    pub fn vxlan(&mut self, name: &str) -> Result<Option<Vxlan>> {
        let build = |flags| {
            let mut message = Message::new(RTM_GETLINK, flags, &ifinfomsg(0, 0, 0));
            message.put_text(IFLA_IFNAME, name);
            message
        };
        self.get("looking for a VXLAN link", RTM_NEWLINK, build, Vxlan::read)
    }

    /// Makes the link what it should be, up and without an address of the kernel's choosing; its index. One that
    /// differs in more than its MTU is made anew, and what was told of it must be told again.
    pub fn replace_vxlan(&mut self, wanted: &Vxlan) -> Result<u32> {
        let present = self.vxlan(&wanted.name)?;
        if !present.is_some_and(|present| present == Vxlan { mtu: present.mtu, ..wanted.clone() }) {
            self.delete_link(&wanted.name)?;
            let link =
                NewLink { mac: Some(wanted.mac), mtu: Some(wanted.mtu), ..NewLink::named(&wanted.name) };
            self.add_link(&link, "vxlan", |data| data.nest(IFLA_INFO_DATA, |data| wanted.write(data)))?;
        }
        let index = self.index(&wanted.name)?;
        let quiet = LinkChange { no_link_local: true, ..LinkChange::default() };
        // A kernel without IPv6 knows no such mode.
        let _ = self.change_link(index, &quiet);
        let up = LinkChange { up: Some(true), mtu: Some(wanted.mtu), ..LinkChange::default() };
        self.change_link(index, &up)?;
        Ok(index)
    }

    /// Where a VXLAN link sends what is for others.
    pub fn remotes(&mut self, link: u32) -> Result<Vec<Remote>> {
        let build = |flags| {
            let mut fixed = ifinfomsg(0, 0, 0);
            fixed[0] = libc::AF_BRIDGE as u8;
            Message::new(RTM_GETNEIGH, flags, &fixed)
        };
        self.dump("listing remote ends", RTM_NEWNEIGH, build, |body| Remote::read(body, link))
    }

    /// Tells a VXLAN link where somebody is, whatever it was told before.
    pub fn replace_remote(&mut self, link: u32, remote: &Remote) -> Result<()> {
        let what = || format!("adding {} as the way to {}", remote.ip, remote.mac);
        self.request(what, |flags| remote.message(RTM_NEWNEIGH, flags | NLM_F_CREATE | NLM_F_REPLACE, link))
    }

    /// Has a VXLAN link forget somebody.
    pub fn delete_remote(&mut self, link: u32, remote: &Remote) -> Result<()> {
        let what = || format!("deleting {} as the way to {}", remote.ip, remote.mac);
        absent_is_fine(self.request(what, |flags| remote.message(RTM_DELNEIGH, flags, link)))
    }
}
