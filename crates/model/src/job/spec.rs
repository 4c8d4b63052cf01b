//! The errors of a Job's specification, on its own and as a change.

use serde_json::Value;

use super::policies;
use crate::workloads::{counts, unmatched};
use crate::{
    FieldError, meta, names, pod_spec,
    selector::{self, LabelSelector},
    wire,
};

/// Most pods at a time, and most failed indexes, of an Indexed Job.
const INDEXED_MAX: i64 = 100_000;
/// More completions than this bring the lower limits below with them.
const COMPLETIONS_SOFT: i64 = 100_000;
const LIMIT_WITH_MANY: i64 = 10_000;

/// The errors of a Job's specification with its selector.
pub(crate) fn validate_job_spec(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = validate_spec(spec, field);
    let object = wire::at(spec, &["selector"]);
    if object.is_null() {
        errors.push(FieldError::required(format!("{field}.selector"), ""));
    }
    errors.extend(selector::validate(object, &format!("{field}.selector")));
    let labels = wire::at(spec, &["template", "metadata", "labels"]);
    if LabelSelector::from_object(object).is_ok_and(|selector| !selector.matches(labels)) {
        errors.push(unmatched(labels));
    }
    errors
}

/// The errors of the specification in a CronJob, whose Jobs get a selector only when they are made.
pub(crate) fn validate_cron_job_template(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = validate_spec(spec, field);
    if wire::has(spec, "selector") {
        let selector = wire::at(spec, &["selector"]).clone();
        let text = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(format!("{field}.selector"), selector, text));
    }
    if wire::flag(spec, "manualSelector") {
        let field = format!("{field}.manualSelector");
        errors.push(FieldError::not_supported_in_order(field, true, &["nil", "false"]));
    }
    errors
}

fn validate_spec(spec: &Value, field: &str) -> Vec<FieldError> {
    let at = |key: &str| format!("{field}.{key}");
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    let mut errors = counts(spec, field, &numbers);
    if wire::has(spec, "maxFailedIndexes") && !wire::has(spec, "backoffLimitPerIndex") {
        let text = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(at("backoffLimitPerIndex"), text));
    }
    if wire::has(spec, "managedBy") {
        let (field, name) = (at("managedBy"), wire::text(spec, "managedBy"));
        errors.extend(names::domain_prefixed(&field, name));
        if name.len() > 63 {
            errors.push(meta::too_long(field, 63));
        }
    }
    errors.extend(validate_mode(spec, field));
    if wire::has(spec, "podFailurePolicy") {
        errors.extend(policies::validate_failure(spec, &at("podFailurePolicy")));
    }
    let policy = wire::at(spec, &["successPolicy"]);
    if !policy.is_null() && wire::text(spec, "completionMode") == "Indexed" {
        errors.extend(policies::validate_success(spec, &at("successPolicy")));
    } else if !policy.is_null() {
        let text = "requires indexed completion mode";
        errors.push(FieldError::invalid(at("successPolicy"), policy.clone(), text));
    }
    errors.extend(validate_replacement(spec, at("podReplacementPolicy")));
    errors.extend(pod_spec::validate_template(wire::at(spec, &["template"]), &at("template")));
    errors.extend(validate_restarts(spec, at("template.spec.restartPolicy")));
    errors
}

fn validate_replacement(spec: &Value, field: String) -> Option<FieldError> {
    let policy = wire::at(spec, &["podReplacementPolicy"]).as_str()?;
    let known: &[&str] =
        if wire::has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    (!known.contains(&policy)).then(|| FieldError::not_supported(field, policy, known))
}

