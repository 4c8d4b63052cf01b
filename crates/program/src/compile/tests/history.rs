//! Whatever happened before, the program is what the objects ask for.

use std::num::NonZeroU32;

use dyad_net::{DualStack, IpNet};
use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use crate::testing::{ip, node};
use crate::{Action, Entry, Hints, Op, Port, Protocol, Scope, SlicePort, Traffic, apply, diff};

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u16>),
    Slice(u8, Option<(u8, Vec<(u8, u16)>)>),
    Pod(u8, Option<u8>),
    Policy(u8, Option<u8>),
    Node(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let endpoint = || (any::<u8>(), any::<u16>());
    // Some are enough for shared slots.
    let endpoints = prop_oneof![
        9 => prop::collection::vec(endpoint(), 0..12),
        1 => prop::collection::vec(endpoint(), 60..120),
    ];
    let step = prop_oneof![
        4 => (0u8..4, prop::option::weighted(0.8, any::<u16>())).prop_map(|(name, shape)| Step::Service(name, shape)),
        4 => (0u8..6, prop::option::weighted(0.8, (0u8..4, endpoints))).prop_map(|(name, slice)| Step::Slice(name, slice)),
        2 => (0u8..3, prop::option::weighted(0.7, any::<u8>())).prop_map(|(name, shape)| Step::Pod(name, shape)),
        2 => (0u8..3, prop::option::weighted(0.7, any::<u8>())).prop_map(|(name, shape)| Step::Policy(name, shape)),
        1 => any::<u8>().prop_map(Step::Node),
    ];
    prop::collection::vec(step, 1..40)
}

fn a_service(name: u8, shape: u16) -> Service {
    let bit = |n: u8| shape >> n & 1 != 0;
    let traffic = |local| if local { Traffic::Local } else { Traffic::Cluster };
    let ips = (IpAddr::from([10, 96, 0, name]), ip(&format!("fd00:10:96::{name}")));
    let cluster_ips = match (bit(0), bit(1)) {
        (true, _) => DualStack::dual(IpFamily::V4, ips.0, ips.1),
        (false, true) => DualStack::single(IpFamily::V4, ips.0),
        (false, false) => DualStack::single(IpFamily::V6, ips.1),
    };
    let port = |name: &str, protocol, number| Port {
        name: name.into(),
        protocol,
        port: number,
        node_port: bit(2).then_some(30000 + number),
    };
    // Services share some, with each other and with pods; one is another's cluster IP.
    let shared = |taken: bool, ips: &[&str]| ips.iter().filter(|_| taken).map(|text| ip(text)).collect();
    Service {
        cluster_ips,
        external_ips: shared(bit(3), &["198.51.100.7", "198.51.100.8", "10.96.0.1", "2001:db8::7"]),
        balancer_ips: shared(bit(8), &["198.51.100.8", "2001:db8::8"]),
        source_ranges: bit(7).then(|| {
            let all = ["192.0.2.0/25", "192.0.2.128/25", "203.0.113.0/24", "2001:db8::/32"];
            all[usize::from(bit(9))..3 + usize::from(bit(10))]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect()
        }),
        ports: [port("a", Protocol::Tcp, 80), port("b", Protocol::Sctp, 53)][..1 + usize::from(bit(4))]
            .to_vec(),
        external_traffic: traffic(bit(5)),
        internal_traffic: traffic(bit(6)),
        affinity: NonZeroU32::new(u32::from(shape >> 11 & 3) * 60),
        health_check_node_port: bit(13).then_some(32000),
    }
}

fn a_slice(family: IpFamily, owner: u8, endpoints: &[(u8, u16)]) -> EndpointSlice {
    let endpoint = |(last, shape): &(u8, u16)| {
        let named = |bit: u16, name: &str| -> Vec<String> {
            if shape >> bit & 1 != 0 { vec![name.into()] } else { Vec::new() }
        };
        let hints = Hints {
            nodes: named(4, if shape & 32 != 0 { "node1" } else { "node2" }),
            zones: named(6, if shape & 128 != 0 { "a" } else { "b" }),
        };
        SliceEndpoint {
            ip: match family {
                IpFamily::V4 => IpAddr::from([10, 244, (shape & 1) as u8, *last]),
                IpFamily::V6 => ip(&format!("fd00:10:244:{}::{last}", shape & 1)),
            },
            ready: shape & 2 != 0,
            serving: shape & 4 != 0,
            terminating: shape & 8 != 0,
            node: Some(format!("node{}", shape & 1)),
            hints: (shape & 256 != 0).then(|| Box::new(hints)),
        }
    };
    let port = |name: &str, protocol| SlicePort { name: name.into(), protocol, port: 8080 };
    EndpointSlice {
        service: Name::new("default", &owner.to_string()),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![port("a", Protocol::Tcp), port("b", Protocol::Sctp)],
    }
}

