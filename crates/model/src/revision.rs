//! ControllerRevisions: what a workload was, and never changes again.

use serde_json::Value;

use crate::meta::Checks;
use crate::workloads::counts;
use crate::{Context, FieldError, Strategy, names, wire};

/// The strategy of ControllerRevisions.
pub static CONTROLLER_REVISION: ControllerRevision = ControllerRevision;

/// See [`CONTROLLER_REVISION`].
#[derive(Clone, Copy, Debug)]
pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn default(&self, object: &mut Value) {
        // Told also where it is zero.
        wire::default(object, "revision", 0);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = revision(new);
        match wire::at(new, &["data"]) {
            Value::Object(_) => {}
            Value::Null => errors.push(FieldError::required("data", "data is mandatory")),
            _ => errors.push(FieldError::required("data", "data must be a valid JSON object")),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = revision(new);
        if !wire::same(new, old, "data") {
            let data = wire::at(new, &["data"]).clone();
            errors.push(FieldError::invalid("data", data, "field is immutable"));
        }
        errors
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn revision(object: &Value) -> Vec<FieldError> {
    let mut errors = counts(object, "", &["revision"]);
    errors.iter_mut().for_each(|error| error.field = "revision".to_owned());
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{created, updated};

    #[test]
    fn revisions_never_change() {
        let object = |data: Value, revision: i64| json!({"data": data, "revision": revision});
        assert!(created(&CONTROLLER_REVISION, object(json!({"a": 1}), 1)).1.is_empty());
        assert_eq!(
            created(&CONTROLLER_REVISION, json!({"revision": -1})).1,
            [
                "revision: Invalid value: -1: must be greater than or equal to 0",
                "data: Required value: data is mandatory",
            ]
        );
        assert_eq!(
            created(&CONTROLLER_REVISION, object(json!([]), 1)).1,
            ["data: Required value: data must be a valid JSON object"]
        );
        let old = object(json!({"a": 1}), 1);
        assert!(updated(&CONTROLLER_REVISION, object(json!({"a": 1}), 2), &old, "").1.is_empty());
        assert_eq!(
            updated(&CONTROLLER_REVISION, object(json!({"a": 2}), 1), &old, "").1,
            ["data: Invalid value: {\"a\":2}: field is immutable"]
        );
    }
}