fn validate_restarts(spec: &Value, field: String) -> Option<FieldError> {
    match wire::text(wire::at(spec, &["template", "spec"]), "restartPolicy") {
        "" | "Always" => Some(FieldError::required(field, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => None,
        "OnFailure" if wire::has(spec, "podFailurePolicy") => {
            let text = "only \"Never\" is supported when podFailurePolicy is specified";
            Some(FieldError::invalid(field, "OnFailure", text))
        }
        "OnFailure" => None,
        other => Some(FieldError::not_supported_in_order(field, other, &["OnFailure", "Never"])),
    }
}

fn validate_mode(spec: &Value, field: &str) -> Vec<FieldError> {
    let at = |key: &str| format!("{field}.{key}");
    let number = |key: &str| wire::int(spec, key);
    let mut errors = Vec::new();
    let mode = wire::text(spec, "completionMode");
    if wire::has(spec, "completionMode") && !matches!(mode, "NonIndexed" | "Indexed") {
        let known = ["NonIndexed", "Indexed"];
        errors.push(FieldError::not_supported_in_order(at("completionMode"), mode, &known));
    }
    if mode == "Indexed" {
        errors.extend(validate_indexed(spec, field));
    } else if matches!(mode, "" | "NonIndexed") {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = number(key) {
                errors.push(FieldError::invalid(at(key), value, "requires indexed completion mode"));
            }
        }
    }
    errors
}

fn validate_indexed(spec: &Value, field: &str) -> Vec<FieldError> {
    let at = |key: &str| format!("{field}.{key}");
    let number = |key: &str| wire::int(spec, key);
    let over = |key: &str, limit: i64, when: &str| {
        let value = number(key).filter(|value| *value > limit)?;
        let text = format!("must be less than or equal to {limit}{when}");
        Some(FieldError::invalid(at(key), value, text))
    };
    let mut errors = Vec::new();
    let (completions, failed) = (number("completions"), number("maxFailedIndexes"));
    if completions.is_none() {
        errors.push(FieldError::required(at("completions"), "when completion mode is Indexed"));
    }
    errors.extend(over("parallelism", INDEXED_MAX, " when completion mode is Indexed"));
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        let text = "must be less than or equal to completions";
        errors.push(FieldError::invalid(at("maxFailedIndexes"), failed, text));
    }
    errors.extend(over("maxFailedIndexes", INDEXED_MAX, ""));
    let many = completions.is_some_and(|count| count > COMPLETIONS_SOFT);
    if many && wire::has(spec, "backoffLimitPerIndex") {
        let when = " when completions are above 100000 and used with backoff limit per index";
        if failed.is_none() {
            let text = "must be specified when completions is above 100000";
            errors.push(FieldError::required(at("maxFailedIndexes"), text));
        }
        errors.extend(over("parallelism", LIMIT_WITH_MANY, when));
        errors.extend(over("maxFailedIndexes", LIMIT_WITH_MANY, when));
    }
    errors
}

/// Warnings about a Job's specification at `field`.
pub(crate) fn warnings(spec: &Value, field: &str) -> Vec<String> {
    let number = |key: &str| wire::int(spec, key).unwrap_or_default();
    let many = number("completions") > COMPLETIONS_SOFT && number("parallelism") > LIMIT_WITH_MANY;
    if wire::text(spec, "completionMode") != "Indexed" || !many {
        return Vec::new();
    }
    vec![format!(
        "{field}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
         Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
    )]
}

/// The errors of a change. Kubernetes checks the new specification once more here.
pub(super) fn validate_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new_spec, old_spec) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
    let fixed = |key: &str| {
        let value = wire::at(new_spec, &[key]).clone();
        let changed = !wire::same(new_spec, old_spec, key);
        changed.then(|| FieldError::invalid(format!("spec.{key}"), value, "field is immutable"))
    };
    let mut errors = validate_job_spec(new_spec, "spec");
    if wire::text(new_spec, "completionMode") != "Indexed" {
        errors.extend(fixed("completions"));
    } else if let Some(completions) =
        wire::int(new_spec, "completions").filter(|_| !wire::same(new_spec, old_spec, "completions"))
        && Some(completions) != wire::int(new_spec, "parallelism")
    {
        let text = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid("spec.completions", completions, text));
    }
    errors.extend(fixed("selector"));
    errors.extend(validate_template_change(new_spec, old));
    let keys = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
    errors.extend(keys.into_iter().filter_map(fixed));
    errors
}

/// The template may change in parts, and only while nothing runs of it: where pods go, and what they get.
fn validate_template_change(new: &Value, old: &Value) -> Option<FieldError> {
    let old_spec = wire::at(old, &["spec"]);
    let status = wire::at(old, &["status"]);
    let is_suspended = wire::list(status, "conditions")
        .iter()
        .any(|one| wire::text(one, "type") == "Suspended" && wire::text(one, "status") == "True");
    let idle = (!wire::has(status, "startTime") || is_suspended)
        && wire::int(status, "active").unwrap_or_default() == 0;
    let movable = wire::flag(old_spec, "suspend") && idle;
    let template = wire::at(new, &["template"]);
    let mut munged = template.clone();
    let before = wire::at(old_spec, &["template"]);
    if movable {
        for key in ["annotations", "labels"] {
            wire::copy(wire::child(&mut munged, "metadata"), wire::at(before, &["metadata"]), key);
        }
        let (pod, old_pod) = (wire::child(&mut munged, "spec"), wire::at(before, &["spec"]));
        for key in ["nodeSelector", "tolerations", "schedulingGates"] {
            wire::copy(pod, old_pod, key);
        }
        let affinity = wire::child(pod, "affinity");
        wire::copy(affinity, wire::at(old_pod, &["affinity"]), "nodeAffinity");
        if wire::is_empty(affinity) && !wire::has(old_pod, "affinity") {
            wire::remove(pod, "affinity");
        }
        for list in ["containers", "initContainers"] {
            for (container, old) in wire::items_mut(pod, list).zip(wire::list(old_pod, list)) {
                if wire::text(container, "name") == wire::text(old, "name") {
                    wire::copy(container, old, "resources");
                }
            }
        }
    }
    if munged == *before {
        return None;
    }
    let (field, shown) = if movable {
        ("spec.template.spec", wire::at(template, &["spec"]))
    } else {
        ("spec.template", template)
    };
    Some(FieldError::invalid(field, shown.clone(), "field is immutable"))
}
