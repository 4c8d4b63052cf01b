//! Which pods of a StatefulSet come and go next. Pure.

use std::collections::BTreeMap;

/// What a set wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) first: i64,
    pub(super) count: i64,
    /// Whether pods need not wait for each other.
    pub(super) parallel: bool,
    pub(super) update: Update,
    /// How many pods have the template before the present one.
    pub(super) current: i64,
}

/// How old pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// When somebody deletes them.
    OnDelete,
    /// From the last to the one of this place, so many at a time.
    Rolling { partition: Option<i64>, unavailable: i64 },
}

/// How a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) ordinal: i64,
    /// Made of the present template.
    pub(super) updated: bool,
    pub(super) available: bool,
    pub(super) finished: bool,
    pub(super) leaving: bool,
}

/// What to change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Ordinals that get a pod, and whether of the present template or of the one before.
    pub(super) create: Vec<(i64, bool)>,
    /// Ordinals whose pod goes.
    pub(super) delete: Vec<i64>,
}

/// The next steps. Those before come first, in order, each when the one before is available; then those beyond go,
/// the last first; then old ones are replaced.
pub(super) fn plan(want: &Want, members: &[Member]) -> Plan {
    let mut plan = Plan::default();
    let by_ordinal: BTreeMap<i64, &Member> = members.iter().map(|one| (one.ordinal, one)).collect();
    let range = want.first..want.first.saturating_add(want.count);
    let mut waits = false;
    for ordinal in range.clone() {
        match by_ordinal.get(&ordinal) {
            None => plan.create.push((ordinal, is_updated(want, ordinal))),
            Some(one) if one.finished => {
                plan.delete.extend((!one.leaving).then_some(ordinal));
                waits = true;
            }
            Some(one) if one.leaving || !one.available => {}
            Some(_) => continue,
        }
        if !want.parallel {
            return plan;
        }
    }
    if waits {
        return plan;
    }
    let condemned: Vec<&Member> =
        by_ordinal.values().rev().filter(|one| !range.contains(&one.ordinal)).copied().collect();
    let is_missing = |ordinal: &i64| by_ordinal.get(ordinal).is_none_or(|one| one.leaving || !one.available);
    let first_broken =
        condemned.iter().rev().find(|one| one.leaving || !one.available).map(|one| one.ordinal);
    for one in &condemned {
        if want.parallel {
            plan.delete.extend((!one.leaving).then_some(one.ordinal));
            continue;
        }
        if !one.leaving && (one.available || Some(one.ordinal) == first_broken) {
            plan.delete.push(one.ordinal);
        }
        return plan;
    }
    if !plan.delete.is_empty() {
        return plan;
    }
    if let Update::Rolling { partition, unavailable } = want.update {
        let mut missing = i64::try_from(range.clone().filter(is_missing).count()).unwrap_or(i64::MAX);
        let from = want.first.saturating_add(partition.unwrap_or(0));
        for ordinal in range.rev().take_while(|ordinal| *ordinal >= from) {
            let Some(one) = by_ordinal.get(&ordinal).filter(|one| !one.updated && !one.leaving) else {
                continue;
            };
            // One that does not work is missed by nobody.
            if one.available {
                if missing >= unavailable {
                    break;
                }
                missing += 1;
            }
            plan.delete.push(ordinal);
        }
    }
    plan
}

