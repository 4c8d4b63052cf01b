//! Deployments, ReplicaSets and DaemonSets: defaults, generations and what may not change.

pub(crate) mod rollout;

use serde_json::{Value, json};

use crate::{
    Context, FieldError, Strategy, lifecycle, names, pod_spec,
    selector::{self, LabelSelector},
    wire,
};

/// The strategy of Deployments.
pub static DEPLOYMENT: Deployment = Deployment;
/// The strategy of ReplicaSets.
pub static REPLICA_SET: ReplicaSet = ReplicaSet;
/// The strategy of DaemonSets.
pub static DAEMON_SET: DaemonSet = DaemonSet;

/// Where a DaemonSet carries the number of changes of its template.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// See [`DEPLOYMENT`].
#[derive(Clone, Copy, Debug)]
pub struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        wire::default(spec, "replicas", 1);
        rollout::default_deployment_strategy(wire::child(spec, "strategy"));
        wire::default(spec, "revisionHistoryLimit", 10);
        wire::default(spec, "progressDeadlineSeconds", 600);
        default_template(spec);
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        start(new, &[]);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            let annotations = ["metadata", "annotations"];
            if !wire::same(new, old, "spec") || wire::at(new, &annotations) != wire::at(old, &annotations) {
                lifecycle::next_generation(new, old);
            }
        } else {
            wire::copy(wire::child(new, "metadata"), wire::at(old, &["metadata"]), "labels");
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let mut errors = counts(spec, "spec", &["replicas"]);
        errors.extend(required_selector(spec));
        errors.extend(template(spec, "ReplicaSet"));
        errors.extend(rollout::validate_deployment_strategy(wire::at(spec, &["strategy"])));
        errors.extend(counts(
            spec,
            "spec",
            &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        ));
        if let Some(deadline) = wire::int(spec, "progressDeadlineSeconds")
            && deadline <= wire::int(spec, "minReadySeconds").unwrap_or_default()
        {
            let text = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, text));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let bounded = ["updatedReplicas", "readyReplicas", "availableReplicas"];
            let mut errors = replica_counts(new, &["unavailableReplicas"], &bounded, "readyReplicas");
            errors.extend(collisions(new, old));
            return errors;
        }
        let mut errors = self.validate_create(new, cx);
        errors.extend(same_selector(new, old));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        name_warnings(new, old)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// See [`REPLICA_SET`].
#[derive(Clone, Copy, Debug)]
pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        wire::default(spec, "replicas", 1);
        default_template(spec);
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
        let mut errors = counts(spec, "spec", &["replicas", "minReadySeconds"]);
        errors.extend(required_selector(spec));
        errors.extend(template(spec, "ReplicaSet"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let bounded = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
            return replica_counts(new, &[], &bounded, "readyReplicas");
        }
        let mut errors = self.validate_create(new, cx);
        errors.extend(same_selector(new, old));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        name_warnings(new, old)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// See [`DAEMON_SET`].
#[derive(Clone, Copy, Debug)]
pub struct DaemonSet;

impl DaemonSet {
    fn template_generation(object: &Value) -> i64 {
        let annotations = wire::at(object, &["metadata", "annotations"]);
        wire::text(annotations, TEMPLATE_GENERATION).parse().unwrap_or_default()
    }

    fn set_template_generation(object: &mut Value, generation: i64) {
        let annotations = wire::child(wire::child(object, "metadata"), "annotations");
        wire::set(annotations, TEMPLATE_GENERATION, generation.to_string());
    }
}

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        rollout::default_daemon_set_strategy(wire::child(spec, "updateStrategy"));
        wire::default(spec, "revisionHistoryLimit", 10);
        default_template(spec);
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        let zeros = ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"];
        start(new, &zeros);
        let generation = Self::template_generation(new).max(1);
        Self::set_template_generation(new, generation);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        let mut generation = Self::template_generation(old);
        if lifecycle::keep_other_half(new, old, cx) {
            if wire::at(new, &["spec", "template"]) != wire::at(old, &["spec", "template"]) {
                generation += 1;
            }
            lifecycle::next_generation_if_spec_changed(new, old);
        }
        Self::set_template_generation(new, generation);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let object = wire::at(spec, &["selector"]);
        let mut errors = selector::validate(object, "spec.selector");
        let labels = wire::at(spec, &["template", "metadata", "labels"]);
        if LabelSelector::from_object(object).is_ok_and(|selector| !selector.matches(labels)) {
            errors.push(unmatched(labels));
        }
        if object.is_object() && is_empty_selector(object) {
            let text = "empty selector is invalid for daemonset";
            errors.push(FieldError::invalid("spec.selector", object.clone(), text));
        }
        errors.extend(template_contents(spec, "DaemonSet"));
        errors.extend(counts(spec, "spec", &["minReadySeconds"]));
        errors.extend(rollout::validate_daemon_set_strategy(wire::at(spec, &["updateStrategy"])));
        errors.extend(counts(spec, "spec", &["revisionHistoryLimit"]));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let mut errors = counts(
                wire::at(new, &["status"]),
                "status",
                &[
                    "currentNumberScheduled",
                    "numberMisscheduled",
                    "desiredNumberScheduled",
                    "numberReady",
                    "observedGeneration",
                    "updatedNumberScheduled",
                    "numberAvailable",
                    "numberUnavailable",
                    "collisionCount",
                ],
            );
            errors.extend(collisions(new, old));
            return errors;
        }
        let mut errors = same_selector(new, old);
        errors.extend(self.validate_create(new, cx));
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

