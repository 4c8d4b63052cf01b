use serde_json::{Value, json};

use super::*;

fn shown(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn created(meta: Value, namespaced: bool) -> Vec<String> {
    shown(&validate_create(&json!({ "metadata": meta }), namespaced, Checks::CHANGE, names::dns1123_label))
}

#[test]
fn new_metadata() {
    let rows = [
        ("plain", json!({"name": "a", "namespace": "n"}), true, vec![]),
        ("prefix with a dash", json!({"name": "a-1", "generateName": "a-", "namespace": "n"}), true, vec![]),
        (
            "nothing",
            json!({}),
            true,
            vec![
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value",
            ],
        ),
        (
            "cluster scoped",
            json!({"name": "a", "namespace": "n"}),
            false,
            vec!["metadata.namespace: Forbidden: not allowed on this type"],
        ),
        (
            "kind's own rule",
            json!({"name": "a.b", "namespace": "n"}),
            true,
            vec!["metadata.name: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            "owners",
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "apps/", "kind": "K", "name": "",
                "uid": "u"}]}),
            true,
            vec![
                "metadata.ownerReferences.apiVersion: Invalid value: \"apps/\": version must not be empty",
                "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
            ],
        ),
        (
            "finalizers without a domain",
            json!({"name": "a", "namespace": "n", "finalizers": ["kubernetes", "a/b", "bad", ""]}),
            true,
            vec![
                "metadata.finalizers: Invalid value: \"\": name part must be non-empty",
                "metadata.finalizers: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or \
                 '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                 '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "metadata.finalizers[2]: Invalid value: \"bad\": name is neither a standard finalizer name nor is it \
                 fully qualified",
                "metadata.finalizers[3]: Invalid value: \"\": name is neither a standard finalizer name nor is it fully \
                 qualified",
            ],
        ),
        (
            "finalizers that contradict (J50)",
            json!({"name": "a", "namespace": "n", "finalizers": ["orphan", "foregroundDeletion"]}),
            true,
            vec![
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
                 foregroundDeletion cannot be both set",
            ],
        ),
    ];
    for (row, meta, namespaced, wanted) in rows {
        assert_eq!(created(meta, namespaced), wanted, "{row}");
    }
}

#[test]
fn two_controllers_are_named() {
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": true});
    let errors =
        created(json!({"name": "a", "namespace": "n", "ownerReferences": [owner("x"), owner("y")]}), true);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].ends_with(
        "Only one reference can have Controller set to true. Found \"true\" in references for Pod/x and Pod/y"
    ));
}

#[test]
fn annotations_have_a_size() {
    let fits = json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(ANNOTATIONS_MAX - 1)}});
    let exceeds = json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(ANNOTATIONS_MAX)}});
    assert_eq!(created(fits, true), Vec::<String>::new());
    assert_eq!(created(exceeds, true), ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
}

#[test]
fn changed_metadata() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}});
    let deleted = {
        let mut deleted = old.clone();
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        deleted
    };
    let rows: [(&str, &Value, Value, Vec<&str>); 6] = [
        ("no change", &old, json!({}), vec![]),
        ("name", &old, json!({"name": "b"}), vec!["metadata.name: Invalid value: \"b\": field is immutable"]),
        ("uid", &old, json!({"uid": "v"}), vec!["metadata.uid: Invalid value: \"v\": field is immutable"]),
        ("finalizer added before deletion", &old, json!({"finalizers": ["x/y", "x/z"]}), vec![]),
        (
            "J49: finalizer added after deletion",
            &deleted,
            json!({"finalizers": ["x/y", "x/z"]}),
            vec![
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"x/z\"}",
            ],
        ),
        (
            "J49: deletion time set by hand",
            &old,
            json!({"deletionTimestamp": "2026-01-02T00:00:00Z"}),
            vec!["metadata.deletionTimestamp: Invalid value: \"2026-01-02T00:00:00Z\": field is immutable"],
        ),
    ];
    for (row, old, change, wanted) in rows {
        let mut new = old.clone();
        for (key, value) in change.as_object().unwrap() {
            new["metadata"][key] = value.clone();
        }
        inherit(&mut new, old);
        let once = Checks { change: false, ..Checks::CHANGE };
        assert_eq!(shown(&validate_update(&new, old, once)), wanted, "{row}");
    }
}

#[test]
fn errors_are_found_as_often_as_looked_for() {
    let old = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}});
    let mut new = old.clone();
    new["metadata"]["name"] = json!("b");
    new["metadata"]["labels"] = json!({"a": "-"});
    new["metadata"]["finalizers"] = json!(["bad"]);
    let nothing_more = Checks { whole: false, change: false, finalizers: false };
    // How often a name, a label and a finalizer that may not be so are found.
    let rows = [
        ("events of the core group", nothing_more, [1, 2, 0]),
        ("leases", Checks { change: true, ..nothing_more }, [2, 3, 0]),
        ("every status", Checks::CHANGE, [2, 3, 1]),
        ("slices", Checks { change: false, ..Checks::WHOLE_AND_CHANGE }, [1, 3, 1]),
        ("nodes", Checks::WHOLE_AND_CHANGE, [2, 4, 2]),
    ];
    for (row, checks, wanted) in rows {
        let errors = validate_update(&new, &old, checks);
        let count = |field: &str| errors.iter().filter(|error| error.field == field).count();
        let found = ["metadata.name", "metadata.labels", "metadata.finalizers[0]"].map(count);
        assert_eq!(found, wanted, "{row}");
    }
}

#[test]
fn what_is_left_out_is_inherited() {
    let old = json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
        "deletionGracePeriodSeconds": 3}});
    let mut new = json!({"metadata": {"name": "a", "resourceVersion": "1", "generation": 9,
        "creationTimestamp": "2020-01-01T00:00:00Z"}});
    inherit(&mut new, &old);
    assert_eq!(new, old);
}
