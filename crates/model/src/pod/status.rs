//! The status of a pod: its addresses (B1 to B5), and what may not go back.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{ErrorType, FieldError, addresses, names, wire};

/// Makes `podIP` and `podIPs` one (B1, B2): where they differ, `podIP` wins and the second address is lost.
pub(super) fn synchronise_addresses(status: &mut Value) {
    let ip = wire::text(status, "podIP").to_owned();
    let first = wire::list(status, "podIPs").first().map(|entry| wire::text(entry, "ip").to_owned());
    match first {
        Some(first) if ip.is_empty() && !first.is_empty() => wire::set(status, "podIP", first),
        Some(first) if !ip.is_empty() && first != ip => wire::set(status, "podIPs", json!([{ "ip": ip }])),
        None if !ip.is_empty() => wire::set(status, "podIPs", json!([{ "ip": ip }])),
        _ => {}
    }
}

/// A status update leaves everything else as it was (B5).
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let old_meta = wire::at(old, &["metadata"]);
    let meta = wire::child(new, "metadata");
    wire::copy(meta, old_meta, "deletionTimestamp");
    wire::copy(meta, old_meta, "ownerReferences");
    let old = wire::at(old, &["status"]);
    let status = wire::child(new, "status");
    for key in ["qosClass", "observedGeneration"] {
        if wire::is_empty(wire::at(status, &[key])) {
            wire::copy(status, old, key);
        }
    }
    // The n-th condition of a type takes over what the n-th of that type had observed.
    let mut observed: Vec<(&str, &Value)> = wire::list(old, "conditions")
        .iter()
        .map(|condition| (wire::text(condition, "type"), wire::at(condition, &["observedGeneration"])))
        .collect();
    for condition in wire::items_mut(status, "conditions") {
        let kind = wire::text(condition, "type").to_owned();
        let Some(position) = observed.iter().position(|(old, _)| *old == kind) else { continue };
        let (_, generation) = observed.remove(position);
        if !generation.is_null() && wire::is_empty(wire::at(condition, &["observedGeneration"])) {
            wire::set(condition, "observedGeneration", generation.clone());
        }
    }
}

/// Every error of a changed status.
pub(super) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let spec = wire::at(old, &["spec"]);
    let (new, old) = (wire::at(new, &["status"]), wire::at(old, &["status"]));
    let mut errors = conditions(new);
    let nominated = wire::text(new, "nominatedNodeName");
    if !nominated.is_empty() && nominated != wire::text(old, "nominatedNodeName") {
        let field = "status.nominatedNodeName";
        errors.extend(names::check(names::dns1123_subdomain, field, nominated));
        if !wire::text(spec, "nodeName").is_empty() {
            let text = "may not be set on pods that are already bound to a node";
            errors.push(FieldError::forbidden(field, text));
        }
    }
    if let Some(generation) = wire::int(new, "observedGeneration").filter(|generation| *generation < 0) {
        let text = "must be a non-negative integer";
        errors.push(FieldError::invalid("status.observedGeneration", generation, text));
    }
    if !wire::same(new, old, "qosClass") {
        errors.push(FieldError::invalid(
            "status.qosClass",
            wire::text(new, "qosClass"),
            "field is immutable",
        ));
    }
    for (statuses, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        errors.extend(resurrections(new, old, spec, statuses, containers));
    }
    errors.extend(pod_addresses(new, old));
    errors.extend(host_addresses(new, old));
    errors.extend(claim_statuses(new, spec));
    errors
}

/// The claims that a pod got are claims that it has.
fn claim_statuses(new: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, status) in wire::list(new, "resourceClaimStatuses").iter().enumerate() {
        let field = format!("status.resourceClaimStatuses[{index}].name");
        let name = wire::text(status, "name");
        if !wire::list(spec, "resourceClaims").iter().any(|claim| wire::text(claim, "name") == name) {
            let text = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(field.as_str(), name, text));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(field, name));
        }
    }
    errors
}

