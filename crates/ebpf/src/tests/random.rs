//! Whatever the Services and their history: sockets go where the simulator says.

use std::cell::RefCell;

use dyad_program::{
    EndpointSlice, Frontend, Name, Origin, Packet, Payload, Port, Protocol, Service, SliceEndpoint,
    SlicePort, Traffic, Verdict, simulate,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::cgroup::Cgroup;
use super::client::Client;
use super::lab::{Lab, within};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, Vec<(u8, u8)>)>),
    NodePorts(bool),
    /// A new executor takes over.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slice = (0u8..4, prop::collection::vec((0u8..40, any::<u8>()), 0..40));
    let step = prop_oneof![
        4 => (0u8..4, prop::option::weighted(0.8, any::<u8>())).prop_map(|(name, shape)| Step::Service(name, shape)),
        6 => (0u8..8, prop::option::weighted(0.8, slice)).prop_map(|(name, slice)| Step::Slice(name, slice)),
        1 => any::<bool>().prop_map(Step::NodePorts),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..24)
}

fn a_service(number: u8, shape: u8) -> Service {
    let bit = |n: u8| shape >> n & 1 != 0;
    let traffic = |local| if local { Traffic::Local } else { Traffic::Cluster };
    let port = |name: &str, protocol| {
        let node_port = bit(0).then_some(30000 + u16::from(number));
        Port { name: name.into(), protocol, port: 80, node_port }
    };
    let cluster_ips = IpFamily::BOTH.map(|family| vip(family, u16::from(number) + 1).ip());
    Service {
        cluster_ips: match (bit(1), bit(2)) {
            (false, _) => DualStack::dual(IpFamily::V4, cluster_ips[0], cluster_ips[1]),
            (true, false) => DualStack::single(IpFamily::V4, cluster_ips[0]),
            (true, true) => DualStack::single(IpFamily::V6, cluster_ips[1]),
        },
        external_ips: if bit(3) { ips(["203.0.113.7", "2001:db8:113::7"]) } else { BTreeSet::new() },
        balancer_ips: ips(["203.0.113.8", "2001:db8:113::8"]),
        source_ranges: bit(7).then(|| vec!["10.244.1.0/24".parse().unwrap()]),
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        external_traffic: traffic(bit(4)),
        internal_traffic: traffic(bit(5)),
        affinity: NonZeroU32::new(if bit(6) { 3600 } else { 0 }),
        health_check_node_port: None,
    }
}

fn a_slice(family: IpFamily, owner: u8, endpoints: &[(u8, u8)]) -> EndpointSlice {
    let endpoint = |(index, shape): &(u8, u8)| {
        let node = 1 + index % 2;
        SliceEndpoint {
            ip: endpoint_ip(family, node, 10 + index),
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

/// Where pod a's datagrams to `to` may go, as the simulator says; `None` where it is nftables' to say.
fn expected(program: &Program, to: SocketAddr) -> Option<BTreeSet<SocketAddr>> {
    let family = IpFamily::from(to.ip());
    let addresses = IpFamily::BOTH.map(node_ip).into();
    let source = endpoint_ip(family, 1, 2);
    let payload = Payload::Port(Protocol::Udp, to.port());
    let packet = Packet { origin: Origin::Link, source, destination: to.ip(), payload, last: None };
    if program.get(family)?.guarded.contains(&Frontend::Address(to.ip(), Protocol::Udp, to.port())) {
        return None;
    }
    match simulate(program, &addresses, &packet) {
        Verdict::Forward(to) => Some(to.keys().map(|to| SocketAddr::new(to.ip, to.port)).collect()),
        _ => None,
    }
}

#[test]
fn after_any_history_sockets_go_where_the_simulator_says() {
    if !permitted("random") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let client = RefCell::new(Client::start(&lab.pod_a, Some(&cgroup)));
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let result = runner.run(&steps(), |history| {
        let mut compiler = Compiler::new(node());
        compiler.step();
        let mut executor = lab.executor(&cgroup, compiler.program());
        for step in &history {
            let name = |number: &u8| Name::new("default", &number.to_string());
            match step {
                Step::Service(number, shape) => {
                    compiler.set_service(name(number), shape.map(|shape| a_service(*number, shape)));
                }
                Step::Slice(number, slice) => {
                    let family = IpFamily::BOTH[usize::from(number % 2)];
                    let slice = slice.as_ref().map(|(owner, endpoints)| a_slice(family, *owner, endpoints));
                    compiler.set_slice(name(number), slice);
                }
                Step::NodePorts(on) => {
                    let node_ports = if *on { node().node_ports } else { Vec::new() };
                    compiler.set_node(NodeView { node_ports, ..node() });
                }
                Step::Restart => executor = lab.executor(&cgroup, compiler.program()),
            }
            let ops = compiler.step();
            within(&lab.node, || executor.update(compiler.program(), &ops).unwrap());
        }
        assert_holds(&executor, compiler.program());
        for family in IpFamily::BOTH {
            let clusters = (1..5).map(|number| vip(family, number));
            let node_ports = (30000..30004).map(|port| SocketAddr::new(node_ip(family), port));
            let external = match family {
                IpFamily::V4 => ["203.0.113.7:80", "203.0.113.8:80"],
                IpFamily::V6 => ["[2001:db8:113::7]:80", "[2001:db8:113::8]:80"],
            };
            for to in clusters.chain(node_ports).chain(external.map(at)) {
                match expected(compiler.program(), to) {
                    None => prop_assert_eq!(client.borrow_mut().route(to), to),
                    Some(endpoints) => {
                        for _ in 0..4 {
                            let found = client.borrow_mut().route(to);
                            prop_assert!(
                                endpoints.contains(&found),
                                "{} to {}, not {:?}",
                                to,
                                found,
                                endpoints
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    });
    result.unwrap();
}
