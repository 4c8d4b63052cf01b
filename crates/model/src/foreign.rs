//! Kinds that are stored for components of others and on which Dyad itself does not act, which it says to whoever makes one.

use serde_json::Value;

use crate::{Context, Strategy, lifecycle, wire};

/// The strategy of what describes devices (dynamic resource allocation).
pub(crate) static RESOURCES: Foreign =
    Foreign("devices are not handed out here; this is stored for a scheduler and a driver that do so");
/// The strategy of ValidatingAdmissionPolicies.
pub(crate) static ADMISSION_POLICY: Foreign =
    Foreign("admission policies are stored but not enforced by this API server");
/// The strategy of their bindings.
pub(crate) static ADMISSION_BINDING: Foreign = ADMISSION_POLICY;
/// The strategy of RuntimeClasses.
pub(crate) static RUNTIME_CLASS: Foreign =
    Foreign("pods of Dyad's nodes run the same whatever their runtime class");

/// What is said of such a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreign(&'static str);

impl Strategy for Foreign {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        if has_status(new) {
            wire::set(new, "status", Value::Object(serde_json::Map::new()));
        }
        if has_generation(new) {
            lifecycle::first_generation(new);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) && has_generation(new) {
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn warnings(&self, _new: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        if old.is_none() { vec![self.0.to_owned()] } else { Vec::new() }
    }
}

fn has_status(object: &Value) -> bool {
    matches!(wire::text(object, "kind"), "ResourceClaim" | "ValidatingAdmissionPolicy")
}

fn has_generation(object: &Value) -> bool {
    matches!(
        wire::text(object, "kind"),
        "ResourceSlice" | "ValidatingAdmissionPolicy" | "ValidatingAdmissionPolicyBinding" | "DeviceClass"
    )
}
