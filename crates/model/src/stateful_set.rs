//! StatefulSets: pods with names that last, and what of them may change.

use serde_json::{Value, json};

use crate::workloads::{collisions, counts, default_template, is_empty_selector, rollout, start, unmatched};
use crate::{
    Context, FieldError, Strategy, lifecycle, names, pod_spec,
    selector::{self, LabelSelector},
    storage::claim,
    wire,
};

/// The strategy of StatefulSets.
pub static STATEFUL_SET: StatefulSet = StatefulSet;

/// What of a specification may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

/// See [`STATEFUL_SET`].
#[derive(Clone, Copy, Debug)]
pub struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        wire::default_zero(spec, "podManagementPolicy", "OrderedReady");
        let update = wire::child(spec, "updateStrategy");
        if wire::text(update, "type").is_empty() {
            wire::set(update, "type", "RollingUpdate");
            wire::default(update, "rollingUpdate", json!({}));
        }
        if wire::text(update, "type") == "RollingUpdate" && wire::has(update, "rollingUpdate") {
            wire::default(wire::child(update, "rollingUpdate"), "partition", 0);
        }
        let policy = wire::child(spec, "persistentVolumeClaimRetentionPolicy");
        for key in ["whenDeleted", "whenScaled"] {
            wire::default_zero(policy, key, "Retain");
        }
        wire::default(spec, "replicas", 1);
        wire::default(spec, "revisionHistoryLimit", 10);
        default_template(spec);
        for template in wire::items_mut(spec, "volumeClaimTemplates") {
            wire::default_zero(template, "kind", "PersistentVolumeClaim");
            wire::default_zero(template, "apiVersion", "v1");
            claim::default(template);
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        start(new, &["replicas", "availableReplicas"]);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        validate_spec(wire::at(new, &["spec"]), true)
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let mut errors = validate_status(wire::at(new, &["status"]));
            errors.extend(collisions(new, old));
            return errors;
        }
        let mut errors = validate_spec(wire::at(new, &["spec"]), false);
        let fixed = |object: &Value| {
            let mut spec = wire::at(object, &["spec"]).clone();
            MUTABLE.iter().for_each(|key| wire::remove(&mut spec, key));
            spec
        };
        if fixed(new) != fixed(old) {
            errors.push(FieldError::forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            ));
        }
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        let limit = wire::int(wire::at(new, &["spec"]), "revisionHistoryLimit");
        match limit {
            Some(..0) if !lifecycle::writes_status(cx) => vec![
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is \
                 recommended"
                    .to_owned(),
            ],
            _ => Vec::new(),
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }
}

/// What only a new object is checked for, it keeps.
fn validate_spec(spec: &Value, is_new: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy = wire::text(spec, "podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        let text = "must be 'OrderedReady' or 'Parallel'";
        errors.push(FieldError::invalid("spec.podManagementPolicy", policy, text));
    }
    errors.extend(validate_update_strategy(wire::at(spec, &["updateStrategy"])));
    let policy = wire::at(spec, &["persistentVolumeClaimRetentionPolicy"]);
    for key in ["whenDeleted", "whenScaled"] {
        let field = format!("spec.persistentVolumeClaimRetentionPolicy.{key}");
        let value = wire::text(policy, key);
        if !matches!(value, "Retain" | "Delete") {
            errors.push(FieldError::not_supported_in_order(field, value, &["Retain", "Delete"]));
        }
    }
    if is_new {
        for (index, template) in wire::list(spec, "volumeClaimTemplates").iter().enumerate() {
            let field = format!("spec.volumeClaimTemplates[{index}].spec");
            errors.extend(claim::validate_spec(wire::at(template, &["spec"]), &field));
        }
    }
    errors.extend(counts(spec, "spec", &["replicas", "minReadySeconds"]));
    errors.extend(counts(wire::at(spec, &["ordinals"]), "spec.ordinals", &["start"]));
    let service = wire::text(spec, "serviceName");
    if is_new && !service.is_empty() {
        errors.extend(names::check(names::dns1123_label, "spec.serviceName", service));
    }
    errors.extend(validate_selector(spec));
    errors.extend(validate_template(spec));
    errors
}

