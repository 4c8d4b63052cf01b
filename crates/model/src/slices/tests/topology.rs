//! Hints by topology (E28).

use super::*;

/// A Service with the annotation, in one family.
fn auto(family: &str) -> Value {
    let mut service = service(json!({ "ipFamilies": [family] }));
    service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"});
    service
}

/// A node `nZ` per zone `zZ` with this much CPU.
fn nodes(cpus: &[u64]) -> Nodes {
    let node = |(zone, cpu_millis): (usize, &u64)| {
        (format!("n{zone}"), Node { zone: format!("z{zone}"), cpu_millis: *cpu_millis, counts: true })
    };
    cpus.iter().enumerate().map(node).collect()
}

/// Pods, so many in each zone.
fn spread(counts: &[usize]) -> Vec<Value> {
    let zones = counts.iter().enumerate().flat_map(|(zone, count)| vec![zone; *count]);
    zones
        .enumerate()
        .map(|(index, zone)| {
            let (high, low) = (index / 250, index % 250 + 1);
            let ips = [format!("10.7.{high}.{low}"), format!("fd00:7::{high:x}:{low:x}")];
            let pod = pod(&format!("p{index:04}"), &[&ips[0], &ips[1]]);
            with(pod, "/spec/nodeName", json!(format!("n{zone}")))
        })
        .collect()
}

/// How many endpoints are hinted to each zone, and how many have no hint.
fn hints(slices: &[Value]) -> (BTreeMap<String, usize>, usize) {
    let (mut by_zone, mut without) = (BTreeMap::new(), 0);
    for endpoint in slices.iter().flat_map(|slice| wire::list(slice, "endpoints")) {
        match wire::list(wire::at(endpoint, &["hints"]), "forZones") {
            [] => without += 1,
            [zone] => *by_zone.entry(wire::text(zone, "name").to_owned()).or_default() += 1,
            more => panic!("{more:?}"),
        }
    }
    (by_zone, without)
}

fn sync(slices: &mut Slices, service: &Value, pods: &[Value], nodes: &Nodes) -> SliceChanges {
    let changes = desired(service, pods, nodes, &slices.slices, None, 100);
    slices.apply(changes.clone());
    changes
}

#[test]
fn e28_endpoints_go_where_the_cpus_are() {
    #[rustfmt::skip]
    let rows: &[(&[u64], &[usize], &[usize])] = &[
        // CPU by zone, pods by zone, hints by zone
        (&[1000, 1000],       &[1, 1],    &[1, 1]),
        (&[1000, 1000],       &[4, 0],    &[2, 2]),
        (&[2000, 1000, 1000], &[8, 0, 0], &[4, 2, 2]),
        (&[3000, 1000],       &[2, 6],    &[6, 2]),
        (&[1000, 1000],       &[6, 5],    &[6, 5]),
        (&[9100, 900],        &[5, 0],    &[4, 1]),
    ];
    for (cpus, pods, wanted) in rows {
        for family in ["IPv4", "IPv6"] {
            let mut slices = Slices::default();
            let changes = sync(&mut slices, &auto(family), &spread(pods), &nodes(cpus));
            let wanted = wanted.iter().enumerate().map(|(zone, count)| (format!("z{zone}"), *count));
            assert_eq!(hints(&slices.slices), (wanted.collect(), 0), "{cpus:?} {pods:?}");
            let wanted = format!("Topology Aware Hints has been enabled, addressType: {family}");
            assert_eq!(changes.notices.len(), 1);
            assert_eq!((changes.notices[0].warning, &changes.notices[0].message), (false, &wanted));
            let again = sync(&mut slices, &auto(family), &spread(pods), &nodes(cpus));
            assert!(again.is_empty() && again.notices.is_empty(), "{again:?}");
        }
    }
}

#[test]
fn e28_where_there_can_be_none_it_says_why() {
    let without_zone: Nodes = [("n0", "z0"), ("n1", "")]
        .map(|(name, zone)| (name.to_owned(), Node { zone: zone.into(), cpu_millis: 1000, counts: true }))
        .into_iter()
        .collect();
    let control_plane: Nodes = [("n0", true), ("n1", false)]
        .map(|(name, counts)| {
            (name.to_owned(), Node { zone: name.replace('n', "z"), cpu_millis: 1000, counts })
        })
        .into_iter()
        .collect();
    let lost = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
    #[rustfmt::skip]
    let rows = [
        (without_zone,                vec![2, 0], lost),
        (control_plane,               vec![1, 1], lost),
        (nodes(&[1000, 0]),           vec![1, 1], lost),
        (nodes(&[1000]),              vec![3],    lost),
        (nodes(&[1000, 1000, 1000]),  vec![1, 1], "Insufficient number of endpoints (2 endpoints, 3 zones)"),
        (nodes(&[9500, 500]),         vec![1, 1], "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (2 endpoints, 2 zones)"),
    ];
    for (nodes, pods, why) in rows {
        let mut slices = Slices::default();
        let changes = sync(&mut slices, &auto("IPv6"), &spread(&pods), &nodes);
        assert!(hints(&slices.slices).0.is_empty(), "{why}");
        assert_eq!(changes.notices[0].message, format!("{why}, addressType: IPv6"));
        assert!(changes.notices[0].warning && changes.notices[0].reason == "TopologyAwareHintsDisabled");
    }
}

