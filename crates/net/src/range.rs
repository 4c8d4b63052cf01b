//! Ranges of addresses: what they hold, whether they overlap, and lists of them as people write them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::{CidrTextError, DualStack, IpFamily, check_cidr};

/// An address as a number; IPv4 addresses fill the low 32 bits.
pub(crate) fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address of `family` with these bits, of which only the low [`IpFamily::bits`] count.
pub(crate) fn from_bits(family: IpFamily, bits: u128) -> IpAddr {
    match family {
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address is the low 32 bits")]
        IpFamily::V4 => IpAddr::V4((bits as u32).into()),
        IpFamily::V6 => IpAddr::V6(bits.into()),
    }
}

/// First and last address of a prefix as numbers.
pub(crate) fn span(net: &IpNet) -> RangeInclusive<u128> {
    to_bits(net.network())..=to_bits(net.broadcast())
}

/// The addresses a service range hands out (P8), as numbers; `None` if there are none.
///
/// The network address is never among them; the last one is the broadcast address in IPv4 only.
pub(crate) fn usable_span(net: &IpNet) -> Option<RangeInclusive<u128>> {
    let (network, last) = span(net).into_inner();
    let last = match IpFamily::from(*net) {
        IpFamily::V4 => last.checked_sub(1)?,
        IpFamily::V6 => last,
    };
    let first = network.checked_add(1)?;
    (first <= last).then_some(first..=last)
}

/// Whether `ip` can belong to a Service of this range (P8): the network address can't, nor can the broadcast address
/// in IPv4.
pub fn service_range_contains(net: &IpNet, ip: IpAddr) -> bool {
    IpFamily::from(*net) == ip.into() && usable_span(net).is_some_and(|span| span.contains(&to_bits(ip)))
}

/// How many addresses a range hands out (C14): 2^n - 2 in IPv4, 2^n - 1 in IPv6, none from a single address.
pub fn usable_addresses(net: &IpNet) -> u128 {
    // At most 2^128 - 1, as the network address is not counted.
    usable_span(net).map_or(0, |span| span.end() - span.start() + 1)
}

/// Whether two prefixes share an address.
pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Why a list of ranges, one per family, can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeListError {
    /// The list is empty.
    #[error("no range is given: write one CIDR, or an IPv4 and an IPv6 one, the primary family first")]
    Empty,
    /// More than two entries.
    #[error("{0} ranges are given, but there can be only one per IP family")]
    TooMany(usize),
    /// Two entries of one family.
    #[error("{first} and {second} are both {family}: two ranges must be of different IP families")]
    SameFamily {
        /// The first entry.
        first: IpNet,
        /// The second entry.
        second: IpNet,
        /// The family of both.
        family: IpFamily,
    },
    /// An entry is not a prefix.
    #[error("{text:?} {reason}")]
    Entry {
        /// The entry as given.
        text: String,
        /// What is wrong with it.
        reason: CidrTextError,
    },
}

/// Reads a list of ranges, at most one per family, the primary family first.
pub fn range_list<'a>(
    entries: impl IntoIterator<Item = &'a str>,
) -> Result<DualStack<IpNet>, RangeListError> {
    let read = |text: &str| {
        check_cidr(text.trim())
            .map_err(|reason| RangeListError::Entry { text: text.trim().to_owned(), reason })
    };
    let nets = entries.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    match *nets.as_slice() {
        [] => Err(RangeListError::Empty),
        [only] => Ok(DualStack::single(only.into(), only)),
        [first, second] => DualStack::from_ordered([(first.into(), first), (second.into(), second)])
            .ok_or(RangeListError::SameFamily { first, second, family: first.into() }),
        [..] => Err(RangeListError::TooMany(nets.len())),
    }
}

/// Reads a comma-separated list of ranges, as flags and kind configurations have it: `10.96.0.0/16,fd00:10:96::/112`.
pub fn parse_range_list(text: &str) -> Result<DualStack<IpNet>, RangeListError> {
    if text.trim().is_empty() {
        return Err(RangeListError::Empty);
    }
    range_list(text.split(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn p8_and_c14_what_a_service_range_holds() {
        #[rustfmt::skip]
        let cases: &[(&str, u128, &[&str], &[&str])] = &[
            // range, usable, inside, outside
            ("10.0.0.0/24", 254, &["10.0.0.1", "10.0.0.254"], &["10.0.0.0", "10.0.0.255", "10.0.1.1", "::a00:1"]),
            ("10.0.0.0/30", 2, &["10.0.0.1", "10.0.0.2"], &["10.0.0.0", "10.0.0.3"]),
            ("10.0.0.0/31", 0, &[], &["10.0.0.0", "10.0.0.1"]),
            ("10.0.0.1/32", 0, &[], &["10.0.0.1"]),
            ("0.0.0.0/0", (1 << 32) - 2, &["0.0.0.1"], &["0.0.0.0", "255.255.255.255"]),
            ("fd00::/112", 65535, &["fd00::1", "fd00::ffff"], &["fd00::", "fd00::1:0", "10.0.0.1"]),
            ("fd00::/127", 1, &["fd00::1"], &["fd00::"]),
            ("fd00::1/128", 0, &[], &["fd00::1"]),
            ("::/0", u128::MAX, &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], &["::"]),
        ];
        for (range, usable, inside, outside) in cases {
            let range = net(range);
            assert_eq!(usable_addresses(&range), *usable, "C14 {range}");
            for ip in *inside {
                assert!(service_range_contains(&range, ip.parse().unwrap()), "P8 {range} {ip}");
            }
            for ip in *outside {
                assert!(!service_range_contains(&range, ip.parse().unwrap()), "P8 {range} {ip}");
            }
        }
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        for (a, b, want) in [
            ("10.0.0.0/8", "10.96.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "::/0", false),
            ("fd00::/8", "fd00:10:96::/112", true),
            ("fd00:1::/32", "fd00:1::/32", true),
        ] {
            assert_eq!(overlaps(&net(a), &net(b)), want, "{a} {b}");
            assert_eq!(overlaps(&net(b), &net(a)), want, "{b} {a}");
        }
    }

    #[test]
    fn c60_lists_of_ranges() {
        let dual = parse_range_list("fd00:10:96::/112, 10.96.0.0/16").unwrap();
        assert_eq!(dual.primary_family(), IpFamily::V6);
        assert_eq!(dual.secondary(), Some(&net("10.96.0.0/16")));
        assert!(!parse_range_list("10.96.0.0/16").unwrap().is_dual());
        for (text, want) in [
            ("", "no range is given: write one CIDR, or an IPv4 and an IPv6 one, the primary family first"),
            (
                "10.0.0.0/16,10.1.0.0/16",
                "10.0.0.0/16 and 10.1.0.0/16 are both IPv4: two ranges must be of different IP families",
            ),
            (
                "10.0.0.0/16,fd00::/64,fd01::/64",
                "3 ranges are given, but there can be only one per IP family",
            ),
            ("10.0.0.0/16,", "\"\" must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.1/16", "\"10.0.0.1/16\" must not have bits set beyond the prefix length"),
        ] {
            assert_eq!(parse_range_list(text).unwrap_err().to_string(), want, "{text}");
        }
    }
}
