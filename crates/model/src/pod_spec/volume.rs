use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::environment::{VOLUME_FIELDS, validate_field_reference, validate_resource_reference};
use crate::{FieldError, names, quantity::Quantity, wire};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// The kinds of volumes in the order Kubernetes looks at them, with those that are checked here in detail.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The errors of `volumes`; the names of those without errors go into `valid`.
pub(super) fn validate_volumes<'a>(
    spec: &'a Value,
    list: &str,
    valid: &mut BTreeSet<&'a str>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, volume) in wire::list(spec, "volumes").iter().enumerate() {
        let field = format!("{list}[{index}]");
        let mut own = validate_source(volume, &field);
        let name = wire::text(volume, "name");
        if name.is_empty() {
            own.push(FieldError::required(format!("{field}.name"), ""));
        } else {
            own.extend(names::check(names::dns1123_label, format!("{field}.name"), name));
        }
        if valid.contains(name) {
            own.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        if own.is_empty() {
            valid.insert(name);
        }
        errors.extend(own);
    }
    errors
}

fn validate_source(volume: &Value, field: &str) -> Vec<FieldError> {
    let mut kinds = SOURCES.into_iter().filter(|kind| wire::has(volume, kind));
    let Some(kind) = kinds.next() else {
        return vec![FieldError::required(field, "must specify a volume type")];
    };
    let source = wire::at(volume, &[kind]);
    let at = format!("{field}.{kind}");
    let mut errors = match kind {
        "emptyDir" => {
            let negative =
                Quantity::parse(wire::text(source, "sizeLimit")).is_some_and(Quantity::is_negative);
            let text = "SizeLimit field must be a valid resource quantity";
            negative.then(|| FieldError::forbidden(format!("{at}.sizeLimit"), text)).into_iter().collect()
        }
        "hostPath" => host_path(source, &at),
        "secret" => files(source, "secretName", &at),
        "configMap" => files(source, "name", &at),
        "persistentVolumeClaim" => required(source, &at, &["claimName"]),
        "nfs" => {
            let mut errors = required(source, &at, &["server", "path"]);
            let path = wire::text(source, "path");
            if !path.is_empty() && !path.starts_with('/') {
                errors.push(FieldError::invalid(format!("{at}.path"), path, "must be an absolute path"));
            }
            errors
        }
        "downwardAPI" => {
            let mut errors = mode(source, "defaultMode", &at);
            errors.extend(wire::list(source, "items").iter().flat_map(|item| downward_file(item, &at)));
            errors
        }
        "projected" => projected(source, &at),
        "csi" => required(source, &at, &["driver"]),
        _ => Vec::new(),
    };
    errors.extend(kinds.map(|kind| {
        FieldError::forbidden(format!("{field}.{kind}"), "may not specify more than 1 volume type")
    }));
    errors
}

fn required(source: &Value, field: &str, keys: &[&str]) -> Vec<FieldError> {
    let missing = keys.iter().filter(|key| wire::text(source, key).is_empty());
    missing.map(|key| FieldError::required(format!("{field}.{key}"), "")).collect()
}

fn host_path(source: &Value, field: &str) -> Vec<FieldError> {
    let path = wire::text(source, "path");
    if path.is_empty() {
        return vec![FieldError::required(format!("{field}.path"), "")];
    }
    let mut errors = no_backsteps(path, &format!("{field}.path"));
    let kinds =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = wire::text(source, "type");
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(format!("{field}.type"), kind, &kinds));
    }
    errors
}

/// A ConfigMap or Secret as files.
fn files(source: &Value, name: &str, field: &str) -> Vec<FieldError> {
    let mut errors = required(source, field, &[name]);
    errors.extend(mode(source, "defaultMode", field));
    for (index, item) in wire::list(source, "items").iter().enumerate() {
        errors.extend(key_to_path(item, &format!("{field}.items[{index}]")));
    }
    errors
}

fn mode(source: &Value, key: &str, field: &str) -> Vec<FieldError> {
    let bad = wire::int(source, key).filter(|mode| !(0..=0o777).contains(mode));
    bad.map(|mode| FieldError::invalid(format!("{field}.{key}"), mode, MODE)).into_iter().collect()
}

