//! Whatever the Services and their history: the kernel holds what the program says, and packets follow it.

use std::num::NonZeroU32;

use dyad_program::{
    Compiler, EndpointSlice, Name, Port, Protocol, Service, SliceEndpoint, SlicePort, Traffic,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lab::{EVERYBODY, Lab};
use super::*;
use crate::Executor;

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, Vec<(u8, u8)>)>),
    OwnPods(u8),
    /// Everything that was heard is written to the kernel.
    Sync,
    /// The executor is replaced by a new one, which has to adopt.
    Restart,
    /// Somebody flushes our tables.
    Flush,
}

fn steps(endpoints: u8, length: usize) -> impl Strategy<Value = Vec<Step>> {
    let slice = (0u8..5, prop::collection::vec((0..endpoints, any::<u8>()), 0..usize::from(endpoints)));
    let step = prop_oneof![
        4 => (0u8..5, prop::option::weighted(0.8, any::<u8>())).prop_map(|(name, shape)| Step::Service(name, shape)),
        6 => (0u8..8, prop::option::weighted(0.8, slice)).prop_map(|(name, slice)| Step::Slice(name, slice)),
        1 => (0u8..4).prop_map(Step::OwnPods),
        4 => Just(Step::Sync),
        1 => Just(Step::Restart),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..length)
}

fn a_service(number: u8, shape: u8) -> Service {
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
fn a_slice(family: IpFamily, owner: u8, endpoints: &[(u8, u8)]) -> EndpointSlice {
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

fn hear(compiler: &mut Compiler, step: &Step) {
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
        Step::OwnPods(count) => {
            let ranges = ["10.244.1.0/24", "fd00:10:244:1::/64", "10.244.9.0/24"];
            let own_pods = ranges[..usize::from(*count)].iter().map(|range| range.parse().unwrap()).collect();
            compiler.set_node(NodeView { own_pods, ..node() });
        }
        Step::Sync | Step::Restart | Step::Flush => {}
    }
}

#[test]
fn after_any_history_the_kernel_holds_the_program() {
    if !privileged("random::after_any_history_the_kernel_holds_the_program") {
        return;
    }
    let (namespace, fresh) = (netns::create().unwrap(), netns::create().unwrap());
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let result = runner.run(&steps(40, 40), |history| {
        let (mut executor, mut from_scratch) =
            (within(&namespace, || Executor::open().unwrap()), within(&fresh, || Executor::open().unwrap()));
        executor.cleanup().unwrap();
        from_scratch.cleanup().unwrap();
        let mut compiler = Compiler::new(node());
        executor.apply(compiler.program()).unwrap();
        for step in &history {
            hear(&mut compiler, step);
            match step {
                Step::Sync => {
                    let ops = compiler.step();
                    executor.update(compiler.program(), &ops).unwrap();
                    prop_assert_eq!(executor.read_back().unwrap(), by_family(compiler.program()));
                }
                Step::Restart => {
                    executor = within(&namespace, || Executor::open().unwrap());
                    let report = executor.apply(compiler.program()).unwrap();
                    prop_assert_eq!(report, crate::Report::default(), "all is adopted as it is");
                }
                Step::Flush => within(&namespace, || Executor::open().unwrap().cleanup().unwrap()),
                Step::Service(..) | Step::Slice(..) | Step::OwnPods(_) => {}
            }
            // As the agent does when it looks.
            if !executor.is_current().unwrap() {
                executor.apply(compiler.program()).unwrap();
            }
        }
        let ops = compiler.step();
        executor.update(compiler.program(), &ops).unwrap();
        from_scratch.apply(compiler.program()).unwrap();
        let (incremental, scratch) = (executor.read_back().unwrap(), from_scratch.read_back().unwrap());
        prop_assert_eq!(&incremental, &scratch);
        prop_assert_eq!(&incremental, &by_family(compiler.program()));
        // Rules too, not only elements: one adopts what the other left.
        let mut successor = within(&namespace, || Executor::open().unwrap());
        prop_assert_eq!(successor.apply(compiler.program()).unwrap(), crate::Report::default());
        Ok(())
    });
    result.unwrap();
}

#[test]
fn after_any_history_packets_go_where_the_simulator_says() {
    if !privileged("random::after_any_history_packets_go_where_the_simulator_says") {
        return;
    }
    let lab = Lab::new();
    let targets = |number: u8| {
        let node_port = 30000 + u16::from(number);
        [
            (format!("10.96.0.{}", number + 1), 80),
            (format!("fd00:10:96::{}", number + 1), 80),
            ("192.0.2.1".into(), node_port),
            ("2001:db8::1".into(), node_port),
            ("203.0.113.7".into(), 80),
            ("2001:db8:113::7".into(), 80),
            ("203.0.113.8".into(), 80),
            ("2001:db8:113::8".into(), 80),
        ]
    };
    let mut runner = TestRunner::new(Config { cases: 4, ..Config::default() });
    let packets = prop::collection::vec((0u8..5, 0usize..8, 0usize..4, any::<bool>()), 10);
    let result = runner.run(&(steps(3, 16), packets), |(history, packets)| {
        let mut executor = within(&lab.node, || Executor::open().unwrap());
        let mut compiler = Compiler::new(node());
        executor.apply(compiler.program()).unwrap();
        for step in &history {
            hear(&mut compiler, step);
            let ops = compiler.step();
            executor.update(compiler.program(), &ops).unwrap();
        }
        // Pods without a range of their own would not find back.
        compiler.set_node(node());
        let ops = compiler.step();
        executor.update(compiler.program(), &ops).unwrap();
        for (number, target, who, udp) in packets {
            let (ip, port) = &targets(number)[target];
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let to = std::net::SocketAddr::new(ip.parse().unwrap(), *port);
            lab.check(compiler.program(), EVERYBODY[who], protocol, to);
        }
        Ok(())
    });
    result.unwrap();
}
