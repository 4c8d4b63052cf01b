use serde_json::{Value, json};

use super::HORIZONTAL_POD_AUTOSCALER;
use crate::testing::created;

fn scaler(spec: Value) -> Value {
    let mut all = json!({"maxReplicas": 5, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": "h"}, "spec": all})
}

#[test]
fn errors_are_those_of_kubernetes() {
    let new = created(&HORIZONTAL_POD_AUTOSCALER, scaler(json!({"behavior": {}})));
    assert_eq!(new.1, Vec::<String>::new());
    assert_eq!(new.0["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    assert_eq!(new.0["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"], 0);
    #[rustfmt::skip]
    let rows = [
        (json!({"maxReplicas": 0}), vec![
            "spec.maxReplicas: Required value: must be set and greater than 0",
            "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"]),
        (json!({"scaleTargetRef": {"kind": "D", "name": "d", "apiVersion": "v1"}}), vec!["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"]),
        (json!({"metrics": [{"type": "Pods"}]}), vec!["spec.metrics[0].pods: Required value: must populate information for the given metric source"]),
        (json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 9999}}}), vec!["spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 9999: must be less than or equal to 3600"]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&HORIZONTAL_POD_AUTOSCALER, scaler(spec.clone())).1, wanted, "{spec}");
    }
}