fn key_to_path(item: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = required(item, field, &["key", "path"]);
    errors.extend(local_path(wire::text(item, "path"), &format!("{field}.path")));
    errors.extend(mode(item, "mode", field));
    errors
}

fn downward_file(item: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = required(item, field, &["path"]);
    errors.extend(local_path(wire::text(item, "path"), &format!("{field}.path")));
    let (reference, resource) = (wire::at(item, &["fieldRef"]), wire::at(item, &["resourceFieldRef"]));
    if !reference.is_null() {
        errors.extend(validate_field_reference(reference, &VOLUME_FIELDS, &format!("{field}.fieldRef")));
        if !resource.is_null() {
            let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(field, "resource", text));
        }
    } else if !resource.is_null() {
        errors.extend(validate_resource_reference(resource, true, &format!("{field}.resourceFieldRef")));
    } else {
        errors.push(FieldError::required(field, "one of fieldRef and resourceFieldRef is required"));
    }
    errors.extend(mode(item, "mode", field));
    errors
}

fn projected(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = mode(source, "defaultMode", field);
    let mut paths = BTreeSet::new();
    for (index, part) in wire::list(source, "sources").iter().enumerate() {
        let at = format!("{field}.sources[{index}]");
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let kinds: Vec<_> = kinds.into_iter().filter(|kind| wire::has(part, kind)).collect();
        for kind in &kinds {
            let (inner, at) = (wire::at(part, &[kind]), format!("{at}.{kind}"));
            match *kind {
                "secret" | "configMap" => {
                    errors.extend(required(inner, &at, &["name"]));
                    for (index, item) in wire::list(inner, "items").iter().enumerate() {
                        errors.extend(key_to_path(item, &format!("{at}.items[{index}]")));
                        if !paths.insert(wire::text(item, "path")) {
                            let name = wire::text(inner, "name");
                            errors.push(FieldError::invalid(field, name, "conflicting duplicate paths"));
                        }
                    }
                }
                "downwardAPI" => {
                    for item in wire::list(inner, "items") {
                        errors.extend(downward_file(item, &at));
                        let path = wire::text(item, "path");
                        if !path.is_empty() && !paths.insert(path) {
                            errors.push(FieldError::invalid(field, path, "conflicting duplicate paths"));
                        }
                    }
                }
                "serviceAccountToken" => {
                    let seconds = wire::int(inner, "expirationSeconds").unwrap_or_default();
                    if seconds < 600 {
                        let text = "may not specify a duration less than 10 minutes";
                        errors.push(FieldError::invalid(format!("{at}.expirationSeconds"), seconds, text));
                    }
                    if seconds > 1 << 32 {
                        let text = "may not specify a duration larger than 2^32 seconds";
                        errors.push(FieldError::invalid(format!("{at}.expirationSeconds"), seconds, text));
                    }
                    match wire::text(inner, "path") {
                        "" => errors.push(FieldError::required(format!("{field}.path"), "")),
                        path => errors.extend(local_path(path, &format!("{field}.path"))),
                    }
                }
                _ => {}
            }
        }
        if kinds.len() > 1 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type per source"));
        }
    }
    errors
}

