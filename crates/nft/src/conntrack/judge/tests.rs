//! Rows name what they stand for.

use std::net::{IpAddr, SocketAddr};

use dyad_net::DualStack;
use dyad_program::rule::{Chain, Decision, Direction, Id, Member, Peers, Ports, Rule, SetKind};
use dyad_program::{Action, Entry, Program};

use super::super::Tuple;
use super::*;

const CONFIRMED: u32 = 1 << 3;
const TRANSLATED: u32 = 1 << 5;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(text: &str) -> Endpoint {
    let at: SocketAddr = text.parse().unwrap();
    Endpoint { ip: at.ip(), port: at.port() }
}

fn address(text: &str) -> Frontend {
    let at: SocketAddr = text.parse().unwrap();
    Frontend::Address(at.ip(), Protocol::Udp, at.port())
}

fn flow(protocol: Protocol, from: &str, to: &str, reply: &str, mark: u32) -> Flow {
    let [from, to, reply] = [from, to, reply].map(|text| text.parse::<SocketAddr>().unwrap());
    let tuple = |source: SocketAddr, destination: SocketAddr| Tuple {
        source: source.ip(),
        destination: destination.ip(),
        protocol: protocol.number(),
        payload: Payload::Ports { source: source.port(), destination: destination.port() },
    };
    let status = CONFIRMED | if to == reply { 0 } else { TRANSLATED };
    Flow { original: tuple(from, to), reply: tuple(reply, from), zone: 0, status, mark, id: 1 }
}

/// A node with Services on all sorts of frontends; the endpoint 10.244.2.2:53 terminates, but serves.
fn judge(flow: &Flow) -> Verdict {
    let mut table = Table::default();
    let forward = Action::forward(1);
    let frontends = [
        (Scope::Cluster, address("10.96.0.10:53"), forward, Some("10.244.1.2:53")),
        (Scope::Cluster, address("10.96.0.11:53"), Action::Reject, None),
        (Scope::Cluster, address("10.96.0.12:53"), Action::Drop, None),
        (Scope::Cluster, Frontend::NodePort(Protocol::Udp, 30053), forward, Some("10.244.1.2:53")),
        (Scope::Cluster, address("203.0.113.7:53"), forward, Some("10.244.2.9:53")),
        (Scope::Local, address("203.0.113.7:53"), forward, Some("10.244.1.2:53")),
        (Scope::Local, address("203.0.113.8:53"), Action::Drop, None),
        (Scope::Cluster, address("203.0.113.8:53"), forward, Some("10.244.2.9:53")),
        // A host port on one address, and a pod in the node's network that is its own frontend.
        (Scope::Cluster, address("192.0.2.1:5353"), forward, Some("10.244.1.3:53")),
        (Scope::Cluster, address("192.0.2.1:161"), forward, Some("192.0.2.1:161")),
    ];
    for (scope, at, action, to) in frontends {
        table.insert(Entry::Frontend(scope, at, action));
        if let Some(to) = to {
            table.insert(Entry::Endpoint(scope, at, 0, endpoint(to)));
        }
    }
    table.insert(Entry::Sticky(Scope::Cluster, address("10.96.0.10:53"), endpoint("10.244.1.4:53")));
    let ranges = [
        (RangeSet::OwnPods, "10.244.1.0/24"),
        (RangeSet::Cluster, "10.244.0.0/16"),
        (RangeSet::Services, "10.96.0.0/16"),
        (RangeSet::NodePorts, "192.0.2.0/24"),
        (RangeSet::Closed, "10.244.1.8/32"),
    ];
    for (set, range) in ranges {
        table.insert(Entry::Range(set, range.parse().unwrap()));
    }
    // 10.244.1.5 takes TCP port 80 from 10.244.2.5, and nothing else; 10.244.1.6 may send to nobody.
    let rule = |direction, peers, ports, decision| Rule {
        direction,
        peers,
        ports,
        decision,
        because: "a test".into(),
    };
    let [web, friends, nobody] = ["web", "friends", "nobody"].map(Id::of);
    let chain: Chain = [
        rule(Direction::Ingress, Peers::Set(friends), Ports::Range(Protocol::Tcp, 80, 80), Decision::Accept),
        rule(Direction::Ingress, Peers::Any, Ports::Any, Decision::Deny),
    ]
    .into();
    table.insert(Entry::Set(SetKind::Peers, friends));
    table.insert(Entry::Member(friends, Member::Peer(ip("10.244.2.5"))));
    table.insert(Entry::Chain(web, chain));
    table.insert(Entry::Chain(
        nobody,
        [rule(Direction::Egress, Peers::Any, Ports::Any, Decision::Deny)].into(),
    ));
    table.insert(Entry::Isolated(Direction::Ingress, ip("10.244.1.5"), web));
    table.insert(Entry::Isolated(Direction::Egress, ip("10.244.1.6"), nobody));
    let program: Program = DualStack::single(IpFamily::V4, table);
    let expected = Expected {
        program: &program,
        node_addresses: &["192.0.2.1", "127.0.0.1"].map(ip).into(),
        serves: &|_, at, to| at == address("10.96.0.11:53") && to == endpoint("10.244.2.2:53"),
    };
    let gone =
        [(IpFamily::V4, address("203.0.113.9:53")), (IpFamily::V4, Frontend::NodePort(Protocol::Udp, 30099))];
    Judge { expected: &expected, table: program.get(IpFamily::V4).unwrap(), gone: &gone.into() }.judge(flow)
}

