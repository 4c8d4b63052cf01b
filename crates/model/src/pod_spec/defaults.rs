use serde_json::{Value, json};

use crate::wire;

/// The lists of containers in a pod specification.
pub(crate) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Defaults of a pod specification in Pods and templates alike.
pub(crate) fn default_pod_spec(spec: &mut Value) {
    wire::default_zero(spec, "dnsPolicy", "ClusterFirst");
    wire::default_zero(spec, "restartPolicy", "Always");
    wire::default(spec, "securityContext", json!({}));
    wire::default(spec, "terminationGracePeriodSeconds", 30);
    wire::default_zero(spec, "schedulerName", "default-scheduler");
    // Two names of one field.
    for (key, other) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        let account = wire::text(spec, key).to_owned();
        if !account.is_empty() {
            wire::set(spec, other, account);
        }
    }
    for volume in wire::items_mut(spec, "volumes") {
        default_volume(volume);
    }
    for list in CONTAINER_LISTS {
        for container in wire::items_mut(spec, list) {
            default_container(container);
        }
    }
}

/// Requests that are missing are what the limits are; only in Pods, not in templates.
pub(crate) fn default_requests_to_limits(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in wire::items_mut(spec, list) {
            requests_to_limits(container);
        }
    }
    requests_to_limits(spec);
}

fn requests_to_limits(owner: &mut Value) {
    let limits: Vec<(String, Value)> = wire::entries(wire::at(owner, &["resources"]), "limits")
        .map(|(name, quantity)| (name.to_owned(), quantity.clone()))
        .collect();
    if limits.is_empty() {
        return;
    }
    let requests = wire::child(wire::child(owner, "resources"), "requests");
    for (name, quantity) in limits {
        wire::default(requests, &name, quantity);
    }
}

/// In the host's network a container port is a host port; only in Pods, not in templates.
pub(crate) fn host_network_ports(spec: &mut Value) {
    if !wire::flag(spec, "hostNetwork") {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in wire::items_mut(spec, list) {
            for port in wire::items_mut(container, "ports") {
                if let Some(number) = wire::int(port, "containerPort") {
                    wire::default_zero(port, "hostPort", number);
                }
            }
        }
    }
}

fn default_container(container: &mut Value) {
    drop_stop_signal(container);
    let policy =
        if image_tag(wire::text(container, "image")) == "latest" { "Always" } else { "IfNotPresent" };
    wire::default_zero(container, "imagePullPolicy", policy);
    wire::default_zero(container, "terminationMessagePath", "/dev/termination-log");
    wire::default_zero(container, "terminationMessagePolicy", "File");
    wire::default(container, "resources", json!({}));
    for port in wire::items_mut(container, "ports") {
        wire::default_zero(port, "protocol", "TCP");
    }
    for variable in wire::items_mut(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            wire::default_zero(field, "apiVersion", "v1");
        }
        if let Some(file) = variable.pointer_mut("/valueFrom/fileKeyRef") {
            wire::default(file, "optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|probe| probe.is_object()) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(request) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            default_http_get(request);
        }
    }
}

/// Stop signals are no part of the API yet.
fn drop_stop_signal(container: &mut Value) {
    let Some(lifecycle) =
        container.get_mut("lifecycle").filter(|lifecycle| wire::has(lifecycle, "stopSignal"))
    else {
        return;
    };
    wire::remove(lifecycle, "stopSignal");
    if wire::is_empty(lifecycle) {
        wire::remove(container, "lifecycle");
    }
}

fn default_probe(probe: &mut Value) {
    wire::default_zero(probe, "timeoutSeconds", 1);
    wire::default_zero(probe, "periodSeconds", 10);
    wire::default_zero(probe, "successThreshold", 1);
    wire::default_zero(probe, "failureThreshold", 3);
    if let Some(request) = probe.get_mut("httpGet").filter(|request| request.is_object()) {
        default_http_get(request);
    }
    if let Some(request) = probe.get_mut("grpc").filter(|request| request.is_object()) {
        wire::default(request, "service", "");
    }
}

fn default_http_get(request: &mut Value) {
    wire::default_zero(request, "path", "/");
    wire::default_zero(request, "scheme", "HTTP");
}

/// `0644`.
const FILE_MODE: u32 = 0o644;

fn default_volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|map| map.iter().any(|(key, value)| key != "name" && !value.is_null()));
    if !has_source {
        wire::set(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            wire::default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object()) {
        wire::default(path, "type", "");
    }
    if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
        let policy =
            if image_tag(wire::text(image, "reference")) == "latest" { "Always" } else { "IfNotPresent" };
        wire::default_zero(image, "pullPolicy", policy);
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        wire::default(claim, "volumeMode", "Filesystem");
    }
    if let Some(api) = volume.get_mut("downwardAPI") {
        default_field_references(api);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in wire::items_mut(projected, "sources") {
            if let Some(api) = source.get_mut("downwardAPI") {
                default_field_references(api);
            }
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
                wire::default(token, "expirationSeconds", 3600);
            }
        }
    }
}

fn default_field_references(source: &mut Value) {
    for item in wire::items_mut(source, "items") {
        if let Some(field) = item.get_mut("fieldRef").filter(|field| field.is_object()) {
            wire::default_zero(field, "apiVersion", "v1");
        }
    }
}

/// The tag of an image reference, `latest` if it has neither tag nor digest.
fn image_tag(reference: &str) -> &str {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, digest),
        None => (reference, ""),
    };
    // A colon before the last slash belongs to the registry's port.
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest.is_empty() => "latest",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_images() {
        let rows = [
            ("x", "latest"),
            ("x:latest", "latest"),
            ("x:1.2", "1.2"),
            ("registry:5000/x", "latest"),
            ("registry:5000/a/x:1", "1"),
            ("x@sha256:abc", ""),
            ("x:1@sha256:abc", "1"),
            ("", "latest"),
        ];
        for (image, tag) in rows {
            assert_eq!(image_tag(image), tag, "{image}");
        }
    }

    #[test]
    fn a_pod_specification_is_filled_in() {
        let mut spec = json!({
            "hostNetwork": true,
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}, {"name": "d", "hostPath": {"path": "/"}},
                {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                    {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}],
            "containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}],
                "resources": {"limits": {"cpu": "1"}},
                "readinessProbe": {"httpGet": {"port": 80}}}],
        });
        default_pod_spec(&mut spec);
        default_requests_to_limits(&mut spec);
        host_network_ports(&mut spec);
        let wanted = json!({
            "hostNetwork": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "c", "defaultMode": 420}},
                {"name": "d", "hostPath": {"path": "/", "type": ""}},
                {"name": "e", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}},
                    {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}]}}]}}],
            "containers": [{"name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs", "apiVersion": "v1"}}}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
        });
        assert_eq!(spec, wanted);
        let again = spec.clone();
        default_pod_spec(&mut spec);
        host_network_ports(&mut spec);
        assert_eq!(spec, again, "defaulting what is defaulted changes nothing");
    }
}
