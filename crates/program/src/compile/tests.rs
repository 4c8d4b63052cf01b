//! From objects in their wire form to tables.

use std::net::IpAddr;

use dyad_net::DualStack;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Ready, compiled, ip, merge, node, service, slice};
use crate::{Action, Endpoint, Program, Protocol, RangeSet, Scope, wire};

mod history;

pub(crate) use history::random_inputs;

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
                Action::Forward { slots, .. } => {
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
    let program = compile(&Inputs::new(global));
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

#[test]
fn hints_choose_endpoints() {
    /// Zones and nodes an endpoint is for, by its last byte.
    type Hinted<'a> = (u8, &'a str, &'a str, &'a str);
    #[rustfmt::skip]
    let cases: [(&str, &[Hinted<'_>], &str); 9] = [
        // Last byte, zones, nodes, conditions.
        ("A166: those of this zone",                   &[(2, "a", "", "ready"), (3, "b", "", "ready")], "2"),
        ("A166: several zones",                        &[(2, "b a", "", "ready"), (3, "b", "", "ready")], "2"),
        ("A166: one without a hint switches zones off", &[(2, "a", "", "ready"), (3, "", "", "ready")], "2 3"),
        ("A166: none for this zone",                   &[(2, "b", "", "ready"), (3, "c", "", "ready")], "2 3"),
        ("A166: nodes go before zones",                &[(2, "a", "node2", "ready"), (3, "b", "node1", "ready")], "3"),
        ("A166: no node hint for this node, then zones", &[(2, "a", "node2", "ready"), (3, "b", "node3", "ready")], "2"),
        ("A166: not every endpoint has a node hint",   &[(2, "a", "node1", "ready"), (3, "a", "", "ready")], "2 3"),
        ("A166: only ready ones count",                &[(2, "a", "", "ready"), (3, "", "", "!ready")], "2"),
        ("A163 within the zone: nobody ready anywhere", &[(2, "a", "", "!ready serving terminating"), (3, "b", "", "!ready serving terminating")], "2 3"),
    ];
    for (rule, endpoints, expected) in cases {
        let names = |text: &str| -> Vec<Value> {
            text.split_whitespace().map(|name| json!({"name": name})).collect()
        };
        let ips: Vec<String> = endpoints.iter().map(|(last, ..)| format!("10.244.2.{last}")).collect();
        let plain: Vec<_> = ips.iter().zip(endpoints).map(|(ip, of)| (ip.as_str(), "node2", of.3)).collect();
        let mut object = slice(&plain, json!({}));
        for (at, (_, zones, nodes, _)) in endpoints.iter().enumerate() {
            object["endpoints"][at]["hints"] = json!({"forZones": names(zones), "forNodes": names(nodes)});
        }
        let expected: Vec<_> = expected.split(' ').map(|last| format!("10.244.2.{last} 8080")).collect();
        for policy in ["Cluster", "Local"] {
            let change = json!({"spec": {"clusterIPs": ["10.96.0.1"], "internalTrafficPolicy": policy}});
            let found = frontends(&compiled(&[service(change)], &[object.clone()]));
            // Hints say nothing about endpoints of the node itself, and there are none here.
            let expected = if policy == "Local" { "drop".into() } else { expected.join(", ") };
            assert_eq!(found, [format!("10.96.0.1 TCP 80: {expected}")], "{rule}, {policy}");
        }
    }
}

#[test]
fn affinity_makes_frontends_sticky() {
    let seconds = |spec: Value| {
        let program =
            compiled(&[service(json!({"spec": spec}))], &[slice(&[("10.244.1.2", "node1", "")], json!({}))]);
        let table = program.get(IpFamily::V4).unwrap();
        let at = Frontend::Address(ip("10.96.0.1"), Protocol::Tcp, 80);
        let Action::Forward { sticky, .. } = table.frontends[&(Scope::Cluster, at)] else {
            panic!("no endpoint")
        };
        assert_eq!(
            table.sticky.len(),
            usize::from(sticky.is_some()),
            "its endpoint is a member, or there are none"
        );
        sticky.map(std::num::NonZeroU32::get)
    };
    #[rustfmt::skip]
    let cases = [
        ("A168: three hours", json!({"sessionAffinity": "ClientIP"}), Some(10_800)),
        ("A168: as long as it says", json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}), Some(7)),
        ("none", json!({"sessionAffinity": "None"}), None),
        ("not said", json!({}), None),
    ];
    for (rule, spec, expected) in cases {
        assert_eq!(seconds(spec), expected, "{rule}");
    }
}

