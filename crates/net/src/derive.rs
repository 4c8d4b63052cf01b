//! Ranges of one family that follow from those of the other: for nodes that somebody gives ranges of one family only.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::range::{from_bits, to_bits};
use crate::{BlockError, BlockPool, IpFamily};

/// A range, and how long the prefixes are that it is cut into: `10.244.0.0/16:24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    range: IpNet,
    length: u8,
}

/// A text that says no [`Blocks`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlocksTextError {
    /// It is not written so.
    #[error("{0:?} is no range with a length: write e.g. 10.244.0.0/16:24 or fd00:10:244::/48:64")]
    Text(String),
    /// Range and length don't fit.
    #[error(transparent)]
    Blocks(#[from] BlockError),
}

impl FromStr for Blocks {
    type Err = BlocksTextError;

    fn from_str(text: &str) -> Result<Self, BlocksTextError> {
        let wrong = || BlocksTextError::Text(text.to_owned());
        // Lengths come last, and addresses may have colons of their own.
        let (range, length) = text.rsplit_once(':').ok_or_else(wrong)?;
        let range: IpNet = range.trim().parse().map_err(|_| wrong())?;
        let length = length.trim().parse().map_err(|_| wrong())?;
        BlockPool::new(range.into(), length)?.add_range(range)?;
        Ok(Self { range: range.trunc(), length })
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.range, self.length)
    }
}

impl Blocks {
    /// All of it.
    pub const fn range(&self) -> IpNet {
        self.range
    }

    /// How long the prefixes are.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Its family.
    pub fn family(&self) -> IpFamily {
        self.range.into()
    }
}

/// Why a range of the other family can't be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// Both are of one family.
    #[error("{from} and {to} are both {family}: one family's ranges follow from the other's")]
    SameFamily {
        /// What is derived from.
        from: IpNet,
        /// What is derived.
        to: IpNet,
        /// The family of both.
        family: IpFamily,
    },
    /// The range is somewhere else.
    #[error("{net} is not in {from}, which has to hold the ranges of all nodes")]
    Outside {
        /// The range.
        net: IpNet,
        /// What is derived from.
        from: IpNet,
    },
    /// The range is so much longer or shorter than others that nothing goes with it.
    #[error("{net} is not of the length that {from} says, and of {to} no prefix goes with that")]
    Length {
        /// The range.
        net: IpNet,
        /// What is derived from.
        from: Blocks,
        /// What is derived.
        to: Blocks,
    },
    /// There are not so many.
    #[error(
        "{net} is number {index} in {from}, counted from 0, and {to} has no so many: a larger range is needed, or a longer length"
    )]
    TooSmall {
        /// The range.
        net: IpNet,
        /// What is derived from.
        from: IpNet,
        /// What is derived.
        to: Blocks,
        /// Which one it is.
        index: u128,
    },
}

/// Gives the n-th block of one range the n-th of another.
///
/// Prefixes of other lengths keep their place: half a block gets half of what goes with it. So what shares nothing has
/// nothing in common afterwards, whatever lengths there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derivation {
    from: Blocks,
    to: Blocks,
}

impl Derivation {
    /// From blocks of one family those of the other.
    pub fn new(from: Blocks, to: Blocks) -> Result<Self, DeriveError> {
        if from.family() == to.family() {
            return Err(DeriveError::SameFamily { from: from.range, to: to.range, family: from.family() });
        }
        Ok(Self { from, to })
    }

    /// What is derived from.
    pub const fn from(&self) -> Blocks {
        self.from
    }

    /// What is derived.
    pub const fn to(&self) -> Blocks {
        self.to
    }

