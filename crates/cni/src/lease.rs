//! Taking addresses: one from each list of ranges, all or none.

use std::net::IpAddr;

use crate::range::{Range, RangeSet};
use crate::store::{Locked, Owner};
use crate::{CniError, Code, Result};

/// Takes an address from each list of ranges, in their order. Of those in `requested` each must be had.
///
/// Nothing is taken when one cannot be.
pub(crate) fn take<'a>(
    store: &Locked<'_>,
    owner: &Owner,
    sets: &'a [RangeSet],
    requested: &[IpAddr],
) -> Result<Vec<(IpAddr, &'a Range)>> {
    if let Some(ip) = requested.iter().find(|ip| sets.iter().all(|set| set.range_of(**ip).is_none())) {
        let msg =
            format!("the address {ip} was asked for, which is in none of the ranges, or is a gateway's");
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    let mut taken = Vec::new();
    let done = sets.iter().enumerate().try_for_each(|(list, set)| {
        let (ip, range) = take_one(store, owner, list, set, requested)?;
        taken.push((ip, range));
        Ok(())
    });
    let Err(error) = done else { return Ok(taken) };
    for (ip, _) in taken {
        // The first error is the one that counts.
        let _ = store.free(ip);
    }
    Err(error)
}

fn take_one<'a>(
    store: &Locked<'_>,
    owner: &Owner,
    list: usize,
    set: &'a RangeSet,
    requested: &[IpAddr],
) -> Result<(IpAddr, &'a Range)> {
    if let Some((ip, range)) = requested.iter().find_map(|ip| Some((*ip, set.range_of(*ip)?))) {
        if store.take(ip, owner)? {
            return Ok((ip, range));
        }
        let msg = format!("the address {ip} was asked for, but is in use");
        return Err(CniError::new(Code::TryAgainLater, msg));
    }
    let mut occupied = store.taken()?;
    while let Some(ip) = set.next(store.last(list), &occupied) {
        if store.take(ip, owner)? {
            store.set_last(list, ip)?;
            let range = set.range_of(ip).ok_or_else(|| exhausted(set, &occupied))?;
            return Ok((ip, range));
        }
        occupied.insert(ip);
    }
    // What others left half-written is free, too.
    for ip in occupied.iter().copied() {
        if let Some(range) = set.range_of(ip)
            && store.take(ip, owner)?
        {
            return Ok((ip, range));
        }
    }
    Err(exhausted(set, &occupied))
}

fn exhausted(set: &RangeSet, occupied: &std::collections::BTreeSet<IpAddr>) -> CniError {
    let ranges: Vec<_> = set.0.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
    let used = occupied.iter().filter(|ip| set.range_of(**ip).is_some()).count();
    let msg = format!(
        "no address is free in {} ({used} in use): delete pods, or give another range",
        ranges.join(", ")
    );
    CniError::new(Code::TryAgainLater, msg)
}
