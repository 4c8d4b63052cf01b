//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::{CLAIM_PROTECTION, CLASS_BETA, DEFAULT_CLASS, DEFAULT_CLASS_BETA};
use crate::meta::Checks;
use crate::quantity::Quantity;
use crate::{Allocator, Context, FieldError, Refusal, Strategy, lifecycle, limits, names, selector, wire};

/// The strategy of PersistentVolumeClaims.
pub static PERSISTENT_VOLUME_CLAIM: PersistentVolumeClaim = PersistentVolumeClaim;

/// See [`PERSISTENT_VOLUME_CLAIM`].
#[derive(Clone, Copy, Debug)]
pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        default(object);
    }

    /// A claim that names no class gets the default one.
    fn begin_create(
        &self,
        new: &mut Value,
        cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        super::protect(new, CLAIM_PROTECTION);
        let annotations = wire::at(new, &["metadata", "annotations"]);
        if wire::has(wire::at(new, &["spec"]), "storageClassName") || wire::has(annotations, CLASS_BETA) {
            return limits::admit_claim(new, cx);
        }
        let is_default = |class: &&Value| {
            let annotations = wire::at(class, &["metadata", "annotations"]);
            [DEFAULT_CLASS, DEFAULT_CLASS_BETA].iter().any(|key| wire::text(annotations, key) == "true")
        };
        let classes = cx.objects.list("storage.k8s.io", "StorageClass", "");
        // The newest of several, and of equally new ones the first by name.
        let newest = classes.iter().filter(is_default).max_by_key(|class| {
            let meta = wire::at(class, &["metadata"]);
            let name = std::cmp::Reverse(wire::text(meta, "name").to_owned());
            (wire::text(meta, "creationTimestamp").to_owned(), name)
        });
        if let Some(class) = newest {
            let name = wire::text(wire::at(class, &["metadata"]), "name").to_owned();
            wire::set(wire::child(new, "spec"), "storageClassName", name);
        }
        limits::admit_claim(new, cx)
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::set(new, "status", json!({"phase": "Pending"}));
        normalize_sources(wire::child(new, "spec"));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            normalize_sources(wire::child(new, "spec"));
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        validate_spec(wire::at(new, &["spec"]), "spec")
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            return validate_capacity(wire::at(new, &["status", "capacity"]), "status.capacity");
        }
        let mut errors = validate_spec(wire::at(new, &["spec"]), "spec");
        errors.extend(validate_change(new, old));
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        let size = super::quantity(wire::at(new, &["spec", "resources", "requests", "storage"]));
        let fraction = size.filter(|(_, size)| !size.is_whole());
        let warning = |(text, _)| {
            format!(
                "spec.resources.requests[storage]: fractional byte value {text:?} is invalid, must be an integer"
            )
        };
        fraction.map(warning).into_iter().collect()
    }

    fn meta_checks(&self, cx: &Context<'_>) -> Checks {
        if cx.subresource.is_empty() { Checks::WHOLE_AND_CHANGE } else { Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// Defaults of a claim, also of one in a StatefulSet.
pub(crate) fn default(object: &mut Value) {
    wire::default(wire::child(object, "spec"), "volumeMode", "Filesystem");
    wire::default_zero(wire::child(object, "status"), "phase", "Pending");
}

/// What a volume is filled from has two names (KEP-1495); the older one names claims and snapshots only.
fn normalize_sources(spec: &mut Value) {
    wire::remove(wire::child(spec, "dataSourceRef"), "namespace");
    if wire::is_empty(wire::at(spec, &["dataSourceRef"])) {
        wire::remove(spec, "dataSourceRef");
    }
    let source = wire::at(spec, &["dataSource"]);
    let old_kinds = [("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")];
    if !source.is_null() && !old_kinds.contains(&(wire::text(source, "apiGroup"), wire::text(source, "kind")))
    {
        wire::remove(spec, "dataSource");
    }
    for (there, missing) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
        if wire::has(spec, there) && !wire::has(spec, missing) {
            let source = wire::at(spec, &[there]).clone();
            wire::set(spec, missing, source);
        }
    }
}

/// The errors of a claim's specification at `field`.
pub(crate) fn validate_spec(spec: &Value, field: &str) -> Vec<FieldError> {
    let modes = format!("{field}.accessModes");
    let mut errors = Vec::new();
    if wire::list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(modes.as_str(), "at least 1 access mode is required"));
    }
    errors.extend(selector::validate(wire::at(spec, &["selector"]), &format!("{field}.selector")));
    errors.extend(super::validate_access_modes(spec, &modes));
    let storage = format!("{field}.resources[storage]");
    match super::quantity(wire::at(spec, &["resources", "requests", "storage"])) {
        None => errors.push(FieldError::required(storage, "")),
        Some((text, quantity)) if !quantity.is_positive() => {
            errors.push(FieldError::invalid(storage, text, "must be greater than zero"));
        }
        Some(_) => {}
    }
    errors.extend(super::validate_classes(spec, field));
    for key in ["dataSource", "dataSourceRef"] {
        errors.extend(validate_source(wire::at(spec, &[key]), &format!("{field}.{key}")));
    }
    if wire::has(spec, "dataSource")
        && wire::has(spec, "dataSourceRef")
        && wire::at(spec, &["dataSource"]) != wire::at(spec, &["dataSourceRef"])
    {
        // Kubernetes shows the path of the field in place of its value.
        let shown = format!("{field}.dataSource");
        errors.push(FieldError::invalid(field, shown, "must match dataSourceRef"));
    }
    let class = wire::text(spec, "volumeAttributesClassName");
    if !class.is_empty() {
        let field = format!("{field}.volumeAttributesClassName");
        errors.extend(names::check(names::dns1123_subdomain, field, class));
    }
    errors
}

