//! From objects in their wire form to what is admitted; and against a reference that reads the objects directly.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::rule::{Decision, Direction, Member};
use crate::{Name, Op, Payload, Program, Table, apply};

mod reference;

const NODE: &str = "node1";

/// Objects of a cluster.
#[derive(Clone, Debug, Default)]
struct Objects {
    pods: Vec<Value>,
    namespaces: Vec<Value>,
    nodes: Vec<(String, PeerNode)>,
    network: Vec<Value>,
    cluster: Vec<Value>,
}

fn empty() -> Program {
    DualStack::dual(IpFamily::V4, Table::default(), Table::default())
}

fn compiled(objects: &Objects) -> Program {
    let mut policies = Policies::new(NODE);
    for object in &objects.network {
        let (name, policy) = wire::network_policy_from_value(object).unwrap();
        policies.set_network_policy(name, Some(policy));
    }
    for object in &objects.cluster {
        if let Some((name, policy)) = wire::cluster_policy_from_value(object).unwrap() {
            policies.set_cluster_policy(name, Some(policy));
        }
    }
    for object in &objects.pods {
        if let Some((name, pod)) = wire::pod_from_value(object).unwrap() {
            policies.set_pod(name, Some(pod));
        }
    }
    for (name, node) in &objects.nodes {
        policies.set_peer_node(Name::new("", name), Some(node.clone()));
    }
    for object in &objects.namespaces {
        let (name, labels) = wire::namespace_from_value(object).unwrap();
        policies.set_namespace(&name, Some(labels));
    }
    let mut program = empty();
    apply(&mut program, &policies.step());
    program
}

/// A pod of `namespace`, on node 1 if its number is below 10, with a label `app` and port `http` = 8080.
fn pod(namespace: &str, number: u8, app: &str) -> Value {
    let node = if number < 10 { NODE } else { "node2" };
    json!({
        "metadata": {"namespace": namespace, "name": format!("p{number}"), "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"ports": [
            {"name": "http", "containerPort": 8080}, {"name": "dns", "protocol": "UDP", "containerPort": 53},
        ]}]},
        "status": {"podIPs": [{"ip": format!("10.244.0.{number}")}, {"ip": format!("fd00:10:244::{number}")}]},
    })
}

fn ip(family: IpFamily, number: u8) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::from([10, 244, 0, number]),
        IpFamily::V6 => format!("fd00:10:244::{number}").parse().unwrap(),
    }
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

const TCP_80: Payload = Payload::Port(Protocol::Tcp, 80);
const TCP_8080: Payload = Payload::Port(Protocol::Tcp, 8080);

/// Two namespaces `a` (team=red) and `b` (team=blue), with pods 1 (web), 2 (db) and 11 (web, elsewhere) in `a`, and 3
/// (web) and 13 (db, elsewhere) in `b`.
fn two_namespaces() -> Objects {
    let namespace = |name: &str, team: &str| json!({"metadata": {"name": name, "labels": {"team": team}}});
    Objects {
        pods: vec![
            pod("a", 1, "web"),
            pod("a", 2, "db"),
            pod("a", 11, "web"),
            pod("b", 3, "web"),
            pod("b", 13, "db"),
        ],
        namespaces: vec![namespace("a", "red"), namespace("b", "blue")],
        ..Objects::default()
    }
}

/// Whether `from` reaches `to` in both families alike.
fn admitted(program: &Program, from: u8, to: u8, payload: Payload) -> bool {
    let of = |family: IpFamily| {
        let flow = Flow { source: ip(family, from), destination: ip(family, to), payload, translated: false };
        decide(program.get(family).unwrap(), &flow).admitted()
    };
    let (v4, v6) = (of(IpFamily::V4), of(IpFamily::V6));
    assert_eq!(v4, v6, "{from} to {to}: the families differ");
    v4
}

