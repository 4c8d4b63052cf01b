//! Pods: addresses on decode (B1, B2), quality of service, admission defaults, and what may change.

mod admission;
mod ephemeral;
mod quality;
mod status;
mod update;

pub(crate) use quality::class as quality_class;

use serde_json::{Value, json};

use crate::meta::Checks;
use crate::{Allocator, Context, FieldError, Refusal, Strategy, lifecycle, names, pod_spec, wire};

/// The subresource through which ephemeral containers are added.
const EPHEMERAL: &str = "ephemeralcontainers";

/// The strategy of Pods.
pub static POD: Pod = Pod;

/// See [`POD`].
#[derive(Clone, Copy, Debug)]
pub struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        pod_spec::default_requests_to_limits(spec);
        wire::default(spec, "enableServiceLinks", true);
        pod_spec::host_network_ports(spec);
        pod_spec::default_pod_spec(spec);
        status::synchronise_addresses(wire::child(object, "status"));
    }

    fn begin_create(
        &self,
        new: &mut Value,
        cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        admission::on_create(new, cx)
    }

    fn begin_update(
        &self,
        new: &mut Value,
        old: &Value,
        _cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        admission::on_update(wire::child(new, "spec"), wire::at(old, &["spec"]));
        Ok(())
    }

    /// Clients do not set a status (B5).
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        lifecycle::first_generation(new);
        let spec = wire::child(new, "spec");
        if wire::int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
            wire::set(spec, "terminationGracePeriodSeconds", 1);
        }
        let mut status = json!({ "phase": "Pending", "qosClass": quality::class(wire::at(new, &["spec"])) });
        if !wire::list(wire::at(new, &["spec"]), "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        wire::set(new, "status", status);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if cx.subresource == EPHEMERAL {
            ephemeral::prepare_update(new, old);
        } else if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        } else {
            status::prepare_update(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        update::validate_whole(new)
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            status::validate_update(new, old)
        } else if cx.subresource == EPHEMERAL {
            let mut errors = update::contents(wire::at(new, &["spec"]));
            errors.extend(ephemeral::validate_change(new, old));
            errors
        } else {
            update::validate(new, old)
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if lifecycle::writes_status(cx) {
            return status::warnings(new);
        }
        let name = wire::text(wire::at(new, &["metadata"]), "name");
        match names::dns1123_label(name) {
            problems if old.is_none() && !problems.is_empty() => vec![format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
                 is recommended: [{}]",
                problems.join(" ")
            )],
            _ => Vec::new(),
        }
    }

    fn meta_checks(&self, cx: &Context<'_>) -> Checks {
        if cx.subresource.is_empty() { Checks::WHOLE_AND_CHANGE } else { Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

#[cfg(test)]
mod tests;
