//! Changes of policy, families and addresses.

use serde_json::{Value, json};

use super::world::{Outcome, World, families};

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// A PUT body: what is empty is left out.
fn body(policy: &str, list: &[&str], ips: &[&str]) -> Value {
    let mut spec = json!({"selector": {"app": "x"}, "ports": [{"port": 80}]});
    if !policy.is_empty() {
        spec["ipFamilyPolicy"] = policy.into();
    }
    if !list.is_empty() {
        spec["ipFamilies"] = list.into();
    }
    if let Some(first) = ips.first() {
        spec["clusterIP"] = (*first).into();
        spec["clusterIPs"] = ips.into();
    }
    spec
}

fn shape(outcome: &Outcome) -> String {
    outcome.as_ref().map_or_else(
        |_| "x".to_owned(),
        |object| {
            let (policy, list, ips) = families(object);
            assert_eq!(list.len(), ips.len());
            format!("{} {}", ips.len(), &policy[..1])
        },
    )
}

/// The summary of A-4: what was, the policy sent (`nil` is none), how many families are sent, and what comes of
/// sending no, one or two addresses.
#[rustfmt::skip]
const SUMMARY: &[(&str, &str, &str, usize, [&str; 3])] = &[
    // rule,                                 old,     sent,    families, none    one    two
    ("A24 A44",                              SINGLE,  "",      0, ["1 S", "1 S", "x"]),
    ("A24 A44",                              SINGLE,  SINGLE,  1, ["1 S", "1 S", "x"]),
    ("A24 A44",                              SINGLE,  "",      2, ["x", "x", "x"]),
    ("A24",                                  SINGLE,  SINGLE,  2, ["x", "x", "x"]),
    ("A29 A123",                             SINGLE,  PREFER,  0, ["2 P", "2 P", "2 P"]),
    ("A29 A123",                             SINGLE,  PREFER,  1, ["2 P", "2 P", "2 P"]),
    ("A29 A123",                             SINGLE,  PREFER,  2, ["2 P", "2 P", "2 P"]),
    ("A29 A123",                             SINGLE,  REQUIRE, 0, ["2 R", "2 R", "2 R"]),
    ("A29 A123",                             SINGLE,  REQUIRE, 1, ["2 R", "2 R", "2 R"]),
    ("A29 A123",                             SINGLE,  REQUIRE, 2, ["2 R", "2 R", "2 R"]),
    ("A45, most often got wrong 4",          REQUIRE, SINGLE,  0, ["1 S", "1 S", "1 S"]),
    ("A45, most often got wrong 4",          REQUIRE, SINGLE,  1, ["1 S", "1 S", "1 S"]),
    ("A45, most often got wrong 4",          REQUIRE, SINGLE,  2, ["1 S", "1 S", "1 S"]),
    ("A45, most often got wrong 4",          PREFER,  SINGLE,  0, ["1 S", "1 S", "1 S"]),
    ("A45, most often got wrong 4",          PREFER,  SINGLE,  2, ["1 S", "1 S", "1 S"]),
    ("A44 A46",                              REQUIRE, "",      0, ["2 R", "x", "2 R"]),
    ("A44 A46",                              PREFER,  "",      0, ["2 P", "x", "2 P"]),
    ("A46, most often got wrong 4",          REQUIRE, REQUIRE, 0, ["2 R", "x", "2 R"]),
    ("A46, most often got wrong 4",          REQUIRE, PREFER,  0, ["2 P", "x", "2 P"]),
    ("A46, most often got wrong 4",          PREFER,  REQUIRE, 0, ["2 R", "x", "2 R"]),
    ("A46",                                  REQUIRE, "",      1, ["x", "x", "x"]),
    ("A46",                                  REQUIRE, PREFER,  1, ["x", "x", "x"]),
    ("A46",                                  PREFER,  REQUIRE, 1, ["x", "x", "x"]),
    ("A44 A46",                              REQUIRE, "",      2, ["2 R", "x", "2 R"]),
    ("A42",                                  PREFER,  PREFER,  2, ["2 P", "x", "2 P"]),
    ("A46",                                  REQUIRE, PREFER,  2, ["2 P", "x", "2 P"]),
];

