//! PersistentVolumes.

use serde_json::{Value, json};

use super::{VOLUME_PROTECTION, claim};
use crate::meta::Checks;
use crate::{Allocator, Context, FieldError, Refusal, Strategy, lifecycle, meta, names, pod_spec, wire};

/// The strategy of PersistentVolumes.
pub static PERSISTENT_VOLUME: PersistentVolume = PersistentVolume;

/// The kinds of volumes in the order Kubernetes looks at them.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// See [`PERSISTENT_VOLUME`].
#[derive(Clone, Copy, Debug)]
pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        wire::default_zero(wire::child(object, "status"), "phase", "Pending");
        let spec = wire::child(object, "spec");
        wire::default_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        wire::default(spec, "volumeMode", "Filesystem");
        if wire::has(spec, "hostPath") {
            wire::default(wire::child(spec, "hostPath"), "type", "");
        }
    }

    fn begin_create(
        &self,
        new: &mut Value,
        _cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        super::protect(new, VOLUME_PROTECTION);
        Ok(())
    }

    fn prepare_create(&self, new: &mut Value, cx: &Context<'_>) {
        wire::set(new, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": cx.now}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            return;
        }
        const TIME: &str = "lastPhaseTransitionTime";
        let (old, status) = (wire::at(old, &["status"]), wire::child(new, "status"));
        let moved = wire::text(old, "phase") != wire::text(status, "phase");
        if !moved && !wire::has(status, TIME) {
            wire::copy(status, old, TIME);
        } else if moved && (!wire::has(status, TIME) || wire::same(status, old, TIME)) {
            wire::set(status, TIME, cx.now);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        validate_spec(wire::at(new, &["spec"]))
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            return Vec::new();
        }
        let mut errors = self.validate_create(new, cx);
        // Kubernetes looks at the whole twice.
        errors.extend(self.validate_create(new, cx));
        let (new, old) = (wire::at(new, &["spec"]), wire::at(old, &["spec"]));
        if SOURCES.iter().any(|source| !wire::same(new, old, source)) {
            let text = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden("spec.persistentvolumesource", text));
        }
        errors.extend(super::immutable(new, old, "volumeMode", "volumeMode"));
        if wire::has(old, "nodeAffinity") {
            errors.extend(super::immutable(new, old, "nodeAffinity", "nodeAffinity"));
        }
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        match wire::text(wire::at(new, &["spec"]), "persistentVolumeReclaimPolicy") {
            "Recycle" => vec![
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the \
                 recommended approach is to use dynamic provisioning."
                    .to_owned(),
            ],
            _ => Vec::new(),
        }
    }

    fn meta_checks(&self, cx: &Context<'_>) -> Checks {
        if cx.subresource.is_empty() {
            Checks { change: false, ..Checks::WHOLE_AND_CHANGE }
        } else {
            Checks::CHANGE
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn validate_spec(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if wire::list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required("spec.accessModes", ""));
    }
    errors.extend(super::validate_access_modes(spec, "spec.accessModes"));
    errors.extend(validate_capacity(wire::at(spec, &["capacity"])));
    let policy = wire::text(spec, "persistentVolumeReclaimPolicy");
    const POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
    if !POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported("spec.persistentVolumeReclaimPolicy", policy, &POLICIES));
    }
    let affinity = wire::at(spec, &["nodeAffinity"]);
    if !affinity.is_null() {
        match wire::at(affinity, &["required"]) {
            Value::Null => {
                let text = "must specify required node constraints";
                errors.push(FieldError::required("spec.nodeAffinity.required", text));
            }
            required => {
                errors.extend(pod_spec::validate_node_selector(required, "spec.nodeAffinity.required"));
            }
        }
    }
    errors.extend(validate_sources(spec));
    let root = wire::text(wire::at(spec, &["hostPath"]), "path");
    if policy == "Recycle" && root.starts_with('/') && root.split('/').all(|part| matches!(part, "" | ".")) {
        let text = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden("spec.persistentVolumeReclaimPolicy", text));
    }
    errors.extend(super::validate_classes(spec, "spec"));
    if wire::has(spec, "volumeAttributesClassName") {
        const FIELD: &str = "spec.volumeAttributesClassName";
        match wire::text(spec, "volumeAttributesClassName") {
            "" => errors.push(FieldError::required(FIELD, "an empty string is disallowed")),
            name => errors.extend(names::check(names::dns1123_subdomain, FIELD, name)),
        }
        if !wire::has(spec, "csi") {
            let text = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required("spec.csi", text));
        }
    }
    errors
}

