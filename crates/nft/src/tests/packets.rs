//! Packets go where the simulator says.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use dyad_program::{Action, Protocol, Refusal, Verdict};

use super::lab::{EVERYBODY, Lab, Who};
use super::*;
use crate::Executor;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn connections_go_where_the_simulator_says() {
    if !privileged("packets::connections_go_where_the_simulator_says") {
        return;
    }
    let lab = Lab::new();
    let everywhere = [
        [("10.244.1.2", "node1"), ("10.244.1.3", "node1"), ("10.244.2.2", "node2")],
        [("fd00:10:244:1::2", "node1"), ("fd00:10:244:1::3", "node1"), ("fd00:10:244:2::2", "node2")],
    ];
    let local = json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    let program = compile(&inputs(
        &[
            service("everywhere", 1, json!({"externalIPs": ["203.0.113.7", "2001:db8:113::7"]})),
            service("own", 2, json!({})),
            service("far", 3, json!({})),
            service("none", 4, json!({})),
            service("local", 5, local.clone()),
            service("local-far", 6, local),
        ],
        &[
            slice("everywhere", &everywhere[0]),
            slice("everywhere", &everywhere[1]),
            slice("own", &everywhere[0][..1]),
            slice("own", &everywhere[1][..1]),
            slice("far", &everywhere[0][2..]),
            slice("far", &everywhere[1][2..]),
            slice("local", &everywhere[0]),
            slice("local", &everywhere[1]),
            slice("local-far", &everywhere[0][2..]),
            slice("local-far", &everywhere[1][2..]),
        ],
    ));
    within(&lab.node, || Executor::open().unwrap().apply(&program).unwrap());
    let mut kinds = BTreeMap::<&str, usize>::new();
    for family in IpFamily::BOTH {
        let (prefix, external, outside, far) = match family {
            IpFamily::V4 => ("10.96.0.", "203.0.113.7", "203.0.113.80", "10.244.2.2"),
            IpFamily::V6 => ("fd00:10:96::", "2001:db8:113::7", "2001:db8:113::80", "fd00:10:244:2::2"),
        };
        let node = Lab::source(Who::Node, family);
        for who in EVERYBODY {
            let mut targets = vec![at(external, 80), at(&format!("{prefix}99"), 80)];
            targets.push(at(&format!("{prefix}1"), 81));
            // Straight to pods, near and far.
            let pods = [Who::PodA, Who::PodB].into_iter().filter(|pod| *pod != who);
            targets.extend(pods.map(|pod| SocketAddr::new(Lab::source(pod, family), 8080)));
            // To the far pod and the world, which live where the client does.
            if who != Who::Client {
                targets.extend([at(far, 8080), at(outside, 8080)]);
            }
            for number in 1..=6 {
                targets.push(at(&format!("{prefix}{number}"), 80));
                targets.push(SocketAddr::new(node, 30000 + number));
            }
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for to in &targets {
                    let kind = match lab.check(&program, who, protocol, *to) {
                        Verdict::Forward(to) if to.values().all(|to| to.masqueraded) => "masqueraded",
                        Verdict::Forward(to) if to.values().any(|to| to.masqueraded) => "mixed",
                        Verdict::Forward(_) => "plain",
                        Verdict::Pass(onward) if onward.masqueraded => "leaving",
                        Verdict::Pass(_) => "passing",
                        Verdict::Reject(Refusal::Reset) => "reset",
                        Verdict::Reject(Refusal::PortUnreachable) => "unreachable",
                        Verdict::Drop => "dropped",
                    };
                    *kinds.entry(kind).or_default() += 1;
                }
            }
        }
    }
    // Everything there is has been tried.
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}

#[test]
fn addresses_of_balancers_are_for_their_sources_and_node_ports_where_they_are_wanted() {
    if !privileged(
        "packets::addresses_of_balancers_are_for_their_sources_and_node_ports_where_they_are_wanted",
    ) {
        return;
    }
    let lab = Lab::new();
    let endpoints = [[("10.244.1.3", "node1")], [("fd00:10:244:1::3", "node1")]];
    let balanced = |name: &str, number: u16, ranges: &[&str]| {
        let mut object =
            service(name, number, json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}));
        let ips = [format!("203.0.113.{number}"), format!("2001:db8:113::{number}")];
        object["status"] = json!({"loadBalancer": {"ingress": ips.map(|ip| json!({"ip": ip}))}});
        object
    };
    let services = [
        balanced("pods", 1, &["10.244.1.2/32", "fd00:10:244:1::2/128"]),
        balanced("outside", 2, &["192.0.2.8/29", "192.0.2.0/32", "2001:db8::8/125"]),
        balanced("only-v4", 3, &["0.0.0.0/0"]),
        balanced("everybody", 4, &[]),
    ];
    let slices: Vec<_> = ["pods", "outside", "only-v4", "everybody"]
        .into_iter()
        .flat_map(|name| endpoints.each_ref().map(|of| slice(name, of)))
        .collect();
    let mut inputs = inputs(&services, &slices);
    inputs.node.node_ports = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8:ffff::/64".parse().unwrap()];
    let program = compile(&inputs);
    within(&lab.node, || Executor::open().unwrap().apply(&program).unwrap());
    let served = |who: Who, to: SocketAddr| {
        let verdicts = [Protocol::Tcp, Protocol::Udp].map(|protocol| lab.check(&program, who, protocol, to));
        matches!(verdicts, [Verdict::Forward(_), Verdict::Forward(_)])
    };
    for (number, v4, v6) in [
        (1, &[Who::PodA][..], &[Who::PodA][..]),
        (2, &[Who::Client], &[Who::Client]),
        (3, &EVERYBODY, &[]),
        (4, &EVERYBODY, &EVERYBODY),
    ] {
        for who in EVERYBODY {
            assert_eq!(
                served(who, at(&format!("203.0.113.{number}"), 80)),
                v4.contains(&who),
                "{number} {who:?}"
            );
            assert_eq!(
                served(who, at(&format!("2001:db8:113::{number}"), 80)),
                v6.contains(&who),
                "{number} {who:?}"
            );
            // Cluster IPs and node ports are no balancer's.
            assert!(served(who, at(&format!("10.96.0.{number}"), 80)));
            assert!(served(who, at("192.0.2.1", 30000 + number)));
            assert!(!served(who, at("2001:db8::1", 30000 + number)), "node ports are elsewhere");
        }
    }
}

