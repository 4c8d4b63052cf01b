use std::collections::BTreeSet;

use serde_json::Value;

use super::{claims, environment, handler, security, validate::one_of, volume};
use crate::{FieldError, names, quantity::Quantity, wire};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Every container and init container of a pod specification at `field`.
pub(super) fn validate_containers(spec: &Value, field: &str, volumes: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let containers = wire::list(spec, "containers");
    let mut seen = BTreeSet::new();
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{field}.containers"), ""));
    }
    for (index, container) in containers.iter().enumerate() {
        let field = format!("{field}.containers[{index}]");
        errors.extend(common(container, &field, spec, volumes));
        let name = wire::text(container, "name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        errors.extend(handler::validate_lifecycle(container, spec, &field));
        errors.extend(handler::validate_probes(container, &field));
    }
    errors.extend(host_port_conflicts(containers, &format!("{field}.containers")));
    for (index, container) in wire::list(spec, "initContainers").iter().enumerate() {
        let list = format!("{field}.initContainers");
        let field = format!("{list}[{index}]");
        errors.extend(common(container, &field, spec, volumes));
        let name = wire::text(container, "name");
        if seen.contains(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        } else if !name.is_empty() {
            seen.insert(name);
        }
        errors.extend(host_port_conflicts(std::slice::from_ref(container), &list));
        if wire::text(container, "restartPolicy") == "Always" {
            errors.extend(handler::validate_lifecycle(container, spec, &field));
            errors.extend(handler::validate_probes(container, &field));
        } else {
            for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if wire::has(container, key) {
                    let text = "may not be set for init containers without restartPolicy=Always";
                    errors.push(FieldError::forbidden(format!("{field}.{key}"), text));
                }
            }
        }
    }
    errors
}

/// What ephemeral containers may not have: others rely on it.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Every ephemeral container of a pod specification at `field`.
pub(super) fn validate_ephemeral(spec: &Value, field: &str, volumes: &BTreeSet<&str>) -> Vec<FieldError> {
    const TEXT: &str = "cannot be set for an Ephemeral Container";
    let mut errors = Vec::new();
    let lists = ["containers", "initContainers"].into_iter().flat_map(|list| wire::list(spec, list));
    let others: BTreeSet<&str> = lists.map(|container| wire::text(container, "name")).collect();
    let mut seen = others.clone();
    for (index, container) in wire::list(spec, "ephemeralContainers").iter().enumerate() {
        let field = format!("{field}.ephemeralContainers[{index}]");
        errors.extend(common(container, &field, spec, volumes));
        let name = wire::text(container, "name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        let target = wire::text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(format!("{field}.targetContainerName"), target));
        }
        for key in NOT_EPHEMERAL.into_iter().filter(|key| !wire::is_empty(wire::at(container, &[key]))) {
            errors.push(FieldError::forbidden(format!("{field}.{key}"), TEXT));
        }
        for (mount_index, mount) in wire::list(container, "volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"].into_iter().filter(|key| !wire::text(mount, key).is_empty())
            {
                errors
                    .push(FieldError::forbidden(format!("{field}.volumeMounts[{mount_index}].{key}"), TEXT));
            }
        }
    }
    errors
}

/// In the host's network a host port that is set is the container port; in a Pod it is always set.
pub(super) fn validate_host_network(spec: &Value, field: &str, is_pod: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, container) in wire::list(spec, "containers").iter().enumerate() {
        for (port_index, port) in wire::list(container, "ports").iter().enumerate() {
            let number = |key: &str| wire::int(port, key).unwrap_or_default();
            let host = number("hostPort");
            if (is_pod || host != 0) && host != number("containerPort") {
                let field = format!("{field}[{index}].ports[{port_index}].hostPort");
                let text = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(field, host, text));
            }
        }
    }
    errors
}

fn common(container: &Value, field: &str, spec: &Value, volumes: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match wire::text(container, "name") {
        "" => errors.push(FieldError::required(format!("{field}.name"), "")),
        name => errors.extend(names::check(names::dns1123_label, format!("{field}.name"), name)),
    }
    if wire::text(container, "image").is_empty() {
        errors.push(FieldError::required(format!("{field}.image"), ""));
    }
    errors.extend(one_of(container, field, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"]));
    errors.extend(validate_ports(container, &format!("{field}.ports")));
    errors.extend(environment::validate_variables(container, &format!("{field}.env")));
    errors.extend(environment::validate_sources(container, &format!("{field}.envFrom")));
    errors.extend(volume::validate_mounts(container, field, volumes));
    errors.extend(volume::validate_devices(container, field, spec, volumes));
    errors.extend(one_of(container, field, "imagePullPolicy", &["Always", "IfNotPresent", "Never"]));
    let (resources, resources_field) = (wire::at(container, &["resources"]), format!("{field}.resources"));
    errors.extend(validate_resources(resources, &resources_field));
    errors.extend(claims::validate_uses(resources, spec, &format!("{resources_field}.claims")));
    errors.extend(validate_resizes(container, spec, &format!("{field}.resizePolicy")));
    let context = wire::at(container, &["securityContext"]);
    errors.extend(security::validate_container(context, &format!("{field}.securityContext")));
    errors.extend(validate_restarts(container, &format!("{field}.restartPolicy")));
    errors
}

/// What a container is restarted for when its resources change. Kubernetes names the list, not the entry.
fn validate_resizes(container: &Value, spec: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, resize) in wire::list(container, "resizePolicy").iter().enumerate() {
        let (resource, policy) = (wire::text(resize, "resourceName"), wire::text(resize, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(format!("{list}[{index}]"), resource));
        }
        for (value, known) in [(resource, ["cpu", "memory"]), (policy, ["NotRequired", "RestartContainer"])] {
            if value.is_empty() {
                errors.push(FieldError::required(list, ""));
            } else if !known.contains(&value) {
                errors.push(FieldError::not_supported(list, value, &known));
            }
        }
        if wire::text(spec, "restartPolicy") == "Never" && policy != "NotRequired" {
            let text = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(list, policy, text));
        }
    }
    errors
}

