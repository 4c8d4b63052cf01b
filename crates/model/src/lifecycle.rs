//! What the strategies of most kinds share: who may write which half of an object, and when it counts as changed.

use serde_json::Value;

use crate::{Context, wire};

/// Whether the request writes the `status` subresource.
pub(crate) fn writes_status(cx: &Context<'_>) -> bool {
    cx.subresource == "status"
}

/// Keeps `status` on the main endpoint, `spec` on the status endpoint. True on the main endpoint.
pub(crate) fn keep_other_half(new: &mut Value, old: &Value, cx: &Context<'_>) -> bool {
    let kept = if writes_status(cx) { "spec" } else { "status" };
    wire::copy(new, old, kept);
    kept == "status"
}

/// A new object's first generation (J47).
pub(crate) fn first_generation(new: &mut Value) {
    wire::set(wire::child(new, "metadata"), "generation", 1);
}

/// The next generation, for a change the kind counts (J47).
pub(crate) fn next_generation(new: &mut Value, old: &Value) {
    let generation = wire::int(wire::at(old, &["metadata"]), "generation").unwrap_or_default();
    wire::set(wire::child(new, "metadata"), "generation", generation + 1);
}

/// [`next_generation`] if `spec` changed.
pub(crate) fn next_generation_if_spec_changed(new: &mut Value, old: &Value) {
    if !wire::same(new, old, "spec") {
        next_generation(new, old);
    }
}

/// Takes back what a status update may not change in metadata, for kinds that are strict about it.
pub(crate) fn keep_meta(new: &mut Value, old: &Value) {
    let old = wire::at(old, &["metadata"]);
    let new = wire::child(new, "metadata");
    let kept = ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"];
    for key in kept {
        wire::copy(new, old, key);
    }
}