#[test]
fn the_update_summary_holds_in_both_orders() {
    for (cluster, order) in [("v4v6", ["IPv4", "IPv6"]), ("v6v4", ["IPv6", "IPv4"])] {
        for (rule, old, sent, list, want) in SUMMARY {
            for (count, want) in want.iter().enumerate() {
                let mut world = World::of(cluster);
                let first = world.put("s", body(old, &[], &[])).unwrap();
                let (_, _, has) = families(&first);
                let free = if order[0] == "IPv4" {
                    ["10.96.9.9", "fd00:10:96::9"]
                } else {
                    ["fd00:10:96::9", "10.96.9.9"]
                };
                let ips: Vec<&str> = (0..count).map(|at| has.get(at).copied().unwrap_or(free[at])).collect();
                let outcome = world.put("s", body(sent, &order[..*list], &ips));
                let row =
                    format!("{rule}: {old} to {sent:?}, {list} families, {count} addresses, on {cluster}");
                assert_eq!(shape(&outcome), *want, "{row}: {outcome:?}");
                if let Ok(object) = outcome {
                    let (_, list, got) = families(&object);
                    assert_eq!(got[0], has[0], "{row}: the primary address stays");
                    assert_eq!(list, order[..list.len()], "{row}");
                }
                world.check();
            }
        }
    }
}

#[test]
fn the_wrong_order_is_refused() {
    for (rule, sent, list, ips) in [
        ("A67", PREFER, vec!["IPv6", "IPv4"], vec![]),
        ("A67", "", vec!["IPv6", "IPv4"], vec![]),
        ("A61", "", vec![], vec!["fd00:10:96::1", "10.96.0.1"]),
        ("A61 A67", REQUIRE, vec!["IPv6", "IPv4"], vec!["fd00:10:96::1", "10.96.0.1"]),
        ("A63", SINGLE, vec![], vec!["fd00:10:96::1"]),
        ("A63 A68", SINGLE, vec!["IPv6"], vec!["fd00:10:96::1"]),
    ] {
        for old in [PREFER, REQUIRE] {
            let mut world = World::v4v6();
            world.put("s", body(old, &[], &[])).unwrap();
            let outcome = world.put("s", body(sent, &list, &ips));
            assert!(outcome.is_err(), "{rule}: {old} to {sent:?} {list:?} {ips:?}: {outcome:?}");
            world.check();
        }
    }
    let mut world = World::v4v6();
    world.put("s", body(SINGLE, &[], &[])).unwrap();
    for sent in [PREFER, REQUIRE] {
        let outcome = world.put("s", body(sent, &["IPv6", "IPv4"], &[]));
        assert_eq!(
            outcome.unwrap_err(),
            [
                "spec.clusterIPs[0]: Invalid value: \"10.96.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`"
            ],
            "A57 A69"
        );
    }
}

#[test]
fn a_single_stack_cluster_has_no_second_family_to_give() {
    for (rule, sent, list, ips, want) in [
        (
            "A28",
            REQUIRE,
            vec![],
            vec![],
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services",
        ),
        (
            "A28",
            PREFER,
            vec!["IPv4", "IPv6"],
            vec![],
            "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            "A25",
            PREFER,
            vec![],
            vec!["10.96.0.1", "fd00::1"],
            "spec.clusterIPs[1]: Invalid value: [\"10.96.0.1\",\"fd00::1\"]: IPv6 is not configured on this cluster",
        ),
    ] {
        let mut world = World::v4();
        world.put("s", body("", &[], &[])).unwrap();
        assert_eq!(world.put("s", body(sent, &list, &ips)).unwrap_err(), [want], "{rule}");
    }
    let mut world = World::v4();
    world.put("s", body("", &[], &[])).unwrap();
    assert_eq!(shape(&world.put("s", body(PREFER, &[], &[]))), "1 P", "A29");
}

