//! Links: veth pairs, bridges, and what can be said about any link.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::absent_is_fine;
use crate::wire::{self, Message, NLM_F_CREATE, NLM_F_EXCL};
use crate::{Handle, Result};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const IF_OPER_UP: u8 = 6;
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_EXT_MASK: u16 = 29;
const IFLA_CARRIER: u16 = 33;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
/// Leaves the statistics out of listings.
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const IFF_UP: u32 = 1;
/// Length of `ifinfomsg`.
const FIXED: usize = 16;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(
    /// The six octets.
    pub [u8; 6],
);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A link as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kind of a virtual link (`veth`, `bridge`, ...); `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is set up by its administrator.
    pub up: bool,
    /// Whether the other end is there.
    pub carrier: bool,
    /// Index of the bridge it belongs to.
    pub master: Option<u32>,
    /// Index of the other end, in the namespace of that end.
    pub peer: Option<u32>,
    /// The group it belongs to; zero is none.
    pub group: u32,
    /// A free text.
    pub alias: Option<String>,
    /// The kind of what its packets wait in (`noqueue`, `tbf`, ...).
    pub queue: Option<String>,
}

/// A link to be made; [`NewLink::named`] gives one with the kernel's defaults.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Its name, at most 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address; random if not given.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Its group, for deleting many at once; zero is none.
    pub group: u32,
    /// The namespace it appears in; the handle's own if not given.
    pub netns: Option<BorrowedFd<'a>>,
}

impl<'a> NewLink<'a> {
    /// A link called `name` with the kernel's defaults.
    pub const fn named(name: &'a str) -> Self {
        Self { name, mac: None, mtu: None, group: 0, netns: None }
    }

    fn write(&self, message: &mut Message) {
        message.put_text(IFLA_IFNAME, self.name);
        if let Some(mac) = self.mac {
            message.put(IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = self.mtu {
            message.put_u32(IFLA_MTU, mtu);
        }
        if self.group != 0 {
            message.put_u32(IFLA_GROUP, self.group);
        }
        if let Some(netns) = self.netns {
            message.put_u32(IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
        }
    }
}

/// What to change on a link; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// Set up or down.
    pub up: Option<bool>,
    /// Rename; the link must be down.
    pub name: Option<&'a str>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<Mac>,
    /// Index of the bridge to join; zero leaves the present one.
    pub master: Option<u32>,
    /// Move into this namespace.
    pub netns: Option<BorrowedFd<'a>>,
    /// Group; zero is none.
    pub group: Option<u32>,
    /// Free text, at most 255 bytes.
    pub alias: Option<&'a str>,
    /// Keep the kernel from giving the link an IPv6 link-local address when it is set up.
    pub no_link_local: bool,
}

pub(crate) fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; FIXED] {
    let mut bytes = [0; FIXED];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

impl Link {
    fn read(body: &[u8]) -> Option<Self> {
        let mut link = Self {
            index: wire::u32_at(body, 4)?,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            up: wire::u32_at(body, 8)? & IFF_UP != 0,
            carrier: false,
            master: None,
            peer: None,
            group: 0,
            alias: None,
            queue: None,
        };
        for (kind, value) in wire::attributes(body.get(FIXED..)?) {
            let number = wire::u32_at(value, 0);
            match kind {
                IFLA_IFNAME => link.name = wire::text(value),
                IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                IFLA_MTU => link.mtu = number?,
                IFLA_LINK => link.peer = number,
                IFLA_MASTER => link.master = number,
                IFLA_GROUP => link.group = number?,
                IFLA_IFALIAS => link.alias = Some(wire::text(value)),
                IFLA_QDISC => link.queue = Some(wire::text(value)),
                IFLA_CARRIER => link.carrier = value.first() == Some(&1),
                IFLA_LINKINFO => {
                    let mut inner = wire::attributes(value);
                    link.kind =
                        inner.find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, text)| wire::text(text));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

impl Handle {
    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let build = |flags| {
            let mut message = Message::new(RTM_GETLINK, flags, &ifinfomsg(0, 0, 0));
            message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            message
        };
        self.dump("listing links", RTM_NEWLINK, build, Link::read)
    }

    /// The link called `name`, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let build = |flags| {
            let mut message = Message::new(RTM_GETLINK, flags, &ifinfomsg(0, 0, 0));
            message.put_text(IFLA_IFNAME, name);
            message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
            message
        };
        self.get("looking for a link", RTM_NEWLINK, build, Link::read)
    }

    /// Whether packets pass a link, as far as the kernel has looked: it looks soon after both ends are up. `None` if there
    /// is no such link. No part of [`Link`], which is compared, as nobody has changed anything then.
    pub fn is_operational(&mut self, name: &str) -> Result<Option<bool>> {
        let build = |flags| {
            let mut message = Message::new(RTM_GETLINK, flags, &ifinfomsg(0, 0, 0));
            message.put_text(IFLA_IFNAME, name);
            message
        };
        self.get("looking for a link", RTM_NEWLINK, build, |body| {
            let mut found = wire::attributes(body.get(FIXED..)?);
            found
                .find(|(kind, _)| *kind == IFLA_OPERSTATE)
                .map(|(_, value)| value.first() == Some(&IF_OPER_UP))
        })
    }

    /// The index of the link called `name`, or an error that says that there is none.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        match self.link(name)? {
            Some(link) => Ok(link.index),
            None => Err(crate::Error::System {
                what: format!("looking for link {name}"),
                source: std::io::Error::from_raw_os_error(libc::ENODEV),
            }),
        }
    }

    /// Makes a veth pair, each end in the namespace it names.
    pub fn add_veth(&mut self, near: &NewLink<'_>, far: &NewLink<'_>) -> Result<()> {
        self.add_link(near, "veth", |data| {
            data.nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    peer.raw(&ifinfomsg(0, 0, 0));
                    far.write(peer);
                });
            });
        })
    }

    /// Makes a bridge.
    pub fn add_bridge(&mut self, link: &NewLink<'_>) -> Result<()> {
        self.add_link(link, "bridge", |_| {})
    }

    pub(crate) fn add_link(
        &mut self,
        link: &NewLink<'_>,
        kind: &str,
        data: impl FnOnce(&mut Message),
    ) -> Result<()> {
        let what = || format!("adding {kind} {}", link.name);
        self.request(what, |flags| {
            let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
            let mut message = Message::new(RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0));
            link.write(&mut message);
            message.nest(IFLA_LINKINFO, |info| {
                info.put_text(IFLA_INFO_KIND, kind);
                data(info);
            });
            message
        })
    }

    /// Changes the link with this index.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let what =
            || format!("changing link {}", change.name.map_or_else(|| index.to_string(), str::to_owned));
        self.request(what, |flags| {
            let (up, mask) = match change.up {
                Some(up) => (if up { IFF_UP } else { 0 }, IFF_UP),
                None => (0, 0),
            };
            let mut message = Message::new(RTM_SETLINK, flags, &ifinfomsg(index, up, mask));
            if let Some(name) = change.name {
                message.put_text(IFLA_IFNAME, name);
            }
            if let Some(mac) = change.mac {
                message.put(IFLA_ADDRESS, &mac.0);
            }
            if let Some(alias) = change.alias {
                message.put(IFLA_IFALIAS, alias.as_bytes());
            }
            if let Some(netns) = change.netns {
                message.put_u32(IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
            }
            for (kind, value) in
                [(IFLA_MTU, change.mtu), (IFLA_MASTER, change.master), (IFLA_GROUP, change.group)]
            {
                if let Some(value) = value {
                    message.put_u32(kind, value);
                }
            }
            if change.no_link_local {
                message.nest(IFLA_AF_SPEC, |families| {
                    families.nest(libc::AF_INET6 as u16, |inet6| {
                        inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
                    });
                });
            }
            message
        })
    }

    /// Sets the link called `name` up.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        self.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Deletes the link called `name`, with its other end. Takes tens of milliseconds, in which the kernel waits for
    /// packets under way; see [`delete_group`](Self::delete_group).
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let what = || format!("deleting link {name}");
        absent_is_fine(self.request(what, |flags| {
            let mut message = Message::new(RTM_DELLINK, flags, &ifinfomsg(0, 0, 0));
            message.put_text(IFLA_IFNAME, name);
            message
        }))
    }

    /// Deletes all links of a group, in about the time that one takes. Group zero is refused: it holds every link
    /// that belongs to none.
    pub fn delete_group(&mut self, group: u32) -> Result<()> {
        if group == 0 {
            return Err(crate::Error::System {
                what: "deleting link group 0, which holds every link without a group".into(),
                source: std::io::Error::from_raw_os_error(libc::EINVAL),
            });
        }
        let what = || format!("deleting link group {group:#x}");
        absent_is_fine(self.request(what, |flags| {
            let mut message = Message::new(RTM_DELLINK, flags, &ifinfomsg(0, 0, 0));
            message.put_u32(IFLA_GROUP, group);
            message
        }))
    }
}
