//! What a pod is as an endpoint (E14 to E17, E27).

use dyad_net::IpFamily;
use serde_json::{Value, json};

use super::{topology, wire};
use crate::readiness;

/// Whether a pod can be an endpoint at all (E14).
pub(super) fn is_endpoint(pod: &Value, with_terminating: bool) -> bool {
    let status = wire::at(pod, &["status"]);
    let finished = matches!(wire::text(status, "phase"), "Succeeded" | "Failed");
    let has_address = !wire::list(status, "podIPs").is_empty() || !wire::text(status, "podIP").is_empty();
    !finished && has_address && (with_terminating || !is_terminating(pod))
}

pub(super) fn is_terminating(pod: &Value) -> bool {
    wire::has(wire::at(pod, &["metadata"]), "deletionTimestamp")
}

/// The pod's addresses of a family in their canonical form (P7).
pub(super) fn addresses(pod: &Value, family: IpFamily) -> impl Iterator<Item = String> + '_ {
    let status = wire::at(pod, &["status"]);
    let ips = wire::list(status, "podIPs").iter().map(|entry| wire::text(entry, "ip"));
    ips.filter_map(dyad_net::parse_ip_sloppy)
        .filter(move |ip| IpFamily::from(*ip) == family)
        .map(|ip| ip.to_string())
}

/// The host name a pod has within a Service, if it has one.
pub(super) fn hostname<'a>(service: &Value, pod: &'a Value) -> Option<&'a str> {
    let (spec, meta) = (wire::at(pod, &["spec"]), wire::at(service, &["metadata"]));
    let name = wire::text(spec, "hostname");
    let same_namespace = wire::same(meta, wire::at(pod, &["metadata"]), "namespace");
    (!name.is_empty() && wire::text(spec, "subdomain") == wire::text(meta, "name") && same_namespace)
        .then_some(name)
}

/// A reference to the pod.
pub(super) fn target(pod: &Value) -> Value {
    let meta = wire::at(pod, &["metadata"]);
    let mut target = json!({
        "kind": "Pod",
        "namespace": wire::text(meta, "namespace"),
        "name": wire::text(meta, "name"),
    });
    wire::copy(&mut target, meta, "uid");
    target
}

/// The pod as an endpoint of a family (E15, E16); nothing if it has no address of that family (E12).
///
/// `zone` is that of its node, `""` if the node has none, absent if the node is unknown.
pub(super) fn endpoint(service: &Value, pod: &Value, zone: Option<&str>, family: IpFamily) -> Option<Value> {
    let addresses: Vec<String> = addresses(pod, family).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (readiness::is_ready(service, pod, family), is_terminating(pod));
    let spec = wire::at(service, &["spec"]);
    let ready = wire::flag(spec, "publishNotReadyAddresses") || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": addresses,
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "targetRef": target(pod),
    });
    let node = wire::text(wire::at(pod, &["spec"]), "nodeName");
    let zone = zone.unwrap_or_default();
    for (key, value) in
        [("nodeName", node), ("zone", zone), ("hostname", hostname(service, pod).unwrap_or_default())]
    {
        if !value.is_empty() {
            wire::set(&mut endpoint, key, value);
        }
    }
    if ready {
        let hints = hints(service, zone, node);
        if !wire::is_empty(&hints) {
            wire::set(&mut endpoint, "hints", hints);
        }
    }
    Some(endpoint)
}

/// E27. By topology they are given later, to all endpoints together (E28).
fn hints(service: &Value, zone: &str, node: &str) -> Value {
    let mut hints = json!({});
    if topology::wanted(service) {
        return hints;
    }
    let distribution = wire::text(wire::at(service, &["spec"]), "trafficDistribution");
    let by_node = distribution == "PreferSameNode";
    if !zone.is_empty() && (by_node || matches!(distribution, "PreferClose" | "PreferSameZone")) {
        wire::set(&mut hints, "forZones", json!([{ "name": zone }]));
    }
    if !node.is_empty() && by_node {
        wire::set(&mut hints, "forNodes", json!([{ "name": node }]));
    }
    hints
}

/// The Service's ports as they are on the pod; those it does not have are left out (E17).
pub(super) fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let ports = wire::list(wire::at(service, &["spec"]), "ports").iter();
    ports
        .filter_map(|port| {
            let mut resolved = json!({
                "name": wire::text(port, "name"),
                "port": number(port, pod)?,
                "protocol": protocol(port),
            });
            wire::copy(&mut resolved, port, "appProtocol");
            Some(resolved)
        })
        .collect()
}

fn protocol(port: &Value) -> &str {
    match wire::text(port, "protocol") {
        "" => "TCP",
        protocol => protocol,
    }
}

/// The number of a Service port on a pod: as it is, or of the container port with that name and protocol.
pub(super) fn number(service_port: &Value, pod: &Value) -> Option<i64> {
    let name = match wire::at(service_port, &["targetPort"]) {
        Value::String(name) => name,
        Value::Null => return wire::int(service_port, "port"),
        number => return number.as_i64(),
    };
    let spec = wire::at(pod, &["spec"]);
    let sidecars = wire::list(spec, "initContainers")
        .iter()
        .filter(|container| wire::text(container, "restartPolicy") == "Always");
    wire::list(spec, "containers")
        .iter()
        .chain(sidecars)
        .flat_map(|container| wire::list(container, "ports"))
        .find(|port| wire::text(port, "name") == name && protocol(port) == protocol(service_port))
        .and_then(|port| wire::int(port, "containerPort"))
}
