//! From objects in their wire form to tables.

use std::net::IpAddr;

use dyad_net::{DualStack, IpNet};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Action, Endpoint, Entry, Protocol, RangeSet, wire};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node() -> NodeView {
    let both = |v4: &str, v6: &str| DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap());
    NodeView {
        name: "node1".into(),
        own_pods: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()],
        cluster_pods: both("10.244.0.0/16", "fd00:10:244::/56"),
        services: both("10.96.0.0/16", "fd00:10:96::/112"),
        nodes: ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(ip).into(),
    }
}

fn compiled(services: &[Value], slices: &[Value]) -> Program {
    let services = services.iter().filter_map(|object| wire::service_from_value(object).unwrap());
    let slices = slices.iter().filter_map(|object| wire::slice_from_value(object).unwrap());
    compile(&Inputs { node: node(), services: services.collect(), slices: slices.collect() })
}

/// A Service `default/web` with what `change` changes.
fn service(change: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
            "ports": [{"protocol": "TCP", "port": 80}],
        },
    });
    merge(&mut object, change);
    object
}

/// An endpoint: address, node and conditions, those that are false with a `!`.
type Ready = (&'static str, &'static str, &'static str);

/// A slice of `default/web` with what `change` changes.
fn slice(endpoints: &[(&str, &str, &str)], change: Value) -> Value {
    let endpoint = |(ip, node, conditions): &(&str, &str, &str)| {
        let conditions = conditions.split(' ').filter(|word| !word.is_empty());
        let conditions = conditions.map(|word| match word.strip_prefix('!') {
            Some(word) => (word.to_owned(), Value::Bool(false)),
            None => (word.to_owned(), Value::Bool(true)),
        });
        json!({"addresses": [ip], "nodeName": node, "conditions": conditions.collect::<serde_json::Map<_, _>>()})
    };
    let family = IpFamily::from(ip(endpoints[0].0));
    let mut object = json!({
        "metadata": {
            "namespace": "default", "name": format!("web-{family}"),
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": family.as_str(),
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    });
    merge(&mut object, change);
    object
}

/// RFC 7386.
fn merge(object: &mut Value, change: Value) {
    match change {
        Value::Object(change) if object.is_object() => {
            for (key, value) in change {
                merge(&mut object[key], value);
            }
        }
        change => *object = change,
    }
}

/// The frontends of both families as text: scope, frontend, what is done, endpoints.
fn frontends(program: &Program) -> Vec<String> {
    let mut lines = Vec::new();
    for (_, table) in program.iter() {
        for ((scope, at), action) in &table.frontends {
            let at_text = match at {
                Frontend::Address(ip, protocol, port) => format!("{ip} {} {port}", protocol.as_str()),
                Frontend::NodePort(protocol, port) => format!("node {} {port}", protocol.as_str()),
            };
            let action = match action {
                Action::Reject => "reject".into(),
                Action::Drop => "drop".into(),
                Action::Forward(slots) => {
                    let endpoint = |slot| table.endpoints[&(*scope, *at, slot)];
                    let to: Vec<_> =
                        (0..*slots).map(endpoint).map(|to| format!("{} {}", to.ip, to.port)).collect();
                    to.join(", ")
                }
            };
            let scope = if *scope == Scope::Local { "local " } else { "" };
            lines.push(format!("{scope}{at_text}: {action}"));
        }
    }
    lines
}

#[test]
fn services_become_frontends() {
    let v4 = || slice(&[("10.244.1.2", "node1", "ready"), ("10.244.2.2", "node2", "ready")], json!({}));
    let v6 = || slice(&[("fd00:10:244:2::2", "node2", "ready")], json!({}));
    let (all4, all6) = ("10.244.1.2 8080, 10.244.2.2 8080", "fd00:10:244:2::2 8080");
    let local = json!({"spec": {"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7"]}});
    #[rustfmt::skip]
    let cases: [(&str, Value, Vec<Value>, Vec<String>); 18] = [
        ("cluster IPs of both families", json!({}), vec![v4(), v6()], vec![
            format!("10.96.0.1 TCP 80: {all4}"), format!("fd00:10:96::1 TCP 80: {all6}"),
        ]),
        ("a single-stack Service has no other family", json!({"spec": {"clusterIPs": ["fd00:10:96::1"]}}), vec![v4(), v6()], vec![
            format!("fd00:10:96::1 TCP 80: {all6}"),
        ]),
        ("the singular field alone (stored before dual-stack)", json!({"spec": {"clusterIPs": null}}), vec![v4()], vec![
            format!("10.96.0.1 TCP 80: {all4}"),
        ]),
        ("no endpoints in one family", json!({}), vec![v4()], vec![
            format!("10.96.0.1 TCP 80: {all4}"), "fd00:10:96::1 TCP 80: reject".into(),
        ]),
        ("headless", json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}), vec![v4()], vec![]),
        ("ExternalName", json!({"spec": {"type": "ExternalName"}}), vec![v4()], vec![]),
        ("another proxy's (KEP-2447)", json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}}), vec![v4()], vec![]),
        ("an address that is none is left out", json!({"spec": {"clusterIPs": ["10.96.0.1", "junk"], "externalIPs": ["x", "198.51.100.7"]}}), vec![v4()], vec![
            format!("10.96.0.1 TCP 80: {all4}"), format!("198.51.100.7 TCP 80: {all4}"),
        ]),
        ("node ports in both families", json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}), vec![v4(), v6()], vec![
            format!("10.96.0.1 TCP 80: {all4}"), format!("node TCP 30080: {all4}"),
            format!("fd00:10:96::1 TCP 80: {all6}"), format!("node TCP 30080: {all6}"),
        ]),
        ("all protocols", json!({"spec": {"clusterIPs": ["10.96.0.1"], "ports": [
            {"name": "t", "protocol": "TCP", "port": 1}, {"name": "u", "protocol": "UDP", "port": 1},
            {"name": "s", "protocol": "SCTP", "port": 1}, {"name": "x", "protocol": "DCCP", "port": 1},
        ]}}), vec![slice(&[("10.244.1.2", "node1", "")], json!({"ports": [
            {"name": "t", "protocol": "TCP", "port": 2}, {"name": "u", "protocol": "UDP", "port": 3}, {"name": "s", "protocol": "SCTP", "port": 4},
        ]}))], vec![
            "10.96.0.1 TCP 1: 10.244.1.2 2".into(), "10.96.0.1 UDP 1: 10.244.1.2 3".into(), "10.96.0.1 SCTP 1: 10.244.1.2 4".into(),
        ]),
        ("addresses of load balancers, but not of those in proxy mode (KEP-1860)", json!({
            "spec": {"clusterIPs": ["10.96.0.1"]},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"hostname": "lb"}, {"ip": "2001:db8::77"},
            ]}},
        }), vec![v4()], vec![
            format!("10.96.0.1 TCP 80: {all4}"), format!("198.51.100.1 TCP 80: {all4}"),
        ]),
        ("external traffic that stays: others go where they like", local.clone(), vec![v4()], vec![
            format!("10.96.0.1 TCP 80: {all4}"), format!("198.51.100.7 TCP 80: {all4}"),
            "local 198.51.100.7 TCP 80: 10.244.1.2 8080".into(), "fd00:10:96::1 TCP 80: reject".into(),
        ]),
        ("external traffic that stays, but nothing is here", local.clone(), vec![slice(&[("10.244.2.2", "node2", "")], json!({}))], vec![
            "10.96.0.1 TCP 80: 10.244.2.2 8080".into(), "198.51.100.7 TCP 80: 10.244.2.2 8080".into(),
            "local 198.51.100.7 TCP 80: drop".into(), "fd00:10:96::1 TCP 80: reject".into(),
        ]),
        ("external traffic that stays, and nothing is anywhere", local, vec![], vec![
            "10.96.0.1 TCP 80: reject".into(), "198.51.100.7 TCP 80: reject".into(),
            "local 198.51.100.7 TCP 80: reject".into(), "fd00:10:96::1 TCP 80: reject".into(),
        ]),
        ("internal traffic that stays", json!({"spec": {"internalTrafficPolicy": "Local"}}), vec![v4(), v6()], vec![
            "10.96.0.1 TCP 80: 10.244.1.2 8080".into(), "fd00:10:96::1 TCP 80: drop".into(),
        ]),
        ("slices of host names and of headless Services are not meant", json!({"spec": {"clusterIPs": ["10.96.0.1"]}}), vec![
            slice(&[("10.244.1.2", "node1", "")], json!({"addressType": "FQDN"})),
            slice(&[("10.244.1.2", "node1", "")], json!({"metadata": {"name": "h", "labels": {"service.kubernetes.io/headless": ""}}})),
        ], vec!["10.96.0.1 TCP 80: reject".into()]),
        ("an endpoint in two slices is one", json!({"spec": {"clusterIPs": ["10.96.0.1"]}}), vec![
            v4(), slice(&[("10.244.1.2", "node1", "!ready")], json!({"metadata": {"name": "web-2"}})),
        ], vec![format!("10.96.0.1 TCP 80: {all4}")]),
        ("a slice of another family than it says", json!({"spec": {"clusterIPs": ["10.96.0.1"]}}), vec![
            slice(&[("10.244.1.2", "node1", "")], json!({"addressType": "IPv6"})),
        ], vec!["10.96.0.1 TCP 80: reject".into()]),
    ];
    for (rule, change, slices, expected) in cases {
        assert_eq!(frontends(&compiled(&[service(change)], &slices)), expected, "{rule}");
    }
}

