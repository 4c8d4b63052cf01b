//! Defaulting that needs nothing but the object.

use serde_json::{Value, json};

use super::spec::{AffinityConfig, ClientIp, Spec, affinity, kind, traffic};
use crate::wire;

/// Seconds a client stays with an endpoint unless said otherwise (A5).
const AFFINITY_SECONDS: i64 = 10800;

pub(super) fn apply(spec: &mut Spec) {
    fill(&mut spec.session_affinity, affinity::NONE);
    match spec.session_affinity.as_str() {
        affinity::NONE => spec.session_affinity_config = None,
        affinity::CLIENT_IP => {
            let config = spec.session_affinity_config.take();
            let seconds =
                config.and_then(|config| config.client_ip?.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
            let client_ip = ClientIp { timeout_seconds: Some(seconds) };
            spec.session_affinity_config = Some(AffinityConfig { client_ip: Some(client_ip) });
        }
        _ => {}
    }
    fill(&mut spec.kind, kind::CLUSTER_IP);
    for port in &mut spec.ports {
        fill(&mut port.protocol, "TCP");
        if wire::is_empty(&port.target_port) {
            port.target_port = port.port.into();
        }
    }
    if spec.is_externally_accessible() {
        fill(&mut spec.external_traffic_policy, traffic::CLUSTER);
    }
    if matches!(spec.kind.as_str(), kind::CLUSTER_IP | kind::NODE_PORT | kind::LOAD_BALANCER) {
        spec.internal_traffic_policy.get_or_insert_with(|| traffic::CLUSTER.to_owned());
    }
    if spec.is_load_balancer() {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// A9, and what Go writes for a status that says nothing.
pub(super) fn apply_status(spec: &Spec, object: &mut Value) {
    let load_balancer = wire::child(wire::child(object, "status"), "loadBalancer");
    if spec.is_load_balancer() {
        for ingress in wire::items_mut(load_balancer, "ingress") {
            if !wire::text(ingress, "ip").is_empty() {
                wire::default(ingress, "ipMode", json!("VIP"));
            }
        }
    }
}

fn fill(field: &mut String, default: &str) {
    if field.is_empty() {
        *field = default.to_owned();
    }
}
