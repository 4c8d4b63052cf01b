use serde_json::{Value, json};

use super::*;
use crate::testing::{created, updated};

fn budget(spec: Value) -> Value {
    json!({"metadata": {"name": "b"}, "spec": spec})
}

#[test]
fn errors_are_those_of_kubernetes() {
    #[rustfmt::skip]
    let rows = [
        (json!({"minAvailable": "50%", "selector": {}}), vec![]),
        (json!({"minAvailable": 1, "maxUnavailable": 1}), vec![
            "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":1,\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set"]),
        (json!({"minAvailable": -1}), vec!["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"]),
        (json!({"maxUnavailable": "101%"}), vec!["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]),
        (json!({"unhealthyPodEvictionPolicy": "x"}), vec!["spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&POD_DISRUPTION_BUDGET, budget(spec.clone())).1, wanted, "{spec}");
    }
    let old = created(&POD_DISRUPTION_BUDGET, budget(json!({}))).0;
    assert_eq!(old["status"]["disruptionsAllowed"], 0);
    let mut new = old.clone();
    new["status"]["conditions"] = json!([{"type": "A", "status": "x", "reason": "-"}]);
    assert_eq!(updated(&POD_DISRUPTION_BUDGET, new, &old, "status").1.len(), 3);
}

#[test]
fn the_condition_follows_the_count() {
    let mut budget = json!({"status": {"disruptionsAllowed": 1, "observedGeneration": 3}});
    set_disruption_condition(&mut budget, "a");
    set_disruption_condition(&mut budget, "b");
    let condition = &budget["status"]["conditions"][0];
    assert_eq!(
        (&condition["reason"], &condition["lastTransitionTime"]),
        (&json!("SufficientPods"), &json!("a"))
    );
    budget["status"]["disruptionsAllowed"] = json!(0);
    set_disruption_condition(&mut budget, "c");
    let condition = &budget["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["lastTransitionTime"]), (&json!("False"), &json!("c")));
    assert_eq!(condition["observedGeneration"], 3);
}
