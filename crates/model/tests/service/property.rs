//! Whatever clients send, nothing leaks and nothing is used twice.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::World;

/// Few addresses, so that they clash and run out: network, three usable and, in IPv4, broadcast... and the last in IPv6.
const RANGES: &str = "10.0.0.0/29,fd00::/125";

fn some_of(values: Vec<Value>) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![1 => Just(None), 2 => prop::sample::select(values).prop_map(Some)]
}

fn ports() -> impl Strategy<Value = Value> {
    let port = (
        1u16..4,
        prop::sample::select(vec!["TCP", "UDP"]),
        prop_oneof![3 => Just(0u16), 2 => 29999u16..30012],
    )
        .prop_map(|(port, protocol, node_port)| (port, protocol, node_port));
    prop::collection::vec(port, 1..4).prop_map(|ports| {
        let port = |(index, (port, protocol, node_port)): (usize, &(u16, &str, u16))| {
            let mut value = json!({"name": format!("p{index}"), "port": port, "protocol": protocol});
            if *node_port != 0 {
                value["nodePort"] = (*node_port).into();
            }
            value
        };
        ports.iter().enumerate().map(port).collect()
    })
}

fn spec() -> impl Strategy<Value = Value> {
    let lists = |values: &[&[&str]]| values.iter().map(|list| json!(list)).collect::<Vec<_>>();
    let texts = |values: &[&str]| values.iter().map(|text| json!(text)).collect::<Vec<_>>();
    let ips = [
        vec!["10.0.0.1"],
        vec!["10.0.0.2"],
        vec!["fd00::1"],
        vec!["fd00::2"],
        vec!["None"],
        vec!["10.0.0.0"],
        vec!["10.0.0.1", "fd00::1"],
        vec!["fd00::2", "10.0.0.2"],
        vec!["10.0.0.1", "10.0.0.2"],
        vec!["None", "fd00::1"],
    ];
    let addresses = prop_oneof![
        2 => Just(None),
        1 => (prop::sample::select(ips.to_vec()), any::<bool>(), any::<bool>()).prop_map(Some),
    ];
    (
        some_of(texts(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        some_of(texts(&["SingleStack", "PreferDualStack", "RequireDualStack"])),
        some_of(lists(&[&["IPv4"], &["IPv6"], &["IPv4", "IPv6"], &["IPv6", "IPv4"], &["IPv4", "IPv4"]])),
        addresses,
        some_of(vec![json!({"app": "x"})]),
        ports(),
        some_of(texts(&["Local", "Cluster"])),
        some_of(vec![json!(30003), json!(30004)]),
        some_of(vec![json!(true), json!(false)]),
    )
        .prop_map(|(kind, policy, families, addresses, selector, ports, traffic, check, allocate)| {
            let mut spec = json!({"ports": ports, "externalName": "example.net"});
            let load_balancer = kind.as_ref().is_some_and(|kind| kind == "LoadBalancer");
            let node_port = load_balancer || kind.as_ref().is_some_and(|kind| kind == "NodePort");
            for (field, value) in [
                ("type", kind),
                ("ipFamilyPolicy", policy),
                ("ipFamilies", families),
                ("selector", selector),
                ("externalTrafficPolicy", traffic.filter(|_| node_port)),
                ("healthCheckNodePort", check.filter(|_| load_balancer)),
                ("allocateLoadBalancerNodePorts", allocate.filter(|_| load_balancer)),
            ] {
                if let Some(value) = value {
                    spec[field] = value;
                }
            }
            if let Some((ips, singular, plural)) = addresses {
                if singular {
                    spec["clusterIP"] = ips[0].into();
                }
                if plural {
                    spec["clusterIPs"] = ips.into();
                }
            }
            spec
        })
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, Value),
    Patch(usize, Value),
    Delete(usize),
    /// The server starts anew with other ranges.
    Ranges(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let patch = prop_oneof![
        prop::sample::select(vec!["SingleStack", "PreferDualStack", "RequireDualStack"])
            .prop_map(|policy| json!({"ipFamilyPolicy": policy})),
        prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])
            .prop_map(|kind| json!({"type": kind})),
        prop::sample::select(vec!["Local", "Cluster"])
            .prop_map(|policy| json!({"externalTrafficPolicy": policy})),
        ports().prop_map(|ports| json!({"ports": ports})),
        Just(json!({"clusterIP": null, "clusterIPs": null, "ipFamilies": null})),
        spec(),
    ];
    prop_oneof![
        6 => (0usize..5, spec()).prop_map(|(at, spec)| Step::Put(at, spec)),
        4 => (0usize..5, patch).prop_map(|(at, patch)| Step::Patch(at, patch)),
        2 => (0usize..5).prop_map(Step::Delete),
        1 => prop::sample::select(vec![RANGES, "fd00::/125,10.0.0.0/29", "10.0.0.0/29", "fd00::/125"])
            .prop_map(Step::Ranges),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// `World` compares what is held with what the objects name after every request that succeeds.
    #[test]
    fn nothing_leaks_and_nothing_is_used_twice(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new(RANGES);
        world.cluster.node_ports = 30000..=30009;
        for step in steps {
            let held = world.held.clone();
            let refused = match step {
                Step::Put(at, spec) => world.put(&format!("s{at}"), spec).is_err(),
                Step::Patch(at, patch) => {
                    let name = format!("s{at}");
                    world.objects.contains_key(&name) && world.patch(&name, patch).is_err()
                }
                Step::Delete(at) => {
                    let name = format!("s{at}");
                    if world.objects.contains_key(&name) {
                        world.delete(&name);
                    }
                    false
                }
                Step::Ranges(ranges) => {
                    world.cluster.service_ranges = dyad_net::parse_range_list(ranges).unwrap();
                    false
                }
            };
            if refused {
                prop_assert_eq!(&world.held, &held, "a refused request holds nothing and releases nothing");
            }
            world.check();
        }
    }
}
