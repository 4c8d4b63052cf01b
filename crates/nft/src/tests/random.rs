//! Whatever the Services and their history: the kernel holds what the program says, and packets follow it.

use dyad_program::policy::Labels;
use dyad_program::{Compiler, Name, Payload};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use self::objects::{a_cluster_policy, a_pod, a_policy, a_service, a_slice};
use super::lab::{EVERYBODY, Lab, Who};
use super::*;
use crate::Executor;

mod objects;

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, Vec<(u8, u8)>)>),
    Pod(u8, Option<u8>),
    Policy(u8, Option<u16>),
    ClusterPolicy(u8, Option<u16>),
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
        4 => (0u8..3, prop::option::weighted(0.8, any::<u8>())).prop_map(|(name, shape)| Step::Pod(name, shape)),
        3 => (0u8..4, prop::option::weighted(0.8, any::<u16>())).prop_map(|(name, shape)| Step::Policy(name, shape)),
        1 => (0u8..2, prop::option::weighted(0.8, any::<u16>()))
            .prop_map(|(name, shape)| Step::ClusterPolicy(name, shape)),
        1 => (0u8..4).prop_map(Step::OwnPods),
        4 => Just(Step::Sync),
        1 => Just(Step::Restart),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..length)
}

fn a_compiler() -> Compiler {
    let mut compiler = Compiler::new(node());
    compiler.set_namespace("default", Some(Labels::new()));
    compiler
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
        Step::Pod(number, shape) => {
            compiler.set_pod(name(number), shape.map(|shape| a_pod(*number, shape)));
        }
        Step::Policy(number, shape) => {
            compiler.set_network_policy(name(number), shape.map(|shape| a_policy(*number, shape)));
        }
        Step::ClusterPolicy(number, shape) => {
            let policy = shape.and_then(|shape| a_cluster_policy(*number, shape));
            compiler.set_cluster_policy(name(number), policy);
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
    let mut runner = TestRunner::new(Config { cases: 40, ..Config::default() });
    let result = runner.run(&steps(40, 40), |history| {
        let (mut executor, mut from_scratch) =
            (within(&namespace, || Executor::open().unwrap()), within(&fresh, || Executor::open().unwrap()));
        executor.cleanup().unwrap();
        from_scratch.cleanup().unwrap();
        let mut compiler = a_compiler();
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
                Step::Service(..)
                | Step::Slice(..)
                | Step::Pod(..)
                | Step::Policy(..)
                | Step::ClusterPolicy(..)
                | Step::OwnPods(_) => {}
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
            ("192.0.2.1".into(), 30080),
            ("2001:db8::1".into(), 30080),
            ("192.0.2.1".into(), 30081),
            ("10.244.1.2".into(), 8080),
            ("fd00:10:244:1::2".into(), 8080),
            ("10.244.1.3".into(), 8080),
            ("fd00:10:244:1::3".into(), 8080),
            ("10.244.2.2".into(), 8080),
            ("fd00:10:244:2::2".into(), 8080),
        ]
    };
    let mut runner = TestRunner::new(Config { cases: 8, ..Config::default() });
    let packets = prop::collection::vec((0u8..5, 0usize..17, 0usize..4, 0u8..5), 10);
    let result = runner.run(&(steps(3, 24), packets), |(history, packets)| {
        let mut executor = within(&lab.node, || Executor::open().unwrap());
        let mut compiler = a_compiler();
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
        for (number, target, who, payload) in packets {
            let (ip, port) = &targets(number)[target];
            let (to, who) = (ip.parse::<IpAddr>().unwrap(), EVERYBODY[who]);
            // Neither to itself, which never leaves, nor to what lives where the sender does.
            if Lab::source(who, to.into()) == to || who == Who::Client && (15..).contains(&target) {
                continue;
            }
            let payload = match payload {
                0..2 => Payload::Port(Protocol::Tcp, *port),
                2..4 => Payload::Port(Protocol::Udp, *port),
                _ => Payload::Echo,
            };
            lab.check_payload(compiler.program(), who, payload, to);
        }
        Ok(())
    });
    result.unwrap();
}
