//! Single addresses out of ranges of one family.
//!
//! Sparse: what is stored follows what is used, never the size of a range, so a /64 costs no more than a /24. Ranges
//! can be added and removed while addresses are out; an address is used or free whatever ranges hold it (C10).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::IpFamily;
use crate::intervals::Intervals;
use crate::range::{from_bits, service_range_contains, span, to_bits, usable_span};

/// Whether the low end of each range is kept for addresses asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticBand {
    /// No: every free address is as good as another.
    None,
    /// As Services have it (C15, KEP-3070): nothing up to 16 addresses, else a sixteenth, at least 16 and at most 256.
    /// Handed out only when all else is used up.
    Services,
}

impl StaticBand {
    fn size(self, net: &IpNet) -> u128 {
        // The size counts network and broadcast address too.
        let size = (span(net).end() - span(net).start()).saturating_add(1);
        match self {
            Self::None => 0,
            Self::Services if size <= 16 => 0,
            Self::Services => (size / 16).clamp(16, 256),
        }
    }
}

/// Why a pool can't give an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Every address is used.
    #[error("range is full")]
    Full,
    /// Somebody has it.
    #[error("provided IP is already allocated")]
    Taken,
    /// No range holds it (C12).
    #[error("the provided network does not match the current range")]
    OutOfRange,
    /// A range of the other family was offered.
    #[error("{net} is not an {family} range")]
    WrongFamily {
        /// The range.
        net: IpNet,
        /// The family of the pool.
        family: IpFamily,
    },
}

/// Hands out addresses of one family from any number of ranges.
#[derive(Clone, Debug)]
pub struct Pool {
    family: IpFamily,
    band: StaticBand,
    ranges: Vec<IpNet>,
    used: Intervals,
}

impl Pool {
    /// A pool without ranges.
    pub fn new(family: IpFamily, band: StaticBand) -> Self {
        Self { family, band, ranges: Vec::new(), used: Intervals::default() }
    }

    /// The family of its addresses.
    pub const fn family(&self) -> IpFamily {
        self.family
    }

    /// The ranges, in the order they were added.
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// Adds a range; one that is there already changes nothing.
    pub fn add_range(&mut self, net: IpNet) -> Result<(), PoolError> {
        if IpFamily::from(net) != self.family {
            return Err(PoolError::WrongFamily { net, family: self.family });
        }
        let net = net.trunc();
        if !self.ranges.contains(&net) {
            self.ranges.push(net);
        }
        Ok(())
    }

    /// Takes a range out; its addresses that are in use stay so (C34).
    pub fn remove_range(&mut self, net: &IpNet) {
        self.ranges.retain(|range| *range != net.trunc());
    }

    /// Whether some range can give `ip` (P8).
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| service_range_contains(range, ip))
    }

    /// Whether `ip` is in use.
    pub fn is_used(&self, ip: IpAddr) -> bool {
        IpFamily::from(ip) == self.family && self.used.contains(to_bits(ip))
    }

    /// Takes a free address.
    ///
    /// The search begins where `seed` says, anywhere in all ranges by their size, goes upwards and wraps; the static
    /// bands come last (A129). The same seed gives the same address in the same state.
    pub fn take(&mut self, seed: u128) -> Result<IpAddr, PoolError> {
        let bits = self.find(seed).ok_or(PoolError::Full)?;
        self.used.insert(bits);
        Ok(from_bits(self.family, bits))
    }

    /// Takes `ip` itself.
    pub fn take_ip(&mut self, ip: IpAddr) -> Result<(), PoolError> {
        if !self.contains(ip) {
            Err(PoolError::OutOfRange)
        } else if self.used.insert(to_bits(ip)) {
            Ok(())
        } else {
            Err(PoolError::Taken)
        }
    }

    /// Marks `ip` as used, inside the ranges or not; false if it was, or is of the other family.
    pub fn occupy(&mut self, ip: IpAddr) -> bool {
        IpFamily::from(ip) == self.family && self.used.insert(to_bits(ip))
    }

    /// Gives an address back; false if it was not in use (A127).
    pub fn release(&mut self, ip: IpAddr) -> bool {
        IpFamily::from(ip) == self.family && self.used.remove(to_bits(ip))
    }

    fn find(&self, seed: u128) -> Option<u128> {
        let spans = || self.ranges.iter().filter_map(|net| Some((net, usable_span(net)?.into_inner())));
        let open = spans().filter_map(|(net, (first, last))| {
            let first = first.checked_add(self.band.size(net))?;
            (first <= last).then_some((first, last))
        });
        let bands = spans().filter_map(|(net, (first, last))| {
            let size = self.band.size(net);
            (size > 0).then(|| (first, last.min(first + (size - 1))))
        });
        self.scan(&open.collect::<Vec<_>>(), seed).or_else(|| self.scan(&bands.collect::<Vec<_>>(), seed))
    }

    /// The first free number at or behind position `seed` of the spans laid end to end, wrapping.
    fn scan(&self, spans: &[(u128, u128)], seed: u128) -> Option<u128> {
        // A span holds at most 2^128 - 1 addresses; two such would only skew where the search begins.
        let total = spans
            .iter()
            .fold(0u128, |total, (first, last)| total.saturating_add(last - first).saturating_add(1));
        let mut position = seed.checked_rem(total)?;
        let start = spans.iter().position(|(first, last)| match position.checked_sub(last - first) {
            Some(beyond) if beyond > 0 => {
                position = beyond - 1;
                false
            }
            Some(_) | None => true,
        })?;
        let (first, last) = spans[start];
        let free = |first, last| self.used.next_free(first..=last);
        free(first + position, last)
            .or_else(|| {
                spans[start + 1..].iter().chain(&spans[..start]).find_map(|(first, last)| free(*first, *last))
            })
            .or_else(|| free(first, last))
    }
}

#[cfg(test)]
mod tests;
