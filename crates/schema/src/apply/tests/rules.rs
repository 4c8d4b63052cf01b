//! What is merged, what is in conflict, what goes away, and what is refused (J45).

use serde_json::{Value, json};

use super::{config_map, deployment, owned, service};
use crate::apply::{ApplyError, Atom, FieldOf, Identity, ListOf, MapOf, Scalar, Set, Structure, Type, Types};

fn svc(ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}})
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

#[test]
fn lists_merge_by_their_keys_and_keys_have_defaults() {
    let kind = service();
    let first =
        kind.apply(None, &svc(json!([{"port": 80}, {"port": 53, "protocol": "UDP"}])), "a", false).unwrap();
    // Canonical form does not say protocol; a defaulted object does.
    let mut live = first;
    live["spec"]["ports"][0]["protocol"] = "TCP".into();
    let second = svc(json!([{"port": 53, "protocol": "TCP", "name": "dns"}, {"port": 80, "name": "web"}]));
    let merged = kind.apply(Some(&live), &second, "b", false).unwrap();
    let names = merged["spec"]["ports"].as_array().unwrap().iter().map(|port| port["name"].clone());
    assert_eq!(names.collect::<Vec<_>>(), [json!("dns"), json!("web"), Value::Null]);
    let ports =
        |fields: &Value| fields["f:spec"]["f:ports"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        ports(&owned(&merged, "b", "Apply")),
        ["k:{\"port\":53,\"protocol\":\"TCP\"}", "k:{\"port\":80,\"protocol\":\"TCP\"}"]
    );
}

#[test]
fn the_applied_order_counts_where_it_says_one() {
    let structure = deployment().structure();
    let list = |names: &str| {
        let items: Vec<Value> = names.chars().map(|name| json!({"name": name.to_string()})).collect();
        json!({"spec": {"template": {"spec": {"containers": items}}}})
    };
    let names = |object: &Value| {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<String>()
    };
    let rows = [
        ("abc", "abc", "abc"),
        ("abc", "cba", "cba"),
        ("abc", "b", "abc"),
        ("abc", "d", "abcd"),
        ("abc", "ca", "bca"),
        ("abcd", "db", "acdb"),
        ("ab", "xay", "xaby"),
        ("", "ba", "ba"),
    ];
    for (live, applied, want) in rows {
        let merged = structure.merge(&list(live), &list(applied)).unwrap();
        assert_eq!(names(&merged), want, "{live} with {applied}");
    }
}