#[test]
fn endpoints_take_part_by_their_conditions() {
    let (a, b, c) = ("10.244.1.2", "10.244.1.3", "10.244.2.2");
    #[rustfmt::skip]
    let cases: [(&str, &[Ready], &str, &str); 9] = [
        // Endpoints                                                          -> all, those of this node.
        ("no condition is ready", &[(a, "node1", ""), (c, "node2", "")],         "10.244.1.2 8080, 10.244.2.2 8080", "10.244.1.2 8080"),
        ("not ready",             &[(a, "node1", "!ready"), (c, "node2", "")],   "10.244.2.2 8080", "drop"),
        ("terminating is left alone while others are ready (KEP-1669)",
            &[(a, "node1", "!ready serving terminating"), (c, "node2", "ready")], "10.244.2.2 8080", "10.244.1.2 8080"),
        ("all terminate",         &[(a, "node1", "!ready serving terminating"), (b, "node1", "!ready !serving terminating")], "10.244.1.2 8080", "10.244.1.2 8080"),
        ("serving alone is not enough", &[(a, "node1", "!ready serving !terminating")], "reject", "reject"),
        ("nobody answers",        &[(a, "node1", "!ready !serving terminating")], "reject", "reject"),
        ("published although not ready: then it is ready and terminating", &[(a, "node1", "ready serving terminating")], "10.244.1.2 8080", "10.244.1.2 8080"),
        ("ready here, terminating there", &[(a, "node1", "ready"), (c, "node2", "!ready serving terminating")], "10.244.1.2 8080", "10.244.1.2 8080"),
        ("the node is another",   &[(c, "node2", "ready")], "10.244.2.2 8080", "drop"),
    ];
    for (rule, endpoints, cluster, local) in cases {
        for (policy, expected) in [("Cluster", cluster), ("Local", local)] {
            let change = json!({"spec": {"clusterIPs": ["10.96.0.1"], "internalTrafficPolicy": policy}});
            let found = frontends(&compiled(&[service(change)], &[slice(endpoints, json!({}))]));
            assert_eq!(found, [format!("10.96.0.1 TCP 80: {expected}")], "{rule}, {policy}");
        }
    }
}