#[test]
fn flows_of_udp_that_lead_elsewhere_are_deleted() {
    use Verdict::{Delete, Keep};
    let client = "198.51.100.9:5000";
    let rows = [
        ("to an endpoint", "10.96.0.10:53", "10.244.1.2:53", Keep),
        ("to an endpoint of a sticky frontend without a slot", "10.96.0.10:53", "10.244.1.4:53", Keep),
        ("k/k 126130: the endpoint has gone", "10.96.0.10:53", "10.244.1.99:53", Delete),
        ("the endpoint has another port now", "10.96.0.10:53", "10.244.1.2:5353", Delete),
        ("the last endpoint has gone", "10.96.0.11:53", "10.244.1.99:53", Delete),
        ("the last endpoint terminates, and serves", "10.96.0.11:53", "10.244.2.2:53", Keep),
        ("no endpoint that may be used, and it has gone", "10.96.0.12:53", "10.244.1.99:53", Delete),
        ("the Service has gone", "10.96.0.77:53", "10.244.1.2:53", Delete),
        ("an unassigned cluster IP was sent out", "10.96.0.77:53", "10.96.0.77:53", Keep),
        ("a cluster IP before its Service was there", "10.96.0.10:53", "10.96.0.10:53", Delete),
        ("the same, but it would be refused", "10.96.0.11:53", "10.96.0.11:53", Keep),
        ("external, of this node", "203.0.113.7:53", "10.244.1.2:53", Keep),
        ("A165: external, of another node, before Local", "203.0.113.7:53", "10.244.2.9:53", Keep),
        ("external, gone", "203.0.113.7:53", "10.244.2.99:53", Delete),
        ("external, untranslated", "203.0.113.7:53", "203.0.113.7:53", Delete),
        ("external, untranslated, dropped for its source", "203.0.113.8:53", "203.0.113.8:53", Keep),
        ("an external address that was ours", "203.0.113.9:53", "10.244.1.2:53", Delete),
        ("an external address that was ours, untranslated", "203.0.113.9:53", "203.0.113.9:53", Keep),
        ("somebody else's translation", "203.0.113.10:53", "10.244.1.2:53", Keep),
        ("k/k 139629: a node port", "192.0.2.1:30053", "10.244.1.2:53", Keep),
        ("a node port whose endpoint has gone", "192.0.2.1:30053", "10.244.1.99:53", Delete),
        ("a new node port", "192.0.2.1:30053", "192.0.2.1:30053", Delete),
        ("a node port on loopback", "127.0.0.1:30053", "127.0.0.1:30053", Keep),
        ("a node port that has gone", "192.0.2.1:30099", "10.244.1.2:53", Delete),
        ("the same port elsewhere", "192.0.2.2:30099", "10.244.1.2:53", Keep),
        ("another node's node port", "192.0.2.2:30053", "192.0.2.2:30053", Keep),
        ("a host port", "192.0.2.1:5353", "10.244.1.3:53", Keep),
        ("a host port whose pod has gone", "192.0.2.1:5353", "10.244.1.99:53", Delete),
        ("a frontend that is its own endpoint", "192.0.2.1:161", "192.0.2.1:161", Keep),
        ("no Service at all", "10.244.1.2:53", "10.244.1.2:53", Keep),
    ];
    for (what, to, reply, expected) in rows {
        assert_eq!(judge(&flow(Protocol::Udp, client, to, reply, 0)), expected, "{what}");
        // TCP ends by itself.
        assert_eq!(judge(&flow(Protocol::Tcp, client, to, reply, 0)), Keep, "{what}, TCP");
        let foreign = Flow { zone: 1, ..flow(Protocol::Udp, client, to, reply, 0) };
        assert_eq!(judge(&foreign), Keep, "{what}, zone 1");
        let young = Flow { status: TRANSLATED, ..flow(Protocol::Udp, client, to, reply, 0) };
        assert_eq!(judge(&young), Keep, "{what}, not confirmed");
    }
}