/// The errors of a container's `volumeMounts` and `volumeDevices`.
pub(super) fn validate_mounts(container: &Value, field: &str, volumes: &BTreeSet<&str>) -> Vec<FieldError> {
    let list = format!("{field}.volumeMounts");
    let devices: BTreeMap<&str, &str> = wire::list(container, "volumeDevices")
        .iter()
        .map(|device| (wire::text(device, "name"), wire::text(device, "devicePath")))
        .collect();
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, mount) in wire::list(container, "volumeMounts").iter().enumerate() {
        let field = format!("{list}[{index}]");
        let (name, path) = (wire::text(mount, "name"), wire::text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::new(crate::ErrorType::NotFound, format!("{field}.name"), name, ""));
        }
        if path.is_empty() {
            errors.push(FieldError::required(format!("{field}.mountPath"), ""));
        }
        if !seen.insert(path) {
            errors.push(FieldError::invalid(format!("{field}.mountPath"), path, "must be unique"));
        }
        if devices.contains_key(name) {
            let text = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(format!("{field}.name"), name, text));
        }
        if devices.values().any(|device| *device == path) {
            let text = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(format!("{field}.mountPath"), path, text));
        }
        let (sub_path, expression) = (wire::text(mount, "subPath"), wire::text(mount, "subPathExpr"));
        if !sub_path.is_empty() {
            errors.extend(descending_path(sub_path, &format!("{list}.subPath")));
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let text = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(format!("{field}.subPathExpr"), expression, text));
            }
            errors.extend(descending_path(expression, &format!("{list}.subPathExpr")));
        }
        if wire::has(mount, "mountPropagation") {
            errors.extend(propagation(mount, container, &format!("{list}.mountPropagation")));
        }
    }
    errors
}

/// The errors of a container's `volumeDevices`.
pub(super) fn validate_devices(
    container: &Value,
    field: &str,
    spec: &Value,
    volumes: &BTreeSet<&str>,
) -> Vec<FieldError> {
    let list = format!("{field}.volumeDevices");
    let is_block = |name: &str| {
        let mut named =
            wire::list(spec, "volumes").iter().filter(|volume| wire::text(volume, "name") == name);
        named.any(|volume| wire::has(volume, "persistentVolumeClaim") || wire::has(volume, "ephemeral"))
    };
    let mounts = wire::list(container, "volumeMounts");
    let mut errors = Vec::new();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in wire::list(container, "volumeDevices").iter().enumerate() {
        let (name, path) = (wire::text(device, "name"), wire::text(device, "devicePath"));
        let at = |key: &str| format!("{list}[{index}].{key}");
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else if !names.insert(name) {
            errors.push(FieldError::invalid(at("name"), name, "must be unique"));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::new(crate::ErrorType::NotFound, at("name"), name, ""));
        } else if !is_block(name) {
            let text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errors.push(FieldError::invalid(at("name"), name, text));
        }
        if path.is_empty() {
            errors.push(FieldError::required(at("devicePath"), ""));
        }
        if paths.contains(path) {
            errors.push(FieldError::invalid(at("devicePath"), path, "must be unique"));
        }
        if no_backsteps(path, "").is_empty() {
            paths.insert(path);
        } else {
            errors.push(FieldError::invalid(at("devicePath"), path, "can not contain backsteps ('..')"));
        }
        if mounts.iter().any(|mount| wire::text(mount, "name") == name) {
            errors.push(FieldError::invalid(at("name"), name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| wire::text(mount, "mountPath") == path) {
            let text = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(at("devicePath"), path, text));
        }
    }
    errors
}

fn propagation(mount: &Value, container: &Value, field: &str) -> Vec<FieldError> {
    const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    let mode = wire::text(mount, "mountPropagation");
    if !MODES.contains(&mode) {
        return vec![FieldError::not_supported(field, mode, &MODES)];
    }
    if mode == "Bidirectional" && !wire::flag(wire::at(container, &["securityContext"]), "privileged") {
        let text = "Bidirectional mount propagation is available only to privileged containers";
        return vec![FieldError::forbidden(field, text)];
    }
    Vec::new()
}

/// A path that stays below where it begins.
fn descending_path(path: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if path.starts_with('/') {
        errors.push(FieldError::invalid(field, path, "must be a relative path"));
    }
    errors.extend(no_backsteps(path, field));
    errors
}

/// A descending path that does not collide with the names the kubelet keeps to itself.
pub(super) fn local_path(path: &str, field: &str) -> Vec<FieldError> {
    let mut errors = descending_path(path, field);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.push(FieldError::invalid(field, path, "must not start with '..'"));
    }
    errors
}

fn no_backsteps(path: &str, field: &str) -> Vec<FieldError> {
    if path.split('/').any(|part| part == "..") {
        return vec![FieldError::invalid(field, path, "must not contain '..'")];
    }
    Vec::new()
}
