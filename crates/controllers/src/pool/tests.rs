use proptest::prelude::*;

use super::*;

fn pool(text: &str) -> Pool {
    text.parse().unwrap()
}

fn node(name: &str, labels: &str, held: &str) -> Claimant {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    Claimant {
        name: name.into(),
        labels: words(labels)
            .iter()
            .map(|label| label.split_once('=').unwrap())
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
        held: words(held).iter().map(|range| range.parse().unwrap()).collect(),
        wanted: BTreeMap::new(),
    }
}

fn texts(grants: &BTreeMap<String, Grant>) -> Vec<String> {
    let text = |(name, grant): (&String, &Grant)| {
        let ranges: Vec<String> = grant.ranges.iter().map(ToString::to_string).collect();
        let problem = grant.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
        format!("{name}: {}{problem}", ranges.join(" "))
    };
    grants.iter().map(text).collect()
}

#[test]
fn pools_are_read_or_refused() {
    let read = pool("10.9.0.0/16:26, fd00:9::/48:80@pool=gpu,zone=a");
    assert_eq!(read.ranges, [("10.9.0.0/16".parse().unwrap(), 26), ("fd00:9::/48".parse().unwrap(), 80)]);
    assert_eq!(read.selector.len(), 2);
    for (text, part) in [
        ("10.9.0.0/16", "is no range with a length"),
        ("fd00::/48", "is no range with a length"),
        ("10.9.0.0/16:26@gpu", "is no label"),
        ("10.9.0.0/16:12", "smaller than one /12"),
        ("10.9.0.0/16:33", "no IPv4 prefix length"),
        ("10.9.0.0/16:26,10.9.4.0/24:28", "overlap"),
    ] {
        let error = text.parse::<Pool>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn nodes_get_ranges_of_their_pools_and_keep_what_they_hold() {
    let pools = [pool("10.9.0.0/24:26,fd00:9::/48:80@pool=gpu"), pool("fd00::/56:64,10.0.0.0/15:24")];
    let mut nodes = vec![
        node("a", "", ""),
        node("b", "", "fd00:0:0:7::/64 10.0.0.0/24"),
        node("c", "pool=gpu", ""),
        // Of a pool that is no more.
        node("d", "", "fd11::/64 192.168.7.0/24"),
        // Somebody else's, who was there before.
        node("e", "", "fd00:0:0:7:8000::/80 10.0.9.0/24"),
    ];
    let grants = grant(&pools, &["10.0.1.0/24".parse().unwrap()], &nodes);
    assert_eq!(
        texts(&grants),
        [
            "a: fd00::/64 10.0.2.0/24",
            "b: fd00:0:0:7::/64 10.0.0.0/24",
            "c: 10.9.0.0/26 fd00:9::/80",
            "d: fd11::/64 192.168.7.0/24",
            "e: fd00:0:0:1::/64 10.0.9.0/24",
        ]
    );
    // One that has run out gets more, of that family only.
    nodes[2].held = grants["c"].ranges.clone();
    nodes[2].wanted = [(IpFamily::V4, 3)].into();
    assert_eq!(
        texts(&grant(&pools, &[], &nodes))[2],
        "c: 10.9.0.0/26 10.9.0.64/26 10.9.0.128/26 fd00:9::/80"
    );
    nodes[2].wanted = [(IpFamily::V4, 99)].into();
    let grown = &texts(&grant(&pools, &[], &nodes))[2];
    assert!(grown.contains("10.9.0.192/26") && grown.contains("no /26 is left"), "{grown}");
}

#[test]
fn a_node_gets_all_families_or_none() {
    let pools = [pool("10.0.0.0/24:24,fd00::/56:64")];
    let grants = grant(&pools, &[], &[node("a", "", ""), node("b", "", "")]);
    assert_eq!(texts(&grants), ["a: 10.0.0.0/24 fd00::/64", "b:  (no /24 is left in the ranges)"]);
}

#[derive(Clone, Debug)]
enum Step {
    Come(u8, bool),
    Go(u8),
    Grow(u8, bool, usize),
    Pools(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u8, any::<bool>()).prop_map(|(name, gpu)| Step::Come(name, gpu)),
        (0..12u8).prop_map(Step::Go),
        (0..12u8, any::<bool>(), 0..5usize).prop_map(|(name, v6, count)| Step::Grow(name, v6, count)),
        (0..4u8).prop_map(Step::Pools),
    ]
}

proptest! {
    #[test]
    fn nothing_is_given_twice_and_nothing_is_lost(steps in proptest::collection::vec(step(), 1..40)) {
        let choices = [
            vec![pool("10.0.0.0/26:28,fd00::/60:64")],
            vec![pool("10.0.0.0/26:28,fd00::/60:64"), pool("10.1.0.0/16:24")],
            vec![pool("10.0.0.0/24:30@gpu=yes"), pool("10.0.0.0/24:28,fd00::/56:60")],
            vec![],
        ];
        let mut pools = choices[0].clone();
        let mut nodes: Vec<Claimant> = Vec::new();
        for step in steps {
            match step {
                Step::Come(name, gpu) if !nodes.iter().any(|node| node.name == name.to_string()) => {
                    nodes.push(node(&name.to_string(), if gpu { "gpu=yes" } else { "" }, ""));
                }
                Step::Come(..) => {}
                Step::Go(name) => nodes.retain(|node| node.name != name.to_string()),
                Step::Grow(name, v6, count) => {
                    let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
                    if let Some(node) = nodes.iter_mut().find(|node| node.name == name.to_string()) {
                        node.wanted.insert(family, count);
                    }
                }
                Step::Pools(choice) => pools = choices[usize::from(choice)].clone(),
            }
            let grants = grant(&pools, &[], &nodes);
            for node in &mut nodes {
                let given = &grants[&node.name].ranges;
                prop_assert!(node.held.iter().all(|range| given.contains(range)), "{} lost some of {:?}", node.name, node.held);
                node.held.clone_from(given);
            }
            let all: Vec<IpNet> = nodes.iter().flat_map(|node| node.held.iter().copied()).collect();
            for (at, range) in all.iter().enumerate() {
                prop_assert!(!all[..at].iter().any(|other| overlaps(other, range)), "{range} is given twice: {all:?}");
            }
            let again = grant(&pools, &[], &nodes);
            prop_assert!(nodes.iter().all(|node| again[&node.name].ranges == node.held), "asked again it is the same");
        }
    }
}
