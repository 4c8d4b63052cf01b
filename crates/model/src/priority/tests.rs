use serde_json::json;

use super::*;
use crate::strategy::Objects;
use crate::testing::{context, created, updated};

#[derive(Debug)]
struct Classes(Vec<Value>);

impl Objects for Classes {
    fn list(&self, _group: &str, _kind: &str, _namespace: &str) -> Vec<Value> {
        self.0.clone()
    }
}

#[test]
fn classes_are_checked_and_fixed() {
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    let old = created(&PRIORITY_CLASS, class("a", 5));
    assert_eq!((old.1.len(), &old.0["preemptionPolicy"]), (0, &json!("PreemptLowerPriority")));
    assert_eq!(
        created(&PRIORITY_CLASS, class("a", 2_000_000_000)).1,
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
    assert!(created(&PRIORITY_CLASS, class("system-node-critical", 2_000_001_000)).1.is_empty());
    assert_eq!(
        created(&PRIORITY_CLASS, class("system-x", 5)).1,
        [
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: \
          system-x is not a known system priority class"
        ]
    );
    assert_eq!(
        updated(&PRIORITY_CLASS, class("a", 6), &old.0, "").1,
        ["value: Forbidden: may not be changed in an update."]
    );
}

#[test]
fn pods_get_the_priority_of_their_class() {
    let classes = Classes(vec![
        json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"}),
        json!({"metadata": {"name": "usual"}, "value": 3, "globalDefault": true, "preemptionPolicy": "PreemptLowerPriority"}),
    ]);
    let cx = Context { objects: &classes, ..context("") };
    let rows = [
        (json!({}), Ok(("usual", 3, "PreemptLowerPriority"))),
        (json!({"priorityClassName": "high"}), Ok(("high", 7, "Never"))),
        (
            json!({"priorityClassName": "system-node-critical"}),
            Ok(("system-node-critical", 2_000_001_000, "PreemptLowerPriority")),
        ),
        (json!({"priorityClassName": "no"}), Err("no PriorityClass with name no was found")),
    ];
    for (mut spec, wanted) in rows {
        match (admit(&mut spec, &cx), wanted) {
            (Ok(()), Ok((name, value, policy))) => {
                assert_eq!(
                    spec,
                    json!({"priorityClassName": name, "priority": value, "preemptionPolicy": policy})
                );
            }
            (result, wanted) => {
                assert_eq!(result, Err(Refusal::Forbidden(wanted.unwrap_err().to_owned())));
            }
        }
    }
    let second = json!({"metadata": {"name": "other"}, "globalDefault": true});
    assert!(only_default(&second, &cx).is_err(), "there is one default");
}
