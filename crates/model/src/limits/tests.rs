use serde_json::json;

use super::*;
use crate::strategy::Objects;
use crate::testing::{context, created, updated};
use crate::{Context, Refusal};

#[test]
fn quotas_limit_what_they_can_count() {
    let quota = |spec: Value| json!({"spec": spec});
    #[rustfmt::skip]
    let rows = [
        (json!({"hard": {"pods": "3", "requests.cpu": "1", "count/deployments.apps": "2", "services.nodeports": "1"}}), vec![]),
        (json!({"hard": {"x": "1"}}), vec![
            "spec.hard[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
            "spec.hard[x]: Invalid value: \"x\": must be a standard resource for quota"]),
        (json!({"hard": {"pods": "1500m"}}), vec!["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"]),
        (json!({"hard": {"pods": "-1"}}), vec!["spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0"]),
        (json!({"hard": {"requests.cpu": "1"}, "scopes": ["BestEffort"]}), vec!["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"]),
        (json!({"scopes": ["Terminating", "NotTerminating"]}), vec!["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&RESOURCE_QUOTA, quota(spec.clone())).1, wanted, "{spec}");
    }
    let old = quota(json!({"scopes": ["BestEffort"]}));
    assert_eq!(
        updated(&RESOURCE_QUOTA, quota(json!({"scopes": ["NotBestEffort"]})), &old, "").1,
        ["spec.scopes: Invalid value: [\"NotBestEffort\"]: field is immutable"]
    );
}

#[test]
fn ranges_keep_their_order() {
    let range = |limit: Value| json!({"spec": {"limits": [limit]}});
    let (new, errors) = created(&LIMIT_RANGE, range(json!({"type": "Container", "max": {"cpu": "2"}})));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "2"}));
    #[rustfmt::skip]
    let rows = [
        (json!({"type": "x"}), "spec.limits[0].type: Invalid value: \"x\": must be a standard limit type or fully qualified"),
        (json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}), "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"),
        (json!({"type": "Pod", "default": {"cpu": "1"}}), "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"),
        (json!({"type": "PersistentVolumeClaim"}), "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"),
        (json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}), "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"),
    ];
    for (limit, wanted) in rows {
        assert_eq!(created(&LIMIT_RANGE, range(limit.clone())).1, [wanted], "{limit}");
    }
}

#[derive(Debug)]
struct Ranges(Value);

impl Objects for Ranges {
    fn list(&self, _group: &str, kind: &str, _namespace: &str) -> Vec<Value> {
        if kind == "LimitRange" { vec![self.0.clone()] } else { Vec::new() }
    }
}

#[test]
fn pods_get_defaults_and_keep_to_bounds() {
    let range = Ranges(json!({"spec": {"limits": [
        {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}, "max": {"cpu": "2"}},
        {"type": "Pod", "max": {"cpu": "3"}},
    ]}}));
    let cx = Context { objects: &range, ..context("") };
    let pod = |containers: Value| json!({"metadata": {"namespace": "n"}, "spec": {"containers": containers}});
    let mut plain = pod(json!([{"name": "c"}]));
    assert_eq!(admit_pod(&mut plain, &cx), Ok(()));
    let resources = &plain["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}));
    assert_eq!(
        plain["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let big =
        |cpu: &str| json!({"name": "c", "resources": {"limits": {"cpu": cpu}, "requests": {"cpu": cpu}}});
    let refused = |text: &str| Err(Refusal::Forbidden(text.to_owned()));
    assert_eq!(
        admit_pod(&mut pod(json!([big("2500m")])), &cx),
        refused("maximum cpu usage per Container is 2, but limit is 2500m")
    );
    assert_eq!(
        admit_pod(&mut pod(json!([big("2"), big("2")])), &cx),
        refused("maximum cpu usage per Pod is 3, but limit is 4")
    );
}
