//! Entries of `managedFields`: whose they are, when, how many, and how they move.

use serde_json::{Value, json};

use super::{NOW, config_map, deployment, owned};
use crate::apply::{Manager, Operation, Reset, Set, Step, decode, encode, from_scale, to_scale};

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "uid": "u"}, "data": data})
}

#[test]
fn writes_are_owned_by_who_changed_something() {
    let kind = config_map();
    let live = kind.write(None, &map(json!({"a": "1", "b": "1"})), "creator");
    assert_eq!(owned(&live, "creator", "Update"), json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}));
    let mut new = live.clone();
    new["data"] = json!({"a": "2", "c": "1"});
    let live = kind.write(Some(&live), &new, "editor");
    assert_eq!(owned(&live, "creator", "Update"), json!({"f:data": {}}), "the map itself");
    assert_eq!(owned(&live, "editor", "Update"), json!({"f:data": {"f:a": {}, "f:c": {}}}));
    let again = kind.write(Some(&live), &live, "idler");
    assert_eq!(again, live, "who changes nothing owns nothing");
    let unnamed = kind.write(None, &map(json!({})), "");
    assert_eq!(owned(&unnamed, "unknown", "Update"), Value::Null, "nothing but what nobody owns");
}

#[test]
fn entries_are_sorted_and_say_when() {
    let kind = config_map();
    let live = kind.write(None, &map(json!({"a": "1"})), "w");
    let live = kind
        .apply(
            Some(&live),
            &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"b": "1"}}),
            "z",
            false,
        )
        .unwrap();
    let shared =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    let live = kind.apply(Some(&live), &shared, "y", false).unwrap();
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
    assert_eq!(names, ["y", "z", "w"], "applies first, by time");
    assert!(entries[0]["time"].is_null(), "whoever changes nothing has no time");
    assert_eq!(entries[1]["time"], NOW);
}

#[test]
fn owners_are_cleared_on_demand_and_kept_otherwise() {
    let kind = config_map();
    let live = kind.write(None, &map(json!({"a": "1"})), "w");
    for (owners, kept) in [(json!(null), true), (json!([{}]), false), (json!([{"manager": "x"}]), true)] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = owners.clone();
        let after = kind.write(Some(&live), &new, "w");
        assert_eq!(after["metadata"]["managedFields"].is_array(), kept, "{owners}");
    }
    let mut bare = live.clone();
    bare["metadata"]["managedFields"] = json!([]);
    let managers = kind.at("", &Reset::Nothing, |fields| fields.update(Some(&live), &bare, "w"));
    assert!(managers.is_empty());
    let managers = kind.at("status", &Reset::Nothing, |fields| fields.update(Some(&live), &bare, "w"));
    assert!(!managers.is_empty(), "a subresource has no say in it");
}

#[test]
fn what_nobody_owned_was_there_before_the_first_apply() {
    let kind = config_map();
    let mut live = kind.write(None, &map(json!({"a": "1", "b": "1"})), "w");
    live["metadata"].as_object_mut().unwrap().remove("managedFields");
    let untouched = kind.write(Some(&live), &map(json!({"a": "2", "b": "1"})), "w");
    assert!(untouched["metadata"]["managedFields"].is_null(), "not owned before, not owned now");
    let applied =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "2"}});
    let error = kind.apply(Some(&live), &applied, "m", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    let forced = kind.apply(Some(&live), &applied, "m", true).unwrap();
    assert_eq!(owned(&forced, "before-first-apply", "Update"), json!({"f:data": {".": {}, "f:b": {}}}));
}

#[test]
fn the_eleventh_updater_makes_the_oldest_ancient() {
    let kind = config_map();
    let mut live = kind.write(None, &map(json!({"k0": "1"})), "w0");
    for index in 1..13 {
        let mut new = live.clone();
        new["data"][format!("k{index}")] = "1".into();
        live = kind.write(Some(&live), &new, &format!("w{index}"));
        let count = live["metadata"]["managedFields"].as_array().unwrap().len();
        assert!(count <= 10, "{count} after {index}");
    }
    let ancient = owned(&live, "ancient-changes", "Update");
    assert!(ancient["f:data"]["f:k0"].is_object(), "{ancient}");
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let kind = config_map();
    let config = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    let mut first = map(json!({"a": "1", "b": "1"}));
    first["metadata"]["annotations"] = json!({LAST: config(json!({"a": "1", "b": "1"})).to_string()});
    let live = kind.write(None, &first, "kubectl-client-side-apply");
    let next = config(json!({"a": "2", "x": "<&>"}));
    let error = kind.apply(Some(&live), &next, "other", false).unwrap_err();
    assert!(error.to_string().contains(".data.a"), "{error}");
    let after = kind.apply(Some(&live), &next, "kubectl", false).unwrap();
    assert_eq!(after["data"]["a"], "2");
    assert_eq!(
        after["metadata"]["annotations"][LAST],
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\",\"x\":\"\\u003c\\u0026\\u003e\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"c\"}}\n"
    );
    // What somebody changed since is in conflict nevertheless.
    let mut edited = live.clone();
    edited["data"]["a"] = "3".into();
    let live = kind.write(Some(&live), &edited, "editor");
    let error = kind.apply(Some(&live), &next, "kubectl", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.a");
}

#[test]
fn a_scale_has_the_owners_of_the_replicas() {
    let path =
        |version: &str| (version == "apps/v1").then(|| vec![Step::field("spec"), Step::field("replicas")]);
    let kind = deployment();
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "paused": true}});
    let live = kind.apply(None, &config, "owner", false).unwrap();
    let owners = decode(&live).unwrap();
    let mut scale = to_scale(&owners, &path);
    assert_eq!(scale.len(), 1);
    let scaler = Manager::new("scaler", Operation::Update, "autoscaling/v1", "scale");
    let replicas = scale.pop_first().unwrap().1;
    scale.insert(scaler.clone(), replicas);
    let mut after = live.clone();
    encode(&mut after, &from_scale(&owners, scale, "apps/v1", &path));
    assert_eq!(owned(&after, "owner", "Apply"), json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(owned(&after, "scaler", "Update"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(after["metadata"]["managedFields"][1]["subresource"], "scale");
}

#[test]
fn endpoints_do_not_own_what_they_leave_alone() {
    let rows = [
        ("", "Service", "", &["status"][..], false),
        ("", "Service", "status", &["spec"], false),
        ("apps", "Deployment", "status", &["metadata", "labels", "a"], false),
        ("", "Pod", "status", &["metadata", "labels", "a"], true),
        ("", "ConfigMap", "", &["data"], true),
        ("", "Pod", "ephemeralcontainers", &["spec", "ephemeralContainers"], true),
        ("", "Pod", "ephemeralcontainers", &["spec", "containers"], false),
    ];
    for (group, kind, subresource, path, kept) in rows {
        let set = Set::of(&[path]);
        let filtered = Reset::of(group, kind, subresource).filter(set);
        let path: Vec<Step> = path.iter().map(|name| Step::field(name)).collect();
        assert_eq!(filtered.has(&path), kept, "{kind}/{subresource} {path:?}");
    }
}