    /// What goes with a range.
    pub fn derive(&self, net: IpNet) -> Result<IpNet, DeriveError> {
        let (net, Self { from, to }) = (net.trunc(), *self);
        if !from.range.contains(&net) {
            return Err(DeriveError::Outside { net, from: from.range });
        }
        let family = to.family();
        let length = i16::from(to.length) + i16::from(net.prefix_len()) - i16::from(from.length);
        let length =
            u8::try_from(length).ok().filter(|of| (to.range.prefix_len()..=family.bits()).contains(of));
        let length = length.ok_or(DeriveError::Length { net, from, to })?;
        let place = to_bits(net.network()) - to_bits(from.range.network());
        let shifted = |bits: u128, by: u8| bits.checked_shr(by.into()).unwrap_or(0);
        let index = shifted(place, from.family().bits() - net.prefix_len());
        let too_small = DeriveError::TooSmall { net, from: from.range, to, index };
        // How many there are, less one.
        let last = match length - to.range.prefix_len() {
            0 => 0,
            bits => u128::MAX >> (128 - bits),
        };
        if index > last {
            return Err(too_small);
        }
        let offset = index.checked_shl((family.bits() - length).into()).unwrap_or(0);
        // The range's own bits are zero there.
        let first = from_bits(family, to_bits(to.range.network()) | offset);
        IpNet::new(first, length).map_err(|_| too_small)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::overlaps;

    fn derivation(from: &str, to: &str) -> Derivation {
        Derivation::new(from.parse().unwrap(), to.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_nth_block_gets_the_nth_of_the_other_family() {
        #[rustfmt::skip]
        let cases = [
            ("10.244.0.0/16:24", "fd00:10:244::/48:64", "10.244.0.0/24", "fd00:10:244::/64"),
            ("10.244.0.0/16:24", "fd00:10:244::/48:64", "10.244.7.0/24", "fd00:10:244:7::/64"),
            ("10.244.0.0/16:24", "fd00:10:244::/48:64", "10.244.255.0/24", "fd00:10:244:ff::/64"),
            ("fd00:10:244::/48:64", "10.244.0.0/16:24", "fd00:10:244:7::/64", "10.244.7.0/24"),
            // Of another length: its part of the block, or several blocks.
            ("10.244.0.0/16:24", "fd00:10:244::/48:64", "10.244.7.128/25", "fd00:10:244:7:8000::/65"),
            ("10.244.0.0/16:24", "fd00:10:244::/48:64", "10.244.6.0/23", "fd00:10:244:6::/63"),
            // The range as a whole, and all there is.
            ("10.9.0.0/24:24", "fd00::/64:64", "10.9.0.0/24", "fd00::/64"),
            ("0.0.0.0/0:32", "::/0:128", "255.255.255.255/32", "::ffff:ffff/128"),
            ("0.0.0.0/0:0", "::/0:0", "0.0.0.0/0", "::/0"),
            ("10.0.0.0/8:24", "2001:db8::/32:80", "10.255.255.0/24", "2001:db8:0:0:ffff::/80"),
        ];
        for (from, to, net, expected) in cases {
            let expected: IpNet = expected.parse().unwrap();
            assert_eq!(derivation(from, to).derive(net.parse().unwrap()), Ok(expected), "{from} {to} {net}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_way_out() {
        let from_v4 = "10.244.0.0/16:24";
        for (from, to, net, part) in [
            (from_v4, "fd00::/48:64", "10.96.0.0/24", "10.96.0.0/24 is not in 10.244.0.0/16"),
            (from_v4, "fd00::/48:64", "fd00::/64", "fd00::/64 is not in 10.244.0.0/16"),
            (from_v4, "fd00::/48:64", "10.0.0.0/8", "is not in"),
            ("fd00::/48:64", "10.244.0.0/16:24", "fd00:0:0:100::/64", "is number 256 in fd00::/48"),
            ("fd00::/48:64", "10.244.0.0/16:24", "fd00::1/128", "no prefix goes with that"),
            (from_v4, "fd00::/62:64", "10.244.4.0/24", "a larger range is needed"),
            ("10.0.0.0/8:24", "fd00::/62:64", "10.0.0.0/20", "no prefix goes with that"),
        ] {
            let error = derivation(from, to).derive(net.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(part), "{from} {to} {net}: {error}");
        }
        let same = Derivation::new(from_v4.parse().unwrap(), "10.9.0.0/16:24".parse().unwrap());
        assert!(same.unwrap_err().to_string().contains("both IPv4"));
        for (text, part) in [
            ("10.244.0.0/16", "is no range with a length"),
            ("fd00::/48", "is no range with a length"),
            ("fd00::/48:x", "is no range with a length"),
            ("10.244.0.0/16:12", "smaller than one /12"),
            ("10.244.0.0/16:33", "no IPv4 prefix length"),
        ] {
            let error = text.parse::<Blocks>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(" fd00::1/48 : 64".parse::<Blocks>().unwrap().to_string(), "fd00::/48:64");
    }

    fn blocks(family: IpFamily) -> impl Strategy<Value = Blocks> {
        (any::<u128>(), 0..=family.bits()).prop_flat_map(move |(bits, prefix)| {
            let range = IpNet::new(from_bits(family, bits), prefix).unwrap().trunc();
            (prefix..=family.bits()).prop_map(move |length| Blocks { range, length })
        })
    }

    /// A prefix in `range`.
    fn within(range: IpNet) -> impl Strategy<Value = IpNet> {
        let family = IpFamily::from(range);
        (any::<u128>(), range.prefix_len()..=family.bits()).prop_map(move |(bits, length)| {
            let host = range.prefix_len();
            let mask = u128::MAX.checked_shr(u32::from(128 - family.bits() + host)).unwrap_or(0);
            IpNet::new(from_bits(family, to_bits(range.network()) | bits & mask), length).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn what_shares_nothing_has_nothing_in_common_afterwards(
            (derivation, a, b) in any::<bool>().prop_flat_map(|is_v4| {
                let family = if is_v4 { IpFamily::V4 } else { IpFamily::V6 };
                (blocks(family), blocks(family.other())).prop_flat_map(|(from, to)| {
                    let derivation = Derivation::new(from, to).unwrap();
                    (Just(derivation), within(from.range), within(from.range))
                })
            })
        ) {
            for net in [a, b] {
                if let Ok(derived) = derivation.derive(net) {
                    prop_assert!(derivation.to.range.contains(&derived), "{derived} is not in {}", derivation.to);
                    prop_assert_eq!(derived, derived.trunc());
                }
            }
            if let (Ok(of_a), Ok(of_b)) = (derivation.derive(a), derivation.derive(b)) {
                prop_assert_eq!(overlaps(&of_a, &of_b), overlaps(&a, &b), "{} {} {} {}", a, b, of_a, of_b);
                prop_assert_eq!(of_a == of_b, a == b);
            }
        }
    }
}