pub(crate) fn default_template(spec: &mut Value) {
    let template = wire::child(spec, "template");
    wire::default(template, "metadata", json!({}));
    pod_spec::default_pod_spec(wire::child(template, "spec"));
}

/// A new object has no status yet, save for zeros that are always told, and the first generation.
pub(crate) fn start(new: &mut Value, zeros: &[&str]) {
    let status: serde_json::Map<_, _> = zeros.iter().map(|key| ((*key).to_owned(), json!(0))).collect();
    wire::set(new, "status", status);
    lifecycle::first_generation(new);
}

/// Fields that must not be negative.
pub(crate) fn counts(object: &Value, path: &str, keys: &[&str]) -> Vec<FieldError> {
    let negative =
        keys.iter().filter_map(|key| Some((key, wire::int(object, key).filter(|count| *count < 0)?)));
    negative
        .map(|(key, count)| {
            FieldError::invalid(format!("{path}.{key}"), count, "must be greater than or equal to 0")
        })
        .collect()
}

pub(crate) fn is_empty_selector(object: &Value) -> bool {
    wire::entries(object, "matchLabels").next().is_none() && wire::list(object, "matchExpressions").is_empty()
}

fn required_selector(spec: &Value) -> Vec<FieldError> {
    let object = wire::at(spec, &["selector"]);
    if object.is_null() {
        return vec![FieldError::required("spec.selector", "")];
    }
    let mut errors = selector::validate(object, "spec.selector");
    if is_empty_selector(object) {
        let text = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid("spec.selector", object.clone(), text));
    }
    errors
}

pub(crate) fn same_selector(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
    if wire::same(new, old, "selector") {
        return Vec::new();
    }
    vec![FieldError::invalid("spec.selector", wire::at(new, &["selector"]).clone(), "field is immutable")]
}

pub(crate) fn unmatched(labels: &Value) -> FieldError {
    let text = "`selector` does not match template `labels`";
    FieldError::invalid("spec.template.metadata.labels", labels.clone(), text)
}

/// The template of what has a required selector.
fn template(spec: &Value, owner: &str) -> Vec<FieldError> {
    let object = wire::at(spec, &["selector"]);
    let Ok(selector) = LabelSelector::from_object(object) else {
        return vec![FieldError::invalid("spec.selector", object.clone(), "invalid label selector")];
    };
    let mut errors = Vec::new();
    let labels = wire::at(spec, &["template", "metadata", "labels"]);
    if !selector.is_empty() && !selector.matches(labels) {
        errors.push(unmatched(labels));
    }
    errors.extend(template_contents(spec, owner));
    errors
}

fn template_contents(spec: &Value, owner: &str) -> Vec<FieldError> {
    let template = wire::at(spec, &["template"]);
    let mut errors = pod_spec::validate_template(template, "spec.template");
    let pod = wire::at(template, &["spec"]);
    let policy = wire::text(pod, "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if wire::has(pod, "activeDeadlineSeconds") {
        let text = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", text));
    }
    errors
}

/// The numbers of a status: none negative, none of `bounded` more than there are replicas, and no more
/// available than `ready`.
pub(crate) fn replica_counts(new: &Value, others: &[&str], bounded: &[&str], ready: &str) -> Vec<FieldError> {
    let status = wire::at(new, &["status"]);
    let mut errors = counts(status, "status", &["observedGeneration", "replicas"]);
    errors.extend(counts(status, "status", bounded));
    errors.extend(counts(status, "status", others));
    errors.extend(counts(status, "status", &["terminatingReplicas", "collisionCount"]));
    let count = |key: &str| wire::int(status, key).unwrap_or_default();
    for key in bounded.iter().filter(|key| count(key) > count("replicas")) {
        let text = "cannot be greater than status.replicas";
        errors.push(FieldError::invalid(format!("status.{key}"), count(key), text));
    }
    if count("availableReplicas") > count(ready) {
        let text = format!("cannot be greater than {ready}");
        errors.push(FieldError::invalid("status.availableReplicas", count("availableReplicas"), text));
    }
    errors
}

pub(crate) fn collisions(new: &Value, old: &Value) -> Vec<FieldError> {
    let count = |object: &Value| wire::int(wire::at(object, &["status"]), "collisionCount");
    let (new, old) = (count(new).unwrap_or_default(), count(old).unwrap_or_default());
    if new >= old {
        return Vec::new();
    }
    vec![FieldError::invalid("status.collisionCount", new, "cannot be decremented")]
}

pub(crate) fn name_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    match names::dns1123_label(wire::text(wire::at(new, &["metadata"]), "name")) {
        problems if old.is_none() && !problems.is_empty() => vec![format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            problems.join(" ")
        )],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