/// Warnings of addresses that are spelt oddly (P6).
pub(super) fn warnings(new: &Value) -> Vec<String> {
    let status = wire::at(new, &["status"]);
    let mut warnings = Vec::new();
    for list in ["podIPs", "hostIPs"] {
        for (index, ip) in ips(status, list).into_iter().enumerate() {
            warnings.extend(addresses::ip_warning(&format!("status.{list}[{index}].ip"), ip));
        }
    }
    warnings
}

fn ips<'a>(status: &'a Value, list: &str) -> Vec<&'a str> {
    wire::list(status, list).iter().map(|entry| wire::text(entry, "ip")).collect()
}

/// B4.
fn address_list(new: &Value, old: &Value, list: &str) -> Vec<FieldError> {
    let (ips, old) = (ips(new, list), ips(old, list));
    let field = format!("status.{list}");
    let mut errors = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        errors.extend(addresses::legacy_ip(&format!("{field}[{index}]"), ip, &old));
    }
    // The internal type has no JSON names, so its Go ones are shown.
    let shown = ips.iter().map(|ip| json!({ "IP": ip })).collect();
    errors.extend(addresses::one_ip_per_family(&field, &ips, shown));
    errors
}

fn pod_addresses(new: &Value, old: &Value) -> Vec<FieldError> {
    address_list(new, old, "podIPs")
}

/// B3, B4.
fn host_addresses(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(first) = ips(new, "hostIPs").first()
        && *first != wire::text(new, "hostIP")
    {
        errors.push(FieldError::invalid("status.hostIPs[0].ip", *first, "must be equal to `hostIP`"));
    }
    errors.extend(address_list(new, old, "hostIPs"));
    errors
}

fn conditions(status: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, condition) in wire::list(status, "conditions").iter().enumerate() {
        let field = format!("status.conditions[{index}]");
        if let Some(generation) =
            wire::int(condition, "observedGeneration").filter(|generation| *generation < 0)
        {
            let text = "must be a non-negative integer";
            errors.push(FieldError::invalid(format!("{field}.observedGeneration"), generation, text));
        }
        let kind = wire::text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            errors.extend(names::check(names::qualified_name, format!("{field}.Type"), kind));
        }
    }
    errors
}

/// Containers that are terminated for good and are said to run again.
fn resurrections(
    new: &Value,
    old: &Value,
    spec: &Value,
    statuses: &str,
    containers: &str,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, status) in wire::list(old, statuses).iter().enumerate() {
        let terminated = wire::at(status, &["state", "terminated"]);
        let name = wire::text(status, "name");
        let new_status = wire::list(new, statuses).iter().find(|new| wire::text(new, "name") == name);
        let runs_again = new_status.is_some_and(|new| wire::at(new, &["state", "terminated"]).is_null());
        if terminated.is_null() || !runs_again {
            continue;
        }
        let code = wire::int(terminated, "exitCode").unwrap_or_default();
        let container =
            wire::list(spec, containers).iter().find(|container| wire::text(container, "name") == name);
        if !container.is_some_and(|container| may_restart(container, spec, code)) {
            let text = "may not be transitioned to non-terminated state";
            errors.push(FieldError::new(
                ErrorType::Forbidden,
                format!("status.{statuses}[{index}].state"),
                Value::Null,
                text,
            ));
        }
    }
    errors
}

fn may_restart(container: &Value, spec: &Value, code: i64) -> bool {
    let own = wire::text(container, "restartPolicy");
    let by_rule = wire::list(container, "restartPolicyRules").iter().any(|rule| {
        let codes = wire::at(rule, &["exitCodes"]);
        let listed = wire::list(codes, "values").iter().any(|value| value.as_i64() == Some(code));
        listed == (wire::text(codes, "operator") == "In")
    });
    match if own.is_empty() { wire::text(spec, "restartPolicy") } else { own } {
        _ if by_rule => true,
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}