#[test]
fn network_policies_admit_what_they_say() {
    let (udp_53, echo) = (Payload::Port(Protocol::Udp, 53), Payload::Echo);
    let web = json!({"matchLabels": {"app": "web"}});
    let allow_from =
        |peer: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [peer]}]});
    let allow_port =
        |port: Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [port]}]});
    /// From, to, what, and whether it arrives.
    type Case = (u8, u8, Payload, bool);
    #[rustfmt::skip]
    let cases: [(&str, Value, Vec<Case>); 25] = [
        ("H5: default deny isolates in both families, in one direction",
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            vec![(3, 1, TCP_80, false), (11, 1, TCP_80, false), (1, 3, TCP_80, true), (1, 3, echo, true), (3, 1, echo, false)]),
        ("H4: without policyTypes, ingress always", json!({"podSelector": {}}), vec![(3, 1, TCP_80, false), (1, 3, TCP_80, true)]),
        ("H4: and egress if there are rules for it", json!({"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}),
            vec![(3, 1, TCP_80, false), (1, 3, TCP_80, true), (1, 3, TCP_8080, false)]),
        ("default deny of egress", json!({"podSelector": {}, "policyTypes": ["Egress"]}), vec![(1, 3, TCP_80, false), (3, 1, TCP_80, true), (1, 13, echo, false)]),
        ("only the selected pods", json!({"podSelector": web, "policyTypes": ["Ingress"]}), vec![(3, 1, TCP_80, false), (3, 2, TCP_80, true)]),
        ("matchExpressions", json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, "policyTypes": ["Ingress"]}),
            vec![(3, 1, TCP_80, true), (3, 2, TCP_80, false)]),
        ("H6: an empty rule admits everybody", json!({"podSelector": {}, "ingress": [{}]}), vec![(3, 1, TCP_80, true), (3, 1, echo, true)]),
        ("H7: pods of the own namespace", allow_from(json!({"podSelector": web})), vec![(11, 1, TCP_80, true), (2, 1, TCP_80, false), (3, 1, TCP_80, false)]),
        ("H7: all pods of namespaces", allow_from(json!({"namespaceSelector": {"matchLabels": {"team": "blue"}}})), vec![(3, 1, TCP_80, true), (13, 1, TCP_80, true), (11, 1, TCP_80, false)]),
        ("H7: pods in namespaces", allow_from(json!({"namespaceSelector": {}, "podSelector": web})), vec![(3, 1, TCP_80, true), (11, 1, TCP_80, true), (13, 1, TCP_80, false), (2, 1, TCP_80, false)]),
        ("peers add up", json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": web}, {"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]}),
            vec![(11, 1, TCP_80, true), (3, 1, TCP_80, true), (2, 1, TCP_80, false)]),
        ("H12: a rule without ports is for echo too", allow_from(json!({"podSelector": {}})), vec![(2, 1, echo, true), (3, 1, echo, false)]),
        ("H12: one with ports is not", allow_port(json!({"port": 80})), vec![(3, 1, TCP_80, true), (3, 1, echo, false), (3, 1, TCP_8080, false)]),
        ("H3: the protocol is TCP if none is said", allow_port(json!({"port": 53})), vec![(3, 1, udp_53, false)]),
        ("H3: all ports of a protocol", allow_port(json!({"protocol": "UDP"})), vec![(3, 1, udp_53, true), (3, 1, TCP_80, false), (3, 1, Payload::Port(Protocol::Sctp, 1), false)]),
        ("H3: SCTP", allow_port(json!({"protocol": "SCTP", "port": 7})), vec![(3, 1, Payload::Port(Protocol::Sctp, 7), true), (3, 1, Payload::Port(Protocol::Tcp, 7), false)]),
        ("H3: endPort", allow_port(json!({"port": 80, "endPort": 90})), vec![(3, 1, TCP_80, true), (3, 1, Payload::Port(Protocol::Tcp, 90), true), (3, 1, Payload::Port(Protocol::Tcp, 91), false), (3, 1, Payload::Port(Protocol::Tcp, 79), false)]),
        ("H13: named ports", allow_port(json!({"port": "http"})), vec![(3, 1, TCP_8080, true), (3, 1, TCP_80, false)]),
        ("H13: a name is for its protocol only", allow_port(json!({"port": "dns"})), vec![(3, 1, udp_53, false)]),
        ("H13: named ports of destinations", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]}), vec![(1, 13, TCP_8080, true), (1, 13, TCP_80, false)]),
        ("H1: no selector selects everything", json!({"policyTypes": ["Ingress"]}), vec![(3, 1, TCP_80, false), (3, 2, TCP_80, false)]),
        ("H1: null is none", json!({"podSelector": null, "policyTypes": ["Ingress"]}), vec![(3, 1, TCP_80, false)]),
        ("a selector that can't be read isolates everybody", json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}, "ingress": [{}]}), vec![(3, 1, TCP_80, false), (3, 2, TCP_80, false)]),
        ("a port that is none is nothing", allow_port(json!({"port": 80, "endPort": 70000})), vec![(3, 1, TCP_80, false)]),
        ("a peer that can't be read is nobody", allow_from(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}})), vec![(11, 1, TCP_80, false)]),
    ];
    for (rule, spec, expected) in cases {
        let objects = Objects { network: vec![policy("a", "x", spec)], ..two_namespaces() };
        let program = compiled(&objects);
        for (from, to, payload, arrives) in expected {
            assert_eq!(admitted(&program, from, to, payload), arrives, "{rule}: {from} to {to}, {payload}");
        }
    }
}

