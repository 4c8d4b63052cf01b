//! What becomes of packets, row by row, and what holds for all of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::Pod;
use crate::testing::{ip, node, service, slice};
use crate::{Compiler, HostPort, Inputs, Name, wire};

/// The addresses of the node.
fn addresses() -> BTreeSet<IpAddr> {
    ["192.0.2.1", "198.51.100.30", "127.0.0.1", "2001:db8::1", "::1"].map(ip).into()
}

/// Services of all kinds, a pod with a host port, a policy.
fn cluster() -> Inputs {
    let mut inputs = Inputs::new(node());
    // Not on 198.51.100.30, which the node has, too.
    inputs.node.node_ports = ["192.0.2.0/24", "2001:db8::/64"].map(|range| range.parse().unwrap()).to_vec();
    let object = |name: &str, last: u8, spec: Value| {
        let mut object = service(json!({
            "metadata": {"name": name},
            "spec": {"clusterIP": format!("10.96.0.{last}"), "clusterIPs": [format!("10.96.0.{last}"), format!("fd00:10:96::{last}")]},
        }));
        crate::testing::merge(&mut object["spec"], spec);
        object
    };
    let mut local = object(
        "local",
        2,
        json!({"externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30082}]}),
    );
    local["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}]}});
    let mut guarded =
        object("guarded", 3, json!({"loadBalancerSourceRanges": ["198.51.100.0/24", "10.244.1.0/24"]}));
    guarded["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.3"}, {"ip": "2001:db8:f::3"}]}});
    let services = [
        object("web", 1, json!({"ports": [{"port": 80, "nodePort": 30081}]})),
        local,
        guarded,
        object("empty", 4, json!({"ports": [{"port": 80, "nodePort": 30084}]})),
        object("sticky", 5, json!({"sessionAffinity": "ClientIP"})),
        object("away", 6, json!({"internalTrafficPolicy": "Local"})),
    ];
    inputs.services.extend(services.iter().filter_map(|object| wire::service_from_value(object).unwrap()));
    let both = [("10.244.1.2", "node1", ""), ("10.244.2.2", "node2", "")];
    for (name, endpoints) in
        [("web", &both[..]), ("local", &both), ("guarded", &both), ("sticky", &both), ("away", &both[1..])]
    {
        let of = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}});
        inputs.slices.extend(wire::slice_from_value(&slice(endpoints, of)).unwrap());
    }
    let host_port = HostPort { ip: None, protocol: Protocol::Udp, port: 53, container_port: 5353 };
    let pod = Pod {
        namespace: "default".into(),
        ips: vec![ip("10.244.1.9")],
        node: "node1".into(),
        host_ports: vec![host_port],
        ..Pod::default()
    };
    inputs.pods.insert(Name::new("default", "dns"), pod);
    inputs
}

/// A packet of `source protocol destination port`, where the node's own processes are `host`.
fn packet(text: &str) -> Packet {
    let words: Vec<_> = text.split(' ').collect();
    let [source, protocol, destination, rest @ ..] = words.as_slice() else { panic!("{text}") };
    let payload = match *protocol {
        "echo" => Payload::Echo,
        "control" => Payload::Control,
        name => Payload::Port(Protocol::from_name(name).unwrap(), rest[0].parse().unwrap()),
    };
    let origin = if *source == "host" { Origin::Host } else { Origin::Link };
    let destination = ip(destination);
    let host = if destination.is_ipv4() { ip("192.0.2.1") } else { ip("2001:db8::1") };
    let source = if origin == Origin::Host { host } else { ip(source) };
    Packet { origin, source, destination, payload, last: None }
}

