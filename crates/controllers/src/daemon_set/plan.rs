//! Which pods of a DaemonSet come and go next. Pure.

use std::collections::BTreeMap;

/// What to change.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    /// Pods that go.
    pub(super) delete: Vec<String>,
}

/// A node, as far as a DaemonSet is concerned.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: String,
    /// Whether it gets a pod; if not, one that is there may stay, as taints for scheduling drive nobody out.
    pub(super) takes: bool,
}

/// How a pod stands.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    pub(super) name: String,
    pub(super) node: String,
    /// Made of the present template.
    pub(super) current: bool,
    pub(super) available: bool,
    pub(super) finished: bool,
    pub(super) leaving: bool,
}

/// How old pods are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Update {
    /// When somebody deletes them.
    OnDelete,
    /// The old one goes first; so many nodes may be without.
    Unavailable(usize),
    /// The new one comes first; so many nodes may have two.
    Surge(usize),
}

/// One pod per node that takes it, and old ones replaced by new ones as `update` says.
pub(super) fn plan(places: &[Place], daemons: &[Daemon], update: Update) -> Plan {
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, (bool, Vec<&Daemon>)> =
        places.iter().map(|place| (place.node.as_str(), (place.takes, Vec::new()))).collect();
    for daemon in daemons {
        match by_node.get_mut(daemon.node.as_str()) {
            Some((_, list)) => list.push(daemon),
            None if !daemon.leaving => plan.delete.push(daemon.name.clone()),
            None => {}
        }
    }
    let (mut missing, mut doubled) = (0, 0);
    let mut replaceable = Vec::new();
    for (node, (takes, list)) in &mut by_node {
        plan.delete
            .extend(list.iter().filter(|one| one.finished && !one.leaving).map(|one| one.name.clone()));
        list.retain(|one| !one.finished);
        if let (Update::Surge(_), Some((new, old))) = (update, pair(list)) {
            // Two on purpose, until the new one works or the old one does not.
            doubled += 1;
            if new.available || !old.available {
                plan.delete.push(old.name.clone());
            }
            continue;
        }
        if matches!(update, Update::Surge(_)) {
            // The new one comes before the old one has left.
            list.retain(|one| !one.leaving);
        }
        // Otherwise one that is leaving still holds its place, so that there are never two at once.
        list.sort_by_key(|one| (one.leaving, !one.current, !one.available));
        match list.split_first() {
            None if *takes => {
                plan.create.push((*node).to_owned());
                missing += 1;
            }
            None => {}
            Some((first, surplus)) => {
                plan.delete.extend(surplus.iter().filter(|one| !one.leaving).map(|one| one.name.clone()));
                if *takes && (first.leaving || !first.available) {
                    missing += 1;
                }
                if *takes && !first.current && !first.leaving {
                    replaceable.push(*first);
                }
            }
        }
    }
    // Those that don't work are replaced at once: it costs nobody anything.
    let (working, broken): (Vec<&Daemon>, Vec<&Daemon>) =
        replaceable.into_iter().partition(|one| one.available);
    match update {
        Update::OnDelete => {}
        Update::Unavailable(most) => {
            plan.delete.extend(broken.iter().map(|one| one.name.clone()));
            plan.delete.extend(working.iter().take(most.saturating_sub(missing)).map(|one| one.name.clone()));
        }
        Update::Surge(most) => {
            plan.create.extend(broken.iter().map(|one| one.node.clone()));
            plan.delete.extend(broken.iter().map(|one| one.name.clone()));
            plan.create.extend(working.iter().take(most.saturating_sub(doubled)).map(|one| one.node.clone()));
        }
    }
    plan
}