#[test]
fn blocks_are_of_one_family() {
    let blocks = |list: Value| {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": list}]});
        compiled(&Objects { network: vec![policy("a", "x", spec)], ..two_namespaces() })
    };
    let reaches = |program: &Program, to: &str| {
        let destination: IpAddr = to.parse().unwrap();
        let family = IpFamily::from(destination);
        let flow = Flow { source: ip(family, 1), destination, payload: TCP_80, translated: false };
        decide(program.get(family).unwrap(), &flow).admitted()
    };
    #[rustfmt::skip]
    let cases: [(&str, Value, &str, &str); 6] = [
        ("H6: all of IPv4 is nothing of IPv6", json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]), "198.51.100.1", "2001:db8::1"),
        ("H6: and the other way round", json!([{"ipBlock": {"cidr": "::/0"}}]), "2001:db8::1", "198.51.100.1"),
        ("except", json!([{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}}]), "198.51.100.1", "198.51.100.200"),
        ("except, IPv6", json!([{"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}]), "2001:db8::1", "2001:db8:1::1"),
        ("H8: another block fills the hole", json!([{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}}, {"ipBlock": {"cidr": "198.51.100.200/32"}}]), "198.51.100.200", "198.51.100.201"),
        ("an exception that can't be read closes the block", json!([{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["x"]}}, {"ipBlock": {"cidr": "203.0.113.0/24"}}]), "203.0.113.1", "198.51.100.1"),
    ];
    for (rule, list, open, closed) in cases {
        let program = blocks(list);
        assert!(reaches(&program, open), "{rule}: {open}");
        assert!(!reaches(&program, closed), "{rule}: {closed}");
    }
}

#[test]
fn policies_add_up_and_say_who_decides() {
    let deny = policy("a", "deny", json!({"podSelector": {}}));
    let allow = policy(
        "a",
        "allow",
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": 1}]}, {"ports": [{"port": 80}]}]}),
    );
    let program = compiled(&Objects { network: vec![deny, allow], ..two_namespaces() });
    let ruling = |payload| {
        let flow = Flow {
            source: ip(IpFamily::V6, 3),
            destination: ip(IpFamily::V6, 1),
            payload,
            translated: false,
        };
        let admission = decide(program.get(IpFamily::V6).unwrap(), &flow);
        let ruling = admission.rulings.last().unwrap();
        (ruling.direction, ruling.admitted, ruling.because.as_deref().unwrap().to_owned())
    };
    let (allowed, denied) = (ruling(TCP_80), ruling(TCP_8080));
    assert_eq!(allowed, (Direction::Ingress, true, "NetworkPolicy a/allow, ingress rule 2".to_owned()));
    let isolated = "NetworkPolicy a/allow and 1 more isolate the pod for ingress";
    assert_eq!(denied, (Direction::Ingress, false, isolated.to_owned()));
}

