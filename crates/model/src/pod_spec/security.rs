use std::collections::BTreeSet;

use serde_json::Value;

use super::volume::local_path;
use crate::{FieldError, names, wire};

/// Longest name of a kernel parameter.
const SYSCTL_MAX: usize = 253;
const SYSCTL_FORMAT: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// The errors of a pod's `securityContext`.
pub(super) fn validate_pod(spec: &Value, field: &str) -> Vec<FieldError> {
    let context = wire::at(spec, &["securityContext"]);
    let mut errors = validate_ids(context, field, &["fsGroup", "runAsUser", "runAsGroup"]);
    for (index, id) in wire::list(context, "supplementalGroups").iter().enumerate() {
        errors.extend(validate_id(
            id.as_i64().unwrap_or_default(),
            format!("{field}.supplementalGroups[{index}]"),
        ));
    }
    if wire::flag(spec, "shareProcessNamespace") && wire::flag(spec, "hostPID") {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{field}.shareProcessNamespace"), true, text));
    }
    errors.extend(validate_sysctls(spec, &format!("{field}.sysctls")));
    for (key, known) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        errors.extend(validate_choice(context, field, key, &known));
    }
    errors.extend(validate_seccomp(context, &format!("{field}.seccompProfile")));
    errors
}

/// The errors of a container's `securityContext`.
pub(super) fn validate_container(context: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = validate_ids(context, field, &["runAsUser", "runAsGroup"]);
    errors.extend(validate_choice(context, field, "procMount", &["Default", "Unmasked"]));
    errors.extend(validate_seccomp(context, &format!("{field}.seccompProfile")));
    if wire::at(context, &["allowPrivilegeEscalation"]) == &Value::Bool(false) {
        let invalid = |text: &str| FieldError::invalid(field, context.clone(), text);
        if wire::flag(context, "privileged") {
            errors.push(invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
        }
        if wire::texts(wire::at(context, &["capabilities"]), "add").any(|name| name == "CAP_SYS_ADMIN") {
            errors.push(invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    errors
}

fn validate_ids(context: &Value, field: &str, keys: &[&str]) -> Vec<FieldError> {
    let given = keys.iter().filter_map(|key| Some((key, wire::int(context, key)?)));
    given.filter_map(|(key, id)| validate_id(id, format!("{field}.{key}"))).collect()
}

/// The id of a user or a group.
fn validate_id(id: i64, field: String) -> Option<FieldError> {
    let max = i64::from(i32::MAX);
    (!(0..=max).contains(&id)).then(|| FieldError::invalid(field, id, names::between(0, max)))
}

/// A field that may be absent, with a fixed set of values.
fn validate_choice(context: &Value, field: &str, key: &str, known: &[&str]) -> Option<FieldError> {
    let value = wire::text(context, key);
    (wire::has(context, key) && !known.contains(&value))
        .then(|| FieldError::not_supported(format!("{field}.{key}"), value, known))
}

fn validate_seccomp(context: &Value, field: &str) -> Vec<FieldError> {
    let profile = wire::at(context, &["seccompProfile"]);
    if profile.is_null() {
        return Vec::new();
    }
    let (kind, localhost) = (wire::text(profile, "type"), format!("{field}.localhostProfile"));
    let mut errors = Vec::new();
    if kind.is_empty() {
        let text = "type is required when seccompProfile is set";
        errors.push(FieldError::required(format!("{field}.type"), text));
    } else {
        errors.extend(validate_choice(
            profile,
            field,
            "type",
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ));
    }
    match (kind, wire::has(profile, "localhostProfile")) {
        ("Localhost", true) => errors.extend(local_path(wire::text(profile, "localhostProfile"), &localhost)),
        ("Localhost", false) => {
            errors.push(FieldError::required(localhost, "must be set when seccomp type is Localhost"));
        }
        (_, true) => {
            let text = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(localhost, profile.clone(), text));
        }
        _ => {}
    }
    errors
}

/// Kernel parameters: of a namespace that the pod does not share with its host.
fn validate_sysctls(spec: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, sysctl) in wire::list(wire::at(spec, &["securityContext"]), "sysctls").iter().enumerate() {
        let (field, name) = (format!("{list}[{index}].name"), wire::text(sysctl, "name"));
        if name.is_empty() {
            errors.push(FieldError::required(field.as_str(), ""));
        } else if name.len() > SYSCTL_MAX || !is_sysctl(name) {
            let text = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_FORMAT}");
            errors.push(FieldError::invalid(field.as_str(), name, text));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(field.as_str(), name));
        }
        let dotted = name.replace('/', ".");
        let shared = [
            ("hostNetwork", dotted.starts_with("net.")),
            (
                "hostIPC",
                ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|at| dotted.starts_with(at))
                    || dotted == "kernel.sem",
            ),
        ];
        if let Some((host, _)) = shared.into_iter().find(|(host, here)| *here && wire::flag(spec, host)) {
            errors.push(FieldError::invalid(
                field,
                name,
                format!("may not be specified when '{host}' is true"),
            ));
        }
    }
    errors
}

fn is_sysctl(name: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.split(['.', '/']).all(|part| {
        let bytes = part.as_bytes();
        let ends = bytes.first().zip(bytes.last()).is_some_and(|(first, last)| edge(*first) && edge(*last));
        ends && bytes.iter().all(|byte| edge(*byte) || matches!(byte, b'-' | b'_'))
    })
}
