//! What volumes are made of: claims, volumes and their classes. They are kept and checked; nothing here binds them.

pub(crate) mod claim;
mod class;
mod volume;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::{FieldError, names, wire};

pub use claim::PERSISTENT_VOLUME_CLAIM;
pub use class::STORAGE_CLASS;
pub use volume::PERSISTENT_VOLUME;

/// What a claim that is used, and a volume that is bound, is held by.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Whose class is the default says so here.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const DEFAULT_CLASS_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// What a class was named by before there was a field.
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";

/// Adds a finalizer.
fn protect(object: &mut Value, finalizer: &str) {
    let meta = wire::child(object, "metadata");
    let mut finalizers = wire::list(meta, "finalizers").to_vec();
    if finalizers.iter().all(|known| known != finalizer) {
        finalizers.push(finalizer.into());
        wire::set(meta, "finalizers", finalizers);
    }
}

/// The errors of the ways a volume may be mounted.
fn validate_access_modes(spec: &Value, field: &str) -> Vec<FieldError> {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let mut errors = Vec::new();
    for mode in wire::texts(spec, "accessModes").filter(|mode| !MODES.contains(mode)) {
        errors.push(FieldError::not_supported(field, mode, &MODES));
    }
    let known = || wire::texts(spec, "accessModes").filter(|mode| MODES.contains(mode));
    if known().any(|mode| mode == "ReadWriteOncePod") && known().any(|mode| mode != "ReadWriteOncePod") {
        errors.push(FieldError::forbidden(field, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

/// The errors of the names of classes, and of how a volume looks to a pod.
fn validate_classes(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let class = wire::text(spec, "storageClassName");
    if !class.is_empty() {
        errors.extend(names::check(names::dns1123_subdomain, format!("{field}.storageClassName"), class));
    }
    let mode = wire::text(spec, "volumeMode");
    if wire::has(spec, "volumeMode") && !matches!(mode, "Block" | "Filesystem") {
        let field = format!("{field}.volumeMode");
        errors.push(FieldError::not_supported(field, mode, &["Block", "Filesystem"]));
    }
    errors
}

/// A quantity as it is written; they may come as numbers.
fn quantity(value: &Value) -> Option<(String, Quantity)> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let quantity = Quantity::parse(&text)?;
    Some((text, quantity))
}

fn immutable(new: &Value, old: &Value, key: &str, field: &str) -> Option<FieldError> {
    let value = wire::at(new, &[key]).clone();
    (!wire::same(new, old, key)).then(|| FieldError::invalid(field, value, "field is immutable"))
}

#[cfg(test)]
mod tests;