#[test]
fn ranges_and_hairpins_of_a_node() {
    let endpoints = [("10.244.1.2", "node1", ""), ("10.244.2.2", "node2", "")];
    let program = compiled(&[service(json!({}))], &[slice(&endpoints, json!({}))]);
    let texts = |family: IpFamily, set: RangeSet| -> Vec<String> {
        let ranges = program.get(family).unwrap().ranges.iter();
        ranges.filter(|(of, _)| *of == set).map(|(_, range)| range.to_string()).collect()
    };
    let (v4, v6) = (IpFamily::V4, IpFamily::V6);
    assert_eq!(texts(v4, RangeSet::OwnPods), ["10.244.1.0/24"]);
    assert_eq!(texts(v4, RangeSet::Masqueraded), ["10.244.1.0/24"]);
    assert_eq!(texts(v4, RangeSet::Cluster), ["10.244.0.0/16", "192.0.2.1/32", "192.0.2.2/32"]);
    assert_eq!(texts(v6, RangeSet::Cluster), ["2001:db8::1/128", "fd00:10:244::/56"]);
    assert_eq!(texts(v6, RangeSet::Services), ["fd00:10:96::/112"]);
    assert_eq!(program.get(v4).unwrap().hairpin, [ip("10.244.1.2")].into());

    let mut global = node();
    global.own_pods = vec!["2001:db8:1::/64".parse().unwrap()];
    let program = compile(&Inputs { node: global, services: BTreeMap::new(), slices: BTreeMap::new() });
    let table = program.get(v6).unwrap();
    assert!(table.in_range(RangeSet::OwnPods, ip("2001:db8:1::5")));
    assert!(
        !table.in_range(RangeSet::Masqueraded, ip("2001:db8:1::5")),
        "global addresses leave as they are"
    );
}

