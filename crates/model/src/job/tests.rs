use serde_json::{Value, json};

use super::*;
use crate::testing::{created, updated};

fn job(spec: Value) -> Value {
    let mut all = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [
        {"name": "c", "image": "i", "terminationMessagePolicy": "File"}]}}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": "j", "uid": "u"}, "spec": all})
}

#[test]
fn a_new_job_knows_its_pods() {
    let (new, errors) = created(&JOB, job(json!({})));
    assert!(errors.is_empty(), "{errors:?}");
    let spec = &new["spec"];
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    let labels = json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j",
                        "controller-uid": "u", "job-name": "j"});
    assert_eq!((&spec["template"]["metadata"]["labels"], &new["metadata"]["labels"]), (&labels, &labels));
    assert_eq!(
        (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!(spec["podReplacementPolicy"], "TerminatingOrFailed");
    let per_index = json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1});
    assert_eq!(created(&JOB, job(per_index)).0["spec"]["backoffLimit"], i32::MAX);
}

#[test]
fn errors_are_those_of_kubernetes() {
    #[rustfmt::skip]
    let rows = [
        (json!({"parallelism": -1}), vec!["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"]),
        (json!({"completionMode": "Indexed", "completions": null, "parallelism": 1}), vec!["spec.completions: Required value: when completion mode is Indexed"]),
        (json!({"backoffLimitPerIndex": 1}), vec!["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"]),
        (json!({"managedBy": "x"}), vec!["spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")"]),
        (json!({"podReplacementPolicy": "x"}), vec!["spec.podReplacementPolicy: Unsupported value: \"x\": supported values: \"Failed\", \"TerminatingOrFailed\""]),
        (json!({"podFailurePolicy": {"rules": [{"action": "FailIndex"}, {"action": "Count", "onExitCodes": {"operator": "In", "values": [3, 0, 3]}}]}}), vec![
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            "spec.podFailurePolicy.rules[1].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
            "spec.podFailurePolicy.rules[1].onExitCodes.values[2]: Duplicate value: 3",
            "spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [3,0,3]: must be ordered"]),
        (json!({"manualSelector": true}), vec![
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"]),
        (json!({"completionMode": "Indexed", "completions": 5, "parallelism": 1, "successPolicy": {"rules": [{}, {"succeededIndexes": "1,7"}, {"succeededIndexes": "0-2", "succeededCount": 4}]}}), vec![
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            "spec.successPolicy.rules[1].succeededIndexes: Invalid value: \"1,7\": error parsing succeededIndexes: too large index: \"7\"",
            "spec.successPolicy.rules[2].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)"]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&JOB, job(spec.clone())).1, wanted, "{spec}");
    }
}

#[test]
fn what_is_over_is_over() {
    let mut old = created(&JOB, job(json!({}))).0;
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    old["status"] = json!({"failed": 2, "startTime": "2026-01-01T00:00:00Z",
                           "conditions": [condition("FailureTarget"), condition("Failed")]});
    let errors = |status: Value| {
        let mut new = old.clone();
        new["status"] = status;
        updated(&JOB, new, &old, "status").1
    };
    assert_eq!(
        errors(
            json!({"failed": 1, "startTime": "2026-01-01T00:00:00Z", "conditions": [condition("FailureTarget")]})
        ),
        [
            "status.conditions: Invalid value: cannot disable the terminal Failed=True condition",
            "status.failed: Invalid value: 1: cannot decrease the failed counter",
        ]
    );
    assert_eq!(
        errors(
            json!({"failed": 2, "startTime": "2026-01-01T00:00:01Z", "conditions": old["status"]["conditions"]})
        ),
        [
            "status.startTime: Invalid value: \"2026-01-01T00:00:01Z\": field is immutable for unsuspended job once set"
        ]
    );
    let changed = job(json!({"completions": 3}));
    let mut changed = changed;
    changed["spec"]["selector"] = old["spec"]["selector"].clone();
    changed["spec"]["template"] = old["spec"]["template"].clone();
    assert_eq!(
        updated(&JOB, changed, &old, "").1,
        ["spec.completions: Invalid value: 3: field is immutable"]
    );
}

#[test]
fn indexes_are_written_as_intervals() {
    let indexes: Indexes = [7, 1, 3, 4, 5, 9, 8].into_iter().collect();
    assert_eq!(indexes.to_string(), "1,3-5,7-9");
    assert_eq!((indexes.len(), indexes.contains(4), indexes.contains(6)), (7, true, false));
    assert_eq!(Indexes::parse("1,3-5,7-9", 10), Ok(indexes.clone()));
    assert_eq!(Indexes::parse_lenient("1,3-5,7-9", 5).to_string(), "1,3,4");
    assert_eq!(indexes.overlap(&[0, 5, 6].into_iter().collect()), Some(5));
    for (text, error) in [
        (
            "1-2-3",
            "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
        ),
        ("x", "cannot convert string to integer for index: \"x\""),
        ("10", "too large index: \"10\""),
        ("3,2", "non-increasing order, previous: 3, current: 2"),
        ("3-2", "non-increasing order, previous: 3, current: 2"),
    ] {
        assert_eq!(Indexes::parse(text, 10).unwrap_err().to_string(), error);
    }
}

proptest::proptest! {
    #[test]
    fn sets_of_indexes_survive_their_texts(list in proptest::collection::vec(0_i64..60, 0..40)) {
        let indexes: Indexes = list.iter().copied().collect();
        let mut sorted = list;
        sorted.sort_unstable();
        sorted.dedup();
        proptest::prop_assert_eq!(indexes.iter().collect::<Vec<_>>(), sorted);
        proptest::prop_assert_eq!(&Indexes::parse(&indexes.to_string(), 60).unwrap(), &indexes);
    }
}