#[test]
fn k11_a_family_the_cluster_lacks_is_refused_where_upstream_crashes() {
    let mut world = World::v4();
    world.put("s", json!({"ports": [{"port": 80}]})).unwrap();
    let outcome =
        world.put("s", json!({"clusterIP": "None", "ipFamilyPolicy": REQUIRE, "ports": [{"port": 80}]}));
    assert_eq!(
        outcome.unwrap_err(),
        ["spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster"]
    );
    world.check();
}

/// Most often got wrong 3.
#[test]
fn a_preferring_service_changes_its_families_only_when_asked() {
    let grown = |world: World| World { cluster: World::v4v6().cluster, ..world };
    let old = |policy: &str| {
        let mut world = World::v4();
        world.put("s", body(policy, &[], &[])).unwrap();
        grown(world)
    };
    let mut world = old(PREFER);
    assert_eq!(
        shape(&world.patch("s", json!({"externalName": "x"}))),
        "1 P",
        "A42, A48: a patch keeps the fields"
    );
    assert_eq!(shape(&world.put("s", body(PREFER, &["IPv4"], &["10.96.0.1"]))), "1 P", "A42");
    assert_eq!(shape(&world.put("s", body(PREFER, &["IPv4"], &[]))), "1 P", "A31 A42");
    assert_eq!(shape(&world.put("s", body("", &["IPv4"], &[]))), "2 P", "A43: no policy sent");
    assert_eq!(shape(&old(PREFER).put("s", body(PREFER, &[], &[]))), "2 P", "A43: no families sent");
    assert_eq!(shape(&old(PREFER).put("s", body("", &[], &[]))), "2 P", "A43: a plain manifest");
    assert_eq!(shape(&old(SINGLE).put("s", body("", &[], &[]))), "1 S", "A44");
    assert_eq!(shape(&old(PREFER).patch("s", json!({"ipFamilyPolicy": REQUIRE}))), "2 R", "A123");

    // And the other way: a cluster that lost a family.
    let mut world = World::v4v6();
    world.put("s", body(PREFER, &[], &[])).unwrap();
    world.cluster = World::v4().cluster;
    assert_eq!(shape(&world.patch("s", json!({"externalName": "x"}))), "2 P", "A42");
}

#[test]
fn k4_a_service_with_a_lost_family_can_be_changed_otherwise() {
    let mut world = World::v4v6();
    world.put("s", body(REQUIRE, &[], &[])).unwrap();
    world.cluster = World::v4().cluster;
    let object = world.put("s", json!({"selector": {"app": "y"}, "ports": [{"port": 81}]})).unwrap();
    assert_eq!(families(&object), (REQUIRE, vec!["IPv4", "IPv6"], vec!["10.96.0.1", "fd00:10:96::1"]), "K4");
    assert_eq!(object["spec"]["ports"][0]["port"], 81, "K4");
    assert!(
        world.patch("s", json!({"ipFamilyPolicy": PREFER})).is_err(),
        "K4: but not what concerns families"
    );
    assert_eq!(shape(&world.patch("s", json!({"ipFamilyPolicy": SINGLE}))), "1 S", "F22: save giving it up");
}

#[test]
fn setting_the_policy_alone_is_a_complete_downgrade() {
    let mut world = World::v4v6();
    world.put("s", body(REQUIRE, &[], &[])).unwrap();
    let object = world.patch("s", json!({"ipFamilyPolicy": SINGLE})).unwrap();
    assert_eq!(families(&object), (SINGLE, vec!["IPv4"], vec!["10.96.0.1"]), "A45");
    assert_eq!(world.held.ips.len(), 1, "A123: the secondary address is free");
}

#[test]
fn families_cannot_shrink_without_saying_so() {
    let mut world = World::v4v6();
    world.put("s", body(REQUIRE, &[], &[])).unwrap();
    assert_eq!(
        world.patch("s", json!({"clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"]})).unwrap_err(),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary \
             cluster IP",
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP \
             family",
        ],
        "A46"
    );
    assert_eq!(
        world.put("s", json!({"clusterIP": "None", "ports": [{"port": 80}]})).unwrap_err(),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary \
          cluster IP"
        ],
        "A38 A46"
    );
}

