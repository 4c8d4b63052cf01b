//! LimitRanges and ResourceQuotas: what one object, and what a whole namespace may ask for.

mod quota;
mod range;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::{FieldError, names};

pub use quota::RESOURCE_QUOTA;
pub use range::LIMIT_RANGE;
pub(crate) use range::{admit_claim, admit_pod};

/// Resources that quotas count in whole pieces.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Whether a name without a domain is one that Kubernetes knows.
fn is_standard(name: &str) -> bool {
    let prefixed = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits."));
    COUNTED.contains(&name)
        || COMPUTE.contains(&prefixed.unwrap_or(name))
        || matches!(name, "storage" | "requests.storage")
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// Whether a name without a domain is one that quotas can limit.
fn is_quota_resource(name: &str) -> bool {
    is_standard(name) && name != "storage"
}

/// The errors of the name of any resource.
fn resource_name(name: &str, field: &str) -> Vec<FieldError> {
    let mut errors = names::check(names::qualified_name, field, name);
    if errors.is_empty() && !name.contains('/') && !is_standard(name) {
        let text = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(field, name, text));
    }
    errors
}

/// The errors of an amount: less than nothing, or in parts where it comes in whole pieces.
fn amount(name: &str, value: &Value, field: &str) -> Vec<FieldError> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let Some(quantity) = Quantity::parse(&text) else { return Vec::new() };
    let mut errors = Vec::new();
    if quantity.is_negative() {
        errors.push(FieldError::invalid(field, text.as_str(), "must be greater than or equal to 0"));
    }
    let extended = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    if (COUNTED.contains(&name) || extended) && !quantity.is_whole() {
        errors.push(FieldError::invalid(field, text, "must be an integer"));
    }
    errors
}

#[cfg(test)]
mod tests;