#[test]
fn tiers_come_before_and_after_network_policies() {
    let cnp = |name: &str, tier: &str, priority: i32, rules: Value| {
        json!({"metadata": {"name": name}, "spec": {
            "tier": tier, "priority": priority, "subject": {"namespaces": {"matchLabels": {"team": "red"}}}, "ingress": rules,
        }})
    };
    let rule =
        |action: &str| json!({"action": action, "from": [{"namespaces": {"matchLabels": {"team": "blue"}}}]});
    let on_80 = |action: &str| {
        let mut rule = rule(action);
        rule["protocols"] = json!([{"tcp": {"destinationPort": {"number": 80}}}]);
        rule
    };
    let deny_all = || vec![policy("a", "deny", json!({"podSelector": {}}))];
    let allow_all = || vec![policy("a", "allow", json!({"podSelector": {}, "ingress": [{}]}))];
    let none = Vec::new;
    /// Policies, and whether pod 3 (blue) reaches pod 1 (red) on ports 80 and 8080.
    type Case = (&'static str, Vec<Value>, Vec<Value>, bool, bool);
    #[rustfmt::skip]
    let cases: [Case; 15] = [
        ("nothing", none(), none(), true, true),
        ("Admin denies, whatever NetworkPolicies allow", vec![cnp("x", "Admin", 1, json!([rule("Deny")]))], allow_all(), false, false),
        ("Admin accepts, whatever they deny", vec![cnp("x", "Admin", 1, json!([on_80("Accept")]))], deny_all(), true, false),
        ("Pass leaves it to them: denied", vec![cnp("x", "Admin", 1, json!([on_80("Pass"), rule("Accept")]))], deny_all(), false, true),
        ("Pass leaves it to them: allowed", vec![cnp("x", "Admin", 1, json!([on_80("Pass"), rule("Deny")]))], allow_all(), true, false),
        ("Pass without any of them", vec![cnp("x", "Admin", 1, json!([on_80("Pass"), rule("Deny")]))], none(), true, false),
        ("the lower priority goes first", vec![cnp("a", "Admin", 2, json!([rule("Deny")])), cnp("b", "Admin", 1, json!([on_80("Accept")]))], none(), true, false),
        ("the order within a policy", vec![cnp("x", "Admin", 1, json!([on_80("Deny"), rule("Accept")]))], none(), false, true),
        ("Baseline denies where no NetworkPolicy selects", vec![cnp("x", "Baseline", 1, json!([rule("Deny")]))], none(), false, false),
        ("Baseline has no say where one does", vec![cnp("x", "Baseline", 1, json!([rule("Deny")]))], allow_all(), true, true),
        ("Pass, then Baseline", vec![cnp("x", "Admin", 1, json!([on_80("Pass"), rule("Accept")])), cnp("y", "Baseline", 1, json!([rule("Deny")]))], none(), false, true),
        ("Pass in Baseline is the end of it", vec![cnp("x", "Baseline", 1, json!([on_80("Pass"), rule("Deny")]))], none(), true, false),
        ("a range of ports", vec![cnp("x", "Admin", 1, json!([{"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"range": {"start": 81, "end": 9000}}}}]}]))], none(), true, false),
        ("a named port", vec![cnp("x", "Admin", 1, json!([{"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}]}]))], none(), true, false),
        ("a peer we don't know: Deny denies all, Accept nothing", vec![
            cnp("x", "Admin", 1, json!([{"action": "Accept", "from": [{"moons": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 8080}}}]}, on_80("Accept"), {"action": "Deny", "from": [{"moons": {}}]}])),
        ], none(), true, false),
    ];
    for (rule, cluster, network, on_80, on_8080) in cases {
        let program = compiled(&Objects { network, cluster, ..two_namespaces() });
        assert_eq!(admitted(&program, 3, 1, TCP_80), on_80, "{rule}: port 80");
        assert_eq!(admitted(&program, 3, 1, TCP_8080), on_8080, "{rule}: port 8080");
        assert!(admitted(&program, 1, 3, TCP_80), "{rule}: the other way round");
    }
}

#[test]
fn nodes_and_networks_are_peers_of_tiers() {
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}},
    "egress": [
        {"action": "Accept", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]},
        {"action": "Deny", "to": [{"networks": ["192.0.2.0/24", "2001:db8::/32"]}]},
    ]});
    let node = |edge: bool, last: u8| PeerNode {
        labels: edge.then(|| ("role".to_owned(), "edge".to_owned())).into_iter().collect(),
        ips: vec![IpAddr::from([192, 0, 2, last]), format!("2001:db8::{last}").parse().unwrap()],
    };
    let nodes = vec![("node1".to_owned(), node(true, 1)), ("node2".to_owned(), node(false, 2))];
    let cluster = vec![json!({"metadata": {"name": "x"}, "spec": spec})];
    let program = compiled(&Objects { nodes, cluster, ..two_namespaces() });
    for (to, from, arrives) in [
        ("192.0.2.1", 1, true),
        ("192.0.2.2", 1, false),
        ("2001:db8::1", 1, true),
        ("2001:db8::2", 1, false),
        ("198.51.100.1", 1, true),
        ("192.0.2.2", 2, true),
    ] {
        let destination: IpAddr = to.parse().unwrap();
        let family = IpFamily::from(destination);
        let flow = Flow { source: ip(family, from), destination, payload: TCP_80, translated: false };
        assert_eq!(decide(program.get(family).unwrap(), &flow).admitted(), arrives, "{from} to {to}");
    }
}

#[test]
fn what_nobody_needs_is_not_there() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "ingress": [{"from": [{"podSelector": {}}]}]});
    let mut objects = Objects { network: vec![policy("a", "x", spec)], ..two_namespaces() };
    assert_eq!(compiled(&objects), empty(), "nobody is selected");
    objects.network = vec![policy(
        "a",
        "x",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {}}]}]}),
    )];
    objects.pods.retain(|pod| pod["spec"]["nodeName"] != NODE);
    assert_eq!(compiled(&objects), empty(), "those that are selected run elsewhere");
    objects.pods = vec![pod("a", 1, "web")];
    objects.pods[0]["spec"]["hostNetwork"] = json!(true);
    assert_eq!(compiled(&objects), empty(), "H7: a pod without a network of its own is nobody");
    objects.pods = vec![pod("a", 1, "web"), pod("a", 2, "web"), pod("a", 3, "db")];
    objects.pods[2]["status"]["phase"] = json!("Succeeded");
    let program = compiled(&objects);
    let table = program.get(IpFamily::V6).unwrap();
    assert_eq!(
        (table.chains.len(), table.sets.len(), table.isolated.len()),
        (1, 1, 2),
        "pods share what they can"
    );
    let members: BTreeSet<Member> = table.members.iter().map(|(_, member)| *member).collect();
    assert_eq!(
        members,
        [1, 2].map(|last| Member::Peer(ip(IpFamily::V6, last))).into(),
        "a finished pod is none"
    );
}