#[test]
fn conflicts_name_field_and_owner() {
    let kind = config_map();
    let live = kind.apply(None, &map(json!({"k": "1", "l": "1"})), "first", false).unwrap();
    let live = kind.write(
        Some(&live),
        &{
            let mut new = live.clone();
            new["data"]["m"] = "1".into();
            new
        },
        "editor",
    );
    let rows = [
        (json!({"k": "2"}), "Apply failed with 1 conflict: conflict with \"first\": .data.k"),
        (json!({"m": "2"}), "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.m"),
        (
            json!({"k": "2", "l": "2", "m": "2"}),
            "Apply failed with 3 conflicts: conflicts with \"editor\" using v1:\n- .data.m\nconflicts with \"first\":\n- \
             .data.k\n- .data.l",
        ),
    ];
    for (data, message) in rows {
        let error = kind.apply(Some(&live), &map(data), "second", false).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let ApplyError::Conflicts(conflicts) =
        kind.apply(Some(&live), &map(json!({"m": "2"})), "second", false).unwrap_err()
    else {
        panic!("a conflict")
    };
    assert_eq!(
        (conflicts[0].field(), conflicts[0].message()),
        (".data.m".into(), "conflict with \"editor\" using v1".into())
    );
    let forced = kind.apply(Some(&live), &map(json!({"k": "2"})), "second", true).unwrap();
    assert_eq!(forced["data"]["k"], "2");
    assert_eq!(owned(&forced, "first", "Apply"), json!({"f:data": {"f:l": {}}}));
    let agreed = kind.apply(Some(&live), &map(json!({"k": "1"})), "second", false).unwrap();
    assert_eq!(owned(&agreed, "first", "Apply"), owned(&live, "first", "Apply"), "the same value is shared");
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_has_it() {
    let kind = deployment();
    let with = |containers: Value, labels: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": labels},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let both = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
    let live = kind.apply(None, &with(both, json!({"x": "1", "y": "1"})), "one", false).unwrap();
    let live = kind
        .apply(Some(&live), &with(json!([{"name": "b", "args": ["v"]}]), json!({"y": "1"})), "two", false)
        .unwrap();
    let after = kind
        .apply(Some(&live), &with(json!([{"name": "a", "image": "1"}]), json!({})), "one", false)
        .unwrap();
    assert_eq!(after["metadata"]["labels"], json!({"y": "1"}), "two has y");
    let containers = after["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    assert_eq!(
        (&containers[1]["name"], &containers[1]["image"]),
        (&json!("b"), &json!(null)),
        "two has b, not its image"
    );
}

#[test]
fn duplicates_are_owned_together_and_not_applied() {
    let kind = service();
    let twice = svc(json!([{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "x"}]));
    let live = kind.write(None, &twice, "w");
    let key = "k:{\"port\":80,\"protocol\":\"TCP\"}";
    assert_eq!(owned(&live, "w", "Update")["f:spec"]["f:ports"][key], json!({}));
    let error = kind.apply(None, &twice, "a", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/s; /v1, Kind=Service): .spec.ports: duplicate entries for key \
         [port=80,protocol=\"TCP\"]"
    );
    let one = kind.apply(Some(&live), &svc(json!([{"port": 80, "name": "y"}])), "a", true).unwrap();
    assert_eq!(one["spec"]["ports"].as_array().unwrap().len(), 1, "{one}");
}

#[test]
fn configurations_of_another_shape_are_refused() {
    let kind = deployment();
    let rows = [
        (json!({"kind": "Deployment"}), "invalid object type: /, Kind=Deployment"),
        (json!({"apiVersion": "v1", "kind": "Pod"}), "invalid object type: /v1, Kind=Pod"),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": {"x": 1}}),
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.x: field not declared in schema",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "3", "paused": 1}}),
            "failed to create typed patch object (/; apps/v1, Kind=Deployment): errors:\n  .spec.paused: expected boolean, \
             got &{1}\n  .spec.replicas: expected numeric (int or float), got string",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": {}}}}}),
            "failed to create typed patch object (/; apps/v1, Kind=Deployment): .spec.template.spec.containers: expected \
             list, got &{map[]}",
        ),
    ];
    for (applied, message) in rows {
        assert_eq!(kind.apply(None, &applied, "m", false).unwrap_err().to_string(), message);
    }
}

/// A kind that is defined while the server runs has types made for it, or none at all.
#[test]
fn types_are_data() {
    let mut types = Types::default();
    let names = types.add(Atom {
        list: Some(ListOf { items: Type::STRING, identity: Identity::Set }),
        ..Default::default()
    });
    let spec = types.add(Atom {
        map: Some(MapOf {
            fields: [("names".into(), FieldOf { of: names, default: None })].into(),
            ..MapOf::default()
        }),
        ..Default::default()
    });
    assert_eq!(types.at(Type::NUMERIC).scalar, Some(Scalar::Numeric));
    let structure = Structure { types: &types, root: spec };
    let merged = structure.merge(&json!({"names": ["a", "b"]}), &json!({"names": ["c", "a"]})).unwrap();
    assert_eq!(merged, json!({"names": ["c", "a", "b"]}));
    let deduced = Structure { types: &types, root: Type::DEDUCED };
    let merged = deduced
        .merge(&json!({"m": {"a": 1, "l": [1]}, "s": 1}), &json!({"m": {"b": 2, "l": [2]}, "s": {"t": 1}}))
        .unwrap();
    assert_eq!(merged, json!({"m": {"a": 1, "b": 2, "l": [2]}, "s": {"t": 1}}), "lists are one value");
    let fields = deduced.paths(&merged).unwrap().to_fields();
    assert_eq!(
        fields,
        json!({"f:m": {".": {}, "f:a": {}, "f:b": {}, "f:l": {}}, "f:s": {".": {}, "f:t": {}}})
    );
}

/// Owners from before a field became one value own it as one.
#[test]
fn sets_follow_the_types() {
    let old = Set::from_fields(&json!({"f:spec": {"f:selector": {".": {}, "f:matchLabels": {"f:a": {}}}}}))
        .unwrap();
    let kind = deployment();
    assert_eq!(kind.structure().reconciled(&old).to_fields(), json!({"f:spec": {"f:selector": {}}}));
    let fine = Set::from_fields(&json!({"f:spec": {"f:selector": {}, "f:replicas": {}}})).unwrap();
    assert_eq!(kind.structure().reconciled(&fine), fine);
}