fn words(verdict: &Verdict) -> String {
    let how = |onward: &Onward| match onward {
        Onward { admitted: false, .. } => " denied",
        Onward { masqueraded: true, .. } => " masqueraded",
        Onward { masqueraded: false, .. } => "",
    };
    match verdict {
        Verdict::Pass(onward) => format!("pass{}", how(onward)),
        Verdict::Forward(to) => {
            let to: Vec<_> = to.iter().map(|(to, onward)| format!("{to}{}", how(onward))).collect();
            to.join(", ")
        }
        Verdict::Reject(refusal) => refusal.to_string(),
        Verdict::Drop => "drop".into(),
    }
}

#[test]
fn packets_go_where_services_say() {
    let program = crate::compile(&cluster());
    let (all, masked) =
        ("10.244.1.2:8080, 10.244.2.2:8080", "10.244.1.2:8080 masqueraded, 10.244.2.2:8080 masqueraded");
    let hairpin = "10.244.1.2:8080 masqueraded, 10.244.2.2:8080";
    let (reset, unreachable) = ("refused with a TCP reset", "refused as port unreachable");
    #[rustfmt::skip]
    let cases = [
        ("a pod to a cluster IP",                     "10.244.1.5 TCP 10.96.0.1 80",     all),
        ("a pod that may reach itself",               "10.244.1.2 TCP 10.96.0.1 80",     hairpin),
        ("another node's pod: the answer comes back", "10.244.2.5 TCP 10.96.0.1 80",     masked),
        ("the host",                                  "host TCP 10.96.0.1 80",           masked),
        ("another protocol",                          "10.244.1.5 UDP 10.96.0.1 80",     unreachable),
        ("another port",                              "10.244.1.5 TCP 10.96.0.1 81",     reset),
        ("nobody's cluster IP",                       "10.244.1.5 SCTP 10.96.0.99 80",   unreachable),
        ("an echo to a cluster IP",                   "10.244.1.5 echo 10.96.0.1",       unreachable),
        ("control to a cluster IP",                   "10.244.1.5 control 10.96.0.1",    "pass"),
        ("A167: no endpoints",                        "10.244.1.5 TCP 10.96.0.4 80",     reset),
        ("A167: no endpoints, on a node port",        "203.0.113.9 TCP 192.0.2.1 30084", reset),
        ("A164: endpoints, but none here",            "10.244.1.5 TCP 10.96.0.6 80",     "drop"),
        ("a node port from outside",                  "203.0.113.9 TCP 192.0.2.1 30081", masked),
        ("a node port from a pod",                    "10.244.1.5 TCP 192.0.2.1 30081",  all),
        ("a node port of another node: its business", "10.244.1.5 TCP 192.0.2.2 30081",  "pass"),
        ("no node port outside of their ranges",      "203.0.113.9 TCP 198.51.100.30 30081", "pass"),
        ("no node port on loopback",                  "host TCP 127.0.0.1 30081",        "pass"),
        ("A165: from outside it stays, unmasked",     "203.0.113.9 TCP 203.0.113.2 80",  "10.244.1.2:8080"),
        ("A165: on the node port, too",               "203.0.113.9 TCP 192.0.2.1 30082", "10.244.1.2:8080"),
        ("A165: another node's pod is outside",       "10.244.2.5 TCP 203.0.113.2 80",   "10.244.1.2:8080"),
        ("A165: own pods go anywhere",                "10.244.1.5 TCP 203.0.113.2 80",   all),
        ("A165: and the host",                        "host TCP 203.0.113.2 80",         masked),
        ("A165: no address, no frontend",             "203.0.113.9 TCP 203.0.113.2 81",  "pass"),
        ("source ranges: one of them",                "198.51.100.9 TCP 203.0.113.3 80", masked),
        ("source ranges: none of them",               "203.0.113.9 TCP 203.0.113.3 80",  "drop"),
        ("source ranges: pods, too",                  "10.244.2.5 TCP 203.0.113.3 80",   "drop"),
        ("source ranges: pods that are in one",       "10.244.1.5 TCP 203.0.113.3 80",   all),
        ("source ranges: the host, too",              "host TCP 203.0.113.3 80",         "drop"),
        ("source ranges: the address itself",         "203.0.113.3 TCP 203.0.113.3 80",  masked),
        ("source ranges: not for the cluster IP",     "203.0.113.9 TCP 10.96.0.3 80",    masked),
        ("source ranges of one family close the other", "2001:db8:9::9 TCP 2001:db8:f::3 80", "drop"),
        ("a host port keeps the source",              "203.0.113.9 UDP 192.0.2.1 53",    "10.244.1.9:5353"),
        ("a host port from a pod",                    "10.244.1.5 UDP 192.0.2.1 53",     "10.244.1.9:5353"),
        ("a host port from its own pod",              "10.244.1.9 UDP 192.0.2.1 53",     "10.244.1.9:5353 masqueraded"),
        ("a host port from the host",                 "host UDP 192.0.2.1 53",           "10.244.1.9:5353 masqueraded"),
        ("a host port has no address of another family", "2001:db8:9::9 UDP 2001:db8::1 53", "pass"),
        ("a pod out of the cluster",                  "10.244.1.5 TCP 203.0.113.9 80",   "pass masqueraded"),
        ("a pod's echo out of the cluster",           "10.244.1.5 echo 203.0.113.9",     "pass masqueraded"),
        ("a pod's ICMP errors",                       "10.244.1.5 control 203.0.113.9",  "pass"),
        ("a pod to another node",                     "10.244.1.5 TCP 192.0.2.2 22",     "pass"),
        ("a pod to its node",                         "10.244.1.5 TCP 198.51.100.30 22", "pass"),
        ("a pod to a pod",                            "10.244.1.5 TCP 10.244.2.2 8080",  "pass"),
        ("the host out of the cluster",               "host TCP 203.0.113.9 80",         "pass"),
    ];
    for (rule, text, expected) in cases {
        assert_eq!(words(&simulate(&program, &addresses(), &packet(text))), expected, "{rule}: {text}");
    }
}

