//! The Kubernetes objects the test makes.

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Port of the echo servers and of their Services.
pub(super) const PORT: u16 = 8080;
/// Name of the container that probes.
pub(super) const PROBE: &str = "probe";
/// Label that ties a Service to its server.
const APP: &str = "app.kubernetes.io/name";

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the literals of this module are well-formed objects")
}

pub(super) fn namespace() -> Namespace {
    typed(
        json!({"metadata": {"generateName": "dyad-test-", "labels": {"app.kubernetes.io/managed-by": "dyad"}}}),
    )
}

pub(super) fn service(name: &str, families: usize) -> Service {
    let policy = if families > 1 { "RequireDualStack" } else { "SingleStack" };
    typed(json!({
        "metadata": {"name": name},
        "spec": {
            "type": "NodePort", "ipFamilyPolicy": policy, "selector": {APP: name},
            "ports": [
                {"name": "tcp", "port": PORT, "protocol": "TCP"},
                {"name": "udp", "port": PORT, "protocol": "UDP"},
            ],
        },
    }))
}

fn echo() -> Value {
    json!({
        "name": "echo", "image": "dyad/echo",
        "ports": [{"containerPort": PORT}, {"containerPort": PORT, "protocol": "UDP"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
    })
}

fn probe(targets: &[String]) -> Value {
    let command: Vec<&str> =
        ["dyad", "internal", "probe"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    json!({
        "name": PROBE, "image": "dyad/tools", "command": command,
        "volumeMounts": [{"name": "ca", "mountPath": "/var/run/dyad-test", "readOnly": true}],
    })
}

/// The pod behind a Service.
pub(super) fn server(name: &str, node: &str) -> Pod {
    typed(json!({
        "metadata": {"name": name, "labels": {APP: name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [echo()]},
    }))
}

/// A pod that probes: on the node itself (`host`), beside a server of its own (`self`), or alone.
pub(super) fn client(name: &str, node: &str, targets: &[String]) -> Pod {
    let mut containers = vec![probe(targets)];
    if name == super::plan::SELF {
        containers.push(echo());
    }
    typed(json!({
        "metadata": {"name": name, "labels": {APP: name}},
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "hostNetwork": name == super::plan::HOST, "containers": containers,
            "volumes": [{"name": "ca", "configMap": {"name": "kube-root-ca.crt"}}],
        },
    }))
}
