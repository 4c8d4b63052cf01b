//! Real tables and packets in namespaces of their own. Every test leaves nothing; without root a test runs itself
//! again inside a user namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use dyad_links::netns;
use dyad_net::{DualStack, IpFamily};
use dyad_program::rule::{Decision, Direction, Id, Member, Peers, Ports, Rule, SetKind};
use dyad_program::{Entry, Inputs, NodeView, Program, Protocol, compile, wire};
use serde_json::{Value, json};

mod affinity;
mod codec;
mod conntrack;
mod intercept;
mod lab;
mod others;
mod packets;
mod pmtu;
mod policy;
mod random;
mod tables;

/// Whether this process may make namespaces; if not, the test `name` has been run by one that may.
fn privileged(name: &str) -> bool {
    if netns::create().is_ok() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::{name}"), "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in a user namespace: {text}{problem}"
    );
    false
}

/// Runs `work` in a network namespace.
fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::within(namespace.as_fd(), work).unwrap()
}

/// The first of two nodes.
fn node() -> NodeView {
    let both = |v4: &str, v6: &str| DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap());
    NodeView {
        name: "node1".into(),
        own_pods: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()],
        cluster_pods: both("10.244.0.0/16", "fd00:10:244::/56"),
        node_pods: BTreeSet::new(),
        services: ["10.96.0.0/16", "fd00:10:96::/112"].map(|range| range.parse().unwrap()).into(),
        nodes: ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(|ip| ip.parse().unwrap()).into(),
        zone: None,
        node_ports: ["0.0.0.0/0", "::/0"].map(|range| range.parse().unwrap()).into(),
        open_pods: false,
        masquerade_pods: true,
        egress: Default::default(),
    }
}

/// What is compiled from objects in their wire form.
fn inputs(services: &[Value], slices: &[Value]) -> Inputs {
    let services = services.iter().filter_map(|object| wire::service_from_value(object).unwrap());
    let slices = slices.iter().filter_map(|object| wire::slice_from_value(object).unwrap());
    Inputs { services: services.collect(), slices: slices.collect(), ..Inputs::new(node()) }
}

/// A dual-stack Service with cluster IPs that end in `number`, TCP and UDP port 80, node port 30000 + number.
fn service(name: &str, number: u16, spec: Value) -> Value {
    let ips = [format!("10.96.{}.{}", number >> 8, number & 0xff), format!("fd00:10:96::{number:x}")];
    let ports = ["TCP", "UDP"].map(|protocol| {
        let name = protocol.to_lowercase();
        json!({"name": name, "protocol": protocol, "port": 80, "nodePort": 30000 + number})
    });
    let mut object = json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"type": "NodePort", "clusterIP": ips[0], "clusterIPs": ips, "ports": ports},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

/// A slice of one family; endpoints as address and node, all ready, port 8080.
fn slice(service: &str, endpoints: &[(&str, &str)]) -> Value {
    let family = endpoints.first().map_or(IpFamily::V4, |(ip, _)| ip.parse::<IpAddr>().unwrap().into());
    let endpoint = |(ip, node): &(&str, &str)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}});
    json!({
        "metadata": {
            "namespace": "default", "name": format!("{service}-{family}"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family.as_str(),
        "endpoints": (endpoints.iter().map(endpoint).collect::<Vec<_>>()),
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 8080}, {"name": "udp", "protocol": "UDP", "port": 8080},
        ],
    })
}

/// The program as read back from a kernel would be.
fn by_family(program: &Program) -> BTreeMap<IpFamily, dyad_program::Table> {
    program.iter().map(|(family, table)| (family, table.clone())).collect()
}

/// Addresses.
fn ips<const N: usize>(texts: [&str; N]) -> BTreeSet<IpAddr> {
    texts.map(|text| text.parse().unwrap()).into()
}

