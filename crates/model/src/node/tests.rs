use super::*;
use crate::testing::{created, updated};

fn node(spec: Value) -> Value {
    json!({"metadata": {"name": "n"}, "spec": spec})
}

#[test]
fn pod_ranges_are_one_field() {
    let rows = [
        (
            "B30: only the plural",
            json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}),
            "10.0.0.0/24",
            json!(["10.0.0.0/24", "fd00::/64"]),
        ),
        ("B30: only the singular", json!({"podCIDR": "10.0.0.0/24"}), "10.0.0.0/24", json!(["10.0.0.0/24"])),
        (
            "B30: both alike",
            json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}),
            "10.0.0.0/24",
            json!(["10.0.0.0/24", "fd00::/64"]),
        ),
        (
            "B30: the singular wins",
            json!({"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}),
            "10.0.1.0/24",
            json!(["10.0.1.0/24"]),
        ),
    ];
    for (row, spec, singular, plural) in rows {
        let (node, errors) = created(&NODE, node(spec));
        assert_eq!(errors, Vec::<String>::new(), "{row}");
        assert_eq!(
            (&node["spec"]["podCIDR"], &node["spec"]["podCIDRs"]),
            (&json!(singular), &plural),
            "{row}"
        );
    }
}

#[test]
fn pod_ranges_are_checked() {
    const PAIR: &str = "may specify no more than one CIDR for each IP family";
    let rows = [
        (
            "B31: host bits",
            json!(["10.1.1.1/24"]),
            vec!["spec.podCIDRs[0]: Invalid value: \"10.1.1.1/24\": must not have bits set beyond the prefix length".to_owned()],
        ),
        (
            "B31: one family twice",
            json!(["10.0.0.0/24", "10.0.1.0/24"]),
            vec![format!("spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: {PAIR}")],
        ),
        (
            "B31: three",
            json!(["10.0.0.0/24", "fd00::/64", "10.0.1.0/24"]),
            vec![format!("spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"fd00::/64\",\"10.0.1.0/24\"]: {PAIR}")],
        ),
        (
            "B31: no range",
            json!(["x", "fd00::/64"]),
            vec![
                "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned(),
                "spec.podCIDRs: Internal error: invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[0]: \
                 <nil> (invalid CIDR address: x)"
                    .to_owned(),
                format!("spec.podCIDRs: Invalid value: [\"x\",\"fd00::/64\"]: {PAIR}"),
            ],
        ),
    ];
    for (row, ranges, wanted) in rows {
        assert_eq!(created(&NODE, node(json!({ "podCIDRs": ranges }))).1, wanted, "{row}");
    }
}

#[test]
fn pod_ranges_are_frozen() {
    const FROZEN: &str =
        "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid";
    let rows = [
        ("B32: first set", json!([]), json!(["10.0.0.0/24", "fd00::/64"]), 0),
        ("B32: unchanged", json!(["10.0.0.0/24"]), json!(["10.0.0.0/24"]), 0),
        ("B32: second added", json!(["10.0.0.0/24"]), json!(["10.0.0.0/24", "fd00::/64"]), 1),
        ("B32: removed", json!(["10.0.0.0/24"]), json!([]), 1),
        ("B32: both changed", json!(["10.0.0.0/24", "fd00::/64"]), json!(["10.0.1.0/24", "fd01::/64"]), 2),
    ];
    for (row, old, new, count) in rows {
        let (old, _) = created(&NODE, node(json!({ "podCIDRs": old })));
        let (_, errors) = updated(&NODE, node(json!({ "podCIDRs": new })), &old, "");
        assert_eq!(errors, vec![FROZEN; count], "{row}");
    }
}

#[test]
fn addresses_are_different() {
    let (old, _) = created(&NODE, node(json!({})));
    let status = |addresses: Value| json!({"metadata": {"name": "n"}, "status": {"addresses": addresses}});
    let two =
        json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}]);
    let (updated_node, errors) = updated(&NODE, status(two.clone()), &old, "status");
    assert_eq!(errors, Vec::<String>::new(), "B34: several of one type");
    assert_eq!((&updated_node["status"]["addresses"], &updated_node["spec"]), (&two, &old["spec"]));
    let same =
        json!([{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "10.0.0.1"}]);
    assert_eq!(
        updated(&NODE, status(same), &old, "status").1,
        ["status.addresses[1]: Duplicate value: {\"Address\":\"10.0.0.1\",\"Type\":\"InternalIP\"}"],
        "B34"
    );
}

#[test]
fn a_new_node_is_not_ready() {
    let (node, _) = created(&NODE, json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "1"}}}));
    assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "1"}), "create accepts a status (B31)");
}

#[test]
fn declared_features_are_names_in_order() {
    let errors = created(&NODE, json!({"status": {"declaredFeatures": ["B/a", "A", "A", "x"]}})).1;
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert_eq!(
        errors[0],
        "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically"
    );
    assert_eq!(errors[1], "status.declaredFeatures[2]: Duplicate value: \"A\"");
    assert!(
        errors[2].contains("invalid feature name \"x\": must start with an UpperCamelCase segment"),
        "{errors:?}"
    );
}