fn a_pod(name: u8, shape: u8) -> Pod {
    let bit = |n: u8| shape >> n & 1 != 0;
    let host_port =
        |at: Option<&str>, protocol, port| HostPort { ip: at.map(ip), protocol, port, container_port: 9 };
    let ports = [
        host_port(None, Protocol::Tcp, 30080),
        host_port(Some("198.51.100.7"), Protocol::Tcp, 80),
        host_port(Some("::"), Protocol::Sctp, 30053),
    ];
    Pod {
        namespace: "default".into(),
        labels: Labels::from([("app".into(), if bit(7) { "a" } else { "b" }.into())]).into(),
        node: if bit(0) { "node1" } else { "node2" }.into(),
        ips: vec![IpAddr::from([10, 244, 1, name]), ip(&format!("fd00:10:244:1::{name}"))]
            [usize::from(bit(1))..]
            .to_vec(),
        host_network: bit(2) && bit(3),
        host_ports: ports[usize::from(bit(4))..1 + usize::from(bit(5)) + usize::from(bit(6))].to_vec(),
        ..Pod::default()
    }
}

fn a_policy(name: u8, shape: u8) -> NetworkPolicy {
    let bit = |n: u8| shape >> n & 1 != 0;
    let app = |is_a: bool| json!({"matchLabels": {"app": if is_a { "a" } else { "b" }}});
    let peers = match (bit(0), bit(1)) {
        (false, false) => json!([]),
        (false, true) => json!([{"podSelector": app(bit(2))}]),
        (true, false) => json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.1.0/24"]}}]),
        (true, true) => json!([{"ipBlock": {"cidr": "::/0"}}, {"podSelector": {}}]),
    };
    let ports = if bit(3) { json!([{"protocol": "SCTP", "port": 80, "endPort": 8080}]) } else { json!([]) };
    let (direction, key) = if bit(4) { ("ingress", "from") } else { ("egress", "to") };
    let rules = if bit(5) { json!([{key: peers, "ports": ports}]) } else { json!([]) };
    let object = json!({
        "metadata": {"namespace": "default", "name": name.to_string()},
        "spec": {
            "podSelector": if bit(6) { app(bit(7)) } else { json!({}) },
            "policyTypes": [if bit(4) { "Ingress" } else { "Egress" }],
            direction: rules,
        },
    });
    crate::policy::wire::network_policy_from_value(&object).unwrap().1
}

/// The node in a cluster of both families, or of one.
fn node_of(families: Option<IpFamily>) -> NodeView {
    let mut node = node();
    if let Some(family) = families {
        node.cluster_pods = DualStack::single(family, *node.cluster_pods.get(family).unwrap());
        node.services.retain(|range| IpFamily::from(*range) == family);
    }
    node
}

/// A cluster as some history may leave it.
pub(crate) fn random_inputs() -> impl Strategy<Value = Inputs> {
    steps().prop_map(|history| {
        let mut inputs = Inputs::new(node());
        history.into_iter().for_each(|step| step.apply(&mut inputs, &mut Compiler::new(node())));
        inputs
    })
}

