use serde_json::{Value, json};

use super::CRON_JOB;
use crate::testing::{created, updated};

fn cron_job(name: &str, spec: Value) -> Value {
    let mut all = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
        "restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i", "terminationMessagePolicy": "File"}]}}}}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": all})
}

#[test]
fn errors_are_those_of_kubernetes() {
    let new = created(&CRON_JOB, cron_job("c", json!({})));
    assert_eq!(new.1, Vec::<String>::new());
    assert_eq!(new.0["spec"]["successfulJobsHistoryLimit"], 3);
    #[rustfmt::skip]
    let rows = [
        (json!({"schedule": ""}), vec!["spec.schedule: Required value"]),
        (json!({"schedule": "TZ=UTC * * * * *"}), vec!["spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"]),
        (json!({"timeZone": "Europe/Berlin"}), vec![]),
        (json!({"timeZone": "Europe/Bärlin"}), vec!["spec.timeZone: Invalid value: \"Europe/Bärlin\": unknown time zone Europe/Bärlin"]),
        (json!({"timeZone": "Mars"}), vec!["spec.timeZone: Invalid value: \"Mars\": unknown time zone Mars"]),
        (json!({"timeZone": ""}), vec!["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"]),
        (json!({"concurrencyPolicy": "x"}), vec!["spec.concurrencyPolicy: Unsupported value: \"x\": supported values: \"Allow\", \"Forbid\", \"Replace\""]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&CRON_JOB, cron_job("c", spec.clone())).1, wanted, "{spec}");
    }
    let long = "a".repeat(53);
    assert!(
        created(&CRON_JOB, cron_job(&long, json!({}))).1[0].ends_with("must be no more than 52 characters")
    );
    assert!(updated(&CRON_JOB, cron_job(&long, json!({})), &new.0, "").1.is_empty(), "older ones may stay");
}
