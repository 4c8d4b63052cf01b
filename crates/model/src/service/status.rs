//! The `status` subresource (A105).

use dyad_net::parse_ip_sloppy;
use serde_json::Value;

use super::spec::kind;
use crate::addresses::{ip_warning, legacy_ip};
use crate::{FieldError, names, wire};

const INGRESS: &str = "status.loadBalancer.ingress";
const IP_MODES: [&str; 2] = ["Proxy", "VIP"];

fn ingress(object: &Value) -> &[Value] {
    wire::list(wire::at(object, &["status", "loadBalancer"]), "ingress")
}

pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    if wire::text(wire::at(new, &["spec"]), "type") != kind::LOAD_BALANCER {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        let refused = (!ingress(new).is_empty()).then(|| FieldError::forbidden(INGRESS, detail));
        return refused.into_iter().collect();
    }
    let stored: Vec<&str> =
        ingress(old).iter().map(|entry| wire::text(entry, "ip")).filter(|ip| !ip.is_empty()).collect();
    ingress(new)
        .iter()
        .enumerate()
        .flat_map(|(index, entry)| validate_entry(&format!("{INGRESS}[{index}]"), entry, &stored))
        .collect()
}

fn validate_entry(path: &str, entry: &Value, stored: &[&str]) -> Vec<FieldError> {
    let (ip, hostname) = (wire::text(entry, "ip"), wire::text(entry, "hostname"));
    let mut errors = Vec::new();
    if !ip.is_empty() {
        errors.extend(legacy_ip(&format!("{path}.ip"), ip, stored));
    }
    let mode_path = format!("{path}.ipMode");
    match (entry.get("ipMode").and_then(Value::as_str), ip.is_empty()) {
        (None, true) => {}
        (None, false) => errors.push(FieldError::required(mode_path, "must be specified when `ip` is set")),
        (Some(_), true) => {
            errors.push(FieldError::forbidden(mode_path, "may not be specified when `ip` is not set"));
        }
        (Some(mode), false) if IP_MODES.contains(&mode) => {}
        (Some(mode), false) => errors.push(FieldError::not_supported(mode_path, mode, &IP_MODES)),
    }
    if !hostname.is_empty() {
        let mut problems = names::dns1123_subdomain(hostname);
        if parse_ip_sloppy(hostname).is_some() {
            problems.push("must be a DNS name, not an IP address".to_owned());
        }
        let field = format!("{path}.hostname");
        errors.extend(problems.into_iter().map(|text| FieldError::invalid(field.as_str(), hostname, text)));
    }
    errors
}

/// P6.
pub(super) fn warnings(new: &Value) -> Vec<String> {
    let entries = ingress(new).iter().enumerate();
    entries
        .filter_map(|(index, entry)| ip_warning(&format!("{INGRESS}[{index}]"), wire::text(entry, "ip")))
        .collect()
}
