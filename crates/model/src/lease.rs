//! Leases.

use serde_json::Value;

use crate::meta::Checks;
use crate::{Context, FieldError, Strategy, names, wire};

/// The strategy of Leases.
pub static LEASE: Lease = Lease;

/// See [`LEASE`].
#[derive(Clone, Copy, Debug)]
pub struct Lease;

impl Lease {
    fn clean(object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            // Coordinated leader election is an alpha feature and off.
            wire::remove(spec, "strategy");
            wire::remove(spec, "preferredHolder");
        }
    }
}

impl Strategy for Lease {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        Self::clean(new);
    }

    fn prepare_update(&self, new: &mut Value, _old: &Value, _cx: &Context<'_>) {
        Self::clean(new);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let mut errors = Vec::new();
        if let Some(seconds) = wire::int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"));
        }
        if let Some(count) = wire::int(spec, "leaseTransitions").filter(|count| *count < 0) {
            errors.push(FieldError::invalid(
                "spec.leaseTransitions",
                count,
                "must be greater than or equal to 0",
            ));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.validate_create(new, cx)
    }

    /// Leases are held by whoever wrote them last, and so nobody writes one without having read it.
    fn unconditional_update(&self) -> bool {
        false
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks { finalizers: false, ..Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::created;

    #[test]
    fn durations_are_positive() {
        assert!(
            created(&LEASE, json!({"spec": {"leaseDurationSeconds": 40, "leaseTransitions": 0}}))
                .1
                .is_empty()
        );
        let (lease, errors) = created(
            &LEASE,
            json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "strategy": "OldestEmulationVersion"}}),
        );
        assert_eq!(
            errors,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
        assert!(lease["spec"].get("strategy").is_none());
    }
}
