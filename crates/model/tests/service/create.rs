//! New Services: which families and addresses they get.

use serde_json::{Value, json};

use super::world::{World, families};

/// A family list in the shorthand of the tables.
fn family_list(text: &str) -> Option<Value> {
    let names = text.chars().map(|c| match c {
        '4' => "IPv4",
        '6' => "IPv6",
        _ => panic!("no family {c}"),
    });
    (!text.is_empty()).then(|| names.collect())
}

/// The other family in all of a shorthand.
fn mirrored(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '4' => '6',
            '6' => '4',
            c => c,
        })
        .collect()
}

fn policy_name(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "" => return None,
        "S" => "SingleStack",
        "P" => "PreferDualStack",
        "R" => "RequireDualStack",
        _ => panic!("no policy {letter}"),
    })
}

fn ip(family: char) -> &'static str {
    if family == '4' { "10.96.1.1" } else { "fd00:10:96::101" }
}

/// Policy and families in shorthand, `x` if it was refused.
fn create(cluster: &str, ips: &str, policy: &str, list: &str) -> String {
    let mut spec = json!({"ports": [{"port": 80}], "selector": {"app": "x"}});
    if ips.starts_with("None") {
        spec["clusterIP"] = "None".into();
        if ips == "None -" {
            spec.as_object_mut().unwrap().remove("selector");
        }
    } else if let Some(first) = ips.chars().next() {
        spec["clusterIP"] = ip(first).into();
        if ips.len() > 1 {
            spec["clusterIPs"] = ips.chars().map(ip).collect();
        }
    }
    for (field, value) in
        [("ipFamilyPolicy", policy_name(policy).map(Value::from)), ("ipFamilies", family_list(list))]
    {
        if let Some(value) = value {
            spec[field] = value;
        }
    }
    let mut world = World::of(cluster);
    let Ok(object) = world.put("s", spec) else {
        assert_eq!(world.held, Default::default(), "refused, but something is held");
        return "x".to_owned();
    };
    let (policy, list, got) = families(&object);
    let short: String = list.iter().map(|family| family.trim_start_matches("IPv")).collect();
    if ips.starts_with("None") {
        assert_eq!(got, ["None"]);
    } else {
        let of = |ip: &&str| if ip.contains(':') { '6' } else { '4' };
        assert_eq!(got.iter().map(of).collect::<String>(), short, "addresses follow the families");
        for (asked, got) in ips.chars().zip(&got) {
            assert_eq!(ip(asked), *got, "what was asked for");
        }
    }
    format!("{}{short}", &policy[..1])
}

