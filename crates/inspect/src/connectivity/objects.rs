//! The Kubernetes objects the test makes.

use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Port of the echo servers and of their Services.
pub(super) const PORT: u16 = 8080;
/// Name of the container that probes.
pub(super) const PROBE: &str = "probe";
/// Port of its node that leads to the server on the other node.
pub(super) const HOST_PORT: u16 = 28080;
/// Label that ties a Service to its server.
const APP: &str = "app.kubernetes.io/name";
/// Label of the servers that several Services share.
const PART: &str = "app.kubernetes.io/part-of";
/// Whom a policed server admits.
const ADMITTED: &str = super::plan::FEATURES;

fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the literals of this module are well-formed objects")
}

pub(super) fn namespace() -> Namespace {
    typed(
        json!({"metadata": {"generateName": "dyad-test-", "labels": {"app.kubernetes.io/managed-by": "dyad"}}}),
    )
}

/// A Service like that of a server, with these fields of its spec instead.
pub(super) fn service(name: &str, families: &[IpFamily], fields: &Value) -> Service {
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let mut spec = json!({
        "type": "NodePort", "ipFamilyPolicy": policy, "ipFamilies": families, "selector": {APP: name},
        "ports": [
            {"name": "tcp", "port": PORT, "protocol": "TCP"},
            {"name": "udp", "port": PORT, "protocol": "UDP"},
        ],
    });
    for (key, value) in fields.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    typed(json!({"metadata": {"name": name}, "spec": spec}))
}

/// The selector of the Service of a server.
pub(super) fn selects(server: &str) -> Value {
    json!({ APP: server })
}

/// The selector of all servers.
pub(super) fn selects_all() -> Value {
    json!({PART: "servers"})
}

/// Isolates the policed servers, and admits one client by its label.
pub(super) fn policy() -> NetworkPolicy {
    typed(json!({
        "metadata": {"name": "policed"},
        "spec": {
            "podSelector": {"matchLabels": {PART: "policed"}}, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {APP: ADMITTED}}}],
                "ports": [{"port": PORT, "protocol": "TCP"}],
            }],
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

/// The pod behind a Service; `host_port` if its node leads to it, too.
pub(super) fn server(name: &str, node: &str, host_port: bool) -> Pod {
    let mut echo = echo();
    if host_port {
        echo["ports"][0]["hostPort"] = HOST_PORT.into();
    }
    typed(json!({
        "metadata": {"name": name, "labels": {APP: name, PART: "servers"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [echo]},
    }))
}

/// A server that [`policy`] is about.
pub(super) fn policed(name: &str, node: &str) -> Pod {
    typed(json!({
        "metadata": {"name": name, "labels": {APP: name, PART: "policed"}},
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