#[test]
fn e28_hints_go_when_the_reason_does() {
    let (two, pods) = (nodes(&[1000, 1000]), spread(&[2, 2]));
    let mut slices = Slices::default();
    sync(&mut slices, &auto("IPv4"), &pods, &two);
    assert_eq!(hints(&slices.slices).1, 0);
    let changes = sync(&mut slices, &auto("IPv4"), &pods, &nodes(&[1000, 0]));
    assert_eq!((hints(&slices.slices).1, changes.update.len()), (4, 1), "a node without CPU");
    sync(&mut slices, &auto("IPv4"), &pods, &two);
    assert_eq!(hints(&slices.slices).1, 0, "it is back");
    let mut plain = auto("IPv4");
    plain["metadata"]["annotations"] = json!({});
    let changes = sync(&mut slices, &plain, &pods, &two);
    assert_eq!(hints(&slices.slices).1, 4, "nobody asks for hints");
    assert_eq!(changes.notices[0].message, "Topology Aware Hints has been disabled, addressType: IPv4");
    assert!(sync(&mut slices, &plain, &pods, &two).notices.is_empty());
}

#[test]
fn e28_the_deprecated_annotation_wins_and_both_win_over_the_field() {
    let both = |old: &str, new: &str| {
        let mut service = service(json!({"trafficDistribution": "PreferSameNode", "ipFamilies": ["IPv4"]}));
        service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-aware-hints": old,
            "service.kubernetes.io/topology-mode": new});
        let mut slices = Slices::default();
        sync(&mut slices, &service, &spread(&[1, 1]), &nodes(&[1000, 1000]));
        wire::has(&slices.slices[0]["endpoints"][0]["hints"], "forNodes")
    };
    assert!(!both("Auto", "Disabled") && !both("auto", "x"));
    assert!(both("Disabled", "Auto"), "then the field counts");
}

#[test]
fn e28_endpoints_that_are_not_ready_have_none_and_count_for_nothing() {
    let mut pods = spread(&[3, 2]);
    pods[0]["status"]["conditions"] = json!([]);
    let mut slices = Slices::default();
    sync(&mut slices, &auto("IPv4"), &pods, &nodes(&[1000, 1000]));
    let (by_zone, without) = hints(&slices.slices);
    assert_eq!((by_zone.values().sum::<usize>(), without), (4, 1));
}

#[test]
fn e28_slices_that_need_no_write_keep_their_hints() {
    let two = nodes(&[1000, 1000]);
    let mut slices = Slices::default();
    sync(&mut slices, &auto("IPv4"), &spread(&[60, 60]), &two);
    let changes = sync(&mut slices, &auto("IPv4"), &spread(&[60, 61]), &two);
    assert_eq!((changes.create.len(), changes.update.len()), (0, 1), "E19 still");
    assert_eq!(hints(&slices.slices).1, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Nobody is overloaded by more than a fifth, every ready endpoint has one zone, and then there is peace.
    #[test]
    fn e28_no_zone_is_overloaded(
        zones in prop::collection::vec((1u64..64, 0usize..40), 2..6),
        more in prop::collection::vec(0usize..40, 6),
    ) {
        let cpus: Vec<u64> = zones.iter().map(|zone| zone.0 * 500).collect();
        let nodes = nodes(&cpus);
        let mut slices = Slices::default();
        let first: Vec<usize> = zones.iter().map(|zone| zone.1).collect();
        let second: Vec<usize> = more.iter().copied().take(zones.len()).collect();
        for (fresh, counts) in [(true, first), (false, second)] {
            let pods = spread(&counts);
            sync(&mut slices, &auto("IPv6"), &pods, &nodes);
            let (by_zone, without) = hints(&slices.slices);
            let count = pods.len();
            if by_zone.is_empty() {
                prop_assert_eq!(without, count);
            } else {
                prop_assert_eq!((without, by_zone.values().sum::<usize>()), (0, count));
                prop_assert!(by_zone.keys().all(|zone| cpus.len() > zone[1..].parse::<usize>().unwrap()));
                let total: u64 = cpus.iter().sum();
                for (zone, cpu) in cpus.iter().enumerate().filter(|_| fresh) {
                    let given = by_zone.get(&format!("z{zone}")).copied().unwrap_or(0) as f64;
                    let share = *cpu as f64 / total as f64 * count as f64;
                    prop_assert!(given * 1.2 + 1e-9 >= share, "z{}: {} for a share of {}", zone, given, share);
                }
            }
            let again = sync(&mut slices, &auto("IPv6"), &pods, &nodes);
            prop_assert!(again.is_empty(), "{:?}", again);
        }
    }
}
