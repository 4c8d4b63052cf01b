//! The ranges addresses are given from, as host-local's configuration has them. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet, overlaps};
use serde_json::Value;

use crate::conf::Fields;
use crate::{CniError, Result};

/// A part of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The subnet, whose length goes with the addresses.
    pub subnet: IpNet,
    /// The first address to be given.
    pub start: IpAddr,
    /// The last.
    pub end: IpAddr,
    /// Never given: the gateway's. Where the subnet has none, as with routed pods, every address is.
    pub gateway: Option<IpAddr>,
}

/// What network a range is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One with a gateway, which has the first address if none is named.
    Shared,
    /// Of routed pods, which share nothing.
    Routed,
}

/// Ranges of which an attachment gets one address. All are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(
    /// At least one.
    pub Vec<Range>,
);

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(family: IpFamily, bits: u128) -> IpAddr {
    match family {
        #[expect(clippy::cast_possible_truncation, reason = "an IPv4 address is the low 32 bits")]
        IpFamily::V4 => IpAddr::V4((bits as u32).into()),
        IpFamily::V6 => IpAddr::V6(bits.into()),
    }
}

impl Range {
    /// All of a subnet, for routed pods: no address is the gateway's. The first one is left out, and the last one in
    /// IPv4, as what others take for the network and for everybody; a subnet of one or two addresses has no such.
    pub fn routed(subnet: IpNet) -> Self {
        let subnet = subnet.trunc();
        let family = IpFamily::from(subnet);
        let (first, last) = (bits(subnet.network()), bits(subnet.broadcast()));
        let (first, last) = match (last - first, family) {
            (0 | 1, _) => (first, last),
            (_, IpFamily::V4) => (first + 1, last - 1),
            (_, IpFamily::V6) => (first + 1, last),
        };
        Self { subnet, start: address(family, first), end: address(family, last), gateway: None }
    }

    /// Reads one as host-local does; of a network with a gateway, or not.
    fn read(fields: &Fields<'_>, kind: Kind) -> Result<Self> {
        let Some(subnet) = fields.net("subnet")? else {
            return Err(CniError::config(
                &fields.name("subnet"),
                "it",
                "is missing: give each range a subnet",
            ));
        };
        let (family, name) = (IpFamily::from(subnet), fields.name("subnet"));
        if subnet.trunc() != subnet {
            let way_out = format!("has bits set beyond its length: write {}", subnet.trunc());
            return Err(CniError::config(&name, subnet, &way_out));
        }
        if kind == Kind::Shared && subnet.prefix_len() + 2 > family.bits() {
            return Err(CniError::config(
                &name,
                subnet,
                "is too small to give addresses from: four are the least",
            ));
        }
        let mut range = Self::routed(subnet);
        range.gateway = fields.ip("gateway")?.or_else(|| (kind == Kind::Shared).then_some(range.start));
        for (key, place) in [("rangeStart", &mut range.start), ("rangeEnd", &mut range.end)] {
            let Some(ip) = fields.ip(key)? else { continue };
            if !subnet.contains(&ip) {
                return Err(CniError::config(
                    &fields.name(key),
                    ip,
                    &format!("is not in the subnet {subnet}"),
                ));
            }
            *place = ip;
        }
        if range.start > range.end {
            let way_out = format!("comes after rangeEnd {}", range.end);
            return Err(CniError::config(&fields.name("rangeStart"), range.start, &way_out));
        }
        if let Some(gateway) = range.gateway.filter(|gateway| IpFamily::from(*gateway) != family) {
            let way_out = format!("is not of the family of {subnet}");
            return Err(CniError::config(&fields.name("gateway"), gateway, &way_out));
        }
        Ok(range)
    }

