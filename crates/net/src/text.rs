//! Addresses and prefixes as text, read as Kubernetes reads them (rules P2 to P5).
//!
//! Old fields take more than is good: leading zeros (decimal, where libc says octal) and IPv4 addresses dressed as
//! IPv6 ones. The sloppy functions read all of it, the `check` functions say what is wrong with it, and the
//! canonical ones leave one spelling only. Written out, an address is always canonical (P7): that is `Display` of
//! the standard library, which follows RFC 5952.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::IpFamily;

/// What is wrong with an address; the text is the detail Kubernetes gives (P3, P5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpTextError {
    /// No address at all.
    #[error("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    Invalid,
    /// An IPv4 octet with leading zeros, or an IPv6 group of more than four digits.
    #[error("must not have leading 0s")]
    LeadingZeros,
    /// `::ffff:a.b.c.d`.
    #[error("must not be an IPv4-mapped IPv6 address")]
    Mapped,
    /// Fine, but not spelt as RFC 5952 wants it.
    #[error("must be in canonical form (\"{0}\")")]
    NotCanonical(IpAddr),
}

/// What is wrong with a prefix; the text is the detail Kubernetes gives (P3, P5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrTextError {
    /// No prefix at all.
    #[error("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")]
    Invalid,
    /// Leading zeros somewhere.
    #[error("must not have leading 0s in IP or prefix length")]
    LeadingZeros,
    /// `::ffff:a.b.c.d/n`.
    #[error("must not have an IPv4-mapped IPv6 address")]
    Mapped,
    /// Bits of the host part are set.
    #[error("must not have bits set beyond the prefix length")]
    HostBits,
    /// Fine, but not spelt as RFC 5952 wants it.
    #[error("must be in canonical form (\"{0}\")")]
    NotCanonical(IpNet),
}

/// An address read leniently, with what a strict reader would have against it.
struct Read {
    /// IPv4-mapped addresses are still IPv6 here.
    ip: IpAddr,
    leading_zeros: bool,
}

impl Read {
    fn is_mapped(&self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
    }
}

/// Reads a number at the start of `text`: its value, how many digits it has, and the rest.
///
/// `None` without a digit or beyond `max`.
fn number(text: &str, radix: u32, max: u32) -> Option<(u32, usize, &str)> {
    let digits = text.find(|c: char| !c.is_digit(radix)).unwrap_or(text.len());
    let value = text[..digits].chars().try_fold(0u32, |value, c| {
        let value = value * radix + c.to_digit(radix)?;
        (value <= max).then_some(value)
    })?;
    (digits > 0).then_some((value, digits, &text[digits..]))
}

/// Four decimal octets; also says whether any had leading zeros.
fn read_v4(text: &str) -> Option<([u8; 4], bool)> {
    let (mut octets, mut rest, mut leading_zeros) = ([0u8; 4], text, false);
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix('.')?;
        }
        let (value, digits, after) = number(rest, 10, 255)?;
        leading_zeros |= digits > 1 && rest.starts_with('0');
        *octet = u8::try_from(value).ok()?;
        rest = after;
    }
    rest.is_empty().then_some((octets, leading_zeros))
}

/// Hexadecimal groups with at most one `::`, the last two possibly in IPv4 notation (RFC 4291 §2.2).
fn read_v6(text: &str) -> Option<(Ipv6Addr, bool)> {
    let (mut groups, mut ellipsis, mut rest, mut leading_zeros) = (Vec::with_capacity(8), None, text, false);
    if let Some(after) = rest.strip_prefix("::") {
        (ellipsis, rest) = (Some(0), after);
    }
    while groups.len() < 8 && !(rest.is_empty() && ellipsis == Some(groups.len())) {
        let (value, digits, after) = number(rest, 16, 0xffff)?;
        if after.starts_with('.') {
            let room = if ellipsis.is_some() { groups.len() <= 6 } else { groups.len() == 6 };
            let (octets, zeros) = read_v4(rest).filter(|_| room)?;
            groups.push(u16::from_be_bytes([octets[0], octets[1]]));
            groups.push(u16::from_be_bytes([octets[2], octets[3]]));
            leading_zeros |= zeros;
            rest = "";
            break;
        }
        leading_zeros |= digits > 4;
        groups.push(u16::try_from(value).ok()?);
        rest = after;
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix(':').filter(|rest| !rest.is_empty())?;
        if let Some(after) = rest.strip_prefix(':') {
            if ellipsis.is_some() {
                return None;
            }
            (ellipsis, rest) = (Some(groups.len()), after);
        }
    }
    if !rest.is_empty() {
        return None;
    }
    let missing = 8 - groups.len();
    match ellipsis {
        // The ellipsis stands for one group at least.
        Some(at) if missing > 0 => groups.splice(at..at, std::iter::repeat_n(0, missing)).for_each(drop),
        None if missing == 0 => {}
        Some(_) | None => return None,
    }
    let groups: [u16; 8] = groups.try_into().ok()?;
    Some((Ipv6Addr::from(groups), leading_zeros))
}

