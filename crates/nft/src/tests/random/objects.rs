//! Objects drawn at random: every bit of a shape is a trait.

use std::num::NonZeroU32;

use dyad_program::policy::{ClusterNetworkPolicy, Labels, NetworkPolicy, Pod, wire};
use dyad_program::{
    EndpointSlice, HostPort, Name, Port, Protocol, Service, SliceEndpoint, SlicePort, Traffic,
};

use super::*;

pub(super) fn a_service(number: u8, shape: u8) -> Service {
    let bit = |n: u8| shape >> n & 1 != 0;
    let traffic = |local| if local { Traffic::Local } else { Traffic::Cluster };
    let port = |name: &str, protocol| {
        let node_port = bit(0).then_some(30000 + u16::from(number));
        Port { name: name.into(), protocol, port: 80, node_port }
    };
    let both = DualStack::dual(
        IpFamily::V4,
        IpAddr::from([10, 96, 0, number + 1]),
        format!("fd00:10:96::{}", number + 1).parse().unwrap(),
    );
    let single = |family| DualStack::single(family, *both.get(family).unwrap());
    Service {
        cluster_ips: match (bit(1), bit(2)) {
            (false, _) => both,
            (true, false) => single(IpFamily::V4),
            (true, true) => single(IpFamily::V6),
        },
        external_ips: if bit(3) { ips(["203.0.113.7", "2001:db8:113::7"]) } else { BTreeSet::new() },
        ports: [port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)][..1 + usize::from(bit(4))].to_vec(),
        external_traffic: traffic(bit(5)),
        internal_traffic: traffic(bit(6)),
        // What is kept on the node is also sticky, and has an address of a balancer for some.
        affinity: NonZeroU32::new(if bit(7) { 600 + u32::from(shape & 1) } else { 0 }),
        balancer_ips: if bit(7) && bit(3) {
            ips(["203.0.113.8", "2001:db8:113::8"])
        } else {
            BTreeSet::new()
        },
        source_ranges: bit(4)
            .then(|| vec!["192.0.2.0/30".parse().unwrap(), "2001:db8::8/125".parse().unwrap()]),
        health_check_node_port: None,
    }
}

/// Three addresses exist; others only fill slots.
pub(super) fn a_slice(family: IpFamily, owner: u8, endpoints: &[(u8, u8)]) -> EndpointSlice {
    let endpoint = |(index, shape): &(u8, u8)| {
        let (node, last) = match index {
            0 => (1, 2),
            1 => (1, 3),
            2 => (2, 2),
            more => (2, *more),
        };
        SliceEndpoint {
            ip: match family {
                IpFamily::V4 => IpAddr::from([10, 244, node, last]),
                IpFamily::V6 => format!("fd00:10:244:{node}::{last}").parse().unwrap(),
            },
            ready: shape & 3 != 0,
            serving: shape & 4 != 0,
            terminating: shape & 8 != 0,
            node: Some(format!("node{node}")),
            hints: None,
        }
    };
    let port = |name: &str, protocol| SlicePort { name: name.into(), protocol, port: 8080 };
    EndpointSlice {
        service: Name::new("default", &owner.to_string()),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
    }
}

/// The pods of the lab: two of this node, and one far away; any of them may be gone.
pub(super) fn a_pod(number: u8, shape: u8) -> Pod {
    let bit = |n: u8| shape >> n & 1 != 0;
    let (node, last) = match number {
        0 => (1, 2),
        1 => (1, 3),
        _ => (2, 2),
    };
    let ips = [IpAddr::from([10, 244, node, last]), format!("fd00:10:244:{node}::{last}").parse().unwrap()];
    let host_port = |ip, port| HostPort { ip, protocol: Protocol::Tcp, port, container_port: 8080 };
    let host_ports = [host_port(None, 30080), host_port(Some("192.0.2.1".parse().unwrap()), 30081)];
    let app = if bit(0) { "a" } else { "b" };
    Pod {
        namespace: "default".into(),
        labels: Labels::from([("app".into(), app.into())]).into(),
        ips: ips[usize::from(bit(1) && bit(2))..].to_vec(),
        node: format!("node{node}").into(),
        host_network: false,
        named_ports: if bit(3) { vec![("web".into(), Protocol::Tcp, 8080)] } else { Vec::new() },
        host_ports: host_ports[..usize::from(bit(4)) + usize::from(bit(5))].to_vec(),
    }
}

fn traffic(shape: u16, key: &str) -> Value {
    let bit = |n: u8| shape >> n & 1 != 0;
    let app = |is_a: bool| json!({"matchLabels": {"app": if is_a { "a" } else { "b" }}});
    let peers = match (bit(0), bit(1)) {
        (false, false) => json!([]),
        (false, true) => json!([{"podSelector": app(bit(2))}]),
        (true, false) => json!([
            {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.8/29"]}},
            {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8::8/125"]}},
        ]),
        (true, true) => json!([
            {"namespaceSelector": {}},
            {"ipBlock": {"cidr": "192.0.2.0/24"}},
            {"ipBlock": {"cidr": "::/0", "except": ["fd00:10:244:1::2/128"]}},
        ]),
    };
    let ports = match (bit(3), bit(4)) {
        (false, _) => json!([]),
        (true, false) => json!([{"protocol": "TCP", "port": 8000, "endPort": 8100}, {"protocol": "SCTP"}]),
        (true, true) => json!([{"protocol": "TCP", "port": "web"}, {"protocol": "UDP", "port": 8080}]),
    };
    json!({key: peers, "ports": ports})
}

pub(super) fn a_policy(number: u8, shape: u16) -> NetworkPolicy {
    let bit = |n: u8| shape >> n & 1 != 0;
    let rules = |key| if bit(5) { json!([traffic(shape, key)]) } else { json!([]) };
    let (direction, key) = if bit(6) { ("Ingress", "from") } else { ("Egress", "to") };
    let mut selector = json!({});
    if bit(7) {
        selector = json!({"matchLabels": {"app": if bit(8) { "a" } else { "b" }}});
    }
    let object = json!({
        "metadata": {"namespace": "default", "name": number.to_string()},
        "spec": {"podSelector": selector, "policyTypes": [direction], direction.to_lowercase(): rules(key)},
    });
    wire::network_policy_from_value(&object).unwrap().1
}

pub(super) fn a_cluster_policy(number: u8, shape: u16) -> Option<ClusterNetworkPolicy> {
    let bit = |n: u8| shape >> n & 1 != 0;
    let (direction, key) = if bit(0) { ("ingress", "from") } else { ("egress", "to") };
    let action = match (bit(1), bit(2)) {
        (false, _) => "Accept",
        (true, false) => "Deny",
        (true, true) if bit(3) => "Pass",
        (true, true) => "Deny",
    };
    let app = json!({"matchLabels": {"app": if bit(4) { "a" } else { "b" }}});
    let peer = match bit(5) {
        true => json!({"namespaces": {}}),
        false => json!({"pods": {"namespaceSelector": {}, "podSelector": app}}),
    };
    let object = json!({
        "metadata": {"name": number.to_string()},
        "spec": {
            "tier": if bit(3) { "Admin" } else { "Baseline" },
            "priority": 10 + u16::from(number),
            "subject": {"namespaces": {}},
            direction: [{"action": action, key: [peer]}],
        },
    });
    wire::cluster_policy_from_value(&object).unwrap().map(|(_, policy)| policy)
}
