//! Names of addresses: `in-addr.arpa` (RFC 1035 section 3.5) and `ip6.arpa` (RFC 3596 section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dyad_net::{IpFamily, IpNet};

use super::snapshot::QueryName;

/// The tree of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) family: IpFamily,
    /// Its top, in wire form.
    pub(crate) top: &'static [u8],
    /// Bits in a label.
    bits: u8,
}

/// Where in a tree a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address.
    Address(IpAddr),
    /// Above addresses: a prefix of them.
    Prefix(IpNet),
    /// Nowhere: there is no address in this prefix that is above the name.
    Astray(IpNet),
}

impl Tree {
    /// Both trees.
    pub(crate) const ALL: [Self; 2] = [
        Self { family: IpFamily::V4, top: b"\x07in-addr\x04arpa\0", bits: 8 },
        Self { family: IpFamily::V6, top: b"\x03ip6\x04arpa\0", bits: 4 },
    ];

    /// Labels of the top.
    pub(crate) const TOP_LABELS: usize = 2;

    /// The tree a name is in, and the place there.
    pub(crate) fn find(name: &QueryName) -> Option<(Self, Place)> {
        let below = name.count().checked_sub(Self::TOP_LABELS)?;
        let tree = Self::ALL.into_iter().find(|tree| name.from(below) == tree.top)?;
        Some((tree, tree.place(name, below)))
    }

    fn place(self, name: &QueryName, below: usize) -> Place {
        let full = usize::from(self.family.bits() / self.bits);
        let (mut address, mut length) = (0_u128, 0);
        for at in (0..below).rev().take(full) {
            let Some(value) = self.value(name.label(at)) else {
                return Place::Astray(self.prefix(address, length));
            };
            length += self.bits;
            address |= u128::from(value) << (128 - length);
        }
        let prefix = self.prefix(address, length);
        match below.cmp(&full) {
            std::cmp::Ordering::Less => Place::Prefix(prefix),
            std::cmp::Ordering::Equal => Place::Address(prefix.addr()),
            std::cmp::Ordering::Greater => Place::Astray(prefix),
        }
    }

    /// The number a label is; only its canonical spelling is one.
    fn value(self, label: &[u8]) -> Option<u8> {
        let text = str::from_utf8(label).ok()?;
        let is_hex = self.bits == 4;
        let plain = match label {
            [digit] => is_hex && digit.is_ascii_hexdigit() || digit.is_ascii_digit(),
            [first, ..] => !is_hex && *first != b'0' && label.iter().all(u8::is_ascii_digit),
            [] => false,
        };
        plain.then(|| u8::from_str_radix(text, if is_hex { 16 } else { 10 }).ok()).flatten()
    }

    fn prefix(self, address: u128, length: u8) -> IpNet {
        let ip = match self.family {
            IpFamily::V4 => IpAddr::V4(Ipv4Addr::from((address >> 96) as u32)),
            IpFamily::V6 => IpAddr::V6(Ipv6Addr::from(address)),
        };
        IpNet::new_assert(ip, length)
    }

    /// How many labels of a name below the top are those of the zone in `range` that it is in. A range that does not
    /// end between labels is as many zones as it has prefixes that do.
    pub(crate) fn zone_labels(self, range: IpNet) -> usize {
        range.prefix_len().div_ceil(self.bits).into()
    }

    /// How many labels a prefix has.
    pub(crate) fn labels(self, prefix: IpNet) -> usize {
        (prefix.prefix_len() / self.bits).into()
    }
}