/// The new and the old pod of a node that has one of each.
fn pair<'a>(list: &[&'a Daemon]) -> Option<(&'a Daemon, &'a Daemon)> {
    let mut staying = list.iter().filter(|one| !one.leaving);
    let (one, other) = (staying.next()?, staying.next()?);
    match (one.current, other.current, staying.next()) {
        (true, false, None) => Some((one, other)),
        (false, true, None) => Some((other, one)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(name: &str, node: &str, current: bool, available: bool) -> Daemon {
        Daemon { name: name.into(), node: node.into(), current, available, finished: false, leaving: false }
    }

    fn place(node: &str, takes: bool) -> Place {
        Place { node: node.into(), takes }
    }

    #[test]
    fn one_pod_per_node_and_old_ones_go_one_by_one() {
        let nodes = ["a", "b"].map(|node| place(node, true));
        let leaving = |mut daemon: Daemon| {
            daemon.leaving = true;
            daemon
        };
        let finished = |mut daemon: Daemon| {
            daemon.finished = true;
            daemon
        };
        #[rustfmt::skip]
        let cases = [
            (vec![], &["a", "b"][..], &[][..], "none yet"),
            (vec![daemon("1", "a", true, true), daemon("2", "b", true, true)], &[], &[], "all there"),
            (vec![daemon("1", "a", true, true), daemon("2", "c", true, true)], &["b"], &["2"], "a node that does not take it"),
            (vec![daemon("1", "a", false, true), daemon("2", "b", false, true)], &[], &["1"], "one at a time"),
            (vec![leaving(daemon("1", "a", false, true)), daemon("2", "b", false, true)], &[], &[], "wait for the place"),
            (vec![daemon("1", "a", true, false), daemon("2", "b", false, true)], &[], &[], "wait for the new one"),
            (vec![daemon("1", "a", true, false), daemon("2", "b", false, false)], &[], &["2"], "a broken one is no loss"),
            (vec![daemon("1", "a", true, true), daemon("2", "a", true, true), daemon("3", "b", true, true)], &[], &["2"], "two on one node"),
            (vec![finished(daemon("1", "a", true, false)), daemon("2", "b", true, true)], &["a"], &["1"], "one that ended"),
        ];
        for (daemons, create, delete, why) in cases {
            let plan = plan(&nodes, &daemons, Update::Unavailable(1));
            assert_eq!(
                (
                    plan.create.iter().map(String::as_str).collect::<Vec<_>>(),
                    plan.delete.iter().map(String::as_str).collect::<Vec<_>>()
                ),
                (create.to_vec(), delete.to_vec()),
                "{why}"
            );
        }
        let old = [daemon("1", "a", false, true), daemon("2", "b", false, true)];
        assert_eq!(plan(&nodes, &old, Update::OnDelete), Plan::default(), "OnDelete");
    }

    #[test]
    fn a_pod_may_stay_where_no_new_one_comes() {
        let places = [place("a", false), place("b", false)];
        assert_eq!(plan(&places, &[daemon("1", "a", false, true)], Update::Unavailable(1)), Plan::default());
    }

    #[test]
    fn with_surge_the_new_pod_comes_first() {
        let places = ["a", "b"].map(|node| place(node, true));
        let old = [daemon("1", "a", false, true), daemon("2", "b", false, true)];
        let two = |new_works: bool, old_works: bool| {
            [
                daemon("1", "a", false, old_works),
                daemon("3", "a", true, new_works),
                daemon("2", "b", false, true),
            ]
        };
        #[rustfmt::skip]
        let cases = [
            (&old[..],               &["a"][..], &[][..],    "one at a time"),
            (&two(false, true),      &[],        &[],        "wait for the new one"),
            (&two(true, true),       &[],        &["1"],     "it works, so that the old one goes"),
            (&two(false, false),     &[],        &["1"],     "the old one does not work anyway"),
        ];
        for (daemons, create, delete, why) in cases {
            let plan = plan(&places, daemons, Update::Surge(1));
            assert_eq!((plan.create, plan.delete), (texts(create), texts(delete)), "{why}");
        }
    }

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    proptest::proptest! {
        /// Whatever happens to pods: no step takes a working one where as many nodes as may be are without, or
        /// gives a second one to more nodes than may have two; and in the end every node has one new pod.
        #[test]
        fn no_history_breaks_the_promise(
            nodes in 1usize..6,
            most in 1usize..4,
            surges: bool,
            events in proptest::collection::vec((0usize..8, 0u8..5), 0..60),
        ) {
            use proptest::prelude::*;
            let update = if surges { Update::Surge(most) } else { Update::Unavailable(most) };
            let places: Vec<Place> = (0..nodes).map(|node| place(&format!("n{node}"), true)).collect();
            let mut made = 0;
            let mut make = |node: &str, current: bool, available: bool| {
                made += 1;
                daemon(&format!("p{made}"), node, current, available)
            };
            let mut there: Vec<Daemon> = places.iter().map(|place| make(&place.node, false, true)).collect();
            let works = |there: &[Daemon], node: &str| {
                there.iter().any(|one| one.node == node && one.available && !one.leaving && !one.finished)
            };
            let quiet = std::iter::repeat_n((0, 9), 60);
            for (which, kind) in events.into_iter().chain(quiet) {
                let count = there.len().max(1);
                match (kind, there.get_mut(which % count)) {
                    (0, Some(one)) => one.available = false,
                    (1, Some(one)) => one.finished = true,
                    (2, Some(_)) => drop(there.remove(which % count)),
                    (3, Some(one)) => one.available = !one.finished,
                    (9, _) => {
                        there.retain(|one| !one.leaving);
                        there.iter_mut().filter(|one| !one.finished).for_each(|one| one.available = true);
                    }
                    _ => {}
                }
                let plan = plan(&places, &there, update);
                let serving = |there: &[Daemon]| places.iter().filter(|place| works(there, &place.node)).count();
                let before = serving(&there);
                for one in there.iter_mut().filter(|one| plan.delete.contains(&one.name)) {
                    one.leaving = true;
                }
                let after = serving(&there);
                let promised = if surges { nodes } else { nodes - most.min(nodes) };
                prop_assert!(after >= before.min(promised), "{after} of {promised}, {before} before");
                there.extend(plan.create.iter().map(|node| make(node, true, false)));
                let doubled = places.iter().filter(|place| {
                    there.iter().filter(|one| one.node == place.node && !one.leaving && !one.finished).count() > 1
                });
                let (doubled, may) = (doubled.count(), if surges { most } else { 0 });
                prop_assert!(doubled <= may, "{doubled} nodes have two, {may} may");
            }
            prop_assert_eq!(there.len(), nodes);
            prop_assert!(there.iter().all(|one| one.current && one.available && !one.leaving));
        }
    }
}
