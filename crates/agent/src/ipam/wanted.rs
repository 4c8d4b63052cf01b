//! Whether a node is to ask for more ranges, before its pods have none: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use dyad_net::{IpFamily, IpNet, usable_addresses};

/// Of so many addresses one free one is few,
const SHARE: u128 = 8;
/// but never less than the first of these, nor more than the last.
const FEW: RangeInclusive<u128> = 2..=16;
/// The most ranges of a family that a node is given.
const MOST: usize = 64;

/// How many ranges of each family a node with `ranges` should ask for, in the words of the annotation, where that says `said`.
///
/// What was asked for stays so: nobody takes ranges back, and a wish that can't be met yet would come and go with every pod.
pub(crate) fn wanted(said: Option<&str>, ranges: &[IpNet], taken: &BTreeSet<IpAddr>) -> Option<String> {
    let part = |part: &str| {
        let (family, count) = part.split_once('=')?;
        Some((IpFamily::from_name(family.trim())?, count.trim().parse().ok()?))
    };
    let mut counts: BTreeMap<IpFamily, usize> =
        said.unwrap_or_default().split(',').filter_map(part).collect();
    let mut is_more = false;
    for family in IpFamily::BOTH {
        let held: Vec<&IpNet> = ranges.iter().filter(|range| IpFamily::from(**range) == family).collect();
        let all = held.iter().map(|range| usable_addresses(range).max(1)).fold(0, u128::saturating_add);
        let is_of = |ip: &&IpAddr| held.iter().any(|range| range.contains(*ip));
        let free = all.saturating_sub(taken.iter().filter(is_of).count() as u128);
        let count = (held.len() + 1).min(MOST);
        let asked = counts.get(&family).copied().unwrap_or(1);
        if !held.is_empty() && free <= (all / SHARE).clamp(*FEW.start(), *FEW.end()) && asked < count {
            counts.insert(family, count);
            is_more = true;
        }
    }
    let text =
        || counts.iter().map(|(family, count)| format!("{family}={count}")).collect::<Vec<_>>().join(",");
    if is_more { Some(text()) } else { said.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_asks_for_more_when_few_are_left() {
        let nets =
            |text: &str| text.split_whitespace().map(|one| one.parse().unwrap()).collect::<Vec<IpNet>>();
        // The first ones of a range are taken.
        let first = |range: &str, count: usize| {
            let range: IpNet = range.parse().unwrap();
            range.hosts().take(count).collect::<Vec<IpAddr>>()
        };
        for (what, said, ranges, of, count, expected) in [
            ("enough", None, "10.9.0.0/24 fd00::/64", "10.9.0.0/24", 237, None),
            ("few", None, "10.9.0.0/24 fd00::/64", "10.9.0.0/24", 238, Some("IPv4=2")),
            ("none", None, "10.9.0.0/24 fd00::/64", "10.9.0.0/24", 254, Some("IPv4=2")),
            ("enough of a small one", None, "10.9.0.0/28", "10.9.0.0/28", 11, None),
            ("few of a small one", None, "10.9.0.0/28", "10.9.0.0/28", 12, Some("IPv4=2")),
            ("IPv6, too", None, "10.9.0.0/24 fd00::/124", "fd00::/124", 13, Some("IPv6=2")),
            ("it was asked for", Some("IPv4=2"), "10.9.0.0/28", "10.9.0.0/28", 14, Some("IPv4=2")),
            ("pods have gone since", Some("IPv4=2"), "10.9.0.0/28", "10.9.0.0/28", 0, Some("IPv4=2")),
            ("it was given", Some("IPv4=2"), "10.9.0.0/28 10.9.1.0/28", "10.9.0.0/28", 14, Some("IPv4=2")),
            (
                "and is few again",
                Some("IPv4=2"),
                "10.9.0.0/28 10.9.0.16/28",
                "10.9.0.0/27",
                27,
                Some("IPv4=3"),
            ),
            (
                "somebody wants more",
                Some("IPv6=1, IPv4=5"),
                "10.9.0.0/28",
                "10.9.0.0/28",
                14,
                Some("IPv6=1, IPv4=5"),
            ),
            (
                "of the other",
                Some("IPv6=3"),
                "fd00::/64 10.9.0.0/28",
                "10.9.0.0/28",
                14,
                Some("IPv4=2,IPv6=3"),
            ),
            ("nonsense", Some("none"), "10.9.0.0/28", "10.9.0.0/28", 0, Some("none")),
            ("no ranges yet", None, "", "10.9.0.0/28", 14, None),
            ("others' addresses", None, "10.9.0.0/28", "10.7.0.0/28", 14, None),
            ("next to nothing", None, "10.9.0.1/32", "10.9.0.1/32", 0, Some("IPv4=2")),
        ] {
            let taken = first(of, count).into_iter().collect();
            assert_eq!(wanted(said, &nets(ranges), &taken).as_deref(), expected, "{what}");
        }
        let many: Vec<IpNet> = (0..64).map(|at| format!("10.9.0.{at}/32").parse().unwrap()).collect();
        assert_eq!(wanted(Some("IPv4=64"), &many, &BTreeSet::new()).as_deref(), Some("IPv4=64"), "no more");
    }
}