/// A program with Services of all sorts, and policies.
fn sample() -> Program {
    let many: Vec<String> = (1..=80).map(|n| format!("10.244.2.{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|ip| (ip.as_str(), "node2")).collect();
    let sticky = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24", "198.51.100.128/25"],
    });
    let mut sticky = service("sticky", 6, sticky);
    sticky["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"ip": "2001:db8:113::9"}]}});
    let mut program = compile(&inputs(
        &[
            service("two", 2, json!({})),
            service("many", 3, json!({})),
            service("none", 4, json!({})),
            service("local", 5, json!({"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7"]})),
            sticky,
        ],
        &[
            slice("two", &[("10.244.1.2", "node1"), ("10.244.2.2", "node2")]),
            slice("two", &[("fd00:10:244:1::2", "node1"), ("fd00:10:244:2::2", "node2")]),
            slice("many", &many),
            slice("local", &[("10.244.1.2", "node1"), ("10.244.2.2", "node2")]),
            slice("sticky", &[("10.244.1.2", "node1"), ("10.244.2.2", "node2")]),
            slice("sticky", &[("fd00:10:244:1::2", "node1"), ("fd00:10:244:2::2", "node2")]),
        ],
    ));
    for (family, table) in program.iter_mut() {
        policies(family).into_iter().for_each(|entry| table.insert(entry));
    }
    program
}

/// Policies with rules of all sorts.
fn policies(family: IpFamily) -> Vec<Entry> {
    let [friends, blocks, web, ingress, egress, baseline] =
        ["friends", "blocks", "web", "ingress", "egress", "baseline"].map(Id::of);
    let (pods, range) = match family {
        IpFamily::V4 => (["10.244.1.2", "10.244.1.3"], "198.51.100.0/25"),
        IpFamily::V6 => (["fd00:10:244:1::2", "fd00:10:244:1::3"], "2001:db8:99::/48"),
    };
    let [a, b] = pods.map(|ip| ip.parse::<IpAddr>().unwrap());
    let rule = |direction, peers, ports, decision, because: &str| Rule {
        direction,
        peers,
        ports,
        decision,
        because: because.into(),
    };
    use Decision::{Accept, Deny, Goto};
    use Direction::{Egress, Ingress};
    let chain = |rules: &[Rule]| rules.into();
    vec![
        Entry::Set(SetKind::Peers, friends),
        Entry::Set(SetKind::Blocks, blocks),
        Entry::Set(SetKind::NamedPorts, web),
        Entry::Set(SetKind::Peers, Id::of("nobody")),
        Entry::Member(friends, Member::Peer(b)),
        Entry::Member(blocks, Member::Block(range.parse().unwrap())),
        Entry::Member(web, Member::NamedPort(a, Protocol::Tcp, 8080)),
        Entry::Chain(
            ingress,
            chain(&[
                rule(
                    Ingress,
                    Peers::Set(friends),
                    Ports::Any,
                    Accept,
                    "NetworkPolicy a/friends, ingress rule 1",
                ),
                rule(Ingress, Peers::Blocks(blocks), Ports::Range(Protocol::Sctp, 1, 65535), Accept, "range"),
                rule(Ingress, Peers::Any, Ports::Range(Protocol::Udp, 53, 53), Accept, "one port"),
                rule(Ingress, Peers::Any, Ports::Named(web), Accept, "named"),
                rule(Ingress, Peers::Any, Ports::Any, Goto(baseline), "nothing else"),
            ]),
        ),
        Entry::Chain(
            egress,
            chain(&[
                rule(Egress, Peers::Blocks(blocks), Ports::Named(web), Deny, "named"),
                rule(Egress, Peers::Set(Id::of("nobody")), Ports::Any, Accept, ""),
                rule(Egress, Peers::Any, Ports::Any, Deny, "NetworkPolicy a/deny, egress: üß"),
            ]),
        ),
        Entry::Chain(baseline, chain(&[])),
        Entry::Isolated(Ingress, a, ingress),
        Entry::Isolated(Ingress, b, baseline),
        Entry::Isolated(Egress, b, egress),
    ]
}