fn validate_update_strategy(strategy: &Value) -> Vec<FieldError> {
    const FIELD: &str = "spec.updateStrategy";
    let update = wire::at(strategy, &["rollingUpdate"]);
    let (partition, most) = (wire::at(update, &["partition"]), wire::at(update, &["maxUnavailable"]));
    let internal = || json!({"Partition": partition, "MaxUnavailable": most});
    match wire::text(strategy, "type") {
        "OnDelete" if update.is_null() => Vec::new(),
        "OnDelete" => {
            let text = "only allowed for updateStrategy 'RollingUpdate'";
            vec![
                FieldError::invalid(format!("{FIELD}.rollingUpdate"), internal(), text)
                    .shown_as(&[("Partition", partition), ("MaxUnavailable", most)]),
            ]
        }
        "RollingUpdate" => {
            let mut errors = counts(update, &format!("{FIELD}.rollingUpdate"), &["partition"]);
            if !most.is_null() {
                let field = format!("{FIELD}.rollingUpdate.maxUnavailable");
                errors.extend(rollout::amount_errors(most, &field));
                if rollout::amount(most) == 0 {
                    errors.push(FieldError::invalid(field.as_str(), most.clone(), "cannot be 0"));
                }
                errors.extend(rollout::at_most_all(most, &field));
            }
            errors
        }
        kind => {
            let shown = if update.is_null() { Value::Null } else { internal() };
            let text = "must be 'RollingUpdate' or 'OnDelete'";
            vec![
                FieldError::invalid(FIELD, strategy.clone(), text)
                    .shown_as(&[("Type", &kind.into()), ("RollingUpdate", &shown)]),
            ]
        }
    }
}

fn validate_selector(spec: &Value) -> Vec<FieldError> {
    let object = wire::at(spec, &["selector"]);
    if object.is_null() {
        return vec![FieldError::required("spec.selector", "")];
    }
    let mut errors = selector::validate(object, "spec.selector");
    if is_empty_selector(object) {
        let text = "empty selector is invalid for statefulset";
        errors.push(FieldError::invalid("spec.selector", object.clone(), text));
    }
    errors
}

fn validate_template(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut template = wire::at(spec, &["template"]).clone();
    match LabelSelector::from_object(wire::at(spec, &["selector"])) {
        Err(_) => {
            errors.push(FieldError::invalid("spec.selector", wire::at(spec, &["selector"]).clone(), ""))
        }
        Ok(selector) => {
            let labels = wire::at(&template, &["metadata", "labels"]).clone();
            // Nothing is matched by no selector, which is told above.
            if !selector.is_empty() && !selector.matches(&labels) {
                errors.push(unmatched(&labels));
            }
            with_identity(wire::child(&mut template, "spec"), wire::list(spec, "volumeClaimTemplates"));
            errors.extend(pod_spec::validate_template(&template, "spec.template"));
            // Kubernetes looks at these twice.
            errors.extend(pod_spec::validate_template_meta(&template, "spec.template"));
        }
    }
    let pod = wire::at(&template, &["spec"]);
    let policy = wire::text(pod, "restartPolicy");
    if policy != "Always" {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    if wire::has(pod, "activeDeadlineSeconds") {
        let text = "activeDeadlineSeconds in StatefulSet is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", text));
    }
    errors
}

/// What the controller overwrites in a pod: its names, and the volumes of its claims.
fn with_identity(pod: &mut Value, claims: &[Value]) {
    wire::remove(pod, "subdomain");
    wire::remove(pod, "hostname");
    if claims.is_empty() {
        return;
    }
    let name = |claim: &Value| wire::text(wire::at(claim, &["metadata"]), "name").to_owned();
    let mut volumes: Vec<Value> = Vec::new();
    for claim in claims.iter().map(name) {
        volumes.retain(|volume| wire::text(volume, "name") != claim);
        volumes.push(json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
    }
    let claimed: Vec<String> = claims.iter().map(name).collect();
    let others = wire::list(pod, "volumes");
    volumes.extend(
        others
            .iter()
            .filter(|volume| !claimed.iter().any(|name| name == wire::text(volume, "name")))
            .cloned(),
    );
    wire::set(pod, "volumes", volumes);
}

fn validate_status(status: &Value) -> Vec<FieldError> {
    let bounded = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    let mut errors = counts(status, "status", &["replicas"]);
    errors.extend(counts(status, "status", &bounded));
    errors.extend(counts(status, "status", &["observedGeneration", "collisionCount"]));
    let count = |key: &str| wire::int(status, key).unwrap_or_default();
    for key in bounded.iter().filter(|key| count(key) > count("replicas")) {
        let text = "cannot be greater than status.replicas";
        errors.push(FieldError::invalid(format!("status.{key}"), count(key), text));
    }
    if count("availableReplicas") > count("readyReplicas") {
        let text = "cannot be greater than status.readyReplicas";
        errors.push(FieldError::invalid("status.availableReplicas", count("availableReplicas"), text));
    }
    errors
}

#[cfg(test)]
mod tests;