#[test]
fn clients_come_to_the_endpoint_they_know() {
    let program = crate::compile(&cluster());
    let known = |to: &str, at: &str| {
        let last = to.parse::<std::net::SocketAddr>().unwrap();
        let last = Some(Endpoint { ip: last.ip(), port: last.port() });
        words(&simulate(
            &program,
            &addresses(),
            &Packet { last, ..packet(&format!("10.244.1.5 TCP {at} 80")) },
        ))
    };
    let all = "10.244.1.2:8080, 10.244.2.2:8080";
    for (rule, last, at, expected) in [
        ("A168: it is still there", "10.244.2.2:8080", "10.96.0.5", "10.244.2.2:8080"),
        ("A168: it has gone", "10.244.2.3:8080", "10.96.0.5", all),
        ("A168: it has another port", "10.244.2.2:8081", "10.96.0.5", all),
        ("the Service is not sticky", "10.244.2.2:8080", "10.96.0.1", all),
    ] {
        assert_eq!(known(last, at), expected, "{rule}");
    }
}

#[test]
fn global_pods_are_closed_to_the_outside() {
    let mut inputs = cluster();
    inputs.node.own_pods = vec!["2001:db8:1::/64".parse().unwrap()];
    let verdict =
        |inputs: &Inputs, text| words(&simulate(&crate::compile(inputs), &addresses(), &packet(text)));
    #[rustfmt::skip]
    let cases = [
        ("from outside",         "2001:db8:9::9 TCP 2001:db8:1::2 80",  "pass denied"),
        ("an echo",              "2001:db8:9::9 echo 2001:db8:1::2",    "pass denied"),
        ("packet too big",       "2001:db8:9::9 control 2001:db8:1::2", "pass"),
        ("from another node",    "2001:db8::1 TCP 2001:db8:1::2 80",    "pass"),
        ("from another pod",     "fd00:10:244:2::2 TCP 2001:db8:1::2 80", "pass"),
        ("from the host (H11)",  "host TCP 2001:db8:1::2 80",           "pass"),
        ("out of the cluster",   "2001:db8:1::2 TCP 2001:db8:9::9 80",  "pass"),
    ];
    for (rule, text, expected) in cases {
        assert_eq!(verdict(&inputs, text), expected, "{rule}: {text}");
    }
    inputs.node.open_pods = true;
    assert_eq!(
        verdict(&inputs, "2001:db8:9::9 TCP 2001:db8:1::2 80"),
        "pass",
        "unless the cluster is told to"
    );
}