#[test]
fn addresses_do_not_change() {
    let mut world = World::v4v6();
    world.put("s", body(SINGLE, &[], &[])).unwrap();
    assert_eq!(
        world.put("s", body("", &[], &["10.96.7.7"])).unwrap_err(),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.7.7\"]: may not change once set"],
        "A61"
    );
    assert_eq!(
        world
            .put("s", json!({"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 80}]}))
            .unwrap_err(),
        ["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"],
        "A38 A61 A66: an address to None"
    );
    world.put("h", json!({"clusterIP": "None", "selector": {"a": "b"}})).unwrap();
    assert_eq!(
        world.patch("h", json!({"clusterIP": "10.96.7.8", "ports": [{"port": 80}]})).unwrap_err(),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.7.8\"]: may not change once set"],
        "A61: None to an address"
    );
    assert_eq!(
        world.patch("h", json!({"clusterIPs": ["10.96.7.8", "None"]})).unwrap_err(),
        [
            "spec.clusterIPs: Invalid value: [\"10.96.7.8\",\"None\"]: first value must match `clusterIP`",
            "spec.clusterIPs: Internal error: failed to check for dual stack with error:invalid IP[1]: None",
            "spec.clusterIPs: Invalid value: [\"10.96.7.8\",\"None\"]: may specify no more than one IP for each IP \
             family",
        ],
        "A56 P4: the old None, now behind an address"
    );
    assert_eq!(
        world.put("s", body(PREFER, &[], &["10.96.7.7", "fd00:10:96::7"])).unwrap_err(),
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.7.7\",\"fd00:10:96::7\"]: may not change once set"],
        "A65"
    );
    world.put("d", body(REQUIRE, &[], &[])).unwrap();
    let outcome = world.put("d", body(REQUIRE, &[], &["10.96.0.2", "fd00:10:96::7"]));
    assert_eq!(
        outcome.unwrap_err(),
        ["spec.clusterIPs[1]: Invalid value: [\"10.96.0.2\",\"fd00:10:96::7\"]: may not change once set"],
        "A41 A61"
    );
}

#[test]
fn the_second_address_can_be_chosen() {
    let mut world = World::v4v6();
    world.put("s", body(SINGLE, &[], &[])).unwrap();
    let object = world.put("s", body(PREFER, &[], &["10.96.0.1", "fd00:10:96::7"])).unwrap();
    assert_eq!(families(&object).2, ["10.96.0.1", "fd00:10:96::7"], "A41 A123");
    world.put("t", body(SINGLE, &[], &[])).unwrap();
    assert_eq!(
        world.put("t", body(PREFER, &[], &["10.96.0.2", "fd00:10:96::7"])).unwrap_err(),
        [
            "spec.clusterIPs: Invalid value: [\"10.96.0.2\",\"fd00:10:96::7\"]: failed to allocate IP fd00:10:96::7: \
          provided IP is already allocated"
        ],
        "A121"
    );
}

#[test]
fn headless_services_exchange_families_freely() {
    let mut world = World::v4v6();
    let headless = |policy: &str, list: &[&str]| {
        let mut spec = body(policy, list, &[]);
        spec["clusterIP"] = "None".into();
        spec
    };
    let of = |outcome: Outcome| outcome.map(|object| families(&object).1.join(","));
    assert_eq!(of(world.put("h", headless(SINGLE, &["IPv4"]))), Ok("IPv4".into()));
    assert_eq!(of(world.put("h", headless(SINGLE, &["IPv6"]))), Ok("IPv6".into()), "A60: replaced");
    assert_eq!(of(world.put("h", headless(REQUIRE, &[]))), Ok("IPv4,IPv6".into()), "A47: chosen anew");
    assert_eq!(
        of(world.put("h", headless(REQUIRE, &["IPv6", "IPv4"]))),
        Ok("IPv6,IPv4".into()),
        "A60: swapped"
    );
    assert_eq!(
        of(world.put("h", headless(REQUIRE, &["IPv6"]))).unwrap_err(),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP \
          family"
        ],
        "A46"
    );
    assert_eq!(of(world.patch("h", json!({"ipFamilyPolicy": SINGLE}))), Ok("IPv6".into()), "A45");
    assert!(world.held.ips.is_empty(), "A123: headless Services hold no address");
}
