//! How many pods each ReplicaSet of a Deployment should have next. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What a Deployment promises while it moves from one template to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Pods wanted in the end.
    pub(super) wanted: i32,
    /// So many more may be there meanwhile.
    pub(super) surge: i32,
    /// So many may be missing meanwhile.
    pub(super) unavailable: i32,
    /// All old ones go before the first new one comes.
    pub(super) recreate: bool,
    /// Nothing moves; only changes of the size are followed.
    pub(super) paused: bool,
}

impl Limits {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let Some(spec) = deployment.spec.as_ref() else {
            return Self { wanted: 0, surge: 0, unavailable: 0, recreate: false, paused: true };
        };
        let wanted = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.clone().unwrap_or_default();
        let recreate = strategy.type_.as_deref() == Some("Recreate");
        let rolling = strategy.rolling_update.unwrap_or_default();
        let surge = share(rolling.max_surge.as_ref(), wanted, true);
        let mut unavailable = share(rolling.max_unavailable.as_ref(), wanted, false);
        if surge == 0 && unavailable == 0 {
            // Nothing could ever move.
            unavailable = 1;
        }
        let (surge, unavailable) = if recreate { (0, 0) } else { (surge, unavailable.min(wanted)) };
        Self { wanted, surge, unavailable, recreate, paused: spec.paused == Some(true) }
    }

    /// The most pods there may be.
    pub(super) const fn most(&self) -> i32 {
        if self.wanted == 0 { 0 } else { self.wanted + self.surge }
    }
}

/// A number, or a percentage of `total`; a quarter if nothing is said.
fn share(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.trim_end_matches('%').parse::<i64>().unwrap_or(25),
        None => 25,
    };
    let hundredths = percent.max(0) * i64::from(total);
    let whole = if round_up { (hundredths + 99) / 100 } else { hundredths / 100 };
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// One ReplicaSet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Set {
    /// Pods it is asked for.
    pub(super) wanted: i32,
    /// Pods it has, those that are ending included.
    pub(super) present: i32,
    /// Pods that are available.
    pub(super) available: i32,
    /// The size of the Deployment when it was scaled last.
    pub(super) was_for: Option<i32>,
}

/// Pods to ask each ReplicaSet for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    pub(super) new: Option<i32>,
    pub(super) old: Vec<i32>,
}

/// The next step towards `wanted` pods of the new set and none of the old ones.
pub(super) fn scale(limits: &Limits, new: Option<&Set>, old: &[Set]) -> Scale {
    let stay = Scale { new: new.map(|set| set.wanted), old: old.iter().map(|set| set.wanted).collect() };
    let resized = new
        .into_iter()
        .chain(old)
        .any(|set| set.wanted > 0 && set.was_for.is_some_and(|was| was != limits.wanted));
    if resized && !limits.recreate && (limits.paused || old.iter().any(|set| set.wanted > 0)) {
        return resize(limits, new, old, stay);
    }
    let Some(set) = new.filter(|_| !limits.paused) else { return stay };
    if limits.recreate {
        let gone = old.iter().all(|set| set.wanted == 0 && set.present == 0);
        return Scale { new: Some(if gone { limits.wanted } else { set.wanted }), old: vec![0; old.len()] };
    }
    let total: i32 = set.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = (limits.most() - total).max(0);
    let up = if set.wanted > limits.wanted { limits.wanted } else { limits.wanted.min(set.wanted + room) };
    Scale { new: Some(up), old: scale_down(limits, set, up, old) }
}

