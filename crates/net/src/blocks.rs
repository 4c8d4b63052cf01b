//! Sub-prefixes out of ranges of one family: the pod ranges of nodes.
//!
//! Next-fit (D5): what was given back is used again only once the search has come round, so that routes to it have
//! time to die. Prefixes of another size than the pool's can be held too, as after a change of the node mask.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::IpFamily;
use crate::intervals::Intervals;
use crate::range::{from_bits, overlaps, span, to_bits};

/// Why a pool of blocks can't be had or can't give one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Nothing is left (D9).
    #[error("no /{length} is left in the ranges")]
    Full {
        /// Prefix length of the blocks.
        length: u8,
    },
    /// The prefix lies in none of the ranges (D7).
    #[error("{0} lies outside of the ranges")]
    OutOfRange(IpNet),
    /// The range is smaller than one block (D3).
    #[error("the range {net} is smaller than one /{length} for a node")]
    TooSmall {
        /// The range.
        net: IpNet,
        /// Prefix length of the blocks.
        length: u8,
    },
    /// The block length is longer than an address.
    #[error("/{length} is no {family} prefix length")]
    Length {
        /// Prefix length of the blocks.
        length: u8,
        /// The family of the pool.
        family: IpFamily,
    },
    /// A range of the other family was offered.
    #[error("{net} is not an {family} range")]
    WrongFamily {
        /// The range.
        net: IpNet,
        /// The family of the pool.
        family: IpFamily,
    },
    /// Two ranges share addresses.
    #[error("the ranges {0} and {1} overlap")]
    Overlap(IpNet, IpNet),
}

/// Hands out prefixes of one length from any number of ranges.
#[derive(Clone, Debug)]
pub struct BlockPool {
    family: IpFamily,
    length: u8,
    ranges: Vec<IpNet>,
    /// What is held, as first address and prefix length; of any length.
    held: BTreeSet<(u128, u8)>,
    /// The blocks that overlap something held. A block's number is its first address without the host bits.
    used: Intervals,
    /// Range and block where the next search begins.
    next: (usize, u128),
}

impl BlockPool {
    /// A pool of prefixes of `length` bits, without ranges.
    pub fn new(family: IpFamily, length: u8) -> Result<Self, BlockError> {
        if length > family.bits() {
            return Err(BlockError::Length { length, family });
        }
        Ok(Self {
            family,
            length,
            ranges: Vec::new(),
            held: BTreeSet::new(),
            used: Intervals::default(),
            next: (0, 0),
        })
    }

    /// Adds a range behind those there are; one that is there already changes nothing.
    pub fn add_range(&mut self, net: IpNet) -> Result<(), BlockError> {
        let (net, length) = (net.trunc(), self.length);
        if IpFamily::from(net) != self.family {
            return Err(BlockError::WrongFamily { net, family: self.family });
        }
        if net.prefix_len() > length {
            return Err(BlockError::TooSmall { net, length });
        }
        match self.ranges.iter().find(|range| overlaps(range, &net)) {
            Some(range) if *range == net => {}
            Some(range) => return Err(BlockError::Overlap(*range, net)),
            None => self.ranges.push(net),
        }
        Ok(())
    }

    /// The ranges, in the order they were added.
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// Prefix length of the blocks it hands out.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// How many blocks there are in all, used or not; `u128::MAX` if that can't be counted.
    pub fn capacity(&self) -> u128 {
        let blocks = |range: &IpNet| {
            1u128.checked_shl(u32::from(self.length - range.prefix_len())).unwrap_or(u128::MAX)
        };
        self.ranges.iter().map(blocks).fold(0, u128::saturating_add)
    }

