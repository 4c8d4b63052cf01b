//! How workloads replace their pods: numbers or percentages of them at a time.

use serde_json::{Value, json};

use crate::{FieldError, names, wire};

/// `RollingUpdate`, a quarter at a time.
pub(super) fn default_deployment_strategy(strategy: &mut Value) {
    wire::default_zero(strategy, "type", "RollingUpdate");
    if wire::text(strategy, "type") == "RollingUpdate" {
        let update = wire::child(strategy, "rollingUpdate");
        wire::default(update, "maxUnavailable", "25%");
        wire::default(update, "maxSurge", "25%");
    }
}

/// `RollingUpdate`, one at a time.
pub(super) fn default_daemon_set_strategy(strategy: &mut Value) {
    wire::default_zero(strategy, "type", "RollingUpdate");
    if wire::text(strategy, "type") == "RollingUpdate" {
        let update = wire::child(strategy, "rollingUpdate");
        wire::default(update, "maxUnavailable", 1);
        wire::default(update, "maxSurge", 0);
    }
}

pub(super) fn validate_deployment_strategy(strategy: &Value) -> Vec<FieldError> {
    let update = wire::at(strategy, &["rollingUpdate"]);
    match wire::text(strategy, "type") {
        "Recreate" if update.is_null() => Vec::new(),
        "Recreate" => {
            let text = "may not be specified when strategy `type` is 'Recreate'";
            vec![FieldError::forbidden("spec.strategy.rollingUpdate", text)]
        }
        "RollingUpdate" => {
            const UNAVAILABLE: &str = "spec.strategy.rollingUpdate.maxUnavailable";
            let (unavailable, surge) =
                (wire::at(update, &["maxUnavailable"]), wire::at(update, &["maxSurge"]));
            let mut errors = amount_errors(unavailable, UNAVAILABLE);
            errors.extend(amount_errors(surge, "spec.strategy.rollingUpdate.maxSurge"));
            if amount(unavailable) == 0 && amount(surge) == 0 {
                let text = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(UNAVAILABLE, unavailable.clone(), text));
            }
            errors.extend(at_most_all(unavailable, UNAVAILABLE));
            errors
        }
        _ => vec![unknown(strategy, "spec.strategy", &["Recreate", "RollingUpdate"])],
    }
}

pub(super) fn validate_daemon_set_strategy(strategy: &Value) -> Vec<FieldError> {
    let update = wire::at(strategy, &["rollingUpdate"]);
    match wire::text(strategy, "type") {
        "OnDelete" => Vec::new(),
        "RollingUpdate" => {
            const UNAVAILABLE: &str = "spec.updateStrategy.rollingUpdate.maxUnavailable";
            const SURGE: &str = "spec.updateStrategy.rollingUpdate.maxSurge";
            let (unavailable, surge) =
                (wire::at(update, &["maxUnavailable"]), wire::at(update, &["maxSurge"]));
            let mut errors = amount_errors(unavailable, UNAVAILABLE);
            errors.extend(amount_errors(surge, SURGE));
            errors.extend(at_most_all(unavailable, UNAVAILABLE));
            errors.extend(at_most_all(surge, SURGE));
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => {
                    let text = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(SURGE, surge.clone(), text));
                }
                (false, false) => {
                    errors.push(FieldError::required(UNAVAILABLE, "cannot be 0 when maxSurge is 0"));
                }
                _ => {}
            }
            errors
        }
        _ => vec![unknown(strategy, "spec.updateStrategy", &["RollingUpdate", "OnDelete"])],
    }
}

/// Kubernetes prints the strategy's internal form here.
fn unknown(strategy: &Value, field: &str, known: &[&str]) -> FieldError {
    let shown = json!({ "Type": wire::text(strategy, "type"), "RollingUpdate": wire::at(strategy, &["rollingUpdate"]) });
    FieldError::not_supported_in_order(field, shown, known)
}

/// A number as it is, a percentage without its sign.
pub(crate) fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => text.strip_suffix('%').unwrap_or(text).parse().unwrap_or_default(),
        value => value.as_i64().unwrap_or_default(),
    }
}

pub(crate) fn amount_errors(value: &Value, field: &str) -> Vec<FieldError> {
    match value {
        Value::String(text) => {
            let problems = names::percentage(text).into_iter();
            problems.map(|problem| FieldError::invalid(field, text.as_str(), problem)).collect()
        }
        value if value.as_i64().is_some_and(|number| number < 0) => {
            vec![FieldError::invalid(field, value.clone(), "must be greater than or equal to 0")]
        }
        _ => Vec::new(),
    }
}

pub(crate) fn at_most_all(value: &Value, field: &str) -> Option<FieldError> {
    let text = value.as_str().filter(|text| names::percentage(text).is_empty())?;
    (amount(value) > 100).then(|| FieldError::invalid(field, text, "must not be greater than 100%"))
}
