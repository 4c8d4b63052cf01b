use serde_json::{Value, json};

use super::*;
use crate::testing::created;

#[test]
fn a_controller_selects_what_it_makes() {
    let controller = |spec: Value| json!({"metadata": {"name": "r"}, "spec": spec});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
        {"name": "c", "image": "i", "terminationMessagePolicy": "File"}]}});
    let (new, errors) = created(&REPLICATION_CONTROLLER, controller(json!({"template": template})));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        (&new["spec"]["selector"], &new["metadata"]["labels"]),
        (&json!({"a": "b"}), &json!({"a": "b"}))
    );
    assert_eq!((&new["spec"]["replicas"], &new["status"]), (&json!(1), &json!({"replicas": 0})));
    assert_eq!(
        created(&REPLICATION_CONTROLLER, controller(json!({"selector": {"x": "y"}, "template": template}))).1,
        [
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
        ]
    );
    assert_eq!(
        created(&REPLICATION_CONTROLLER, controller(json!({}))).1,
        ["spec.selector: Required value", "spec.template: Required value"]
    );
    assert!(created(&POD_TEMPLATE, json!({"template": template})).1.is_empty());
    assert_eq!(created(&POD_TEMPLATE, json!({})).1, ["template.spec.containers: Required value"]);
}