#[test]
fn every_step_names_what_decided() {
    let compiler = Compiler::of(&cluster());
    let steps = |packet: &Packet| -> Vec<String> {
        let owner = |family, at| compiler.owner(family, at);
        let trace = trace(compiler.program(), &addresses(), packet, &owner);
        assert_eq!(trace.verdict, simulate(compiler.program(), &addresses(), packet));
        let because = |step: &Step| step.because.as_ref().map_or_else(String::new, |by| format!(" ({by})"));
        trace
            .steps
            .iter()
            .map(|step| format!("{}: {}{}", step.stage.as_str(), step.text, because(step)))
            .collect()
    };
    assert_eq!(
        steps(&packet("203.0.113.9 TCP 203.0.113.3 80")),
        [
            "arrival: 203.0.113.9 is outside of the cluster",
            "guard: dropped: 203.0.113.9 is in none of the source ranges of 203.0.113.3:80/TCP (Service default/guarded)",
        ]
    );
    assert_eq!(
        steps(&packet("10.244.1.5 TCP 10.96.0.99 80")),
        [
            "arrival: 10.244.1.5 is a pod of this node",
            "frontend: refused with a TCP reset: no Service has this port of 10.96.0.99, which is of the Service range",
        ]
    );
    assert_eq!(
        steps(&packet("203.0.113.9 UDP 192.0.2.1 53")),
        [
            "arrival: 203.0.113.9 is outside of the cluster",
            "frontend: node port 53/UDP, which sends what comes from elsewhere to endpoints of this node only: found (Pod default/dns)",
            "endpoint: goes to 10.244.1.9:5353 (Pod default/dns)",
            "source: keeps its source address",
        ]
    );
    assert_eq!(
        steps(&packet("10.244.1.2 TCP 10.96.0.1 80")),
        [
            "arrival: 10.244.1.2 is a pod of this node",
            "frontend: 10.96.0.1:80/TCP: found (Service default/web)",
            "endpoint: goes to one of 2 endpoints (10.244.1.2:8080, 10.244.2.2:8080), at random (Service default/web)",
            "source: on the way to 10.244.2.2:8080: keeps its source address",
            "source: on the way to 10.244.1.2:8080: takes an address of this node as its source, for the pod reaches itself",
        ]
    );
    let last = Some(Endpoint { ip: ip("10.244.2.2"), port: 8080 });
    assert_eq!(
        steps(&Packet { last, ..packet("10.244.1.5 TCP 10.96.0.5 80") })[2],
        "endpoint: goes to 10.244.2.2:8080, where its source went less than 10800 s ago (Service default/sticky)"
    );
    assert_eq!(
        steps(&packet("10.244.1.5 TCP 10.96.0.6 80"))[1..],
        [
            "frontend: 10.96.0.6:80/TCP: dropped: it has endpoints, but none on this node (Service default/away)",
        ]
    );
}

/// An address that means something in the random clusters, or nothing.
fn addresses_of_all_kinds() -> impl Strategy<Value = IpAddr> {
    let known = [
        "10.96.0.0",
        "10.96.0.1",
        "10.96.0.2",
        "198.51.100.7",
        "198.51.100.8",
        "192.0.2.1",
        "10.244.1.1",
        "10.244.0.1",
        "203.0.113.9",
        "127.0.0.1",
        "fd00:10:96::1",
        "2001:db8::7",
        "2001:db8::8",
        "2001:db8::1",
        "fd00:10:244:1::1",
        "2001:db8:9::9",
        "::1",
    ];
    prop::sample::select(known.map(ip).to_vec())
}

