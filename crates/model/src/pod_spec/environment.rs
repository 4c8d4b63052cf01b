use serde_json::Value;

use crate::{FieldError, names, wire};

/// Fields an environment variable may show (B20).
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields a downward API volume may show.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields a pod can refer to at all.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The errors of `env`.
pub(super) fn validate_variables(container: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, variable) in wire::list(container, "env").iter().enumerate() {
        let field = format!("{list}[{index}]");
        match wire::text(variable, "name") {
            "" => errors.push(FieldError::required(format!("{field}.name"), "")),
            name => errors.extend(names::check(names::environment_variable, format!("{field}.name"), name)),
        }
        if wire::has(variable, "valueFrom") {
            let has_value = !wire::text(variable, "value").is_empty();
            errors.extend(validate_source(
                wire::at(variable, &["valueFrom"]),
                has_value,
                &format!("{field}.valueFrom"),
            ));
        }
    }
    errors
}

fn validate_source(source: &Value, has_value: bool, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut count = 0;
    for key in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let reference = wire::at(source, &[key]);
        if reference.is_null() {
            continue;
        }
        count += 1;
        let field = format!("{field}.{key}");
        errors.extend(match key {
            "fieldRef" => validate_field_reference(reference, &FIELDS, &field),
            "resourceFieldRef" => validate_resource_reference(reference, false, &field),
            "configMapKeyRef" | "secretKeyRef" => validate_key_reference(reference, &field),
            _ => validate_file_reference(reference, &field),
        });
    }
    let problem = match count {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return errors,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(field, "", problem));
    errors
}

/// The errors of a reference to one of the pod's own fields.
pub(super) fn validate_field_reference(reference: &Value, fields: &[&str], field: &str) -> Vec<FieldError> {
    let path_field = format!("{field}.fieldPath");
    let (version, path) = (wire::text(reference, "apiVersion"), wire::text(reference, "fieldPath"));
    if version.is_empty() {
        return vec![FieldError::required(format!("{field}.apiVersion"), "")];
    }
    if path.is_empty() {
        return vec![FieldError::required(path_field, "")];
    }
    let unconvertible = |text: &str| {
        vec![FieldError::invalid(path_field.as_str(), path, format!("error converting fieldPath: {text}"))]
    };
    if version != "v1" {
        return unconvertible(&format!("unsupported pod version: {version}"));
    }
    if let Some((base, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match base {
            "metadata.annotations" => names::check(names::qualified_name, field, &key.to_lowercase()),
            "metadata.labels" => names::check(names::qualified_name, field, key),
            _ => unconvertible(&format!("field label does not support subscript: {path}")),
        };
    }
    // The old name of the field.
    let path = if path == "spec.host" { "spec.nodeName" } else { path };
    if !KNOWN_FIELDS.contains(&path) {
        return unconvertible(&format!("field label not supported: {path}"));
    }
    if !fields.contains(&path) {
        return vec![FieldError::not_supported(path_field, path, fields)];
    }
    Vec::new()
}

/// The errors of a reference to a container's requests or limits.
pub(super) fn validate_resource_reference(
    reference: &Value,
    in_volume: bool,
    field: &str,
) -> Vec<FieldError> {
    let resource = wire::text(reference, "resource");
    if in_volume && wire::text(reference, "containerName").is_empty() {
        return vec![FieldError::required(format!("{field}.containerName"), "")];
    }
    if resource.is_empty() {
        return vec![FieldError::required(format!("{field}.resource"), "")];
    }
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if !RESOURCES.contains(&resource) && !huge {
        return vec![FieldError::not_supported(format!("{field}.resource"), resource, &RESOURCES)];
    }
    let divisor = wire::text(reference, "divisor");
    let (allowed, kind): (&[&str], _) = match resource.rsplit('.').next().unwrap_or_default() {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (&SIZES, "memory"),
        "ephemeral-storage" => (&SIZES, "local ephemeral storage"),
        _ => (&SIZES, "hugepages"),
    };
    if matches!(divisor, "" | "0") || allowed.contains(&divisor) {
        return Vec::new();
    }
    let text = format!("only divisor's values {} are supported with the {kind} resource", list_of(allowed));
    vec![FieldError::invalid(format!("{field}.divisor"), resource, text)]
}

const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Two with `and`, more with commas, as Kubernetes writes them.
fn list_of(values: &[&str]) -> String {
    values.join(if values.len() == 2 { " and " } else { ", " })
}

fn validate_key_reference(reference: &Value, field: &str) -> Vec<FieldError> {
    let name = wire::text(reference, "name");
    let mut errors = names::check(names::dns1123_subdomain, format!("{field}.name"), name);
    match wire::text(reference, "key") {
        "" => errors.push(FieldError::required(format!("{field}.key"), "")),
        key => errors.extend(names::check(names::config_key, format!("{field}.key"), key)),
    }
    errors
}

fn validate_file_reference(reference: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["key", "volumeName", "path"] {
        if wire::text(reference, key).is_empty() {
            errors.push(FieldError::required(format!("{field}.{key}"), ""));
        }
    }
    errors
}

/// The errors of `envFrom`.
pub(super) fn validate_sources(container: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, source) in wire::list(container, "envFrom").iter().enumerate() {
        let field = format!("{list}[{index}]");
        let prefix = wire::text(source, "prefix");
        if !prefix.is_empty() {
            errors.extend(names::check(names::environment_variable, format!("{field}.prefix"), prefix));
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            if !wire::has(source, key) {
                continue;
            }
            count += 1;
            match wire::text(wire::at(source, &[key]), "name") {
                "" => errors.push(FieldError::required(format!("{field}.{key}.name"), "")),
                name => {
                    errors.extend(names::check(names::dns1123_subdomain, format!("{field}.{key}.name"), name))
                }
            }
        }
        match count {
            0 => errors.push(FieldError::invalid(
                list,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                list,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
    errors
}
