//! Which endpoint is in which slot.
//!
//! The kernel picks a slot at random among a number that is fixed in a rule. Up to [`EXACT`] endpoints have a slot
//! each, in their order: one more or less moves half of the others on average, which is less than would change in a
//! shared table, and takes an eighth of its memory. More share a table of a few fixed sizes, each at least four times
//! the number of endpoints while there is one, filled the Maglev way (Eisenbud et al., NSDI 2016, §3.4): shares differ
//! by at most one slot, and one endpoint more or less changes few slots, so an update stays small.

use std::net::IpAddr;

use crate::{Endpoint, Slot};

/// Up to so many endpoints have a slot each.
const EXACT: usize = 64;
/// Sizes of shared tables: primes, so that every step visits every slot.
const SHARED: [u16; 3] = [521, 2053, 8209];
/// No frontend has more slots; endpoints beyond get no connections.
pub const MAX_SLOTS: Slot = SHARED[SHARED.len() - 1];

/// The endpoint of each slot. `endpoints` are sorted, without duplicates.
pub(crate) fn fill(endpoints: &[Endpoint]) -> Vec<Endpoint> {
    if endpoints.len() <= EXACT {
        return endpoints.to_vec();
    }
    let fits = |size: &&u16| usize::from(**size) >= endpoints.len() * 4;
    let size = usize::from(*SHARED.iter().find(fits).unwrap_or(&MAX_SLOTS));
    let mut walks: Vec<Walk> = endpoints.iter().map(|endpoint| Walk::new(endpoint, size)).collect();
    let mut slots = vec![None; size];
    let mut left = size;
    // Each endpoint in turn takes the next slot on its walk that is free, until none is.
    loop {
        for (walk, endpoint) in walks.iter_mut().zip(endpoints) {
            if left == 0 {
                return slots.into_iter().flatten().collect();
            }
            while slots[walk.at].is_some() {
                walk.step(size);
            }
            slots[walk.at] = Some(*endpoint);
            left -= 1;
        }
    }
}

/// The order in which an endpoint wants slots: a permutation of its own.
struct Walk {
    at: usize,
    stride: usize,
}

impl Walk {
    fn new(endpoint: &Endpoint, size: usize) -> Self {
        let hash = hash(endpoint);
        let (low, high) = (hash & 0xffff_ffff, hash >> 32);
        let reduce = |value: u64, modulus: usize| (value % modulus as u64) as usize;
        Self { at: reduce(low, size), stride: 1 + reduce(high, size - 1) }
    }

    fn step(&mut self, size: usize) {
        self.at = (self.at + self.stride) % size;
    }
}

fn hash(endpoint: &Endpoint) -> u64 {
    let mut bytes = match endpoint.ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend(endpoint.port.to_be_bytes());
    crate::hash::of(&bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn endpoints(count: u16) -> Vec<Endpoint> {
        (0..count)
            .map(|n| Endpoint { ip: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]), port: 80 })
            .collect()
    }

    #[test]
    fn few_endpoints_have_a_slot_each() {
        for count in [0, 1, 2, 64] {
            assert_eq!(fill(&endpoints(count)), endpoints(count));
        }
    }

    #[test]
    fn beyond_the_largest_table_the_first_are_served() {
        let slots = fill(&endpoints(8300));
        assert_eq!(slots.len(), usize::from(MAX_SLOTS));
        assert!(slots.iter().all(|endpoint| endpoints(8209).contains(endpoint)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn shares_are_even_and_changes_small(count in 65u16..600, gone in any::<prop::sample::Index>()) {
            let all = endpoints(count);
            let slots = fill(&all);
            prop_assert!(slots.len() >= 4 * all.len() && SHARED.iter().any(|size| usize::from(*size) == slots.len()));
            let mut shares = BTreeMap::new();
            slots.iter().for_each(|endpoint| *shares.entry(*endpoint).or_insert(0) += 1);
            let (least, most) = (*shares.values().min().unwrap(), *shares.values().max().unwrap());
            prop_assert_eq!(shares.len(), all.len());
            prop_assert!(most - least <= 1);
            let mut fewer = all.clone();
            fewer.remove(gone.index(all.len()));
            let after = fill(&fewer);
            if after.len() == slots.len() {
                let changed = slots.iter().zip(&after).filter(|(before, after)| before != after).count();
                prop_assert!(changed * 3 <= slots.len(), "{} of {} slots changed", changed, slots.len());
            }
        }
    }
}
