//! What must hold of every Service, in the order upstream looks at it.

use serde_json::{Value, json};

use super::linked;
use super::spec::{Spec, affinity, kind, traffic};
use crate::addresses::{endpoint_ip, legacy_cidr, legacy_ip};
use crate::{ErrorType, FieldError, meta, names, wire};

mod ports;

pub(super) const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
pub(super) const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

const TYPES: [&str; 4] = [kind::CLUSTER_IP, kind::EXTERNAL_NAME, kind::LOAD_BALANCER, kind::NODE_PORT];
const TRAFFIC_POLICIES: [&str; 2] = [traffic::CLUSTER, traffic::LOCAL];
/// In the order errors list them, which is not that of the alphabet.
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
/// Longest session affinity, in seconds (A92).
const AFFINITY_SECONDS_MAX: i64 = 86400;

/// Every error of a Service; `old` is the stored one in an update.
pub(super) fn service(object: &Value, spec: &Spec, old: Option<(&Value, &Spec)>) -> Vec<FieldError> {
    let old_spec = old.map(|(_, spec)| spec);
    let mut errors = Vec::new();
    errors.extend(topology_annotations(object));
    errors.extend(by_type(spec));
    errors.extend(ports::each(spec));
    errors.extend(meta::validate_labels(&json!(spec.selector), "spec.selector"));
    errors.extend(session_affinity(spec));
    errors.extend(linked::check(spec, old_spec));
    errors.extend(external_ips(spec, old_spec));
    errors.extend(choice("spec.type", Some(&spec.kind), &TYPES));
    errors.extend(ports::together(spec));
    errors.extend(source_ranges(object, spec, old));
    match spec.allocate_load_balancer_node_ports {
        Some(_) if !spec.is_load_balancer() => {
            errors.push(FieldError::forbidden("spec.allocateLoadBalancerNodePorts", LOAD_BALANCER_ONLY));
        }
        // The path is upstream's.
        None if spec.is_load_balancer() => {
            errors.push(FieldError::required("allocateLoadBalancerNodePorts", ""));
        }
        Some(_) | None => {}
    }
    errors.extend(load_balancer_class(spec));
    errors.extend(external_traffic(spec));
    errors.extend(internal_traffic(spec));
    if let Some(value) = spec.traffic_distribution.as_deref().filter(|value| !DISTRIBUTIONS.contains(value)) {
        let detail =
            format!("supported values: {}", DISTRIBUTIONS.map(|name| format!("{name:?}")).join(", "));
        errors.push(FieldError::new(ErrorType::NotSupported, "spec.trafficDistribution", value, detail));
    }
    errors
}

/// A field that must be set to one of a few values.
fn choice(field: &str, value: Option<&str>, supported: &[&str]) -> Option<FieldError> {
    match value {
        None | Some("") => Some(FieldError::required(field, "")),
        Some(value) if supported.contains(&value) => None,
        Some(value) => Some(FieldError::not_supported(field, value, supported)),
    }
}

/// A102.
fn topology_annotations(object: &Value) -> Option<FieldError> {
    let annotations = wire::at(object, &["metadata", "annotations"]);
    let value = |key: &str| annotations.get(key).and_then(Value::as_str);
    let (mode, hints) = (value(TOPOLOGY_MODE)?, value(TOPOLOGY_HINTS)?);
    (mode != hints).then(|| {
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        FieldError::invalid(format!("metadata.annotations[{TOPOLOGY_MODE}]"), mode, detail)
    })
}

