//! Namespaces (J52).

use serde_json::{Value, json};

use crate::meta::Checks;
use crate::{Context, FieldError, Strategy, names, wire};

/// The strategy of Namespaces.
pub static NAMESPACE: Namespace = Namespace;

/// See [`NAMESPACE`].
#[derive(Clone, Copy, Debug)]
pub struct Namespace;

/// The label every Namespace carries its name in.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

impl Namespace {
    fn label(object: &mut Value) {
        let meta = wire::child(object, "metadata");
        let name = wire::text(meta, "name").to_owned();
        if !name.is_empty() {
            wire::set(wire::child(meta, "labels"), NAME_LABEL, name);
        }
    }

    fn finalizers(object: &Value, field: impl Fn(usize) -> String) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, finalizer) in wire::texts(wire::at(object, &["spec"]), "finalizers").enumerate() {
            let problems = names::qualified_name(finalizer);
            errors
                .extend(problems.into_iter().map(|text| FieldError::invalid(field(index), finalizer, text)));
            if !finalizer.contains('/') && !matches!(finalizer, FINALIZER | "foregroundDeletion" | "orphan") {
                let text = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(field(index), finalizer, text));
            }
        }
        errors
    }
}

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        Self::label(object);
        wire::default_zero(wire::child(object, "status"), "phase", "Active");
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        // A generated name comes after defaulting.
        Self::label(new);
        wire::set(new, "status", json!({ "phase": "Active" }));
        let spec = wire::child(new, "spec");
        if !wire::texts(spec, "finalizers").any(|finalizer| finalizer == FINALIZER) {
            let mut finalizers = wire::list(spec, "finalizers").to_vec();
            finalizers.push(FINALIZER.into());
            wire::set(spec, "finalizers", finalizers);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        match cx.subresource {
            "status" => wire::copy(new, old, "spec"),
            "finalize" => wire::copy(new, old, "status"),
            _ => {
                wire::copy(new, old, "status");
                wire::copy(new, old, "spec");
                Self::label(new);
            }
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        Self::finalizers(new, |_| "spec.finalizers".to_owned())
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        match cx.subresource {
            "status" => {
                let phase = wire::text(wire::at(new, &["status"]), "phase");
                let deleted = wire::has(wire::at(new, &["metadata"]), "deletionTimestamp");
                let (wanted, condition) =
                    if deleted { ("Terminating", "is not empty") } else { ("Active", "is empty") };
                if phase == wanted {
                    return Vec::new();
                }
                let text = format!("may only be '{wanted}' if `deletionTimestamp` {condition}");
                vec![FieldError::invalid("status.Phase", phase, text)]
            }
            "finalize" => Self::finalizers(new, |index| format!("spec.finalizers[{index}]")),
            _ => Self::finalizers(new, |_| "spec.finalizers".to_owned()),
        }
    }

    fn meta_checks(&self, cx: &Context<'_>) -> Checks {
        if cx.subresource.is_empty() { Checks::WHOLE_AND_CHANGE } else { Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, updated};

    #[test]
    fn a_namespace_is_labelled_active_and_finalized() {
        let (namespace, errors) =
            created(&NAMESPACE, json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}));
        assert!(errors.is_empty());
        let wanted = json!({"metadata": {"name": "a", "labels": {NAME_LABEL: "a"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        assert_eq!(namespace, wanted, "J52");
    }

    #[test]
    fn its_halves_have_their_own_endpoints() {
        let old = json!({"metadata": {"name": "a", "labels": {NAME_LABEL: "a"}}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}});
        let change = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Terminating"}});
        let (main, errors) = updated(&NAMESPACE, change.clone(), &old, "");
        assert_eq!((main, errors), (old.clone(), vec![]), "J52: main endpoint keeps spec, status and label");
        let (finalized, errors) = updated(&NAMESPACE, change.clone(), &old, "finalize");
        assert!(errors.is_empty());
        assert_eq!(finalized["spec"], json!({}), "J52: /finalize writes spec.finalizers");
        let (_, errors) = updated(&NAMESPACE, change, &old, "status");
        assert_eq!(
            errors,
            [
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
            ]
        );
    }

    #[test]
    fn names_are_labels() {
        assert!(!NAMESPACE.validate_name("a.b").is_empty());
        assert!(NAMESPACE.warnings(&json!({}), None, &context("")).is_empty());
    }
}