#[test]
fn global_pods_are_closed_to_the_outside() {
    use crate::{RangeSet, rule::Chain};
    let range = |text: &str| text.parse().unwrap();
    let pod: IpAddr = "2001:db8:1::5".parse().unwrap();
    let mut table = Table::default();
    table.ranges.insert((RangeSet::Closed, range("2001:db8:1::/64")));
    table.ranges.insert((RangeSet::Cluster, range("2001:db8::/40")));
    let comes = |table: &Table, source: &str, payload, translated| {
        let flow = Flow { source: source.parse().unwrap(), destination: pod, payload, translated };
        decide(table, &flow).admitted()
    };
    assert!(!comes(&table, "2001:db8:ffff::1", TCP_80, false), "from outside");
    assert!(!comes(&table, "2001:db8:ffff::1", Payload::Echo, false), "echo, too");
    assert!(comes(&table, "2001:db8:ffff::1", TCP_80, true), "through a Service or a host port");
    assert!(comes(&table, "2001:db8::7", TCP_80, false), "from inside");
    assert!(comes(&table, "2001:db8:ffff::1", Payload::Control, false), "errors pass");
    let id = crate::rule::Id::of("open");
    let rule = |decision| crate::rule::Rule {
        direction: Direction::Ingress,
        peers: crate::rule::Peers::Any,
        ports: crate::rule::Ports::Range(Protocol::Tcp, 80, 80),
        decision,
        because: "a test".into(),
    };
    table.chains.insert(id, Chain::from([rule(Decision::Accept)]));
    table.isolated.insert((Direction::Ingress, pod), id);
    assert!(comes(&table, "2001:db8:ffff::1", TCP_80, false), "a policy accepts it");
    assert!(
        !comes(&table, "2001:db8:ffff::1", TCP_8080, false),
        "a policy that has nothing to say opens nothing"
    );
    table.chains.insert(id, Chain::from([rule(Decision::Goto(crate::rule::Id::of("nowhere")))]));
    assert!(!comes(&table, "2001:db8:ffff::1", TCP_80, false), "nor does one that passes");
}

/// A change of the cluster.
#[derive(Clone, Debug)]
enum Change {
    Pod(usize, Option<Value>),
    Namespace(usize, Value),
    Network(usize, Option<Value>),
    Cluster(usize, Option<Value>),
    Step,
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        prop::sample::select(vec!["web", "db"]).prop_map(|app| json!({"matchLabels": {"app": app}})),
        Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]})),
        Just(json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]})),
    ]
}