    /// Takes the next free block (D5).
    pub fn take(&mut self) -> Result<IpNet, BlockError> {
        let (start, from) = self.next;
        let count = self.ranges.len();
        // The range where the search begins comes twice: from there on, and in the end from its beginning.
        let found = (0..=count).find_map(|turn| {
            let at = (start + turn) % count.max(1);
            let (first, last) = self.blocks(self.ranges.get(at)?).into_inner();
            let first = if turn == 0 { first.max(from) } else { first };
            if first > last {
                return None;
            }
            self.used.next_free(first..=last).map(|block| (at, block))
        });
        let (at, block) = found.ok_or(BlockError::Full { length: self.length })?;
        // Behind the last block of all the search begins anew.
        self.next = block.checked_add(1).map_or(((at + 1) % count, 0), |next| (at, next));
        let net = self.prefix(block.checked_shl(self.host_bits()).unwrap_or(0), self.length);
        self.hold(net);
        Ok(net)
    }

    /// Marks a prefix as held, whatever its length; false if it was. It must lie in one of the ranges (D7).
    pub fn occupy(&mut self, net: IpNet) -> Result<bool, BlockError> {
        if !self.ranges.iter().any(|range| range.contains(&net)) {
            return Err(BlockError::OutOfRange(net));
        }
        Ok(self.hold(net.trunc()))
    }

    /// Keeps what overlaps `net` from being handed out, such as a service range (D6); ranges it doesn't touch don't
    /// mind.
    pub fn reserve(&mut self, net: IpNet) {
        if IpFamily::from(net) == self.family {
            self.hold(net.trunc());
        }
    }

    /// Gives a prefix back; false if just this one was not held.
    pub fn release(&mut self, net: IpNet) -> bool {
        let net = net.trunc();
        if IpFamily::from(net) != self.family || !self.held.remove(&key(&net)) {
            return false;
        }
        let blocks = self.blocks(&net);
        self.used.remove_range(blocks.clone());
        // Others may hold parts of the same blocks, or all of them.
        let (first, last) = self.addresses(&blocks).into_inner();
        let inside = self.held.range((first, 0)..=(last, u8::MAX));
        let around = (0..net.prefix_len())
            .map(|length| key(&self.prefix(first, length)))
            .filter(|key| self.held.contains(key));
        let others: Vec<_> = inside.copied().chain(around).collect();
        for (bits, length) in others {
            self.used.insert_range(self.blocks(&self.prefix(bits, length)));
        }
        true
    }

    /// Whether a prefix overlaps anything held.
    pub fn is_used(&self, net: &IpNet) -> bool {
        let (first, last) = span(net).into_inner();
        IpFamily::from(*net) == self.family
            && (self.held.range((first, 0)..=(last, u8::MAX)).next().is_some()
                || (0..net.prefix_len()).any(|length| self.held.contains(&key(&self.prefix(first, length)))))
    }

    fn hold(&mut self, net: IpNet) -> bool {
        let new = self.held.insert(key(&net));
        self.used.insert_range(self.blocks(&net));
        new
    }

    fn host_bits(&self) -> u32 {
        u32::from(self.family.bits() - self.length)
    }

    /// Numbers of the blocks a prefix overlaps.
    fn blocks(&self, net: &IpNet) -> RangeInclusive<u128> {
        let (first, last) = span(net).into_inner();
        let number = |bits: u128| bits.checked_shr(self.host_bits()).unwrap_or(0);
        number(first)..=number(last)
    }

    /// First and last address of blocks.
    fn addresses(&self, blocks: &RangeInclusive<u128>) -> RangeInclusive<u128> {
        let host_mask = 1u128.checked_shl(self.host_bits()).map_or(u128::MAX, |bit| bit - 1);
        let first = |block: u128| block.checked_shl(self.host_bits()).unwrap_or(0);
        first(*blocks.start())..=first(*blocks.end()) | host_mask
    }

    fn prefix(&self, bits: u128, length: u8) -> IpNet {
        IpNet::new(from_bits(self.family, bits), length)
            .expect("no longer than an address of the family")
            .trunc()
    }
}

fn key(net: &IpNet) -> (u128, u8) {
    (to_bits(net.network()), net.prefix_len())
}

#[cfg(test)]
mod tests;
