use serde_json::{Value, json};

use super::STATEFUL_SET;
use crate::testing::{created, updated};

fn set(spec: Value) -> Value {
    let mut all = json!({
        "serviceName": "s",
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "File"}]},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": "web"}, "spec": all})
}

#[test]
fn defaults_are_those_of_kubernetes() {
    let (object, errors) = created(&STATEFUL_SET, set(json!({})));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(object["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        object["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        object["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    assert_eq!(object["status"], json!({"replicas": 0, "availableReplicas": 0}));
    let claim = json!([{"metadata": {"name": "d"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}}}]);
    let (object, errors) = created(&STATEFUL_SET, set(json!({"volumeClaimTemplates": claim})));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(object["spec"]["volumeClaimTemplates"][0]["kind"], "PersistentVolumeClaim");
    assert_eq!(object["spec"]["volumeClaimTemplates"][0]["status"], json!({"phase": "Pending"}));
}

#[test]
fn errors_are_those_of_kubernetes() {
    #[rustfmt::skip]
    let rows = [
        (json!({"podManagementPolicy": "x"}), vec!["spec.podManagementPolicy: Invalid value: \"x\": must be 'OrderedReady' or 'Parallel'"]),
        (json!({"updateStrategy": {"type": "x"}}), vec!["spec.updateStrategy: Invalid value: {\"Type\":\"x\",\"RollingUpdate\":null}: must be 'RollingUpdate' or 'OnDelete'"]),
        (json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
         vec!["spec.updateStrategy.rollingUpdate: Invalid value: {\"Partition\":1,\"MaxUnavailable\":null}: only allowed for updateStrategy 'RollingUpdate'"]),
        (json!({"updateStrategy": {"rollingUpdate": {"partition": -1}}}), vec!["spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0"]),
        (json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}), vec!["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"]),
        (json!({"replicas": -1, "ordinals": {"start": -2}}), vec![
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.ordinals.start: Invalid value: -2: must be greater than or equal to 0"]),
        (json!({"selector": {}}), vec!["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"]),
        (json!({"selector": {"matchLabels": {"x": "y"}}}), vec!["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"]),
        (json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "x"}}),
         vec!["spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"x\": supported values: \"Retain\", \"Delete\""]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&STATEFUL_SET, set(spec.clone())).1, wanted, "{spec}");
    }
}

#[test]
fn little_may_change() {
    let old = created(&STATEFUL_SET, set(json!({}))).0;
    let (new, errors) =
        updated(&STATEFUL_SET, set(json!({"replicas": 3, "ordinals": {"start": 1}})), &old, "");
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["metadata"]["generation"], 2);
    let errors = updated(&STATEFUL_SET, set(json!({"serviceName": "t"})), &old, "").1;
    assert!(errors[0].starts_with("spec: Forbidden: updates to statefulset spec"), "{errors:?}");
    let mut status = old.clone();
    status["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 0});
    assert_eq!(
        updated(&STATEFUL_SET, status, &old, "status").1,
        ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]
    );
}