fn namespace_selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        prop::sample::select(vec!["red", "blue"]).prop_map(|team| json!({"matchLabels": {"team": team}})),
    ]
}

fn block() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"cidr": "0.0.0.0/0", "except": ["10.244.0.0/30"]})),
        Just(json!({"cidr": "fd00:10:244::/64", "except": ["fd00:10:244::2/127"]})),
        Just(json!({"cidr": "10.244.0.8/29"})),
        Just(json!({"cidr": "::/0"})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        namespace_selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (namespace_selector(), selector())
            .prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        block().prop_map(|block| json!({"ipBlock": block})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"port": 80})),
        Just(json!({"port": "http"})),
        Just(json!({"protocol": "UDP"})),
        Just(json!({"port": "dns", "protocol": "UDP"})),
        Just(json!({"port": 79, "endPort": 8080})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Value> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3));
    prop::collection::vec(rule, 0..3).prop_map(move |rules| {
        rules.into_iter().map(|(list, ports)| json!({peers: list, "ports": ports})).collect()
    })
}

fn network_policy() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
        json!(null),
    ]);
    (prop::sample::select(vec!["a", "b"]), selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            policy(
                namespace,
                "",
                json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}),
            )
        },
    )
}

fn tier_rules(peers: &'static str) -> impl Strategy<Value = Value> {
    let peer = prop_oneof![
        namespace_selector().prop_map(|namespaces| json!({"namespaces": namespaces})),
        (namespace_selector(), selector()).prop_map(
            |(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        ),
    ];
    let protocol = prop_oneof![
        Just(json!({"tcp": {"destinationPort": {"number": 80}}})),
        Just(json!({"udp": {"destinationPort": {"range": {"start": 50, "end": 60}}}})),
        Just(json!({"destinationNamedPort": "http"})),
    ];
    let action = prop::sample::select(vec!["Accept", "Deny", "Pass"]);
    let rule =
        (action, prop::collection::vec(peer, 1..3), prop::option::of(prop::collection::vec(protocol, 1..3)));
    prop::collection::vec(rule, 0..3).prop_map(move |rules| {
        rules
            .into_iter()
            .map(|(action, list, protocols)| {
                let mut rule = json!({"action": action, peers: list});
                if let Some(protocols) = protocols {
                    rule["protocols"] = protocols.into();
                }
                rule
            })
            .collect()
    })
}

fn cluster_policy() -> impl Strategy<Value = Value> {
    let subject = prop_oneof![
        namespace_selector().prop_map(|namespaces| json!({"namespaces": namespaces})),
        (namespace_selector(), selector()).prop_map(
            |(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}})
        ),
    ];
    (prop::sample::select(vec!["Admin", "Baseline"]), 0..3, subject, tier_rules("from"), tier_rules("to")).prop_map(
        |(tier, priority, subject, ingress, egress)| {
            json!({"metadata": {}, "spec": {"tier": tier, "priority": priority, "subject": subject, "ingress": ingress, "egress": egress}})
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let a_pod =
        (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["web", "db", "other"]), any::<u8>());
    prop_oneof![
        6 => (0usize..5, prop::option::weighted(0.9, a_pod)).prop_map(|(at, of)| {
            let numbers = [1, 2, 3, 11, 12];
            Change::Pod(at, of.map(|(namespace, app, shape)| {
                let mut pod = pod(namespace, numbers[at], app);
                pod["metadata"]["name"] = json!(format!("p{at}"));
                if shape % 16 == 0 { pod["spec"]["hostNetwork"] = json!(true); }
                if shape % 16 == 1 { pod["status"]["phase"] = json!("Failed"); }
                pod
            }))
        }),
        2 => (0usize..2, prop::sample::select(vec!["red", "blue"])).prop_map(|(at, team)| {
            Change::Namespace(at, a_namespace(at, team))
        }),
        4 => (0usize..3, prop::option::weighted(0.8, network_policy())).prop_map(|(at, policy)| {
            Change::Network(at, policy.map(|mut policy| { policy["metadata"]["name"] = json!(format!("n{at}")); policy }))
        }),
        3 => (0usize..3, prop::option::weighted(0.8, cluster_policy())).prop_map(|(at, policy)| {
            Change::Cluster(at, policy.map(|mut policy| { policy["metadata"]["name"] = json!(format!("c{at}")); policy }))
        }),
        3 => Just(Change::Step),
    ]
}

