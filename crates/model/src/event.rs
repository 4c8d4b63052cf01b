//! Events, of the core group and of `events.k8s.io`.

use serde_json::Value;

use crate::meta::Checks;
use crate::{Context, FieldError, Strategy, names, wire};

/// The strategy of core Events.
pub static CORE_EVENT: Event = Event { strict: false };
/// The strategy of `events.k8s.io` Events.
pub static EVENT: Event = Event { strict: true };

/// Longest reason, action and reporting instance, in bytes.
const SHORT_MAX: usize = 128;
/// Longest message, in bytes.
const MESSAGE_MAX: usize = 1024;

/// See [`CORE_EVENT`] and [`EVENT`], which have other names for some fields.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Whether it is the newer API, which lets less pass.
    strict: bool,
}

impl Event {
    /// The field of this API for one the other calls by its core name.
    fn field(&self, core: &'static str) -> &'static str {
        match (self.strict, core) {
            (true, "involvedObject") => "regarding",
            (true, "reportingComponent") => "reportingController",
            (true, "message") => "note",
            (true, "firstTimestamp") => "deprecatedFirstTimestamp",
            (true, "lastTimestamp") => "deprecatedLastTimestamp",
            (true, "count") => "deprecatedCount",
            (true, "source") => "deprecatedSource",
            (_, core) => core,
        }
    }

    fn common(&self, new: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let namespace = wire::text(wire::at(new, &["metadata"]), "namespace");
        let involved = wire::text(wire::at(new, &[self.field("involvedObject")]), "namespace");
        let mut mismatch = || {
            let text = "does not match event.namespace";
            errors.push(FieldError::invalid("involvedObject.namespace", involved, text));
        };
        if !wire::has(new, "eventTime") {
            match involved {
                "" if matches!(namespace, "" | "default") => {}
                involved if involved == namespace => {}
                _ => mismatch(),
            }
            return errors;
        }
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            mismatch();
        }
        let component_field = if self.strict { "reportingController" } else { "reportingComponent" };
        let component = wire::text(new, self.field("reportingComponent"));
        if component.is_empty() {
            errors.push(FieldError::required(component_field, ""));
        }
        let problems = names::qualified_name(component).into_iter();
        errors.extend(problems.map(|text| FieldError::invalid(component_field, component, text)));
        for key in ["reportingInstance", "action", "reason", "message"] {
            let length = wire::text(new, self.field(key)).len();
            let limit = if key == "message" { MESSAGE_MAX } else { SHORT_MAX };
            if length == 0 && key != "message" {
                errors.push(FieldError::required(key, ""));
            }
            if length > limit {
                errors.push(FieldError::invalid(key, "", format!("can have at most {limit} characters")));
            }
        }
        errors
    }

    fn series(new: &Value) -> Vec<FieldError> {
        let series = wire::at(new, &["series"]);
        let mut errors = Vec::new();
        if series.is_object() {
            if wire::int(series, "count").unwrap_or_default() < 2 {
                errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
            }
            if !wire::has(series, "lastObservedTime") {
                errors.push(FieldError::required("series.lastObservedTime", ""));
            }
        }
        errors
    }
}

impl Strategy for Event {
    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.common(new);
        if !self.strict {
            return errors;
        }
        errors.extend(Self::series(new));
        if !wire::has(new, "eventTime") {
            errors.push(FieldError::required("eventTime", ""));
        }
        let kind = wire::text(new, "type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
        }
        for key in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            if !wire::is_empty(wire::at(new, &[self.field(key)])) {
                errors.push(FieldError::invalid(key, "", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.common(new);
        if !self.strict {
            return errors;
        }
        if !wire::same(new, old, "series") {
            errors.extend(Self::series(new));
        }
        let kept = [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ];
        for key in kept {
            let wire_key = self.field(key);
            if !wire::same(new, old, wire_key) {
                let shown = if key == "reportingComponent" { "reportingController" } else { key };
                let value = wire::at(new, &[wire_key]).clone();
                errors.push(FieldError::invalid(shown, value, "field is immutable"));
            }
        }
        errors
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        // Events of the core group are checked like every kind and no more.
        if self.strict { Checks::CHANGE } else { Checks::NONE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        if self.strict { names::dns1123_subdomain(name) } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{created, updated};

    #[test]
    fn core_events_belong_to_their_objects_namespace() {
        let event = |involved: &str| json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": involved}});
        assert_eq!(created(&CORE_EVENT, event("a")).1, Vec::<String>::new());
        for involved in ["b", ""] {
            let wanted = format!(
                "involvedObject.namespace: Invalid value: {involved:?}: does not match event.namespace"
            );
            assert_eq!(created(&CORE_EVENT, event(involved)).1, [wanted]);
        }
    }

    #[test]
    fn newer_events_are_complete_and_stay() {
        let event = json!({"metadata": {"namespace": "a"}, "regarding": {"namespace": "a"}, "type": "Normal", "note": "n",
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i", "action": "x",
            "reason": "r"});
        assert_eq!(created(&EVENT, event.clone()).1, Vec::<String>::new());
        let mut incomplete = event.clone();
        incomplete["action"] = json!("");
        incomplete["deprecatedCount"] = json!(1);
        assert_eq!(
            created(&EVENT, incomplete).1,
            ["action: Required value", "count: Invalid value: \"\": needs to be unset"]
        );
        let mut changed = event.clone();
        changed["note"] = json!("m");
        changed["series"] = json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"});
        assert_eq!(
            updated(&EVENT, changed, &event, "").1,
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "message: Invalid value: \"m\": field is immutable",
            ]
        );
    }
}