impl Step {
    /// Takes the step in both ways.
    fn apply(self, inputs: &mut Inputs, compiler: &mut Compiler) {
        match self {
            Self::Service(name, shape) => {
                let service = shape.map(|shape| a_service(name, shape));
                let name = Name::new("default", &name.to_string());
                inputs.services.remove(&name);
                inputs.services.extend(service.clone().map(|service| (name.clone(), service)));
                compiler.set_service(name, service);
            }
            Self::Slice(name, slice) => {
                let family = IpFamily::BOTH[usize::from(name % 2)];
                let slice = slice.map(|(owner, endpoints)| a_slice(family, owner, &endpoints));
                let name = Name::new("default", &name.to_string());
                inputs.slices.remove(&name);
                inputs.slices.extend(slice.clone().map(|slice| (name.clone(), slice)));
                compiler.set_slice(name, slice);
            }
            Self::Pod(name, shape) => {
                let pod = shape.map(|shape| a_pod(name, shape));
                let name = Name::new("default", &name.to_string());
                inputs.pods.remove(&name);
                inputs.pods.extend(pod.clone().map(|pod| (name.clone(), pod)));
                compiler.set_pod(name, pod);
            }
            Self::Policy(name, shape) => {
                let policy = shape.map(|shape| a_policy(name, shape));
                let name = Name::new("default", &name.to_string());
                inputs.network_policies.remove(&name);
                inputs.network_policies.extend(policy.clone().map(|policy| (name.clone(), policy)));
                compiler.set_network_policy(name, policy);
            }
            Self::Node(shape) => {
                let pods: [IpNet; 2] = ["10.244.0.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()];
                inputs.node.own_pods = pods[usize::from(shape & 1)..].to_vec();
                inputs.node.zone = (shape & 2 != 0).then(|| "a".into());
                inputs.node.open_pods = shape & 4 != 0;
                inputs.node.masquerade_pods = shape & 8 != 0;
                inputs.node.node_ports = pods[usize::from(shape >> 4 & 1)..].to_vec();
                compiler.set_node(inputs.node.clone());
            }
        }
    }
}

/// What a table promises to executors.
fn check(table: &Table) -> Result<(), TestCaseError> {
    for ((scope, at), action) in &table.frontends {
        let slots: Vec<_> = table.slots(*scope, *at).collect();
        let (count, is_sticky) = match action {
            Action::Forward { slots, sticky } => (*slots, sticky.is_some()),
            Action::Reject | Action::Drop => (0, false),
        };
        prop_assert_eq!(
            slots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(),
            (0..count).collect::<Vec<_>>()
        );
        let mut members: Vec<_> = slots.iter().map(|(_, to)| *to).filter(|_| is_sticky).collect();
        members.sort();
        members.dedup();
        prop_assert_eq!(
            table.members(*scope, *at).collect::<Vec<_>>(),
            members,
            "members are the endpoints in slots"
        );
        if *scope == Scope::Local {
            prop_assert!(table.frontends.contains_key(&(Scope::Cluster, *at)), "what is for some is for all");
        }
    }
    let has = |scope, at| table.frontends.contains_key(&(scope, at));
    prop_assert!(table.endpoints.keys().all(|(scope, at, _)| has(*scope, *at)));
    prop_assert!(table.sticky.iter().all(|(scope, at, _)| has(*scope, *at)));
    prop_assert!(table.guarded.iter().all(|at| has(Scope::Cluster, *at)));
    prop_assert!(table.sources.iter().all(|(at, _)| table.guarded.contains(at)));
    for at in &table.guarded {
        let sources: Vec<_> = table.sources_of(*at).collect();
        prop_assert_eq!(IpNet::aggregate(&sources), sources, "sources are disjoint");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_history_leads_where_a_fresh_start_does(
        history in steps(),
        families in prop::sample::select(vec![None, None, Some(IpFamily::V4), Some(IpFamily::V6)]),
    ) {
        let mut inputs = Inputs::new(node_of(families));
        let mut compiler = Compiler::new(node_of(families));
        let mut followed = compiler.program().clone();
        for (at, step) in history.into_iter().enumerate() {
            step.apply(&mut inputs, &mut compiler);
            // Several changes may come between two steps.
            if at % 3 == 0 {
                let before = followed.clone();
                let ops = compiler.step();
                apply(&mut followed, &ops);
                prop_assert_eq!(&followed, compiler.program());
                for (family, table) in compiler.program().iter() {
                    let changes = ops.iter().filter(|op| matches!(op, Op::Add(of, _) | Op::Remove(of, _) if *of == family));
                    prop_assert_eq!(diff(family, before.get(family).unwrap(), table).len(), changes.count(), "no idle changes");
                }
            }
        }
        apply(&mut followed, &compiler.step());
        prop_assert_eq!(&followed, &compile(&inputs));
        for (family, table) in followed.iter() {
            check(table)?;
            for (_, at) in table.frontends.keys() {
                prop_assert!(compiler.owner(family, *at).is_some());
            }
        }
        prop_assert_eq!(compiler.health_checks(), Compiler::of(&inputs).health_checks());
        // What goes leaves nothing.
        inputs.services.keys().for_each(|name| compiler.set_service(name.clone(), None));
        inputs.slices.keys().for_each(|name| compiler.set_slice(name.clone(), None));
        inputs.pods.keys().for_each(|name| compiler.set_pod(name.clone(), None));
        inputs.network_policies.keys().for_each(|name| compiler.set_network_policy(name.clone(), None));
        compiler.step();
        prop_assert!(compiler.services.is_empty() && compiler.slices.is_empty() && compiler.claims.is_empty());
        prop_assert!(compiler.local.is_empty() && compiler.hosted.is_empty() && compiler.health.is_empty());
        let no_entries = |table: &Table| table.entries().all(|entry| matches!(entry, Entry::Range(..)));
        prop_assert!(compiler.program().iter().all(|(_, table)| no_entries(table)));
    }
}
