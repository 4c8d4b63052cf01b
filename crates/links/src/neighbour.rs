//! Static neighbour entries.

use std::net::IpAddr;

use dyad_net::IpFamily;

use crate::error::absent_is_fine;
use crate::wire::{self, Message, NLM_F_CREATE, NLM_F_REPLACE};
use crate::{Handle, Mac, Result};

pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
pub(crate) const NUD_NOARP: u16 = 0x40;
pub(crate) const NUD_PERMANENT: u16 = 0x80;
/// The entry is one that this host answers for.
const NTF_PROXY: u8 = 8;
/// Length of `ndmsg`.
const FIXED: usize = 12;

/// An entry that never expires and is never asked for on the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the link.
    pub link: u32,
    /// Who.
    pub ip: IpAddr,
    /// Where.
    pub mac: Mac,
}

impl Neighbour {
    fn message(&self, kind: u16, flags: u16) -> Message {
        let mut fixed = [0; FIXED];
        fixed[0] = wire::af(IpFamily::from(self.ip));
        fixed[4..8].copy_from_slice(&self.link.to_ne_bytes());
        fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        let mut message = Message::new(kind, flags, &fixed);
        message.put_ip(NDA_DST, self.ip);
        message.put(NDA_LLADDR, &self.mac.0);
        message
    }

    fn read(body: &[u8]) -> Option<Self> {
        if wire::u16_at(body, 8)? & NUD_PERMANENT == 0 {
            return None;
        }
        let (mut ip, mut mac) = (None, None);
        for (kind, value) in wire::attributes(body.get(FIXED..)?) {
            match kind {
                NDA_DST => ip = wire::ip(value),
                NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                _ => {}
            }
        }
        Some(Self { link: wire::u32_at(body, 4)?, ip: ip?, mac: mac? })
    }
}

impl Handle {
    /// All static entries of both families; learned ones are left out.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let build = |flags| Message::new(RTM_GETNEIGH, flags, &[0; FIXED]);
        self.dump("listing neighbours", RTM_NEWNEIGH, build, Neighbour::read)
    }

    /// Sets a static entry.
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        let what = || format!("adding neighbour {} at {}", neighbour.ip, neighbour.mac);
        self.request(what, |flags| neighbour.message(RTM_NEWNEIGH, flags | NLM_F_CREATE | NLM_F_REPLACE))
    }

    /// The addresses this host answers for on links, as if it had them.
    pub fn proxies(&mut self) -> Result<Vec<(u32, IpAddr)>> {
        let build = |flags| {
            let mut fixed = [0; FIXED];
            fixed[0] = wire::af(IpFamily::V6);
            fixed[10] = NTF_PROXY;
            Message::new(RTM_GETNEIGH, flags, &fixed)
        };
        let read = |body: &[u8]| {
            let mut parts = wire::attributes(body.get(FIXED..)?);
            let ip = parts.find(|(kind, _)| *kind == NDA_DST).and_then(|(_, value)| wire::ip(value))?;
            (body.get(10)? & NTF_PROXY != 0).then_some((wire::u32_at(body, 4)?, ip))
        };
        self.dump("listing proxied neighbours", RTM_NEWNEIGH, build, read)
    }

    /// Has this host answer for an address on a link, or stop to.
    pub fn set_proxy(&mut self, link: u32, ip: IpAddr, is_proxied: bool) -> Result<()> {
        let what = || format!("answering for neighbour {ip}");
        let (kind, more) =
            if is_proxied { (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE) } else { (RTM_DELNEIGH, 0) };
        let done = self.request(what, |flags| {
            let mut fixed = [0; FIXED];
            fixed[0] = wire::af(IpFamily::from(ip));
            fixed[4..8].copy_from_slice(&link.to_ne_bytes());
            fixed[10] = NTF_PROXY;
            let mut message = Message::new(kind, flags | more, &fixed);
            message.put_ip(NDA_DST, ip);
            message
        });
        if is_proxied { done } else { absent_is_fine(done) }
    }

    /// Deletes an entry.
    pub fn delete_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        let what = || format!("deleting neighbour {}", neighbour.ip);
        absent_is_fine(self.request(what, |flags| neighbour.message(RTM_DELNEIGH, flags)))
    }
}