#[test]
fn connections_live_through_adoption_and_changes() {
    if !privileged("packets::connections_live_through_adoption_and_changes") {
        return;
    }
    let lab = Lab::new();
    let slices = |last: &str| {
        [
            slice("one", &[(&format!("10.244.1.{last}"), "node1")]),
            slice("one", &[(&format!("fd00:10:244:1::{last}"), "node1")]),
        ]
    };
    let one = service("one", 1, json!({}));
    let before = compile(&inputs(std::slice::from_ref(&one), &slices("2")));
    let after = compile(&inputs(std::slice::from_ref(&one), &slices("3")));
    within(&lab.node, || Executor::open().unwrap().apply(&before).unwrap());
    let targets = [
        at("10.96.0.1", 80),
        at("fd00:10:96::1", 80),
        at("192.0.2.1", 30001),
        at("[2001:db8::1]".trim_matches(['[', ']']), 30001),
    ];
    let mut streams: Vec<_> = targets
        .iter()
        .flat_map(|to| EVERYBODY.map(|who| (who, *to)))
        .map(|(who, to)| (format!("{who:?} to {to}"), lab.connect(who, to)))
        .collect();
    let mut still_there = |when: &str| {
        for (what, stream) in &mut streams {
            stream.write_all(b"still there?").unwrap_or_else(|error| panic!("{what} {when}: {error}"));
            let mut bytes = [0; 12];
            stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{what} {when}: {error}"));
            assert_eq!(&bytes, b"still there?");
        }
    };
    still_there("at first");
    let mut successor = within(&lab.node, || Executor::open().unwrap());
    assert!(successor.apply(&before).unwrap().rebuilt.is_empty());
    still_there("after adoption");
    successor.apply(&after).unwrap();
    still_there("after the endpoint has changed");
    assert_eq!(
        after.get(IpFamily::V4).unwrap().frontends.values().next(),
        Some(&Action::forward(1)),
        "new connections go to another pod"
    );
    lab.check(&after, Who::Client, Protocol::Tcp, targets[0]);
    let none = compile(&inputs(std::slice::from_ref(&one), &[]));
    successor.apply(&none).unwrap();
    still_there("after the last endpoint has gone");
    lab.check(&none, Who::Client, Protocol::Tcp, targets[0]);
    within(&lab.node, || Executor::open().unwrap().cleanup().unwrap());
    successor.apply(&before).unwrap();
    still_there("after a flush and a repair");
}

/// A packet among the rules from before a batch can find elements from after it.
#[test]
fn new_connections_are_served_while_chains_come_and_go() {
    if !privileged("packets::new_connections_are_served_while_chains_come_and_go") {
        return;
    }
    let lab = Lab::new();
    let one = service("one", 1, json!({}));
    let ready = |lasts: &[&str]| {
        let slices = ["10.244.1.", "fd00:10:244:1::"].map(|prefix| {
            let ips: Vec<String> = lasts.iter().map(|last| format!("{prefix}{last}")).collect();
            let endpoints: Vec<_> = ips.iter().map(|ip| (ip.as_str(), "node1")).collect();
            slice("one", &endpoints)
        });
        compile(&inputs(std::slice::from_ref(&one), &slices))
    };
    let programs = [ready(&["2"]), ready(&["2", "3"])];
    within(&lab.node, || Executor::open().unwrap().apply(&programs[0]).unwrap());
    let stop = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let clients = ["192.0.2.1", "2001:db8::1"].map(|ip| {
            let (lab, stop, to) = (&lab, &stop, at(ip, 30001));
            scope.spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    lab.answer(Who::Node, Protocol::Tcp, to);
                    count += 1;
                }
                count
            })
        });
        within(&lab.node, || {
            // Each begins without what the one before it knew, and deletes the chains that nothing leads to.
            for program in programs.iter().cycle().skip(1).take(200) {
                Executor::open().unwrap().apply(program).unwrap();
            }
        });
        stop.store(true, Ordering::Relaxed);
        clients.map(|client| client.join().expect("every connection is served"))
    });
    assert!(counts.iter().all(|count| *count > 50), "{counts:?} connections only");
}
