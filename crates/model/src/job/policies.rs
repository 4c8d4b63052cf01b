//! The errors of a Job's policies: what pods fail for, and when enough of them have succeeded.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Indexes;
use crate::workloads::counts;
use crate::{FieldError, meta, names, wire};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const INDEXES_LENGTH_MAX: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// The errors of a `podFailurePolicy` at `field`.
pub(super) fn validate_failure(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rules = wire::list(wire::at(spec, &["podFailurePolicy"]), "rules");
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(format!("{field}.rules"), rules.len(), RULES_MAX));
    }
    let pod = wire::at(spec, &["template", "spec"]);
    let containers: BTreeSet<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| wire::list(pod, list))
        .map(|container| wire::text(container, "name"))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        errors.extend(validate_rule(spec, rule, &format!("{field}.rules[{index}]"), &containers));
    }
    errors
}

/// A required value of a fixed set, with Kubernetes' words for one that is missing.
fn known(value: &str, field: String, values: &[&str]) -> Option<FieldError> {
    match value {
        "" => {
            let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            Some(FieldError::required(field, format!("valid values: [{}]", quoted.join(" "))))
        }
        value if values.contains(&value) => None,
        value => Some(FieldError::not_supported(field, value, values)),
    }
}

fn validate_rule(spec: &Value, rule: &Value, field: &str, containers: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let action = wire::text(rule, "action");
    let at = format!("{field}.action");
    if action != "FailIndex" {
        errors.extend(known(action, at, &ACTIONS));
    } else if !wire::has(spec, "backoffLimitPerIndex") {
        errors.push(FieldError::invalid(at, action, "requires the backoffLimitPerIndex to be set"));
    }
    let codes = wire::at(rule, &["onExitCodes"]);
    if !codes.is_null() {
        errors.extend(validate_exit_codes(codes, &format!("{field}.onExitCodes"), containers));
    }
    let conditions = wire::list(rule, "onPodConditions");
    errors.extend(validate_conditions(conditions, &format!("{field}.onPodConditions")));
    let text = match (codes.is_null(), conditions.is_empty()) {
        (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return errors,
    };
    errors.push(FieldError::invalid(field, Value::Null, text).without_value());
    errors
}

fn validate_conditions(conditions: &[Value], field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(field, conditions.len(), CONDITIONS_MAX));
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let field = format!("{field}[{index}]");
        errors.extend(names::check(
            names::qualified_name,
            format!("{field}.type"),
            wire::text(pattern, "type"),
        ));
        errors.extend(known(wire::text(pattern, "status"), format!("{field}.status"), &STATUSES));
    }
    errors
}

fn validate_exit_codes(codes: &Value, field: &str, containers: &BTreeSet<&str>) -> Vec<FieldError> {
    let operator = wire::text(codes, "operator");
    let mut errors: Vec<_> = known(operator, format!("{field}.operator"), &OPERATORS).into_iter().collect();
    let name = wire::text(codes, "containerName");
    if wire::has(codes, "containerName") && !containers.contains(name) {
        let text = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(format!("{field}.containerName"), name, text));
    }
    let at = format!("{field}.values");
    let all = wire::at(codes, &["values"]);
    let values: Vec<i64> = wire::list(codes, "values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(FieldError::invalid(at.as_str(), all.clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(at.as_str(), values.len(), EXIT_CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    for (index, code) in values.iter().enumerate() {
        let field = format!("{at}[{index}]");
        if operator == "In" && *code == 0 {
            let text = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(field.as_str(), *code, text));
        }
        if !seen.insert(code) {
            errors.push(FieldError::duplicate(field, *code));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(at, all.clone(), "must be ordered"));
    }
    errors
}

/// The errors of a `successPolicy` at `field`, in an Indexed Job.
pub(super) fn validate_success(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = format!("{field}.rules");
    let rules = wire::list(wire::at(spec, &["successPolicy"]), "rules");
    if rules.is_empty() {
        let text = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(at.as_str(), text));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(at.as_str(), rules.len(), RULES_MAX));
    }
    let completions = wire::int(spec, "completions").unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        errors.extend(validate_success_rule(rule, &format!("{at}[{index}]"), completions));
    }
    errors
}

fn validate_success_rule(rule: &Value, field: &str, completions: i64) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (count, indexes) =
        (wire::int(rule, "succeededCount"), wire::at(rule, &["succeededIndexes"]).as_str());
    if count.is_none() && indexes.is_none() {
        let text = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(field, text));
    }
    let mut total = 0;
    if let Some(text) = indexes {
        let at = format!("{field}.succeededIndexes");
        if text.len() > INDEXES_LENGTH_MAX {
            errors.push(meta::too_long(at.as_str(), INDEXES_LENGTH_MAX));
        }
        match Indexes::parse(text, completions) {
            Ok(indexes) => total = indexes.len(),
            Err(error) => {
                let detail = format!("error parsing succeededIndexes: {error}");
                errors.push(FieldError::invalid(at, text, detail));
            }
        }
    }
    if let Some(count) = count {
        let at = format!("{field}.succeededCount");
        errors.extend(counts(rule, field, &["succeededCount"]));
        let mut at_most = |limit: i64, what: &str| {
            if count > limit {
                let text = format!("must be less than or equal to {limit} ({what})");
                errors.push(FieldError::invalid(at.as_str(), count, text));
            }
        };
        at_most(completions, "the number of specified completions");
        if indexes.is_some() {
            at_most(total, "the number of indexes in the specified succeededIndexes field");
        }
    }
    errors
}