/// Which template a new pod gets: those below the partition stay what they were.
fn is_updated(want: &Want, ordinal: i64) -> bool {
    match want.update {
        Update::OnDelete => true,
        Update::Rolling { partition: Some(partition), .. } => ordinal >= want.first.saturating_add(partition),
        Update::Rolling { partition: None, .. } => ordinal >= want.first.saturating_add(want.current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rolling(partition: i64, unavailable: i64) -> Update {
        Update::Rolling { partition: Some(partition), unavailable }
    }

    fn want(first: i64, count: i64, update: Update) -> Want {
        Want { first, count, parallel: false, update, current: 0 }
    }

    fn member(ordinal: i64, text: &str) -> Member {
        Member {
            ordinal,
            updated: !text.contains('o'),
            available: !text.contains('u'),
            finished: text.contains('f'),
            leaving: text.contains('l'),
        }
    }

    /// `o`ld, `u`navailable, `f`inished, `l`eaving; `-` for none.
    fn members(first: i64, text: &str) -> Vec<Member> {
        let all = (first..).zip(text.split_whitespace());
        all.filter(|(_, text)| *text != "-").map(|(ordinal, text)| member(ordinal, text)).collect()
    }

    #[test]
    fn pods_come_and_go_in_order() {
        let once = rolling(0, 1);
        #[rustfmt::skip]
        let rows = [
            ("the first", want(0, 3, once), "- - -", vec![(0, true)], vec![]),
            ("ordinals begin where they should", want(5, 2, once), ". -", vec![(6, true)], vec![]),
            ("each waits for the one before", want(0, 3, once), ". u -", vec![], vec![]),
            ("the next", want(0, 3, once), ". . -", vec![(2, true)], vec![]),
            ("one that ended is replaced", want(0, 3, once), ". fu .", vec![], vec![1]),
            ("surplus goes from the end", want(0, 1, once), ". . .", vec![], vec![2]),
            ("one at a time", want(0, 1, once), ". . l", vec![], vec![]),
            ("a broken one holds up the others", want(0, 1, once), ". u .", vec![], vec![2]),
            ("a broken one goes itself", want(0, 1, once), ". u", vec![], vec![1]),
            ("old ones from the end", want(0, 3, once), "o o o", vec![], vec![2]),
            ("the next when that is back", want(0, 3, once), "o o .", vec![], vec![1]),
            ("below the partition they stay", want(0, 3, rolling(2, 1)), "o o .", vec![], vec![]),
            ("and come back as they were", want(0, 3, rolling(2, 1)), "o - .", vec![(1, false)], vec![]),
            ("several at a time", want(0, 4, rolling(0, 2)), "o o o o", vec![], vec![3, 2]),
            ("a template that is not asked for", want(0, 2, Update::OnDelete), "o o", vec![], vec![]),
        ];
        for (row, want, there, create, delete) in rows {
            assert_eq!(plan(&want, &members(want.first, there)), Plan { create, delete }, "{row}");
        }
        let parallel = Want { parallel: true, ..want(0, 3, once) };
        assert_eq!(plan(&parallel, &members(0, "- u -")).create, [(0, true), (2, true)], "all at once");
        assert_eq!(plan(&parallel, &members(0, "o . u")).delete, Vec::<i64>::new(), "one is missing already");
    }

    proptest! {
        /// Whatever happens to pods: no step takes an available one where as many as may be are missing, none is
        /// doubled, and without disturbance the set ends as it should be.
        #[test]
        fn no_step_breaks_the_promise(
            count in 0_i64..6,
            first in 0_i64..3,
            partition in 0_i64..4,
            unavailable in 1_i64..4,
            parallel: bool,
            events in proptest::collection::vec((0_i64..8, 0..4), 0..40),
        ) {
            let want = Want { first, count, parallel, update: rolling(partition, unavailable), current: 0 };
            let mut there: BTreeMap<i64, Member> =
                (first..first + 4).map(|ordinal| (ordinal, member(ordinal, "o"))).collect();
            let mut events = events.into_iter();
            for _ in 0..400 {
                let list: Vec<Member> = there.values().copied().collect();
                let plan = plan(&want, &list);
                let wanted = |ordinal: &i64| (first..first + count).contains(ordinal);
                let works = |one: &&Member| wanted(&one.ordinal) && one.available && !one.leaving && !one.finished;
                let working = i64::try_from(there.values().filter(works).count()).unwrap();
                let taken = plan.delete.iter().filter(|ordinal| there.get(ordinal).as_ref().is_some_and(works)).count();
                let taken = i64::try_from(taken).unwrap();
                prop_assert!(taken == 0 || working - taken >= count - unavailable, "{want:?} {list:?} {plan:?}");
                for (ordinal, updated) in &plan.create {
                    prop_assert!(wanted(ordinal) && !there.contains_key(ordinal));
                    let text = if *updated { "u" } else { "ou" };
                    there.insert(*ordinal, member(*ordinal, text));
                }
                let idle = plan == Plan::default();
                for ordinal in plan.delete {
                    there.entry(ordinal).and_modify(|one| one.leaving = true);
                }
                match events.next() {
                    Some((ordinal, 0)) => { there.entry(ordinal).and_modify(|one| one.available = false); }
                    Some((ordinal, 1)) => { there.entry(ordinal).and_modify(|one| one.finished = true); }
                    Some((ordinal, 2)) => { there.remove(&ordinal); }
                    Some(_) => {}
                    // Nothing more happens: pods that start come up, and those that leave have gone.
                    None => {
                        let settled = there.values().all(|one| one.available && !one.leaving);
                        there.retain(|_, one| !one.leaving);
                        there.values_mut().for_each(|one| one.available = true);
                        if idle && settled {
                            break;
                        }
                    }
                }
            }
            let ordinals: Vec<i64> = there.keys().copied().collect();
            prop_assert_eq!(ordinals, (first..first + count).collect::<Vec<_>>());
            prop_assert!(there.values().all(|one| one.updated || one.ordinal < first + partition));
        }
    }
}