fn packets() -> impl Strategy<Value = Packet> {
    let ports = prop::sample::select(vec![80u16, 53, 30080, 30053, 8080]);
    let payload = prop_oneof![
        8 => (prop::sample::select(Protocol::ALL.to_vec()), ports).prop_map(|(protocol, port)| Payload::Port(protocol, port)),
        1 => Just(Payload::Echo),
        1 => Just(Payload::Control),
    ];
    let last = prop::option::of((0u8..2, any::<u8>()));
    (any::<bool>(), addresses_of_all_kinds(), addresses_of_all_kinds(), payload, last).prop_map(
        |(host, source, destination, payload, last)| Packet {
            origin: if host { Origin::Host } else { Origin::Link },
            source,
            destination,
            payload,
            last: last.map(|(node, last)| Endpoint { ip: IpAddr::from([10, 244, node, last]), port: 8080 }),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_holds_for_all_packets(
        inputs in crate::compile::random_inputs(),
        packets in prop::collection::vec(packets(), 1..60),
    ) {
        let compiler = Compiler::of(&inputs);
        for packet in packets {
            let verdict = simulate(compiler.program(), &addresses(), &packet);
            let owner = |family, at| compiler.owner(family, at);
            let trace = trace(compiler.program(), &addresses(), &packet, &owner);
            prop_assert_eq!(&trace.verdict, &verdict, "{:?}", packet);
            prop_assert!(!trace.steps.is_empty() && trace.steps.is_sorted_by_key(|step| step.stage > Stage::Endpoint));
            if IpFamily::from(packet.source) != IpFamily::from(packet.destination) {
                prop_assert_eq!(verdict, Verdict::Pass(Onward { masqueraded: false, admitted: true }));
                continue;
            }
            let table = compiler.program().get(packet.destination.into()).unwrap();
            if packet.payload == Payload::Control {
                prop_assert_eq!(verdict, Verdict::Pass(Onward { masqueraded: false, admitted: true }));
                continue;
            }
            if table.in_range(RangeSet::Services, packet.destination) {
                prop_assert!(!matches!(verdict, Verdict::Pass(_)), "nothing goes on to a cluster IP");
            }
            if let Verdict::Forward(to) = &verdict {
                let Payload::Port(..) = packet.payload else { panic!("what has no port is not translated") };
                let by = trace.steps.iter().find(|step| step.stage == Stage::Frontend).unwrap();
                prop_assert!(by.because.is_some());
                prop_assert!(!to.is_empty());
                let anew = simulate(compiler.program(), &addresses(), &Packet { last: None, ..packet });
                let Verdict::Forward(all) = anew else { panic!("memory changes who, not whether") };
                prop_assert!(to.iter().all(|(to, onward)| all.get(to) == Some(onward)));
                prop_assert!(to.len() == all.len() || to.len() == 1 && to.contains_key(&packet.last.unwrap()));
                for (to, onward) in to {
                    prop_assert_eq!(IpFamily::from(to.ip), IpFamily::from(packet.source));
                    let from_own_pod = table.in_range(RangeSet::OwnPods, packet.source);
                    let is_elsewhere = !table.hairpin.contains(&to.ip);
                    prop_assert!(onward.masqueraded || from_own_pod || !is_elsewhere,
                        "what leaves for another node for somebody else comes back here");
                }
            }
            if packet.origin == Origin::Host {
                let admitted = match &verdict {
                    Verdict::Pass(onward) => onward.admitted,
                    Verdict::Forward(to) => to.values().all(|onward| onward.admitted),
                    Verdict::Reject(_) | Verdict::Drop => true,
                };
                prop_assert!(admitted, "H11: the node itself is under no policy");
            }
        }
    }
}