#[test]
fn the_first_of_two_services_has_an_address_both_want() {
    let named = |name: &str, last: u8| {
        let ips = [format!("10.96.0.{last}")];
        service(json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": ips[0], "clusterIPs": ips, "externalIPs": ["198.51.100.7"]},
        }))
    };
    let of = |name: &str, at: &str| {
        let labels = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}});
        slice(&[(at, "node1", "")], labels)
    };
    let objects = [named("b", 1), named("a", 2)];
    let slices = [of("a", "10.244.1.10"), of("b", "10.244.1.11")];
    let who = |services: &[Value]| {
        let program = compiled(services, &slices);
        let at = Frontend::Address(ip("198.51.100.7"), Protocol::Tcp, 80);
        program.get(IpFamily::V4).unwrap().endpoints[&(Scope::Cluster, at, 0)]
    };
    assert_eq!(who(&objects), Endpoint { ip: ip("10.244.1.10"), port: 8080 });
    assert_eq!(who(&objects[..1]), Endpoint { ip: ip("10.244.1.11"), port: 8080 });
}

#[test]
fn objects_of_the_wrong_shape_are_refused_and_odd_ones_read() {
    for object in [json!({"spec": 5}), json!({"spec": {"ports": [{"port": -1}]}}), json!("x")] {
        assert!(wire::service_from_value(&object).is_err(), "{object}");
    }
    for object in [json!({}), json!({"spec": {"clusterIPs": ["10.0.0.1", "10.0.0.2"]}})] {
        assert_eq!(wire::service_from_value(&object).unwrap(), None, "{object}");
    }
    assert_eq!(wire::slice_from_value(&json!({"metadata": {"name": "x"}})).unwrap(), None);
}

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    Service(u8, Option<u8>),
    Slice(u8, Option<(u8, Vec<(u8, u8)>)>),
    Node(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..4, prop::option::of(any::<u8>())).prop_map(|(name, shape)| Step::Service(name, shape)),
        (0u8..6, prop::option::of((0u8..4, prop::collection::vec((0u8..24, any::<u8>()), 0..24))))
            .prop_map(|(name, slice)| Step::Slice(name, slice)),
        any::<u8>().prop_map(Step::Node),
    ];
    prop::collection::vec(step, 1..40)
}

