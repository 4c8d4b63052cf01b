//! IPv4 addresses inside IPv6 addresses (RFC 6052).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

/// The octet that never carries a bit of an IPv4 address: bits 64 to 71, "u" (RFC 6052 §2.2).
const U: usize = 8;

/// What no translator may be sent, whatever its prefix: addresses that mean something on one host or link only.
const UNROUTABLE: [Ipv4Net; 5] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 4),
    v4([240, 0, 0, 0], 4),
];

/// What the well-known prefix must not carry besides (RFC 6052 §3.1): everything that is not global.
const NOT_GLOBAL: [Ipv4Net; 9] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

/// A prefix that IPv4 addresses are embedded in (RFC 6052 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pref64(Ipv6Net);

/// Why a prefix can't carry IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Pref64Error {
    /// Not a prefix at all.
    #[error("{0:?} is not an IPv6 prefix: write one like 64:ff9b::/96")]
    Invalid(String),
    /// Not a length with a place for an IPv4 address.
    #[error("{0} can't carry IPv4 addresses: its length must be 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)")]
    Length(Ipv6Net),
    /// The octet in the middle is not zero.
    #[error("{0} can't carry IPv4 addresses: bits 64 to 71 must be zero (RFC 6052 §2.2)")]
    Octet(Ipv6Net),
    /// Bits beyond the length.
    #[error("{0} has bits set beyond its length: write {trunc}", trunc = .0.trunc())]
    HostBits(Ipv6Net),
}

impl Pref64 {
    /// `64:ff9b::/96`, for global IPv4 addresses only (RFC 6052 §2.1, §3.1).
    pub const WELL_KNOWN: Self = Self(Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96));

    /// `64:ff9b:1:fffe::/96`: for local use (RFC 8215), private IPv4 addresses too, and neutral to checksums.
    pub const LOCAL: Self = Self(Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0xfffe, 0, 0, 0, 0), 96));

    /// The prefix, if it has a place for an IPv4 address.
    pub fn new(net: Ipv6Net) -> Result<Self, Pref64Error> {
        if !matches!(net.prefix_len(), 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(Pref64Error::Length(net));
        }
        if net.trunc() != net {
            return Err(Pref64Error::HostBits(net));
        }
        if net.addr().octets()[U] != 0 {
            return Err(Pref64Error::Octet(net));
        }
        Ok(Self(net))
    }

    /// The prefix as a range of addresses.
    pub const fn net(self) -> Ipv6Net {
        self.0
    }

    /// Where the four octets go: after the prefix, around the octet in the middle.
    fn places(self) -> impl Iterator<Item = usize> {
        (usize::from(self.0.prefix_len() / 8)..).filter(|place| *place != U).take(4)
    }

    /// The IPv6 address that stands for `ip`; its suffix is zero.
    pub fn embed(self, ip: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.0.addr().octets();
        for (place, octet) in self.places().zip(ip.octets()) {
            octets[place] = octet;
        }
        octets.into()
    }

    /// The IPv4 address in `ip`, whatever its suffix (RFC 6052 §2.3).
    pub fn extract(self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = ip.octets();
        if !self.0.contains(&ip) || octets[U] != 0 {
            return None;
        }
        let mut found = [0; 4];
        for (octet, place) in found.iter_mut().zip(self.places()) {
            *octet = octets[place];
        }
        Some(found.into())
    }

    /// The IPv4 address in `ip`, if that is exactly what [`embed`](Self::embed) makes of it.
    pub fn extract_strict(self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        self.extract(ip).filter(|found| self.embed(*found) == ip)
    }

    /// Whether the prefix may carry `ip`: none carries addresses of one host or link, and the well-known one carries
    /// only global addresses (RFC 6052 §3.1), with the two of RFC 7050 by which it is discovered.
    pub fn may_carry(self, ip: Ipv4Addr) -> bool {
        let within = |nets: &[Ipv4Net]| nets.iter().any(|net| net.contains(&ip));
        let discovery = matches!(ip.octets(), [192, 0, 0, 170 | 171]);
        !within(&UNROUTABLE) && (self != Self::WELL_KNOWN || discovery || !within(&NOT_GLOBAL))
    }

    /// Whether translation leaves transport checksums as they are: the six words add up to zero (RFC 6052 §4.1).
    pub fn is_checksum_neutral(self) -> bool {
        self.0.prefix_len() == 96 && self.sum() == 0xffff
    }

    /// The prefix of length 96 with its last word, bits 80 to 95, chosen so that it is neutral to checksums.
    pub fn checksum_neutral(self) -> Option<Self> {
        let mut words = self.0.addr().segments();
        words[5] = 0;
        let rest = Self(Ipv6Net::new_assert(words.into(), 96));
        words[5] = 0xffff - rest.sum();
        let net = Ipv6Net::new_assert(words.into(), 96);
        // The word is the prefix's own to choose, unless it is part of what is given.
        Self::new(net).ok().filter(|found| self.0.prefix_len() <= 80 && found.is_checksum_neutral())
    }

    /// The ones' complement sum of the first six words.
    fn sum(self) -> u16 {
        self.0.addr().segments()[..6].iter().fold(0_u16, |sum, word| {
            let (sum, carry) = sum.overflowing_add(*word);
            sum + u16::from(carry)
        })
    }
}

impl fmt::Display for Pref64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Pref64 {
    type Err = Pref64Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.parse().map_err(|_| Pref64Error::Invalid(text.to_owned()))?)
    }
}

#[cfg(test)]
mod tests;
