//! Nodes: pod ranges (B30 to B33), addresses (B34), taints.

use serde_json::{Value, json};

use crate::meta::Checks;
use crate::{Allocator, Context, FieldError, Refusal, Strategy, addresses, lifecycle, names, pod_spec, wire};

/// The strategy of Nodes.
pub static NODE: Node = Node;

/// See [`NODE`].
#[derive(Clone, Copy, Debug)]
pub struct Node;

/// What a node is tainted with until it first reports to be ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

impl Node {
    /// Makes `podCIDR` and `podCIDRs` one (B30): where they differ, `podCIDR` wins and the second range is lost.
    fn synchronise_ranges(spec: &mut Value) {
        let cidr = wire::text(spec, "podCIDR").to_owned();
        let first = wire::texts(spec, "podCIDRs").next().map(str::to_owned);
        match first {
            Some(first) if cidr.is_empty() && !first.is_empty() => wire::set(spec, "podCIDR", first),
            Some(first) if !cidr.is_empty() && first != cidr => wire::set(spec, "podCIDRs", json!([cidr])),
            None if !cidr.is_empty() => wire::set(spec, "podCIDRs", json!([cidr])),
            _ => {}
        }
    }

    fn resources(object: &Value) -> Vec<FieldError> {
        let status = wire::at(object, &["status"]);
        let mut errors = Vec::new();
        for list in ["capacity", "allocatable"] {
            for (name, value) in wire::entries(status, list) {
                errors.extend(pod_spec::validate_quantity(name, value, &format!("status.{list}.{name}")));
            }
        }
        errors
    }

    fn taints(object: &Value) -> Vec<FieldError> {
        // Kubernetes reports them there.
        pod_spec::validate_taints(wire::list(wire::at(object, &["spec"]), "taints"), "metadata.taints")
    }

    /// B32, and what else stays.
    fn kept(new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (new, old) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
        let (ranges, old_ranges) = (wire::list(new, "podCIDRs"), wire::list(old, "podCIDRs"));
        let changed = if ranges.len() == old_ranges.len() {
            ranges.iter().zip(old_ranges).filter(|(new, old)| new != old).count()
        } else {
            usize::from(!old_ranges.is_empty())
        };
        for _ in 0..changed {
            let text = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.podCIDRs", text));
        }
        let provider = wire::text(old, "providerID");
        if !provider.is_empty() && provider != wire::text(new, "providerID") {
            let text = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.providerID", text));
        }
        if !wire::same(new, old, "externalID") {
            errors.push(FieldError::forbidden("spec.externalID", "may not be updated"));
        }
        errors
    }

    /// Names of features, in order, each once.
    fn features(object: &Value) -> Vec<FieldError> {
        const LIST: &str = "status.declaredFeatures";
        let features: Vec<&str> = wire::texts(wire::at(object, &["status"]), "declaredFeatures").collect();
        let is_name = |name: &str| {
            let mut parts = name.split('/');
            let is_part = |part: &str| {
                part.starts_with(|first: char| first.is_ascii_alphabetic())
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
            };
            name.starts_with(|first: char| first.is_ascii_uppercase()) && parts.all(is_part)
        };
        let mut errors = Vec::new();
        for (index, name) in features.iter().enumerate() {
            if !is_name(name) {
                let text = format!(
                    "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments \
                     separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric \
                     characters and slashes"
                );
                errors.push(FieldError::invalid(format!("{LIST}[{index}]"), *name, text));
            }
            let Some(next) = features.get(index + 1) else { continue };
            let field = format!("{LIST}[{}]", index + 1);
            match name.cmp(next) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => errors.push(FieldError::duplicate(field, *next)),
                std::cmp::Ordering::Greater => {
                    errors.push(FieldError::invalid(field, *next, "list must be sorted alphabetically"));
                }
            }
        }
        errors
    }

    /// B34.
    fn addresses(new: &Value) -> Vec<FieldError> {
        let addresses = wire::list(wire::at(new, &["status"]), "addresses");
        let repeated =
            addresses.iter().enumerate().filter(|(index, address)| addresses[..*index].contains(address));
        repeated
            .map(|(index, address)| {
                let shown =
                    json!({ "Type": wire::text(address, "type"), "Address": wire::text(address, "address") });
                FieldError::duplicate(format!("status.addresses[{index}]"), shown)
            })
            .collect()
    }
}

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        Self::synchronise_ranges(wire::child(object, "spec"));
        let status = wire::child(object, "status");
        if wire::has(status, "capacity") && !wire::has(status, "allocatable") {
            let capacity = wire::at(status, &["capacity"]).clone();
            wire::set(status, "allocatable", capacity);
        }
    }

    /// A new node takes no pods until it is ready.
    fn begin_create(
        &self,
        new: &mut Value,
        _cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        let spec = wire::child(new, "spec");
        let mut taints = wire::list(spec, "taints").to_vec();
        let is_not_ready = |taint: &Value| {
            wire::text(taint, "key") == NOT_READY && wire::text(taint, "effect") == "NoSchedule"
        };
        if !taints.iter().any(is_not_ready) {
            taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
            wire::set(spec, "taints", taints);
        }
        Ok(())
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        // Dynamic kubelet configuration is gone.
        wire::remove(wire::child(new, "spec"), "configSource");
        wire::remove(wire::child(new, "status"), "config");
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        lifecycle::keep_other_half(new, old, cx);
        self.prepare_create(new, cx);
    }

    /// B31.
    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Self::taints(new);
        errors.extend(Self::resources(new));
        errors.extend(Self::features(new));
        let ranges: Vec<&str> = wire::texts(wire::at(new, &["spec"]), "podCIDRs").collect();
        for (index, range) in ranges.iter().enumerate() {
            errors.extend(addresses::legacy_cidr(&format!("spec.podCIDRs[{index}]"), range, &[]));
        }
        let text = "may specify no more than one CIDR for each IP family";
        errors.extend(addresses::one_cidr_per_family("spec.podCIDRs", &ranges, text));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        // Kubernetes checks a whole node and then its change, and so finds some errors twice.
        let mut errors =
            if lifecycle::writes_status(cx) { Vec::new() } else { self.validate_create(new, cx) };
        errors.extend(Self::resources(new));
        errors.extend(Self::features(new));
        errors.extend(Self::addresses(new));
        errors.extend(Self::kept(new, old));
        errors.extend(Self::taints(new));
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !lifecycle::writes_status(cx) {
            let spec = wire::at(new, &["spec"]);
            if !wire::text(spec, "externalID").is_empty() {
                let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
                warnings.push(text.to_owned());
            }
            for (index, range) in wire::texts(spec, "podCIDRs").enumerate() {
                warnings.extend(addresses::cidr_warning(&format!("spec.podCIDRs[{index}]"), range));
            }
        }
        warnings
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