/// A restart policy of a container's own.
fn validate_restarts(container: &Value, field: &str) -> Option<FieldError> {
    const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
    if !wire::has(container, "restartPolicy") {
        let rules = !wire::list(container, "restartPolicyRules").is_empty();
        return rules
            .then(|| FieldError::required(field, "must specify restartPolicy when restart rules are used"));
    }
    let policy = wire::text(container, "restartPolicy");
    (!POLICIES.contains(&policy)).then(|| FieldError::not_supported(field, policy, &POLICIES))
}

fn validate_ports(container: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, port) in wire::list(container, "ports").iter().enumerate() {
        let field = format!("{list}[{index}]");
        let name = wire::text(port, "name");
        if !name.is_empty() {
            let problems = names::check(names::port_name, format!("{field}.name"), name);
            if problems.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{field}.name"), name));
            }
            errors.extend(problems);
        }
        match wire::int(port, "containerPort").unwrap_or_default() {
            0 => errors.push(FieldError::required(format!("{field}.containerPort"), "")),
            number => errors.extend(port_number(&format!("{field}.containerPort"), number)),
        }
        if let Some(number) = wire::int(port, "hostPort").filter(|number| *number != 0) {
            errors.extend(port_number(&format!("{field}.hostPort"), number));
        }
        errors.extend(one_of(port, &field, "protocol", &PROTOCOLS));
    }
    errors
}

/// The errors of a port's number.
pub(super) fn port_number(field: &str, number: i64) -> Vec<FieldError> {
    names::port_number(number).into_iter().map(|text| FieldError::invalid(field, number, text)).collect()
}

fn host_port_conflicts(containers: &[Value], list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in wire::list(container, "ports").iter().enumerate() {
            let Some(number) = wire::int(port, "hostPort").filter(|number| *number != 0) else { continue };
            let place = format!("{}/{}/{number}", wire::text(port, "protocol"), wire::text(port, "hostIP"));
            if !seen.insert(place.clone()) {
                errors.push(FieldError::duplicate(
                    format!("{list}[{index}].ports[{port_index}].hostPort"),
                    place,
                ));
            }
        }
    }
    errors
}

/// Requests and limits: known names, not negative, requests within limits.
pub(super) fn validate_resources(resources: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for list in ["limits", "requests"] {
        for (name, value) in wire::entries(resources, list) {
            let entry = format!("{field}.{list}[{name}]");
            errors.extend(resource_name(name, &entry));
            errors.extend(validate_quantity(name, value, &entry));
            if list == "limits" {
                continue;
            }
            let (text, limit) = (shown(value), wire::at(resources, &["limits", name]));
            let overcommit = !name.contains('/') && !name.starts_with("hugepages-");
            if limit.is_null() {
                if !overcommit {
                    let text = "Limit must be set for non overcommitable resources";
                    errors.push(FieldError::required(format!("{field}.limits"), text));
                }
            } else if let (Some(request), Some(limit_value)) = (parse(value), parse(limit)) {
                let relation = match request.cmp(&limit_value) {
                    std::cmp::Ordering::Equal => continue,
                    _ if !overcommit => "equal to",
                    std::cmp::Ordering::Greater => "less than or equal to",
                    std::cmp::Ordering::Less => continue,
                };
                let detail = format!("must be {relation} {name} limit of {}", shown(limit));
                errors.push(FieldError::invalid(format!("{field}.requests"), text, detail));
            }
        }
    }
    let names = || ["limits", "requests"].into_iter().flat_map(|list| wire::entries(resources, list));
    let huge = names().any(|(name, _)| name.starts_with("hugepages-"));
    if huge && !names().any(|(name, _)| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(field, "HugePages require cpu or memory"));
    }
    errors
}

/// The errors of one resource quantity: negative, or in parts where it comes in whole pieces.
pub(crate) fn validate_quantity(name: &str, value: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(quantity) = parse(value) else { return errors };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(field, shown(value), "must be greater than or equal to 0"));
    }
    let countable = matches!(name, "pods" | "services" | "secrets" | "configmaps") || name.contains('/');
    if countable && !quantity.is_whole() {
        errors.push(FieldError::invalid(field, shown(value), "must be an integer"));
    }
    errors
}

fn parse(value: &Value) -> Option<Quantity> {
    Quantity::parse(&shown(value))
}

/// Quantities may come as numbers.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The errors of the name of a resource that containers can have.
pub(crate) fn resource_name(name: &str, field: &str) -> Vec<FieldError> {
    let errors = names::check(names::qualified_name, field, name);
    if !errors.is_empty() || name.contains('/') {
        return errors;
    }
    let standard =
        |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if standard(name) {
        return errors;
    }
    let quota = [
        "pods",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "resourcequotas",
        "services.loadbalancers",
        "services.nodeports",
    ];
    let mut errors = Vec::new();
    let known = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
    if !quota.contains(&name) && !(known != name && (standard(known) || known == "storage")) {
        errors.push(FieldError::invalid(field, name, "must be a standard resource type or fully qualified"));
    }
    errors.push(FieldError::invalid(field, name, "must be a standard resource for containers"));
    errors
}
