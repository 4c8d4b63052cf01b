use super::*;
use crate::testing::{created, updated};

fn workload(spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": "a"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

#[test]
fn a_deployment_is_filled_in() {
    let (deployment, errors) = created(&DEPLOYMENT, workload(json!({})));
    assert_eq!(errors, Vec::<String>::new());
    let spec = &deployment["spec"];
    assert_eq!(deployment["metadata"]["generation"], 1, "J47");
    assert_eq!(deployment["status"], json!({}));
    assert_eq!(
        (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
    assert!(spec["template"]["spec"].get("enableServiceLinks").is_none(), "that is filled in in Pods only");
}

#[test]
fn refused_deployments() {
    let rows = [
        (
            "replicas",
            json!({"replicas": -1}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("no selector", json!({"selector": null}), "spec.selector: Required value"),
        (
            "selector of other labels",
            json!({"selector": {"matchLabels": {"a": "c"}}}),
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        ),
        (
            "empty selector",
            json!({"selector": {}}),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            "nothing may move",
            json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "more than all",
            json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ),
        (
            "recreate has no steps",
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "deadline",
            json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
            "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
        ),
    ];
    for (row, spec, wanted) in rows {
        let (_, errors) = created(&DEPLOYMENT, workload(spec));
        assert!(errors.iter().any(|error| error == wanted), "{row}: {errors:?}");
    }
    let mut never = workload(json!({}));
    never["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let wanted =
        "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"";
    for strategy in [&DEPLOYMENT as &dyn Strategy, &REPLICA_SET, &DAEMON_SET] {
        assert_eq!(created(strategy, never.clone()).1, [wanted]);
    }
}

#[test]
fn generations_move_with_what_counts() {
    let (old, _) = created(&DEPLOYMENT, workload(json!({})));
    let same = updated(&DEPLOYMENT, old.clone(), &old, "").0;
    assert_eq!(same, old, "J47: no change");
    let change = |pointer: &str, value: Value| {
        let mut new = old.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        new.pointer_mut(parent).unwrap()[key] = value;
        new
    };
    let generation = |strategy: &dyn Strategy, new: Value, old: &Value, subresource| {
        updated(strategy, new, old, subresource).0["metadata"]["generation"].clone()
    };
    assert_eq!(generation(&DEPLOYMENT, change("/spec/replicas", json!(2)), &old, ""), 2, "J47: spec");
    assert_eq!(
        generation(&DEPLOYMENT, change("/metadata/annotations", json!({"a": "b"})), &old, ""),
        2,
        "annotations"
    );
    assert_eq!(generation(&DEPLOYMENT, change("/metadata/labels", json!({"a": "b"})), &old, ""), 1, "labels");
    let (status, errors) = updated(&DEPLOYMENT, change("/status/replicas", json!(2)), &old, "status");
    assert_eq!((&status["metadata"]["generation"], &status["status"]["replicas"]), (&json!(1), &json!(2)));
    assert!(errors.is_empty());
    assert_eq!(
        updated(&DEPLOYMENT, change("/status/replicas", json!(2)), &old, "").0,
        old,
        "main keeps the status"
    );
    assert_eq!(
        updated(&DEPLOYMENT, change("/spec/replicas", json!(2)), &old, "status").0,
        old,
        "status keeps the spec"
    );
}

#[test]
fn selectors_stay() {
    for strategy in [&DEPLOYMENT as &dyn Strategy, &REPLICA_SET, &DAEMON_SET] {
        let (old, errors) = created(strategy, workload(json!({})));
        assert_eq!(errors, Vec::<String>::new());
        let selector = json!({"matchLabels": {"a": "b", "c": "d"}});
        let mut new = old.clone();
        new["spec"]["selector"] = selector;
        new["spec"]["template"]["metadata"]["labels"]["c"] = json!("d");
        let (_, errors) = updated(strategy, new, &old, "");
        assert_eq!(
            errors,
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable"]
        );
    }
}

#[test]
fn statuses_add_up() {
    let (old, _) = created(&REPLICA_SET, workload(json!({})));
    let mut new = old.clone();
    new["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3});
    assert_eq!(
        updated(&REPLICA_SET, new, &old, "status").1,
        [
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
        ]
    );
}

#[test]
fn daemon_sets_count_their_templates() {
    let (old, errors) = created(&DAEMON_SET, workload(json!({})));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(old["spec"]["updateStrategy"]["rollingUpdate"], json!({"maxUnavailable": 1, "maxSurge": 0}));
    assert_eq!(old["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y");
    let (new, errors) = updated(&DAEMON_SET, new, &old, "");
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(new["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
    assert_eq!(new["metadata"]["generation"], 2);
    let mut both = old.clone();
    both["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 1, "maxSurge": 1});
    let wanted = "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero";
    assert_eq!(updated(&DAEMON_SET, both, &old, "").1, [wanted]);
}