    /// Whether it gives this address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        IpFamily::from(ip) == self.subnet.into()
            && (self.start..=self.end).contains(&ip)
            && self.gateway != Some(ip)
    }

    /// The first free address from `from` to `to`, as numbers; takes as many steps as there are taken ones.
    fn free(&self, from: u128, to: u128, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let family = IpFamily::from(self.subnet);
        let mut at = from.max(bits(self.start));
        let end = to.min(bits(self.end));
        while at <= end {
            let ip = address(family, at);
            if !taken.contains(&ip) && self.gateway != Some(ip) {
                return Some(ip);
            }
            at = at.checked_add(1)?;
        }
        None
    }
}

impl RangeSet {
    /// Of one routed subnet.
    pub fn routed(subnet: IpNet) -> Self {
        Self(vec![Range::routed(subnet)])
    }

    /// The family of all its ranges.
    pub fn family(&self) -> Option<IpFamily> {
        self.0.first().map(|range| range.subnet.into())
    }

    /// The range that gives an address.
    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    /// The next free address after `last`, around all ranges: an address is not given again as soon as it is free.
    pub fn next(&self, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let place = |ip: IpAddr| {
            self.0.iter().position(|range| {
                IpFamily::from(ip) == range.subnet.into() && (range.start..=range.end).contains(&ip)
            })
        };
        let (first, after) = match last.and_then(|ip| Some((place(ip)?, bits(ip)))) {
            Some((at, bits)) => (at, bits.checked_add(1)),
            None => (0, Some(0)),
        };
        let (before, behind) = self.0.split_at_checked(first)?;
        let (here, behind) = behind.split_first()?;
        after
            .and_then(|after| here.free(after, u128::MAX, taken))
            .or_else(|| behind.iter().chain(before).find_map(|range| range.free(0, u128::MAX, taken)))
            .or_else(|| here.free(0, after.unwrap_or(u128::MAX), taken))
    }

    fn read(path: &str, list: &Value, kind: Kind) -> Result<Self> {
        let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
            let way_out = "must be a list of ranges: [[{\"subnet\": ...}], [{\"subnet\": ...}]]";
            return Err(CniError::config(path, list, way_out));
        };
        let mut ranges: Vec<Range> = Vec::new();
        for (at, range) in list.iter().enumerate() {
            let name = format!("{path}[{at}]");
            let range = Range::read(&Fields::entry(name.clone(), range)?, kind)?;
            if let Some(first) =
                ranges.first().filter(|first| IpFamily::from(first.subnet) != range.subnet.into())
            {
                let way_out =
                    format!("is not of the family of {}: put it into a list of its own", first.subnet);
                return Err(CniError::config(&name, range.subnet, &way_out));
            }
            if let Some(other) = ranges.iter().find(|other| share(other, &range)) {
                return Err(CniError::config(&name, range.subnet, &format!("overlaps {}", other.subnet)));
            }
            ranges.push(range);
        }
        Ok(Self(ranges))
    }
}

fn share(a: &Range, b: &Range) -> bool {
    overlaps(&a.subnet, &b.subnet) && a.start <= b.end && b.start <= a.end
}

/// Reads a list of lists of ranges; `path` is its name.
pub fn read_ranges(path: &str, lists: &[Value], kind: Kind) -> Result<Vec<RangeSet>> {
    let read = |(at, list)| RangeSet::read(&format!("{path}[{at}]"), list, kind);
    lists.iter().enumerate().map(read).collect()
}

/// Reads a range that is written into `fields` themselves, as old configurations have it.
pub(crate) fn read_single(fields: &Fields<'_>, kind: Kind) -> Result<Option<RangeSet>> {
    Ok(match fields.get("subnet") {
        Some(_) => Some(RangeSet(vec![Range::read(fields, kind)?])),
        None => None,
    })
}

/// Refuses sets that share addresses.
pub(crate) fn check_apart(path: &str, sets: &[RangeSet]) -> Result<()> {
    for (at, set) in sets.iter().enumerate() {
        for other in &sets[..at] {
            for range in &set.0 {
                if let Some(found) = other.0.iter().find(|other| share(other, range)) {
                    let way_out = format!("overlaps {}, of another list", found.subnet);
                    return Err(CniError::config(&format!("{path}[{at}]"), range.subnet, &way_out));
                }
            }
        }
    }
    Ok(())
}
