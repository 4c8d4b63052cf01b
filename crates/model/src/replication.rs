//! ReplicationControllers, which were there before ReplicaSets, and templates that stand alone.

use serde_json::Value;

use crate::workloads::{counts, default_template, name_warnings, replica_counts, start, unmatched};
use crate::{Context, FieldError, Strategy, lifecycle, names, pod_spec, selector::LabelSelector, wire};

/// The strategy of ReplicationControllers.
pub static REPLICATION_CONTROLLER: ReplicationController = ReplicationController;
/// The strategy of PodTemplates.
pub static POD_TEMPLATE: PodTemplate = PodTemplate;

/// See [`REPLICATION_CONTROLLER`].
#[derive(Clone, Copy, Debug)]
pub struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        let labels = wire::at(spec, &["template", "metadata", "labels"]).clone();
        if wire::is_empty(wire::at(spec, &["selector"])) && !labels.is_null() {
            wire::set(spec, "selector", labels.clone());
        }
        wire::default(spec, "replicas", 1);
        if wire::has(spec, "template") {
            default_template(spec);
        }
        let meta = wire::child(object, "metadata");
        if wire::is_empty(wire::at(meta, &["labels"])) && !labels.is_null() {
            wire::set(meta, "labels", labels);
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        start(new, &["replicas"]);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let mut errors = counts(spec, "spec", &["minReadySeconds"]);
        if wire::is_empty(wire::at(spec, &["selector"])) {
            errors.push(FieldError::required("spec.selector", ""));
        }
        errors.extend(counts(spec, "spec", &["replicas"]));
        errors.extend(validate_template(spec));
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let bounded = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            return replica_counts(new, &[], &bounded, "readyReplicas");
        }
        self.validate_create(new, cx)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        name_warnings(new, old)
    }

    fn orphans_dependents(&self) -> bool {
        true
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn validate_template(spec: &Value) -> Vec<FieldError> {
    let template = wire::at(spec, &["template"]);
    if template.is_null() {
        return vec![FieldError::required("spec.template", "")];
    }
    let mut errors = Vec::new();
    let labels = wire::at(template, &["metadata", "labels"]);
    let selector = LabelSelector::from_map(wire::at(spec, &["selector"]));
    if !selector.is_empty() && !selector.matches(labels) {
        errors.push(unmatched(labels));
    }
    errors.extend(pod_spec::validate_template(template, "spec.template"));
    let pod = wire::at(template, &["spec"]);
    let policy = wire::text(pod, "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if wire::has(pod, "activeDeadlineSeconds") {
        let text = "activeDeadlineSeconds in ReplicationController is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", text));
    }
    errors
}

/// See [`POD_TEMPLATE`].
#[derive(Clone, Copy, Debug)]
pub struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        default_template(object);
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        lifecycle::first_generation(new);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _cx: &Context<'_>) {
        if !wire::same(new, old, "template") {
            lifecycle::next_generation(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        pod_spec::validate_template(wire::at(new, &["template"]), "template")
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.validate_create(new, cx)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

#[cfg(test)]
mod tests;