fn validate_capacity(capacity: &Value) -> Vec<FieldError> {
    const FIELD: &str = "spec.capacity";
    let mut errors = Vec::new();
    if wire::is_empty(capacity) {
        errors.push(FieldError::required(FIELD, ""));
    }
    let count = capacity.as_object().map_or(0, serde_json::Map::len);
    if count != 1 || !wire::has(capacity, "storage") {
        errors.push(FieldError::not_supported(FIELD, capacity.clone(), &["storage"]));
    }
    errors.extend(claim::validate_capacity(capacity, FIELD));
    for (name, value) in capacity.as_object().into_iter().flatten() {
        if let Some((text, _)) = super::quantity(value).filter(|(_, value)| !value.is_positive()) {
            errors.push(FieldError::invalid(format!("{FIELD}[{name}]"), text, "must be greater than zero"));
        }
    }
    errors
}

/// One kind of volume; those that are in use everywhere are looked into.
fn validate_sources(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut found = SOURCES.iter().filter(|source| wire::has(spec, source));
    let Some(first) = found.next() else {
        return vec![FieldError::required("spec", "must specify a volume type")];
    };
    let source = wire::at(spec, &[first]);
    let field = format!("spec.{first}");
    match *first {
        "hostPath" => errors.extend(host_path(source, &field)),
        "nfs" => errors.extend(nfs(source, &field)),
        "local" => {
            errors.extend(local_path(source, &field));
            if !wire::has(spec, "nodeAffinity") {
                errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
            }
        }
        "csi" => errors.extend(csi(source, &field)),
        _ => {}
    }
    errors.extend(found.map(|more| {
        FieldError::forbidden(format!("spec.{more}"), "may not specify more than 1 volume type")
    }));
    errors
}

fn local_path(source: &Value, field: &str) -> Vec<FieldError> {
    match wire::text(source, "path") {
        "" => vec![FieldError::required(format!("{field}.path"), "")],
        path if path.split('/').any(|part| part == "..") => {
            vec![FieldError::invalid(format!("{field}.path"), path, "must not contain '..'")]
        }
        _ => Vec::new(),
    }
}

fn host_path(source: &Value, field: &str) -> Vec<FieldError> {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let mut errors = local_path(source, field);
    let kind = wire::text(source, "type");
    if !wire::text(source, "path").is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(format!("{field}.type"), kind, &TYPES));
    }
    errors
}

fn nfs(source: &Value, field: &str) -> Vec<FieldError> {
    let empty = ["server", "path"].into_iter().filter(|key| wire::text(source, key).is_empty());
    let mut errors: Vec<_> = empty.map(|key| FieldError::required(format!("{field}.{key}"), "")).collect();
    let path = wire::text(source, "path");
    if !path.starts_with('/') {
        errors.push(FieldError::invalid(format!("{field}.path"), path, "must be an absolute path"));
    }
    errors
}

fn csi(source: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let driver = wire::text(source, "driver");
    let at = format!("{field}.driver");
    if driver.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else {
        if driver.len() > 63 {
            errors.push(meta::too_long(at.as_str(), 63));
        }
        let problems = names::dns1123_subdomain(&driver.to_lowercase()).into_iter();
        errors.extend(problems.map(|text| FieldError::invalid(at.as_str(), driver, text)));
    }
    if wire::text(source, "volumeHandle").is_empty() {
        errors.push(FieldError::required(format!("{field}.volumeHandle"), ""));
    }
    let secrets = [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ];
    for key in secrets.into_iter().filter(|key| wire::has(source, key)) {
        let secret = wire::at(source, &[key]);
        let rules: [(&str, names::Rule); 2] =
            [("name", names::dns1123_subdomain), ("namespace", names::dns1123_label)];
        for (part, rule) in rules {
            let at = format!("{field}.{key}.{part}");
            match wire::text(secret, part) {
                "" => errors.push(FieldError::required(at, "")),
                value => errors.extend(names::check(rule, at, value)),
            }
        }
    }
    errors
}