/// A80, A88, A89.
fn by_type(spec: &Spec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.ports.is_empty() && !spec.is_headless() && !spec.is_external_name() {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if spec.has_node_ports() && spec.is_headless() {
        let detail = format!("may not be set to 'None' for {} services", spec.kind);
        errors.push(FieldError::invalid("spec.clusterIPs[0]", spec.cluster_ips[0].as_str(), detail));
    }
    if spec.is_external_name() {
        let set = [
            (!spec.cluster_ips.is_empty(), "spec.clusterIPs"),
            (!spec.ip_families.is_empty(), "spec.ipFamilies"),
            (spec.ip_family_policy.is_some(), "spec.ipFamilyPolicy"),
        ];
        for (_, field) in set.into_iter().filter(|(is_set, _)| *is_set) {
            errors.push(FieldError::forbidden(field, "may not be set for ExternalName services"));
        }
        let field = "spec.externalName";
        match spec.external_name.strip_suffix('.').unwrap_or(&spec.external_name) {
            "" => errors.push(FieldError::required(field, "")),
            name => errors.extend(
                names::dns1123_subdomain(name).into_iter().map(|text| FieldError::invalid(field, name, text)),
            ),
        }
    }
    errors
}

/// A92.
fn session_affinity(spec: &Spec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kinds = [affinity::CLIENT_IP, affinity::NONE];
    errors.extend(choice("spec.sessionAffinity", Some(&spec.session_affinity), &kinds));
    let mut path = "spec.sessionAffinityConfig".to_owned();
    match spec.session_affinity.as_str() {
        affinity::CLIENT_IP => {
            let missing = |path: &str| FieldError::required(path, "when session affinity type is ClientIP");
            let Some(config) = &spec.session_affinity_config else {
                errors.push(missing(&path));
                return errors;
            };
            path.push_str(".clientIP");
            let Some(client_ip) = &config.client_ip else {
                errors.push(missing(&path));
                return errors;
            };
            path.push_str(".timeoutSeconds");
            match client_ip.timeout_seconds {
                None => errors.push(missing(&path)),
                Some(1..=AFFINITY_SECONDS_MAX) => {}
                Some(seconds) => {
                    let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                    errors.push(FieldError::invalid(path, seconds, detail));
                }
            }
        }
        affinity::NONE if spec.session_affinity_config.is_some() => {
            errors.push(FieldError::forbidden(path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
    errors
}

/// A93.
fn external_ips(spec: &Spec, old: Option<&Spec>) -> Vec<FieldError> {
    let stored: Vec<&str> = old.iter().flat_map(|old| &old.external_ips).map(String::as_str).collect();
    let check = |(index, ip): (usize, &String)| {
        let field = format!("spec.externalIPs[{index}]");
        match legacy_ip(&field, ip, &stored) {
            Some(error) => vec![error],
            None => endpoint_ip(&field, ip),
        }
    };
    spec.external_ips.iter().enumerate().flat_map(check).collect()
}

/// A94. The path of the field is upstream's.
fn source_ranges(object: &Value, spec: &Spec, old: Option<(&Value, &Spec)>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let misplaced =
        |field: &str| (!spec.is_load_balancer()).then(|| FieldError::forbidden(field, LOAD_BALANCER_ONLY));
    if !spec.load_balancer_source_ranges.is_empty() {
        let field = "spec.LoadBalancerSourceRanges";
        errors.extend(misplaced(field));
        let stored: Vec<&str> = old
            .map(|(_, spec)| spec.load_balancer_source_ranges.iter().map(|range| range.trim()).collect())
            .unwrap_or_default();
        for (index, range) in spec.load_balancer_source_ranges.iter().enumerate() {
            errors.extend(legacy_cidr(&format!("{field}[{index}]"), range.trim(), &stored));
        }
        return errors;
    }
    let annotation = |object: &Value| {
        wire::at(object, &["metadata", "annotations", SOURCE_RANGES]).as_str().map(str::to_owned)
    };
    let Some(value) = annotation(object) else { return errors };
    let field = format!("metadata.annotations[{SOURCE_RANGES}]");
    errors.extend(misplaced(&field));
    let unchanged = old.is_some_and(|(old, _)| annotation(old).as_ref() == Some(&value));
    if !unchanged && !value.trim().is_empty() {
        let ranges = value.trim().split(',').map(str::trim);
        errors.extend(ranges.filter_map(|range| legacy_cidr(&field, range, &[])));
    }
    errors
}

/// A96.
pub(super) fn load_balancer_class(spec: &Spec) -> Vec<FieldError> {
    let field = "spec.loadBalancerClass";
    match spec.load_balancer_class.as_deref() {
        None => Vec::new(),
        Some(class) if spec.is_load_balancer() => names::qualified_name(class)
            .into_iter()
            .map(|text| FieldError::invalid(field, class, text))
            .collect(),
        Some(_) => vec![FieldError::forbidden(field, LOAD_BALANCER_ONLY)],
    }
}

/// A98, A99.
fn external_traffic(spec: &Spec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = "spec.externalTrafficPolicy";
    let policy = spec.external_traffic_policy.as_str();
    if spec.is_externally_accessible() {
        errors.extend(choice(field, Some(policy), &TRAFFIC_POLICIES));
    } else if !policy.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(field, policy, detail));
    }
    let (field, port) = ("spec.healthCheckNodePort", spec.health_check_node_port);
    match (spec.needs_health_check(), port) {
        (false, 0) => {}
        (false, port) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(field, port, detail));
        }
        (true, 0) => errors.push(FieldError::required(field, "")),
        (true, port) => errors
            .extend(names::port_number(port).into_iter().map(|text| FieldError::invalid(field, port, text))),
    }
    errors
}

/// A100: ExternalName Services may have it, for old objects do.
fn internal_traffic(spec: &Spec) -> Option<FieldError> {
    let field = "spec.internalTrafficPolicy";
    match spec.internal_traffic_policy.as_deref() {
        None if TYPES.contains(&spec.kind.as_str()) && !spec.is_external_name() => {
            Some(FieldError::required(field, ""))
        }
        Some(policy) if !TRAFFIC_POLICIES.contains(&policy) => {
            Some(FieldError::not_supported(field, policy, &TRAFFIC_POLICIES))
        }
        Some(_) | None => None,
    }
}
