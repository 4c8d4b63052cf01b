//! Sets of paths against the sets of all their paths, and their form as JSON.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::apply::codec::FieldsError;
use crate::apply::set::Set;
use crate::apply::step::Step;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        "[a-c]".prop_map(|name| Step::field(&name)),
        (0..3_i64).prop_map(|port| Step::Key(vec![
            ("port".into(), port.into()),
            ("protocol".into(), "TCP".into())
        ])),
        prop_oneof![Just(json!("x")), Just(json!(1)), Just(json!(true)), Just(json!(1.5))]
            .prop_map(Step::Value),
        (0..3_i64).prop_map(Step::Index),
    ]
}

fn paths() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..4), 0..12)
}

fn set(paths: &[Vec<Step>]) -> Set {
    let mut set = Set::default();
    paths.iter().for_each(|path| set.insert(path));
    set
}

proptest! {
    #[test]
    fn a_set_is_the_set_of_its_paths(a in paths(), b in paths()) {
        let (left, right) = (set(&a), set(&b));
        let all = |set: &Set| set.paths().into_iter().collect::<BTreeSet<_>>();
        let (x, y): (BTreeSet<_>, BTreeSet<_>) = (a.iter().cloned().collect(), b.iter().cloned().collect());
        prop_assert_eq!(all(&left), x.clone());
        prop_assert_eq!(all(&left.union(&right)), x.union(&y).cloned().collect());
        prop_assert_eq!(all(&left.intersection(&right)), x.intersection(&y).cloned().collect());
        prop_assert_eq!(all(&left.difference(&right)), x.difference(&y).cloned().collect());
        let below = |path: &Vec<Step>| y.iter().any(|gone| path.starts_with(gone));
        prop_assert_eq!(all(&left.difference_below(&right)), x.iter().filter(|path| !below(path)).cloned().collect());
        prop_assert_eq!(left.is_empty(), x.is_empty());
        prop_assert!(x.iter().all(|path| left.has(path)));
        prop_assert_eq!(left.union(&right), right.union(&left));
    }

    #[test]
    fn fields_v1_round_trips(paths in paths()) {
        let set = set(&paths);
        prop_assert_eq!(Set::from_fields(&set.to_fields()).unwrap(), set);
    }

    /// Whatever a client sends is a set or an error, and what is a set is written as one.
    #[test]
    fn any_tree_is_read_without_harm(tree in tree()) {
        if let Ok(set) = Set::from_fields(&tree) {
            prop_assert_eq!(Set::from_fields(&set.to_fields()).unwrap(), set);
        }
    }
}

/// Trees that look like FieldsV1, more or less.
fn tree() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "[fkvi]:[a-z0-9]{0,3}",
        "k:\\{(\"[a-b]\":[0-9]?,?){0,2}\\}",
        "v:(\"[a-z]\"|[0-9]{1,3}|true|null|\\{\\}|\\[1\\])",
        "\\PC{0,4}",
        Just(".".to_owned()),
    ];
    let leaf =
        prop_oneof![4 => Just(json!({})), 1 => Just(Value::Null), 1 => Just(json!(1)), 1 => Just(json!("x"))];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop::collection::btree_map(key.clone(), inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

#[test]
fn the_form_is_that_of_kubernetes() {
    let tree = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
        "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:args": {"i:0": {}}},
    });
    let set = Set::from_fields(&tree).unwrap();
    let texts: Vec<String> =
        set.paths().iter().map(|path| path.iter().map(Step::to_string).collect()).collect();
    assert_eq!(
        texts,
        [
            ".metadata.labels",
            ".metadata.finalizers[=\"x/y\"]",
            ".metadata.labels.a",
            ".spec.args[0]",
            ".spec.ports[port=80,protocol=\"TCP\"]",
            ".spec.ports[port=80,protocol=\"TCP\"].port",
        ]
    );
    assert_eq!(set.to_fields(), tree);
}

#[test]
fn steps_of_unknown_types_are_left_out_and_broken_ones_refused() {
    let known = Set::from_fields(&json!({"x:new": {"f:a": {}}, "f:b": {}})).unwrap();
    assert_eq!(known, Set::of(&[&["b"]]));
    let rows = [
        (json!({"f": {}}), FieldsError::Short),
        (json!({"ab": {}}), FieldsError::Colon("ab".to_owned())),
        (json!({"k:x": {}}), FieldsError::Step("k:x".to_owned())),
        (json!({"i:x": {}}), FieldsError::Step("i:x".to_owned())),
        (json!({"v:": {}}), FieldsError::Step("v:".to_owned())),
        (json!({"f:a": 1}), FieldsError::Tree("1".to_owned())),
    ];
    for (tree, error) in rows {
        assert_eq!(Set::from_fields(&tree), Err(error), "{tree}");
    }
}

#[test]
fn patterns_choose_what_they_lead_to() {
    let all = Set::from_fields(&json!({
        "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:resources": {".": {}, "f:limits": {}}}}, "f:x": {}},
    }))
    .unwrap();
    let chosen = all.matching(&[&["spec", "containers", "", "resources"]]);
    assert_eq!(
        chosen.to_fields(),
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:resources": {".": {}, "f:limits": {}}}}}})
    );
}