fn a_namespace(at: usize, team: &str) -> Value {
    let name = ["a", "b"][at];
    json!({"metadata": {"name": name, "labels": {"team": team}}})
}

fn hear(policies: &mut Policies, now: &mut [Vec<Option<Value>>; 4], change: &Change) {
    let name_of = |object: &Value| {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        Name::new(&text("namespace"), &text("name"))
    };
    let replace = |now: &mut Vec<Option<Value>>, at: usize, object: Option<Value>| {
        std::mem::replace(&mut now[at], object)
    };
    match change {
        Change::Pod(at, object) => {
            if let Some(before) = replace(&mut now[0], *at, object.clone()) {
                policies.set_pod(name_of(&before), None);
            }
            if let Some((name, pod)) =
                object.as_ref().and_then(|object| wire::pod_from_value(object).unwrap())
            {
                policies.set_pod(name, Some(pod));
            }
        }
        Change::Namespace(at, object) => {
            replace(&mut now[1], *at, Some(object.clone()));
            let (name, labels) = wire::namespace_from_value(object).unwrap();
            policies.set_namespace(&name, Some(labels));
        }
        Change::Network(at, object) => {
            if let Some(before) = replace(&mut now[2], *at, object.clone()) {
                policies.set_network_policy(name_of(&before), None);
            }
            if let Some((name, policy)) =
                object.as_ref().map(|object| wire::network_policy_from_value(object).unwrap())
            {
                policies.set_network_policy(name, Some(policy));
            }
        }
        Change::Cluster(at, object) => {
            if let Some(before) = replace(&mut now[3], *at, object.clone()) {
                policies.set_cluster_policy(name_of(&before), None);
            }
            if let Some((name, policy)) =
                object.as_ref().and_then(|object| wire::cluster_policy_from_value(object).unwrap())
            {
                policies.set_cluster_policy(name, Some(policy));
            }
        }
        Change::Step => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_history_ends_where_a_fresh_start_does_and_the_reference_agrees(history in prop::collection::vec(change(), 1..30)) {
        let mut policies = Policies::new(NODE);
        let mut now = [vec![None; 5], vec![None; 2], vec![None; 3], vec![None; 3]];
        let mut program = empty();
        for (at, team) in ["red", "blue"].into_iter().enumerate() {
            hear(&mut policies, &mut now, &Change::Namespace(at, a_namespace(at, team)));
        }
        for change in &history {
            hear(&mut policies, &mut now, change);
            if matches!(change, Change::Step) {
                for op in policies.step() {
                    // Every change is one: nothing is added twice, nothing removed that is not there.
                    let (family, entry, there) = match &op {
                        Op::Add(family, entry) => (*family, entry, false),
                        Op::Remove(family, entry) => (*family, entry, true),
                    };
                    let has = program.get(family).unwrap().entries().any(|of| of == *entry);
                    prop_assert_eq!(has, there, "{:?}", op);
                    apply(&mut program, std::slice::from_ref(&op));
                }
            }
        }
        apply(&mut program, &policies.step());
        let [pods, namespaces, network, cluster] = now.map(|list| list.into_iter().flatten().collect::<Vec<_>>());
        let objects = Objects { pods, namespaces, network, cluster, ..Objects::default() };
        prop_assert_eq!(&program, &compiled(&objects));
        for (_, table) in program.iter() {
            for chain in table.isolated.values() {
                prop_assert!(table.chains.contains_key(chain));
            }
            let named: BTreeSet<_> = table.sets.iter().map(|(_, id)| *id).collect();
            prop_assert!(table.members.iter().all(|(id, _)| named.contains(id)), "members are in sets");
        }
        let payloads = [TCP_80, TCP_8080, Payload::Port(Protocol::Udp, 53), Payload::Port(Protocol::Sctp, 80), Payload::Echo];
        for family in IpFamily::BOTH {
            for (source, destination) in [(1, 2), (2, 1), (1, 11), (11, 1), (3, 1), (2, 3), (12, 2), (99, 1), (1, 99)] {
                for payload in payloads {
                    let flow = Flow { source: ip(family, source), destination: ip(family, destination), payload, translated: false };
                    let found = decide(program.get(family).unwrap(), &flow).admitted();
                    prop_assert_eq!(found, reference::admits(&objects, NODE, &flow), "{} {} to {} {}", family, source, destination, payload);
                }
            }
        }
    }
}