/// Takes from the old sets what is not needed to keep the promise: first what is not available anyway.
fn scale_down(limits: &Limits, new: &Set, up: i32, old: &[Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let least = limits.wanted - limits.unavailable;
    let total: i32 = up + sizes.iter().sum::<i32>();
    let new_missing = (up - new.available).max(0);
    let mut may_go = total - least - new_missing;
    for (size, set) in sizes.iter_mut().zip(old) {
        let dead = (*size - set.available).clamp(0, may_go.max(0));
        *size -= dead;
        may_go -= dead;
    }
    let available: i32 = new.available.min(up)
        + sizes.iter().zip(old).map(|(size, set)| (*size).min(set.available)).sum::<i32>();
    let mut may_go = may_go.min(available - least);
    for size in &mut sizes {
        let go = (*size).clamp(0, may_go.max(0));
        *size -= go;
        may_go -= go;
    }
    sizes
}

/// Follows a change of the Deployment's size: one set that has all pods takes it alone, several share it.
fn resize(limits: &Limits, new: Option<&Set>, old: &[Set], stay: Scale) -> Scale {
    let to = |set: &Set| if set.wanted > 0 { limits.wanted } else { 0 };
    if new.into_iter().chain(old).filter(|set| set.wanted > 0).count() == 1 {
        return Scale { new: new.map(to), old: old.iter().map(to).collect() };
    }
    if new.is_some_and(|set| set.wanted == limits.wanted && set.available >= limits.wanted) {
        return Scale { old: vec![0; old.len()], ..stay };
    }
    proportional(limits, new, old)
}

/// Spreads a change of the Deployment's size over its sets while a rollout is under way.
fn proportional(limits: &Limits, new: Option<&Set>, old: &[Set]) -> Scale {
    let sets: Vec<Set> = old.iter().copied().chain(new.copied()).collect();
    let total: i64 = sets.iter().map(|set| i64::from(set.wanted)).sum();
    let goal = i64::from(limits.most());
    let mut sizes: Vec<i32> = sets
        .iter()
        .map(|set| {
            i32::try_from((i64::from(set.wanted) * goal).checked_div(total).unwrap_or(0)).unwrap_or(i32::MAX)
        })
        .collect();
    // What rounding left over goes to the newest.
    let left = i32::try_from(goal).unwrap_or(i32::MAX) - sizes.iter().sum::<i32>();
    if let Some(last) = sizes.last_mut() {
        *last += left.max(0);
    }
    let new = new.and_then(|_| sizes.pop());
    Scale { new, old: sizes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn limits(wanted: i32, surge: i32, unavailable: i32) -> Limits {
        Limits { wanted, surge, unavailable, recreate: false, paused: false }
    }

    const fn set(wanted: i32, available: i32) -> Set {
        Set { wanted, present: wanted, available, was_for: None }
    }

    #[test]
    fn steps_of_a_rollout() {
        let recreate = Limits { recreate: true, ..limits(3, 0, 0) };
        #[rustfmt::skip]
        let cases = [
            // limits,          new,       old,            next new, next old
            (limits(3, 1, 0),   set(0, 0), vec![set(3, 3)], 1, vec![3], "surge first"),
            (limits(3, 1, 0),   set(1, 0), vec![set(3, 3)], 1, vec![3], "wait for the new one"),
            (limits(3, 1, 0),   set(1, 1), vec![set(3, 3)], 1, vec![2], "then one old one goes"),
            (limits(3, 0, 1),   set(0, 0), vec![set(3, 3)], 0, vec![2], "without surge one old one goes first"),
            (limits(3, 1, 1),   set(0, 0), vec![set(3, 0)], 1, vec![2], "old ones that don't work go at once"),
            (limits(3, 1, 0),   set(3, 3), vec![set(0, 0)], 3, vec![0], "done"),
            (limits(1, 1, 0),   set(3, 3), vec![],          1, vec![],  "scaled down"),
            (recreate,          set(0, 0), vec![set(3, 3)], 0, vec![0], "recreate: old ones go"),
            (recreate,          set(0, 0), vec![set(0, 0)], 3, vec![0], "recreate: then new ones come"),
        ];
        for (limits, new, old, want_new, want_old, why) in cases {
            assert_eq!(
                scale(&limits, Some(&new), &old),
                Scale { new: Some(want_new), old: want_old },
                "{why}"
            );
        }
    }

    #[test]
    fn a_new_size_is_followed_during_a_rollout_and_while_paused() {
        let was = |wanted, available| Set { was_for: Some(4), ..set(wanted, available) };
        let paused = |wanted| Limits { paused: true, ..limits(wanted, 1, 0) };
        #[rustfmt::skip]
        let cases = [
            (paused(6),        None,            vec![was(4, 4)], None,    vec![6], "paused with one template: exactly the new size"),
            (paused(2),        Some(was(0, 0)), vec![was(4, 4)], Some(0), vec![2], "nothing moves to the new one"),
            (paused(4),        Some(was(0, 0)), vec![was(4, 4)], Some(0), vec![4], "the size is as it was"),
            (paused(8),        Some(was(2, 2)), vec![was(2, 2)], Some(5), vec![4], "two share it, with the surge"),
            (limits(8, 2, 0),  Some(was(1, 1)), vec![was(4, 4)], Some(2), vec![8], "during a rollout, too"),
            (limits(2, 1, 0),  Some(was(2, 2)), vec![was(3, 3)], Some(2), vec![0], "the new one has enough"),
        ];
        for (limits, new, old, want_new, want_old, why) in cases {
            let step = scale(&limits, new.as_ref(), &old);
            assert_eq!(step, Scale { new: want_new, old: want_old }, "{why}");
        }
    }

    #[test]
    fn recreate_waits_for_pods_that_are_ending() {
        let recreate = Limits { recreate: true, ..limits(3, 0, 0) };
        let ending = Set { present: 1, ..set(0, 0) };
        assert_eq!(scale(&recreate, Some(&set(0, 0)), &[ending]), Scale { new: Some(0), old: vec![0] });
    }

    #[test]
    fn percentages_round_so_that_promises_hold() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!((share(None, 3, true), share(None, 3, false)), (1, 0));
        assert_eq!((share(Some(&percent("30%")), 10, true), share(Some(&percent("33%")), 10, false)), (3, 3));
        assert_eq!(share(Some(&IntOrString::Int(2)), 10, true), 2);
    }

    proptest! {
        /// Whatever the state, the next step keeps within the limits; and when every pod asked for works, the
        /// rollout comes to its end.
        #[test]
        fn a_rollout_keeps_its_promise_and_ends(wanted in 0i32..12, surge in 0i32..4, unavailable in 0i32..4) {
            prop_assume!(surge + unavailable > 0);
            let limits = limits(wanted, surge, unavailable.min(wanted));
            prop_assume!(limits.surge > 0 || limits.unavailable > 0 || wanted == 0);
            let (mut new, mut old) = (set(0, 0), vec![set(wanted, wanted)]);
            for _ in 0..100 {
                let next = scale(&limits, Some(&new), &old);
                let (next_new, next_old) = (next.new.unwrap(), next.old[0]);
                prop_assert!(next_new + next_old <= limits.most().max(new.wanted + old[0].wanted));
                let kept = new.available.min(next_new) + old[0].available.min(next_old);
                prop_assert!(kept >= wanted - limits.unavailable, "{kept} of {wanted} left");
                (new, old) = (set(next_new, next_new), vec![set(next_old, next_old)]);
            }
            prop_assert_eq!((new.wanted, old[0].wanted), (wanted, 0));
        }

        /// Whatever happens to pods, and however often the template changes meanwhile: no step leaves fewer
        /// available than promised, unless fewer were, or asks for more than may be; and in the end all is new.
        #[test]
        fn no_history_breaks_the_promise(
            wanted in 0i32..10,
            surge in 0i32..4,
            unavailable in 0i32..4,
            events in proptest::collection::vec((0usize..5, 0i32..10, 0u8..8), 0..60),
        ) {
            let limits = limits(wanted, surge, unavailable.min(wanted));
            prop_assume!(limits.surge > 0 || limits.unavailable > 0 || wanted == 0);
            let least = wanted - limits.unavailable;
            let (mut new, mut old) = (set(0, 0), vec![set(wanted, wanted)]);
            let quiet = std::iter::repeat_n((0, 0, 8), 100);
            for (place, available, kind) in events.into_iter().chain(quiet) {
                match kind {
                    // Another template: what was new is old.
                    0 => old.push(std::mem::replace(&mut new, set(0, 0))),
                    // Some pods work, others do not.
                    1..=7 => {
                        let count = old.len() + 1;
                        let one = old.iter_mut().chain([&mut new]).nth(place % count).unwrap();
                        one.available = available.min(one.wanted);
                    }
                    _ => old.iter_mut().chain([&mut new]).for_each(|one| one.available = one.wanted),
                }
                let sum = |sets: &[Set], of: fn(&Set) -> i32| sets.iter().map(of).sum::<i32>();
                let (before, working) = (
                    new.wanted + sum(&old, |one| one.wanted),
                    new.available + sum(&old, |one| one.available),
                );
                let next = scale(&limits, Some(&new), &old);
                let sizes: Vec<i32> = next.old.into_iter().chain(next.new).collect();
                old.push(new);
                for (one, size) in old.iter_mut().zip(&sizes) {
                    *one = set(*size, one.available.min(*size));
                }
                new = old.pop().unwrap();
                let after = new.wanted + sum(&old, |one| one.wanted);
                let kept = new.available + sum(&old, |one| one.available);
                prop_assert!(after <= limits.most().max(before), "{after} of {} at most", limits.most());
                prop_assert!(kept >= least.min(working), "{kept} of {least} at least, {working} before");
            }
            prop_assert_eq!((new.wanted, old.iter().map(|one| one.wanted).sum::<i32>()), (wanted, 0));
        }
    }
}
