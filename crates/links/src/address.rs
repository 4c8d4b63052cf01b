//! Addresses on links.

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};

use crate::error::absent_is_fine;
use crate::wire::{self, Message, NLM_F_CREATE, NLM_F_REPLACE};
use crate::{Handle, OURS, Result};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// Lifetimes: no time to be preferred in, valid for ever, and two times that only the kernel fills in.
const NEVER_PREFERRED: [u32; 4] = [0, u32::MAX, 0, 0];

const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
/// Length of `ifaddrmsg`.
const FIXED: usize = 8;

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address, with the length of its prefix.
    pub net: IpNet,
    /// `IFA_F_*` flags.
    pub flags: u32,
    /// Whether it is valid beyond its link and host.
    pub global: bool,
    /// Who added it; [`OURS`] for those of [`Handle::claim_address`], 0 where the kernel does not know (before 5.18).
    pub protocol: u8,
}

impl Address {
    /// Made for privacy and soon replaced (RFC 8981).
    pub const fn is_temporary(&self) -> bool {
        self.flags & IFA_F_TEMPORARY != 0
    }

    /// No longer to be used for new connections.
    pub const fn is_deprecated(&self) -> bool {
        self.flags & IFA_F_DEPRECATED != 0
    }

    /// Not usable: duplicate address detection is under way, or has failed.
    pub const fn is_unusable(&self) -> bool {
        self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0
    }

    fn read(body: &[u8]) -> Option<Self> {
        let (&prefix, &scope) = (body.get(1)?, body.get(3)?);
        let mut flags = u32::from(*body.get(2)?);
        let (mut address, mut local, mut protocol) = (None, None, 0);
        for (kind, value) in wire::attributes(body.get(FIXED..)?) {
            match kind {
                IFA_ADDRESS => address = wire::ip(value),
                IFA_LOCAL => local = wire::ip(value),
                IFA_FLAGS => flags = wire::u32_at(value, 0)?,
                IFA_PROTO => protocol = *value.first()?,
                _ => {}
            }
        }
        let net = IpNet::new(local.or(address)?, prefix).ok()?;
        Some(Self { link: wire::u32_at(body, 4)?, net, flags, global: scope < SCOPE_LINK, protocol })
    }
}

/// How far an address reaches: the kernel derives it for IPv6 and expects it for IPv4.
fn scope(net: IpNet) -> u8 {
    match net {
        _ if net.addr().is_loopback() => SCOPE_HOST,
        IpNet::V4(net) if net.addr().is_link_local() => SCOPE_LINK,
        IpNet::V4(_) | IpNet::V6(_) => SCOPE_UNIVERSE,
    }
}

fn message(kind: u16, flags: u16, link: u32, net: IpNet, scope: u8) -> Message {
    let family = wire::af(IpFamily::from(net));
    let mut fixed = [family, net.prefix_len(), IFA_F_NODAD as u8, scope, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&link.to_ne_bytes());
    let mut message = Message::new(kind, flags, &fixed);
    message.put_ip(IFA_LOCAL, net.addr());
    message.put_ip(IFA_ADDRESS, net.addr());
    message
}

impl Handle {
    /// All addresses of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let build = |flags| Message::new(RTM_GETADDR, flags, &[0; FIXED]);
        self.dump("listing addresses", RTM_NEWADDR, build, Address::read)
    }

    /// Gives a link an address; it may have it already. Duplicate address detection is skipped, so that it can be
    /// used at once: whoever calls this assigns the address and knows it to be unique.
    pub fn replace_address(&mut self, link: u32, net: IpNet) -> Result<()> {
        let what = || format!("adding address {net} to link {link}");
        self.request(what, |flags| {
            message(RTM_NEWADDR, flags | NLM_F_CREATE | NLM_F_REPLACE, link, net, scope(net))
        })
    }

    /// Has this host answer for an address that others have too, on the loopback link `lo`; it may have it already.
    ///
    /// Nothing that goes to others ever gets it for its source: its scope is the host (IPv4), and it is never preferred
    /// (IPv6). From Linux 5.18 on it can be told from others' by its [`protocol`](Address::protocol).
    pub fn claim_address(&mut self, lo: u32, ip: IpAddr) -> Result<()> {
        self.request(
            || format!("adding address {ip} to loopback"),
            |flags| {
                let flags = flags | NLM_F_CREATE | NLM_F_REPLACE;
                let mut message = message(RTM_NEWADDR, flags, lo, ip.into(), SCOPE_HOST);
                message.put_u32(IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE);
                message.put(IFA_CACHEINFO, &NEVER_PREFERRED.map(u32::to_ne_bytes).concat());
                message.put(IFA_PROTO, &[OURS]);
                message
            },
        )
    }

    /// Takes an address from a link.
    pub fn delete_address(&mut self, link: u32, net: IpNet) -> Result<()> {
        let what = || format!("deleting address {net} from link {link}");
        absent_is_fine(self.request(what, |flags| message(RTM_DELADDR, flags, link, net, scope(net))))
    }
}
