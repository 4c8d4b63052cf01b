//! What policies mean, read straight from the objects for one connection at a time, as the API describes it: slow, and
//! sharing nothing with the compiler.

use std::net::IpAddr;

use serde_json::Value;

use super::Objects;
use crate::policy::Flow;
use crate::{Payload, Protocol};

/// Whether the node `node` lets a connection through.
pub(super) fn admits(objects: &Objects, node: &str, flow: &Flow) -> bool {
    let local = |ip: IpAddr| pod_of(objects, ip).filter(|pod| pod["spec"]["nodeName"] == node);
    let egress =
        local(flow.source).is_none_or(|pod| direction(objects, pod, flow, "egress", "to", flow.destination));
    let ingress = local(flow.destination)
        .is_none_or(|pod| direction(objects, pod, flow, "ingress", "from", flow.source));
    egress && ingress
}

fn pod_of(objects: &Objects, ip: IpAddr) -> Option<&Value> {
    let ip = ip.to_string();
    objects.pods.iter().find(|pod| {
        let has = pod["status"]["podIPs"].as_array().unwrap().iter().any(|of| of["ip"] == ip.as_str());
        has && pod["spec"]["hostNetwork"] != true && pod["status"]["phase"] != "Failed"
    })
}

fn direction(
    objects: &Objects,
    pod: &Value,
    flow: &Flow,
    direction: &str,
    peers: &str,
    other: IpAddr,
) -> bool {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    if let Some(decided) = tier(objects, pod, flow, "Admin", direction, peers, other) {
        return decided;
    }
    let kind = if direction == "ingress" { "Ingress" } else { "Egress" };
    let selecting: Vec<&Value> = objects
        .network
        .iter()
        .filter(|policy| {
            let types = policy["spec"]["policyTypes"].as_array();
            let has_rules = policy["spec"]["egress"].as_array().is_some_and(|rules| !rules.is_empty());
            let concerned =
                types.map_or(kind == "Ingress" || has_rules, |types| types.iter().any(|of| *of == kind));
            policy["metadata"]["namespace"] == namespace
                && concerned
                && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
        })
        .collect();
    if !selecting.is_empty() {
        return selecting.iter().any(|policy| {
            let rules = policy["spec"][direction].as_array().into_iter().flatten();
            rules.into_iter().any(|rule| {
                let list = rule[peers].as_array().filter(|list| !list.is_empty());
                let ports = rule["ports"].as_array().filter(|list| !list.is_empty());
                list.is_none_or(|list| list.iter().any(|peer| is_peer(objects, namespace, peer, other)))
                    && ports.is_none_or(|ports| ports.iter().any(|port| is_port(objects, port, flow)))
            })
        });
    }
    tier(objects, pod, flow, "Baseline", direction, peers, other).unwrap_or(true)
}

/// What a tier decides; nothing if it passes or has no rule for it.
fn tier(
    objects: &Objects,
    pod: &Value,
    flow: &Flow,
    tier: &str,
    direction: &str,
    peers: &str,
    other: IpAddr,
) -> Option<bool> {
    let mut policies: Vec<&Value> =
        objects.cluster.iter().filter(|policy| policy["spec"]["tier"] == tier).collect();
    policies.sort_by_key(|policy| {
        (policy["spec"]["priority"].as_i64(), policy["metadata"]["name"].as_str().unwrap().to_owned())
    });
    for policy in policies.into_iter().filter(|policy| is_pod_of(objects, &policy["spec"]["subject"], pod)) {
        for rule in policy["spec"][direction].as_array().into_iter().flatten() {
            let is_one = pod_of(objects, other).is_some_and(|other| {
                rule[peers].as_array().unwrap().iter().any(|peer| is_pod_of(objects, peer, other))
            });
            let protocols = rule["protocols"].as_array();
            let fits = protocols.is_none_or(|list| list.iter().any(|of| is_protocol(objects, of, flow)));
            if is_one && fits {
                return match rule["action"].as_str().unwrap() {
                    "Accept" => Some(true),
                    "Deny" => Some(false),
                    _ => None,
                };
            }
        }
    }
    None
}

/// Whether a subject or peer of a ClusterNetworkPolicy is this pod.
fn is_pod_of(objects: &Objects, of: &Value, pod: &Value) -> bool {
    let Some(labels) = namespace_labels(objects, pod) else { return false };
    if of["namespaces"].is_object() {
        return selects(&of["namespaces"], labels);
    }
    selects(&of["pods"]["namespaceSelector"], labels)
        && selects(&of["pods"]["podSelector"], &pod["metadata"]["labels"])
}

fn namespace_labels<'a>(objects: &'a Objects, pod: &Value) -> Option<&'a Value> {
    let found = objects.namespaces.iter().find(|of| of["metadata"]["name"] == pod["metadata"]["namespace"]);
    found.map(|namespace| &namespace["metadata"]["labels"])
}

fn is_peer(objects: &Objects, namespace: &str, peer: &Value, other: IpAddr) -> bool {
    if let Some(block) = peer.get("ipBlock") {
        let holds =
            |text: &Value| text.as_str().unwrap().parse::<dyad_net::IpNet>().unwrap().contains(&other);
        return holds(&block["cidr"]) && !block["except"].as_array().into_iter().flatten().any(holds);
    }
    let Some(pod) = pod_of(objects, other) else { return false };
    let in_namespace = match peer.get("namespaceSelector") {
        None => pod["metadata"]["namespace"] == namespace,
        Some(selector) => namespace_labels(objects, pod).is_some_and(|labels| selects(selector, labels)),
    };
    in_namespace
        && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod["metadata"]["labels"]))
}

fn is_port(objects: &Objects, port: &Value, flow: &Flow) -> bool {
    let Payload::Port(protocol, number) = flow.payload else { return false };
    if port["protocol"].as_str().unwrap_or("TCP") != protocol.as_str() {
        return false;
    }
    match &port["port"] {
        Value::Null => true,
        Value::String(name) => is_named(objects, name, flow),
        first => {
            let first = first.as_u64().unwrap();
            (first..=port["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(number))
        }
    }
}

fn is_protocol(objects: &Objects, of: &Value, flow: &Flow) -> bool {
    let Payload::Port(protocol, number) = flow.payload else { return false };
    if let Some(name) = of["destinationNamedPort"].as_str() {
        return is_named(objects, name, flow);
    }
    let key = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let Some(port) = of.get(key).map(|of| &of["destinationPort"]) else { return false };
    match port["number"].as_u64() {
        Some(exact) => exact == u64::from(number),
        None => (port["range"]["start"].as_u64().unwrap()..=port["range"]["end"].as_u64().unwrap())
            .contains(&u64::from(number)),
    }
}

/// Whether the destination is a pod that calls the port so.
fn is_named(objects: &Objects, name: &str, flow: &Flow) -> bool {
    let Payload::Port(protocol, number) = flow.payload else { return false };
    let Some(pod) = pod_of(objects, flow.destination) else { return false };
    pod["spec"]["containers"][0]["ports"].as_array().unwrap().iter().any(|port| {
        port["name"] == name
            && port["protocol"].as_str().unwrap_or("TCP") == protocol.as_str()
            && port["containerPort"] == number
    })
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let equal =
        selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value);
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let mut holds = expressions.map(|of| {
        let label = &labels[of["key"].as_str().unwrap()];
        match of["operator"].as_str().unwrap() {
            "Exists" => !label.is_null(),
            "NotIn" => !of["values"].as_array().unwrap().contains(label),
            other => panic!("the tests use no {other}"),
        }
    });
    equal && holds.all(|holds| holds)
}
