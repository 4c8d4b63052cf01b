//! Label selectors (J54) and field selectors (J53): parsing and matching.

mod field;
mod label;

pub use field::{FieldSelector, FieldTerm};
pub use label::{LabelSelector, Operator, Requirement};

use serde_json::Value;

use crate::{FieldError, meta, names, wire};

/// Why a selector can't be understood; the text is the one Kubernetes answers with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

/// The errors of a `LabelSelector` object at `field`; absent is fine.
pub fn validate(object: &Value, field: &str) -> Vec<FieldError> {
    let mut errors =
        meta::validate_labels(wire::at(object, &["matchLabels"]), &format!("{field}.matchLabels"));
    for (index, expression) in wire::list(object, "matchExpressions").iter().enumerate() {
        errors.extend(validate_expression(expression, &format!("{field}.matchExpressions[{index}]")));
    }
    errors
}

fn validate_expression(expression: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (operator, key) = (wire::text(expression, "operator"), wire::text(expression, "key"));
    let values = format!("{field}.values");
    let empty = wire::list(expression, "values").is_empty();
    match operator {
        "In" | "NotIn" if empty => {
            let text = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&values, text));
        }
        "Exists" | "DoesNotExist" if !empty => {
            let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values, text));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => {
            let text = "not a valid selector operator";
            errors.push(FieldError::invalid(format!("{field}.operator"), operator, text));
        }
    }
    let problems = names::qualified_name(key).into_iter();
    errors.extend(problems.map(|text| FieldError::invalid(format!("{field}.key"), key, text)));
    for (index, value) in wire::texts(expression, "values").enumerate() {
        let problems = names::label_value(value).into_iter();
        errors.extend(problems.map(|text| FieldError::invalid(format!("{values}[{index}]"), value, text)));
    }
    errors
}

#[cfg(test)]
mod tests;