fn validate_source(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if source.is_null() {
        return errors;
    }
    for key in ["name", "kind"] {
        if wire::text(source, key).is_empty() {
            errors.push(FieldError::required(format!("{field}.{key}"), ""));
        }
    }
    match (wire::text(source, "apiGroup"), wire::text(source, "kind")) {
        ("", "PersistentVolumeClaim") => {}
        ("", kind) => {
            let text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(field, kind, text));
        }
        (group, _) => {
            errors.extend(names::check(names::dns1123_subdomain, format!("{field}.apiGroup"), group));
        }
    }
    errors
}

fn validate_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let bound = wire::text(wire::at(new, &["status"]), "phase") == "Bound";
    let (new_spec, old_spec) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
    let size = |spec: &Value| super::quantity(wire::at(spec, &["resources", "requests", "storage"]));
    let annotation =
        |object: &Value| wire::text(wire::at(object, &["metadata", "annotations"]), CLASS_BETA).to_owned();
    if annotation(new) != annotation(old) {
        let field = format!("metadata.annotations[{CLASS_BETA}]");
        errors.push(FieldError::invalid(field, annotation(new), "field is immutable"));
    }
    let mut fixed = new_spec.clone();
    if wire::text(old_spec, "volumeName").is_empty() {
        wire::copy(&mut fixed, old_spec, "volumeName");
    }
    // A class may be named later, once.
    if !wire::has(old_spec, "storageClassName") && annotation(old).is_empty() {
        wire::copy(&mut fixed, old_spec, "storageClassName");
    }
    if bound {
        wire::copy(&mut fixed, old_spec, "volumeAttributesClassName");
        if wire::has(wire::at(&fixed, &["resources"]), "requests") {
            let requests = wire::child(wire::child(&mut fixed, "resources"), "requests");
            wire::copy(requests, wire::at(old_spec, &["resources", "requests"]), "storage");
        }
    }
    if fixed != *old_spec {
        let text = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                    bound claims";
        errors.push(FieldError::forbidden("spec", text));
    }
    if let (Some((_, new)), Some((_, old_size))) = (size(new_spec), size(old_spec))
        && new < old_size
    {
        let capacity = super::quantity(wire::at(old, &["status", "capacity", "storage"]));
        if new <= capacity.map_or_else(Quantity::default, |(_, capacity)| capacity) {
            let text = "field can not be less than status.capacity";
            errors.push(FieldError::forbidden("spec.resources.requests.storage", text));
        }
    }
    errors.extend(super::immutable(new_spec, old_spec, "volumeMode", "volumeMode"));
    errors
}

/// The errors of what a volume holds: nothing is less than nothing.
pub(super) fn validate_capacity(capacity: &Value, field: &str) -> Vec<FieldError> {
    let entries = capacity.as_object().into_iter().flatten();
    entries
        .filter_map(|(name, value)| {
            let (_, quantity) = super::quantity(value).filter(|(_, quantity)| quantity.is_negative())?;
            let text = "must be a valid resource quantity";
            Some(FieldError::invalid(format!("{field}[{name}]"), quantity.value(), text))
        })
        .collect()
}
