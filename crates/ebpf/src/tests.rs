//! Real programs, sockets and packets, in cgroups and network namespaces of their own. Every test leaves nothing. Where
//! eBPF is not permitted the tests say so, loudly, and test nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use dyad_net::{DualStack, IpFamily};
use dyad_program::{Compiler, Endpoint, NodeView, Program, wire};
use serde_json::{Value, json};

use crate::{Executor, Why, probe};

mod cgroup;
mod client;
mod intercept;
mod lab;
mod random;
mod redirect;
mod restart;
mod sockets;

/// Whether this process may load programs. Whatever else is wrong is a failure.
fn permitted(test: &str) -> bool {
    match probe() {
        Ok(()) => true,
        Err(why @ (Why::NotPermitted | Why::NoCgroup | Why::NotBuilt)) => {
            // Past the test harness, which keeps to itself what passing tests say.
            writeln!(std::io::stderr(), "SKIPPED {test}: {why}").unwrap();
            false
        }
        Err(why) => panic!("{why}"),
    }
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
        nodes: ips(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]),
        zone: None,
        node_ports: ["192.0.2.0/24", "2001:db8::/64"].map(|range| range.parse().unwrap()).into(),
        open_pods: false,
        masquerade_pods: true,
        egress: Default::default(),
    }
}

/// Addresses.
fn ips<const N: usize>(texts: [&str; N]) -> BTreeSet<IpAddr> {
    texts.map(|text| text.parse().unwrap()).into()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A dual-stack Service with cluster IPs that end in `number`, TCP and UDP port 80, node port 30000 + number.
fn service(number: u16, spec: Value) -> Value {
    let ips = [format!("10.96.{}.{}", number >> 8, number & 0xff), format!("fd00:10:96::{number:x}")];
    let ports = ["TCP", "UDP"].map(|protocol| {
        let name = protocol.to_lowercase();
        json!({"name": name, "protocol": protocol, "port": 80, "nodePort": 30000 + number % 2000})
    });
    let mut object = json!({
        "metadata": {"namespace": "default", "name": number.to_string()},
        "spec": {"type": "NodePort", "clusterIP": ips[0], "clusterIPs": ips, "ports": ports},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

/// The slices of a Service; endpoints by the last number of their address and their node's, all ready, port 8080.
fn slices(service: u16, endpoints: &[(u8, u8)]) -> Vec<Value> {
    let slice = |family: IpFamily| {
        let endpoint = |(node, last): &(u8, u8)| {
            let ip = endpoint_ip(family, *node, *last);
            json!({"addresses": [ip], "nodeName": format!("node{node}"), "conditions": {"ready": true}})
        };
        json!({
            "metadata": {
                "namespace": "default", "name": format!("{service}-{family}"),
                "labels": {"kubernetes.io/service-name": service.to_string()},
            },
            "addressType": family.as_str(),
            "endpoints": (endpoints.iter().map(endpoint).collect::<Vec<_>>()),
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 8080}, {"name": "udp", "protocol": "UDP", "port": 8080},
            ],
        })
    };
    IpFamily::BOTH.map(slice).into()
}

fn endpoint_ip(family: IpFamily, node: u8, last: u8) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::from([10, 244, node, last]),
        IpFamily::V6 => format!("fd00:10:244:{node}::{last}").parse().unwrap(),
    }
}

/// The cluster IP of a Service, port 80.
fn vip(family: IpFamily, number: u16) -> SocketAddr {
    match family {
        IpFamily::V4 => at(&format!("10.96.{}.{}:80", number >> 8, number & 0xff)),
        IpFamily::V6 => at(&format!("[fd00:10:96::{number:x}]:80")),
    }
}

/// The node's address.
fn node_ip(family: IpFamily) -> IpAddr {
    let text = match family {
        IpFamily::V4 => "192.0.2.1",
        IpFamily::V6 => "2001:db8::1",
    };
    text.parse().unwrap()
}

fn hear(compiler: &mut Compiler, services: &[Value], slices: &[Value]) {
    for object in services {
        let (name, service) = wire::service_from_value(object).unwrap().unwrap();
        compiler.set_service(name, Some(service));
    }
    for object in slices {
        let (name, slice) = wire::slice_from_value(object).unwrap().unwrap();
        compiler.set_slice(name, Some(slice));
    }
}

/// The program for Services with their endpoints.
fn program(services: &[(Value, &[(u8, u8)])]) -> Program {
    let mut compiler = Compiler::new(node());
    for (service, endpoints) in services {
        let number = service["metadata"]["name"].as_str().unwrap().parse().unwrap();
        hear(&mut compiler, std::slice::from_ref(service), &slices(number, endpoints));
    }
    compiler.step();
    compiler.program().clone()
}

/// The program, with every Service sticky for so many seconds.
fn sticky(program: &Program, seconds: u32) -> Program {
    use dyad_program::{Action, Entry};
    let mut changed = program.clone();
    for (_, table) in changed.iter_mut() {
        for action in table.frontends.values_mut() {
            if let Action::Forward { sticky, .. } = action {
                *sticky = NonZeroU32::new(seconds);
            }
        }
        for ((scope, at, _), to) in table.endpoints.clone() {
            table.insert(Entry::Sticky(scope, at, to));
        }
    }
    changed
}

/// What an executor's maps hold is what the program says, exactly.
fn assert_holds(executor: &Executor, program: &Program) {
    let (found, desired) =
        (executor.read_back().unwrap(), crate::desired::Desired::of(program, executor.left()));
    assert_eq!(found.frontends, desired.frontends);
    assert_eq!(found.endpoints, desired.endpoints);
    assert_eq!(found.members, desired.members);
}
