//! What a pod may be, and what of it may change: little more than images and deadlines.

use serde_json::Value;

use crate::{FieldError, names, pod_spec, wire};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Every error of a pod on its own, save for its status.
pub(super) fn validate_whole(new: &Value) -> Vec<FieldError> {
    let spec = wire::at(new, &["spec"]);
    let mut errors = contents(spec);
    if !wire::list(spec, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    if !wire::text(spec, "nodeName").is_empty() && !wire::list(spec, "schedulingGates").is_empty() {
        let text = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", text));
    }
    errors
}

pub(super) fn contents(spec: &Value) -> Vec<FieldError> {
    let mut errors = pod_spec::validate_pod_spec(spec, "spec", true);
    if wire::text(spec, "serviceAccountName").is_empty() {
        for (volume_index, volume) in wire::list(spec, "volumes").iter().enumerate() {
            let sources = wire::list(wire::at(volume, &["projected"]), "sources").iter().enumerate();
            for (index, _) in sources.filter(|(_, source)| wire::has(source, "serviceAccountToken")) {
                let field =
                    format!("spec.volumes[{volume_index}].projected.sources[{index}].serviceAccountToken");
                errors.push(FieldError::forbidden(
                    field,
                    "must not be specified when serviceAccountName is not set",
                ));
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in wire::list(spec, list).iter().enumerate() {
            errors.extend(image_spaces(container, &format!("spec.{list}[{index}].image")));
        }
    }
    errors
}

fn image_spaces(container: &Value, field: &str) -> Option<FieldError> {
    let image = wire::text(container, "image");
    (image.trim() != image)
        .then(|| FieldError::invalid(field, image, "must not have leading or trailing whitespace"))
}

/// Every error of a change on the main endpoint.
pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
    let mut errors = contents(new);
    for list in ["containers", "initContainers"] {
        let field = format!("spec.{list}");
        if wire::list(new, list).len() != wire::list(old, list).len() {
            errors.push(FieldError::forbidden(field, "pod updates may not add or remove containers"));
            return errors;
        }
        for (index, container) in wire::list(new, list).iter().enumerate() {
            let field = format!("{field}[{index}].image");
            if wire::text(container, "image").is_empty() {
                errors.push(FieldError::required(field.as_str(), ""));
            }
            errors.extend(image_spaces(container, &field));
        }
    }
    if let Some(error) = deadline(new, old) {
        let is_final = wire::has(new, "activeDeadlineSeconds");
        errors.push(error);
        if is_final {
            return errors;
        }
    }
    errors.extend(only_added_tolerations(new, old));
    errors.extend(only_deleted_gates(new, old));
    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        for (container, old) in wire::items_mut(&mut munged, list).zip(wire::list(old, list)) {
            wire::copy(container, old, "image");
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        wire::copy(&mut munged, old, key);
    }
    let grace = |spec: &Value| wire::int(spec, "terminationGracePeriodSeconds").unwrap_or_default();
    if grace(old) < 0 && grace(&munged) == 1 {
        wire::copy(&mut munged, old, "terminationGracePeriodSeconds");
    }
    if !wire::list(old, "schedulingGates").is_empty() {
        errors.extend(gated_node_selector(&munged, old));
        wire::copy(&mut munged, old, "nodeSelector");
    }
    if munged != *old {
        let text = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            differences(&munged, old)
        );
        errors.push(FieldError::forbidden("spec", text));
    }
    errors
}

/// A deadline may be set and shortened.
fn deadline(new: &Value, old: &Value) -> Option<FieldError> {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    let seconds = |spec: &Value| wire::int(spec, "activeDeadlineSeconds");
    let limit = i64::from(i32::MAX);
    match (seconds(new), seconds(old)) {
        (Some(new), _) if !(0..=limit).contains(&new) => {
            Some(FieldError::invalid(FIELD, new, names::between(0, limit)))
        }
        (Some(new), Some(old)) if old < new => {
            Some(FieldError::invalid(FIELD, new, "must be less than or equal to previous value"))
        }
        (None, Some(_)) => Some(FieldError::invalid(
            FIELD,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => None,
    }
}

fn only_added_tolerations(new: &Value, old: &Value) -> Vec<FieldError> {
    const FIELD: &str = "spec.tolerations";
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        wire::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let new = wire::list(new, "tolerations");
    let kept = |old: &Value| new.iter().any(|new| without_seconds(new) == without_seconds(old));
    if !wire::list(old, "tolerations").iter().all(kept) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        return vec![FieldError::forbidden(FIELD, text)];
    }
    pod_spec::validate_tolerations(new, FIELD)
}

fn only_deleted_gates(new: &Value, old: &Value) -> Vec<FieldError> {
    let old: Vec<&str> =
        wire::list(old, "schedulingGates").iter().map(|gate| wire::text(gate, "name")).collect();
    let gates = wire::list(new, "schedulingGates").iter().map(|gate| wire::text(gate, "name")).enumerate();
    let added = gates.filter(|(_, name)| !old.contains(name));
    added
        .map(|(index, name)| {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            FieldError::forbidden(format!("spec.schedulingGates[{index}].name"), text)
        })
        .collect()
}

/// A pod that waits at a gate may become more particular about its node.
fn gated_node_selector(new: &Value, old: &Value) -> Option<FieldError> {
    let selector = wire::at(new, &["nodeSelector"]);
    let kept = wire::entries(old, "nodeSelector").all(|(key, value)| selector.get(key) == Some(value));
    let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
    (!kept).then(|| FieldError::invalid("spec.nodeSelector", selector.clone(), text))
}

/// The fields of a specification that differ, old and new; Kubernetes prints a diff of its own form here.
pub(super) fn differences(new: &Value, old: &Value) -> String {
    let keys: std::collections::BTreeSet<&String> =
        [new, old].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
    let changed = keys.into_iter().filter(|key| new.get(*key) != old.get(*key));
    changed
        .map(|key| format!("- {key}: {}\n+ {key}: {}\n", wire::at(old, &[key]), wire::at(new, &[key])))
        .collect()
}
