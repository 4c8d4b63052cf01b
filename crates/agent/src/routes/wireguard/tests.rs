use super::super::{Neighbourhood, plan, same};
use super::*;
use crate::announce::Announcement;
use crate::config::{Routing, Tunnels};
use dyad_net::DualStack;

fn key(number: u8) -> PublicKey {
    PublicKey([number; KEY_BYTES])
}

fn announced(key: Option<String>, port: &str) -> Announcement {
    Announcement { wireguard_key: key, wireguard_port: Some(port.into()), ..Announcement::default() }
}

fn node(ips: &str, ranges: &str, announced: Announcement) -> Node {
    Node {
        ips: ips.split_whitespace().map(|ip| ip.parse().unwrap()).collect(),
        pod_ranges: ranges.split_whitespace().map(|range| range.parse().unwrap()).collect(),
        announced,
        ..Node::default()
    }
}

#[test]
fn a_node_is_reachable_with_a_key_and_a_port() {
    let good = text(&key(7));
    for (what, said, port, expected) in [
        ("both", Some(good.clone()), "51871", Some(Reachable { key: key(7), port: 51871 })),
        ("no key", None, "51871", None),
        ("no port", Some(good.clone()), "", None),
        ("port 0", Some(good.clone()), "0", None),
        ("a port too large", Some(good.clone()), "65536", None),
        ("a short key", Some(STANDARD.encode([7; 31])), "51871", None),
        ("a long key", Some(STANDARD.encode([7; 33])), "51871", None),
        ("no base64", Some("x".repeat(44)), "51871", None),
    ] {
        assert_eq!(Reachable::of(&node("", "", announced(said, port))), expected, "{what}");
    }
}

/// What one node plans: peers, routes and complaints, each as text.
fn planned(
    me: &str,
    underlay: Option<IpFamily>,
    nodes: &[(&str, Node)],
) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (v4, v6) = (IpFamily::V4, IpFamily::V6);
    let pods = DualStack::dual(v4, v4.everything(), v6.everything());
    let tunnels = Tunnels { underlay, ..Tunnels::default() };
    let config = Config { routing: Routing::Wireguard, tunnels, ..Config::beside_cni(me, pods) };
    let nodes: BTreeMap<Name, Node> =
        nodes.iter().map(|(name, node)| (Name::new("", name), node.clone())).collect();
    let me = Name::new("", me);
    let wanted = plan(&config, &me, &nodes, &Neighbourhood::default()).wireguard;
    let peers = wanted.peers.iter().map(|(key, peer)| {
        let ranges: Vec<String> = peer.allowed.iter().map(ToString::to_string).collect();
        format!("{} {} {}", key.0[0], peer.endpoint.unwrap(), ranges.join(" "))
    });
    let routes = wanted.routes(nodes.get(&me), Some(5));
    let routes = routes.iter().filter(|route| !refuses(route)).map(|route| {
        assert!(
            routes
                .iter()
                .any(|other| refuses(other) && other.destination == route.destination && !same(other, route))
        );
        format!("{} from {}", route.destination, route.source.map(|ip| ip.to_string()).unwrap_or_default())
    });
    (peers.collect(), routes.collect(), wanted.warnings.into_iter().collect())
}

#[test]
fn nodes_with_keys_are_peers_and_others_are_complained_about() {
    let says = |number| announced(Some(text(&key(number))), "51871");
    let nodes = [
        ("b", node("192.0.2.2 2001:db8::2", "10.0.2.0/24 fd00:2::/64", says(2))),
        ("c", node("2001:db8::3 192.0.2.3", "10.0.3.0/24 fd00:3::/64", announced(Some(text(&key(3))), "7"))),
        ("d", node("192.0.2.4", "10.0.4.0/24", announced(None, ""))),
        ("e", node("192.0.2.5", "10.0.5.0/24", says(3))),
        ("f", node("", "10.0.6.0/24", says(6))),
        ("new", node("192.0.2.9", "", announced(None, ""))),
        ("a", node("2001:db8::1 192.0.2.1", "10.0.1.0/24 fd00:1::/64", says(1))),
    ];
    let (peers, routes, warnings) = planned("b", None, &nodes);
    let expected = [
        // The order of the first by name counts for both.
        "1 [2001:db8::1]:51871 10.0.1.0/24 fd00:1::/64",
        "3 192.0.2.3:7 10.0.3.0/24 fd00:3::/64",
    ];
    assert_eq!(peers, expected);
    let expected = [
        "10.0.1.0/24 from 10.0.2.0",
        "10.0.3.0/24 from 10.0.2.0",
        "fd00:1::/64 from fd00:2::",
        "fd00:3::/64 from fd00:2::",
    ];
    assert_eq!(routes, expected);
    for (complaint, part) in warnings.iter().zip([
        "nodes c and e have the same WireGuard key",
        "pods of node d: it says no WireGuard key",
        "pods of node f: it has no address of a family",
    ]) {
        assert!(complaint.contains(part), "{complaint}");
    }
    assert_eq!(warnings.len(), 3);
    assert_eq!(planned("a", None, &nodes).0[0], "2 [2001:db8::2]:51871 10.0.2.0/24 fd00:2::/64");
    let (peers, _, warnings) = planned("b", Some(IpFamily::V6), &nodes);
    assert_eq!((peers.len(), warnings.len()), (2, 3), "{peers:?} {warnings:?}");
    assert!(planned("unknown", None, &nodes).0.is_empty(), "without an address of its own");
}