/// Rule, addresses asked for, policy, and what comes of it on two clusters, by families asked for.
type Row = (&'static str, &'static str, &'static str, [&'static str; 5], [&'static str; 5]);

/// The result matrix, most often got wrong 2, 5: families unset, `[4]`, `[6]`, `[4,6]`, `[6,4]`; first on a cluster of
/// both families, then on one of IPv4 alone.
#[rustfmt::skip]
const MATRIX: &[Row] = &[
    // rule,                 IPs,      policy, v4v6:                               v4:
    ("A22 A29",              "",       "",  ["S4", "S4", "S6", "x", "x"],           ["S4", "S4", "x", "x", "x"]),
    ("A24 A29",              "",       "S", ["S4", "S4", "S6", "x", "x"],           ["S4", "S4", "x", "x", "x"]),
    ("A29",                  "",       "P", ["P46", "P46", "P64", "P46", "P64"],    ["P4", "P4", "x", "x", "x"]),
    ("A28 A29",              "",       "R", ["R46", "R46", "R64", "R46", "R64"],    ["x", "x", "x", "x", "x"]),
    ("A22 A25 A57",          "4",      "",  ["S4", "S4", "x", "x", "x"],            ["S4", "S4", "x", "x", "x"]),
    ("A24 A25 A57",          "4",      "S", ["S4", "S4", "x", "x", "x"],            ["S4", "S4", "x", "x", "x"]),
    ("A25 A29 A57",          "4",      "P", ["P46", "P46", "x", "P46", "x"],        ["P4", "P4", "x", "x", "x"]),
    ("A25 A29 A57",          "4",      "R", ["R46", "R46", "x", "R46", "x"],        ["x", "x", "x", "x", "x"]),
    ("A22 A25 A57",          "6",      "",  ["S6", "x", "S6", "x", "x"],            ["x", "x", "x", "x", "x"]),
    ("A24 A25 A57",          "6",      "S", ["S6", "x", "S6", "x", "x"],            ["x", "x", "x", "x", "x"]),
    ("A25 A29 A57",          "6",      "P", ["P64", "x", "P64", "x", "P64"],        ["x", "x", "x", "x", "x"]),
    ("A25 A29 A57",          "6",      "R", ["R64", "x", "R64", "x", "R64"],        ["x", "x", "x", "x", "x"]),
    ("A22 A24",              "46",     "",  ["x", "x", "x", "x", "x"],              ["x", "x", "x", "x", "x"]),
    ("A24",                  "46",     "S", ["x", "x", "x", "x", "x"],              ["x", "x", "x", "x", "x"]),
    ("A25 A57",              "46",     "P", ["P46", "P46", "x", "P46", "x"],        ["x", "x", "x", "x", "x"]),
    ("A25 A57",              "46",     "R", ["R46", "R46", "x", "R46", "x"],        ["x", "x", "x", "x", "x"]),
    ("A25 A57",              "64",     "P", ["P64", "x", "P64", "x", "P64"],        ["x", "x", "x", "x", "x"]),
    ("A25 A57",              "64",     "R", ["R64", "x", "R64", "x", "R64"],        ["x", "x", "x", "x", "x"]),
    ("A22 A29",              "None",   "",  ["S4", "S4", "S6", "x", "x"],           ["S4", "S4", "x", "x", "x"]),
    ("A24 A29",              "None",   "S", ["S4", "S4", "S6", "x", "x"],           ["S4", "S4", "x", "x", "x"]),
    ("A29",                  "None",   "P", ["P46", "P46", "P64", "P46", "P64"],    ["P4", "P4", "x", "x", "x"]),
    ("A28 A29",              "None",   "R", ["R46", "R46", "R64", "R46", "R64"],    ["x", "x", "x", "x", "x"]),
    ("A22 A27",              "None -", "",  ["R46", "R46", "R64", "R46", "R64"],    ["R46", "R46", "R64", "R46", "R64"]),
    ("A24 A27",              "None -", "S", ["S4", "S4", "S6", "x", "x"],           ["S4", "S4", "S6", "x", "x"]),
    ("A27",                  "None -", "P", ["P46", "P46", "P64", "P46", "P64"],    ["P46", "P46", "P64", "P46", "P64"]),
    ("A27",                  "None -", "R", ["R46", "R46", "R64", "R46", "R64"],    ["R46", "R46", "R64", "R46", "R64"]),
];

#[test]
fn the_result_matrix_holds_on_every_cluster() {
    for (rule, ips, policy, dual, single) in MATRIX {
        for (list, (dual, single)) in ["", "4", "6", "46", "64"].iter().zip(dual.iter().zip(single)) {
            let row = format!("{rule}: IPs {ips:?}, policy {policy:?}, families {list:?}");
            assert_eq!(create("v4v6", ips, policy, list), *dual, "{row} on v4v6");
            assert_eq!(create("v4", ips, policy, list), *single, "{row} on v4");
            // Nothing depends on which family it is, only on which comes first.
            let (ips, list) = (mirrored(ips), mirrored(list));
            assert_eq!(create("v6v4", &ips, policy, &list), mirrored(dual), "{row} mirrored on v6v4");
            assert_eq!(create("v6", &ips, policy, &list), mirrored(single), "{row} mirrored on v6");
        }
    }
}

#[test]
fn external_names_get_nothing() {
    for cluster in ["v4", "v4v6", "v6v4"] {
        let mut world = World::of(cluster);
        let object = world.put("s", json!({"type": "ExternalName", "externalName": "example.net"})).unwrap();
        assert_eq!(
            object["spec"],
            json!({"type": "ExternalName", "externalName": "example.net", "sessionAffinity": "None"}),
            "A21 on {cluster}"
        );
        assert_eq!(world.held, Default::default(), "A21 on {cluster}");
    }
}

#[test]
fn what_a_service_held_is_free_again_once_it_is_gone() {
    let mut world = World::v4v6();
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "RequireDualStack",
        "clusterIP": "10.96.7.7", "healthCheckNodePort": 30100, "ports": [{"port": 80, "nodePort": 30101}]
    });
    let first = world.put("a", spec.clone()).unwrap();
    assert!(world.put("b", spec.clone()).is_err(), "A121: 10.96.7.7 is taken");
    world.delete("a");
    assert_eq!(world.held, Default::default(), "A126");
    let second = world.put("b", spec).unwrap();
    assert_eq!(first["spec"], second["spec"], "A126: nothing of it was left behind");
}

#[test]
fn a_failed_request_takes_nothing() {
    let mut world = World::new("10.96.0.0/30,fd00:10:96::/127");
    let dual = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]});
    world.put("a", dual.clone()).unwrap();
    let held = world.held.clone();
    assert_eq!(
        world.put("b", dual).unwrap_err(),
        ["500 failed to allocate a serviceIP for Service \"b\": range is full"],
        "A122: there is one IPv6 address and it is in use"
    );
    assert_eq!(world.held, held, "A125, K1: the IPv4 address was not kept");
    world.put("c", json!({"ports": [{"port": 80}]})).unwrap();
    let bad_port = json!({"ports": [{"port": 0}]});
    world.delete("c");
    assert_eq!(
        world.put("d", bad_port).unwrap_err(),
        [
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive"
        ]
    );
    assert_eq!(world.held, held, "Q2, A124 (most often got wrong 6): refused after allocation");
}

#[test]
fn addresses_are_kept_as_they_were_written() {
    let mut world = World::v4v6();
    let spec = json!({
        "clusterIP": "FD00:10:96:0::9", "clusterIPs": ["FD00:10:96:0::9"], "ports": [{"port": 80}]
    });
    let object = world.put("s", spec).unwrap();
    assert_eq!(families(&object).2, ["FD00:10:96:0::9"], "P3: any spelling of an IPv6 address");
    assert!(world.held.ips.contains(&"fd00:10:96::9".parse().unwrap()));
}