fn read(text: &str) -> Option<Read> {
    if text.contains(':') {
        read_v6(text).map(|(ip, leading_zeros)| Read { ip: ip.into(), leading_zeros })
    } else {
        read_v4(text).map(|(octets, leading_zeros)| Read { ip: Ipv4Addr::from(octets).into(), leading_zeros })
    }
}

/// Reads an address as old Kubernetes fields have it (P2): leading zeros are decimal, and an IPv4-mapped IPv6
/// address is the IPv4 address it maps.
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    read(text).map(|read| read.ip.to_canonical())
}

/// Reads an address as new values must be (P3); any spelling of an IPv6 address will do.
pub fn check_ip(text: &str) -> Result<IpAddr, IpTextError> {
    let read = read(text).ok_or(IpTextError::Invalid)?;
    if read.leading_zeros {
        Err(IpTextError::LeadingZeros)
    } else if read.is_mapped() {
        Err(IpTextError::Mapped)
    } else {
        Ok(read.ip)
    }
}

/// Reads an address in its one canonical spelling (P5).
pub fn check_canonical_ip(text: &str) -> Result<IpAddr, IpTextError> {
    let ip = check_ip(text)?;
    if ip.to_string() == text { Ok(ip) } else { Err(IpTextError::NotCanonical(ip)) }
}

struct ReadCidr {
    address: Read,
    /// Of the family as written.
    length: u8,
    leading_zeros: bool,
}

fn read_cidr(text: &str) -> Option<ReadCidr> {
    let (address, length) = text.split_once('/')?;
    let address = read(address)?;
    let (value, digits, rest) = number(length, 10, IpFamily::from(address.ip).bits().into())?;
    rest.is_empty().then_some(())?;
    let leading_zeros = address.leading_zeros || (digits > 1 && length.starts_with('0'));
    Some(ReadCidr { address, length: u8::try_from(value).ok()?, leading_zeros })
}

/// Reads address and prefix length as old Kubernetes fields have them (P2): the address, and the prefix it lies in.
///
/// `::ffff:10.0.0.1/120` is `10.0.0.1` in `10.0.0.0/24`.
pub fn parse_cidr_sloppy(text: &str) -> Option<(IpAddr, IpNet)> {
    let ReadCidr { address, length, .. } = read_cidr(text)?;
    let ip = address.ip.to_canonical();
    // The first 96 bits of a mapped address are not part of the IPv4 prefix; a shorter one is an IPv6 prefix.
    let net = match length.checked_sub(96) {
        Some(length) if address.is_mapped() => IpNet::new(ip, length),
        Some(_) | None => IpNet::new(address.ip, length),
    };
    Some((ip, net.ok()?.trunc()))
}

/// Reads a prefix as new values must be (P3).
pub fn check_cidr(text: &str) -> Result<IpNet, CidrTextError> {
    let read = read_cidr(text).ok_or(CidrTextError::Invalid)?;
    if read.leading_zeros {
        return Err(CidrTextError::LeadingZeros);
    }
    if read.address.is_mapped() {
        return Err(CidrTextError::Mapped);
    }
    let net = IpNet::new(read.address.ip, read.length).map_err(|_| CidrTextError::Invalid)?;
    if net.trunc() == net { Ok(net) } else { Err(CidrTextError::HostBits) }
}

/// Reads a prefix in its one canonical spelling (P5).
pub fn check_canonical_cidr(text: &str) -> Result<IpNet, CidrTextError> {
    let net = check_cidr(text)?;
    if net.to_string() == text { Ok(net) } else { Err(CidrTextError::NotCanonical(net)) }
}

#[cfg(test)]
mod tests;