fn a_service(name: u8, shape: u8) -> Service {
    let bit = |n: u8| shape >> n & 1 != 0;
    let traffic = |local| if local { crate::Traffic::Local } else { crate::Traffic::Cluster };
    let ips = (IpAddr::from([10, 96, 0, name]), ip(&format!("fd00:10:96::{name}")));
    let cluster_ips = match (bit(0), bit(1)) {
        (true, _) => DualStack::dual(IpFamily::V4, ips.0, ips.1),
        (false, true) => DualStack::single(IpFamily::V4, ips.0),
        (false, false) => DualStack::single(IpFamily::V6, ips.1),
    };
    let port = |name: &str, protocol, number| crate::Port {
        name: name.into(),
        protocol,
        port: number,
        node_port: bit(2).then_some(30000 + number),
    };
    Service {
        cluster_ips,
        // Some share one.
        external_ips: bit(3).then(|| ip("198.51.100.7")).into_iter().collect(),
        ports: [port("a", Protocol::Tcp, 80), port("b", Protocol::Udp, 53)][..1 + usize::from(bit(4))]
            .to_vec(),
        external_traffic: traffic(bit(5)),
        internal_traffic: traffic(bit(6)),
    }
}

fn a_slice(family: IpFamily, owner: u8, endpoints: &[(u8, u8)]) -> EndpointSlice {
    let endpoint = |(last, shape): &(u8, u8)| crate::SliceEndpoint {
        ip: match family {
            IpFamily::V4 => IpAddr::from([10, 244, shape & 1, *last]),
            IpFamily::V6 => ip(&format!("fd00:10:244:{}::{last}", shape & 1)),
        },
        ready: shape & 2 != 0,
        serving: shape & 4 != 0,
        terminating: shape & 8 != 0,
        node: Some(format!("node{}", shape & 1)),
    };
    let port = |name: &str, protocol| crate::SlicePort { name: name.into(), protocol, port: 8080 };
    EndpointSlice {
        service: Name::new("default", &owner.to_string()),
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: vec![port("a", Protocol::Tcp), port("b", Protocol::Udp)],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_history_leads_where_a_fresh_start_does(history in steps()) {
        let mut inputs = Inputs { node: node(), services: BTreeMap::new(), slices: BTreeMap::new() };
        let mut compiler = Compiler::new(node());
        let mut followed = compiler.program().clone();
        for (at, step) in history.iter().enumerate() {
            match step {
                Step::Service(name, shape) => {
                    let service = shape.map(|shape| a_service(*name, shape));
                    let name = Name::new("default", &name.to_string());
                    inputs.services.remove(&name);
                    inputs.services.extend(service.clone().map(|service| (name.clone(), service)));
                    compiler.set_service(name, service);
                }
                Step::Slice(name, slice) => {
                    let family = IpFamily::BOTH[usize::from(name % 2)];
                    let slice = slice.as_ref().map(|(owner, endpoints)| a_slice(family, *owner, endpoints));
                    let name = Name::new("default", &name.to_string());
                    inputs.slices.remove(&name);
                    inputs.slices.extend(slice.clone().map(|slice| (name.clone(), slice)));
                    compiler.set_slice(name, slice);
                }
                Step::Node(shape) => {
                    let pods: [IpNet; 2] = ["10.244.0.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
                    inputs.node.own_pods = pods[usize::from(shape & 1)..].to_vec();
                    inputs.node.name = format!("node{}", shape >> 1 & 1);
                    compiler.set_node(inputs.node.clone());
                }
            }
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
        for (_, table) in followed.iter() {
            for ((scope, at), action) in &table.frontends {
                let slots = table.endpoints.range((*scope, *at, 0)..=(*scope, *at, u16::MAX)).count();
                let expected = if let Action::Forward(slots) = action { usize::from(*slots) } else { 0 };
                prop_assert_eq!(slots, expected, "every slot is filled, and no other");
            }
            let led_to = |key: &(Scope, Frontend, u16)| table.frontends.contains_key(&(key.0, key.1));
            prop_assert!(table.endpoints.keys().all(led_to));
            prop_assert!(table.entries().count() >= table.frontends.len());
        }
        // What goes leaves nothing.
        for name in inputs.services.keys() {
            compiler.set_service(name.clone(), None);
        }
        for name in inputs.slices.keys() {
            compiler.set_slice(name.clone(), None);
        }
        compiler.step();
        prop_assert!(compiler.services.is_empty() && compiler.claims.is_empty() && compiler.hairpin.is_empty());
        let no_entries = |table: &Table| table.entries().all(|entry| matches!(entry, Entry::Range(..)));
        prop_assert!(compiler.program().iter().all(|(_, table)| no_entries(table)));
    }
}