#[test]
fn source_ranges_guard_load_balancers() {
    let balancer = |ranges: Value| {
        let change = json!({
            "spec": {"type": "LoadBalancer", "loadBalancerSourceRanges": ranges, "externalIPs": ["198.51.100.7"]},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "198.51.100.1"}, {"ip": "2001:db8::77"}, {"ip": "198.51.100.2", "ipMode": "Proxy"},
            ]}},
        });
        let program = compiled(&[service(change)], &[slice(&[("10.244.1.2", "node1", "")], json!({}))]);
        let mut lines = Vec::new();
        for (_, table) in program.iter() {
            let at = |at: &Frontend| match at {
                Frontend::Address(ip, _, port) => format!("{ip} {port}"),
                Frontend::NodePort(..) => panic!("node ports have no guard"),
            };
            lines.extend(table.guarded.iter().map(at));
            lines.extend(table.sources.iter().map(|(of, range)| format!("{} from {range}", at(of))));
        }
        lines
    };
    let (own4, own6) = ("198.51.100.1 80 from 198.51.100.1/32", "2001:db8::77 80 from 2001:db8::77/128");
    let (guard4, guard6) = ("198.51.100.1 80", "2001:db8::77 80");
    #[rustfmt::skip]
    let cases: [(&str, Value, Vec<&str>); 6] = [
        ("no list", json!(null), vec![]),
        ("an empty list is none", json!([]), vec![]),
        ("one family closes the other (deviates from A161)", json!([" 203.0.113.0/24 "]), vec![
            guard4, own4, "198.51.100.1 80 from 203.0.113.0/24", guard6, own6,
        ]),
        ("overlapping ranges are one", json!(["203.0.113.0/24", "203.0.113.128/25", "2001:db8:1::/48"]), vec![
            guard4, own4, "198.51.100.1 80 from 203.0.113.0/24", guard6, own6, "2001:db8::77 80 from 2001:db8:1::/48",
        ]),
        ("everybody of one family: only the other is guarded", json!(["0.0.0.0/0", "10.0.0.0/8"]), vec![guard6, own6]),
        ("everybody", json!(["0.0.0.0/0", "::/0"]), vec![]),
    ];
    for (rule, ranges, expected) in cases {
        assert_eq!(balancer(ranges), expected, "{rule}");
    }
}

#[test]
fn host_ports_go_before_services() {
    let mut inputs = Inputs::new(node());
    let node_port = service(json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}]}}));
    inputs.services.extend(wire::service_from_value(&node_port).unwrap());
    let port = |ip: Option<&str>, port, protocol| HostPort {
        ip: ip.map(|text: &str| text.parse().unwrap()),
        protocol,
        port,
        container_port: 8080,
    };
    let pod = |node: &str, host_network| Pod {
        namespace: "default".into(),
        node: node.into(),
        ips: vec![ip("10.244.1.9"), ip("fd00:10:244:1::9")],
        host_network,
        host_ports: vec![port(None, 30080, Protocol::Tcp), port(Some("192.0.2.1"), 53, Protocol::Udp)],
        ..Pod::default()
    };
    let with = |pod: Pod| {
        let mut inputs = inputs.clone();
        inputs.pods.insert(Name::new("default", "a"), pod);
        let compiler = Compiler::of(&inputs);
        let owner = compiler.owner(IpFamily::V6, Frontend::NodePort(Protocol::Tcp, 30080));
        (frontends(compiler.program()), owner.unwrap().to_string())
    };
    let (lines, owner) = with(pod("node1", false));
    assert_eq!(owner, "Pod default/a");
    let expected = [
        "10.96.0.1 TCP 80: reject",
        "192.0.2.1 UDP 53: 10.244.1.9 8080",
        "node TCP 30080: 10.244.1.9 8080",
        "local 192.0.2.1 UDP 53: 10.244.1.9 8080",
        "local node TCP 30080: 10.244.1.9 8080",
        "fd00:10:96::1 TCP 80: reject",
        "node TCP 30080: fd00:10:244:1::9 8080",
        "local node TCP 30080: fd00:10:244:1::9 8080",
    ];
    assert_eq!(lines, expected);
    for (why, pod) in [("another node's", pod("node2", false)), ("no network of its own", pod("node1", true))]
    {
        let (lines, owner) = with(pod);
        assert_eq!(owner, "Service default/web", "{why}");
        assert!(!lines.iter().any(|line| line.contains("10.244.1.9")), "{why}");
    }
}