#[test]
fn what_began_with_an_answer_is_deleted() {
    let client = "10.244.1.9:5000";
    for (what, protocol, from, verdict) in [
        ("an answer", Protocol::Udp, "10.96.0.10:53", Verdict::Delete),
        ("a node that asks from where it is intercepted", Protocol::Udp, "10.96.0.10:5000", Verdict::Keep),
        ("a connection", Protocol::Tcp, "10.96.0.10:53", Verdict::Keep),
        ("an address of the node that is also a frontend", Protocol::Udp, "192.0.2.1:161", Verdict::Keep),
    ] {
        assert_eq!(judge(&flow(protocol, from, client, client, 0)), verdict, "{what}");
    }
}

#[test]
fn connections_that_policy_denies_are_marked_and_unmarked() {
    use Verdict::{Admit, Deny, Keep};
    let rows = [
        ("an allowed peer and port", "10.244.2.5:5000", "10.244.1.5:80", "10.244.1.5:80", [Keep, Admit]),
        (
            "the same through a Service (H9)",
            "10.244.2.5:5000",
            "10.96.0.77:8",
            "10.244.1.5:80",
            [Keep, Admit],
        ),
        ("another port", "10.244.2.5:5000", "10.244.1.5:81", "10.244.1.5:81", [Deny, Keep]),
        (
            "the allowed port on the Service only",
            "10.244.2.5:5000",
            "10.96.0.77:80",
            "10.244.1.5:81",
            [Deny, Keep],
        ),
        ("another peer", "10.244.2.6:5000", "10.244.1.5:80", "10.244.1.5:80", [Deny, Keep]),
        ("egress", "10.244.1.6:5000", "203.0.113.1:80", "203.0.113.1:80", [Deny, Keep]),
        ("egress to the node", "10.244.1.6:5000", "192.0.2.1:80", "192.0.2.1:80", [Deny, Keep]),
        ("H11: from the node", "192.0.2.1:5000", "10.244.1.5:81", "10.244.1.5:81", [Keep, Keep]),
        ("a pod that no policy selects", "10.244.2.5:5000", "10.244.1.7:80", "10.244.1.7:80", [Keep, Admit]),
        ("not a pod of this node", "10.244.2.5:5000", "10.244.2.6:80", "10.244.2.6:80", [Keep, Keep]),
        ("closed to the outside", "198.51.100.9:5000", "10.244.1.8:80", "10.244.1.8:80", [Deny, Keep]),
        (
            "closed, but a Service leads there",
            "198.51.100.9:5000",
            "203.0.113.7:80",
            "10.244.1.8:80",
            [Keep, Admit],
        ),
        ("closed, but from inside", "10.244.2.5:5000", "10.244.1.8:80", "10.244.1.8:80", [Keep, Admit]),
    ];
    for (what, from, to, reply, expected) in rows {
        // The other bits of the mark are not ours.
        for (mark, expected) in [0x2001, 0x3001].into_iter().zip(expected) {
            assert_eq!(judge(&flow(Protocol::Tcp, from, to, reply, mark)), expected, "{what}, mark {mark:x}");
        }
    }
}

#[test]
fn echo_obeys_policy_and_udp_too() {
    let echo = |from: &str| {
        let mut flow = flow(Protocol::Tcp, from, "10.244.1.5:0", "10.244.1.5:0", 0);
        for tuple in [&mut flow.original, &mut flow.reply] {
            tuple.protocol = 1;
            tuple.payload = Payload::Icmp { id: 1, kind: 8, code: 0 };
        }
        flow
    };
    // H12: rules with ports do not admit it.
    assert_eq!(judge(&echo("10.244.2.5:0")), Verdict::Deny);
    assert_eq!(judge(&echo("192.0.2.1:0")), Verdict::Keep);
    let datagrams = |reply| flow(Protocol::Udp, "10.244.1.6:5000", "10.96.0.10:53", reply, 0);
    assert_eq!(judge(&datagrams("10.244.1.2:53")), Verdict::Deny);
    assert_eq!(
        judge(&datagrams("10.244.1.99:53")),
        Verdict::Delete,
        "what is stale is not kept to be denied"
    );
}