#[test]
fn nodes_have_zones_and_may_be_about_to_go() {
    let labels = |name: &str| [("topology.kubernetes.io/zone".to_owned(), name.to_owned())].into();
    assert_eq!(wire::zone(Some(&labels("a"))), Some("a".to_owned()));
    assert_eq!(wire::zone(Some(&labels(""))), None);
    assert_eq!(wire::zone(Some(&BTreeMap::new())).or(wire::zone(None)), None);
    let leaves = |spec: Value| wire::is_to_be_deleted(&serde_json::from_value(spec).unwrap());
    assert!(leaves(
        json!({"taints": [{"key": "x"}, {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]})
    ));
    assert!(!leaves(json!({"taints": [{"key": "x", "effect": "NoSchedule"}]})) && !leaves(json!({})));
}

#[test]
fn load_balancers_ask_for_ready_endpoints_of_this_node() {
    let asked =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    let checks = |spec: &Value, slices: &[Value]| {
        let mut inputs = Inputs::new(node());
        inputs.services.extend(wire::service_from_value(&service(json!({"spec": spec}))).unwrap());
        inputs.slices.extend(slices.iter().filter_map(|object| wire::slice_from_value(object).unwrap()));
        Compiler::of(&inputs).health_checks()
    };
    let (a, b, c) = ("10.244.1.2", "10.244.2.2", "fd00:10:244:1::2");
    #[rustfmt::skip]
    let cases: [(&str, &[Ready], [usize; 2]); 4] = [
        ("A169: those of this node", &[(a, "node1", ""), (b, "node2", "")], [1, 0]),
        ("A169: in the other family", &[(c, "node1", "")], [0, 1]),
        ("A169: terminating ones do not count", &[(a, "node1", "!ready serving terminating")], [0, 0]),
        ("none here", &[(b, "node2", "")], [0, 0]),
    ];
    for (rule, endpoints, [v4, v6]) in cases {
        let found = checks(&asked, &[slice(endpoints, json!({}))]);
        let expected = HealthCheck {
            service: Name::new("default", "web"),
            local_endpoints: DualStack::dual(IpFamily::V4, v4, v6),
        };
        assert_eq!(found, [(32000, expected)].into(), "{rule}");
    }
    for (rule, change) in [
        ("A169: only type LoadBalancer", json!({"type": "NodePort"})),
        ("A169: only policy Local", json!({"externalTrafficPolicy": "Cluster"})),
        ("no port", json!({"healthCheckNodePort": 0})),
    ] {
        let mut spec = asked.clone();
        merge(&mut spec, change);
        assert_eq!(checks(&spec, &[slice(&[(a, "node1", "")], json!({}))]), BTreeMap::new(), "{rule}");
    }
}

#[test]
fn what_was_allocated_goes_before_what_somebody_chose() {
    let at = |text: &str| Frontend::Address(ip(text), Protocol::Tcp, 80);
    let of = |name: &str, last: u8, spec: Value, status: Value| {
        let cluster_ip = format!("10.96.0.{last}");
        let mut object = service(json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip]},
            "status": status,
        }));
        merge(&mut object["spec"], spec);
        object
    };
    let balancer = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    let mut inputs = Inputs::new(node());
    for object in [
        of("b", 1, json!({}), balancer),
        of("a", 2, json!({"externalIPs": ["10.96.0.1", "198.51.100.1"]}), json!({})),
        of("c", 3, json!({"externalIPs": ["192.0.2.1"]}), json!({})),
    ] {
        inputs.services.extend(wire::service_from_value(&object).unwrap());
    }
    let host_port =
        |ip: IpAddr| HostPort { ip: Some(ip), protocol: Protocol::Tcp, port: 80, container_port: 8080 };
    let pod = Pod {
        node: "node1".into(),
        ips: vec![ip("10.244.1.9")],
        host_ports: ["192.0.2.1", "10.96.0.3"].map(ip).map(host_port).to_vec(),
        ..Pod::default()
    };
    inputs.pods.insert(Name::new("default", "pod"), pod);
    let compiler = Compiler::of(&inputs);
    for (rule, address, owner) in [
        ("a cluster IP before externalIPs", "10.96.0.1", "Service default/b"),
        ("a load balancer before externalIPs", "198.51.100.1", "Service default/b"),
        ("a cluster IP before a host port", "10.96.0.3", "Service default/c"),
        ("a host port before externalIPs", "192.0.2.1", "Pod default/pod"),
    ] {
        let found = compiler.owner(IpFamily::V4, at(address)).unwrap();
        assert_eq!(found.to_string(), owner, "{rule}");
    }
    assert_eq!(compiler.owner(IpFamily::V4, at("10.96.0.9")), None);
}
