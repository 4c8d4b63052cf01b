//! Ways between nodes with real packets: three nodes, two of them on one link, the third behind a router.
//!
//! ```text
//!   pod1 ── node1 ──┐
//!                   ├── net 1 ── router ── net 2 ── node2 ── pod2
//!   pod3 ── node3 ──┘
//! ```

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use dyad_links::pod::{self, PodLink};
use dyad_links::{NextHop, Route};
use dyad_net::IpNet;
use dyad_program::Name;
use rustix::net::sockopt;

use super::*;
use crate::config::{Routing, Tunnels};
use crate::routes::{self, Node, Ways};
use crate::switches::Switches;

/// What is sent through each way: more than fits into any packet.
const BYTES: usize = 300_000;

pub(super) struct Lab {
    /// Node and pod, by number from 1.
    pub(super) nodes: Vec<(OwnedFd, OwnedFd)>,
    pub(super) router: OwnedFd,
    pub(super) known: BTreeMap<Name, Node>,
}

fn net(node: usize) -> usize {
    if node == 2 { 2 } else { 1 }
}

fn node_ip(family: IpFamily, node: usize) -> IpAddr {
    match family {
        IpFamily::V4 => format!("192.0.{}.{node}", net(node)).parse().unwrap(),
        IpFamily::V6 => format!("2001:db8:{}::{node}", net(node)).parse().unwrap(),
    }
}

pub(super) fn pod_ip(family: IpFamily, node: usize) -> IpAddr {
    match family {
        IpFamily::V4 => format!("10.244.{node}.5").parse().unwrap(),
        IpFamily::V6 => format!("fd00:10:244:{node}::5").parse().unwrap(),
    }
}

pub(super) fn range(ip: IpAddr) -> IpNet {
    IpNet::new(ip, if ip.is_ipv4() { 24 } else { 64 }).unwrap()
}

fn route_default(handle: &mut Handle, via: IpAddr, link: u32) {
    let hops = vec![NextHop { via: Some(via), link, onlink: false, weight: 1 }];
    let everything = IpFamily::from(via).everything();
    handle.replace_route(&Route { hops, protocol: 4, ..Route::on_link(everything, link) }).unwrap();
}

impl Lab {
    /// Nodes with addresses of these families.
    pub(super) fn new(underlay: &[IpFamily]) -> Self {
        let router = netns::create().unwrap();
        let quiet = || sysctl::write("net/ipv6/conf/default/accept_dad", "0").unwrap();
        let gateway = |family, net: usize| match family {
            IpFamily::V4 => IpAddr::from([192, 0, net as u8, 254]),
            IpFamily::V6 => format!("2001:db8:{net}::fe").parse().unwrap(),
        };
        netns::within(router.as_fd(), || {
            quiet();
            sysctl::forward().unwrap();
            let mut handle = Handle::open().unwrap();
            for net in [1, 2] {
                let bridge = format!("net{net}");
                handle.add_bridge(&NewLink::named(&bridge)).unwrap();
                handle.set_up(&bridge).unwrap();
                let index = handle.index(&bridge).unwrap();
                for family in underlay {
                    handle.replace_address(index, range(gateway(*family, net))).unwrap();
                }
            }
        })
        .unwrap();
        let nodes = (1..=3).map(|number| {
            let (node, pod) = (netns::create().unwrap(), netns::create().unwrap());
            netns::within(router.as_fd(), || {
                let mut handle = Handle::open().unwrap();
                let port = format!("node{number}");
                let far = NewLink { netns: Some(node.as_fd()), ..NewLink::named("eth0") };
                handle.add_veth(&NewLink::named(&port), &far).unwrap();
                let master = handle.index(&format!("net{}", net(number))).unwrap();
                let index = handle.index(&port).unwrap();
                let change =
                    dyad_links::LinkChange { master: Some(master), up: Some(true), ..Default::default() };
                handle.change_link(index, &change).unwrap();
            })
            .unwrap();
            netns::within(node.as_fd(), || {
                quiet();
                sysctl::forward().unwrap();
                let mut handle = Handle::open().unwrap();
                handle.set_up("eth0").unwrap();
                let link = handle.index("eth0").unwrap();
                for family in underlay {
                    let ip = node_ip(*family, number);
                    handle.replace_address(link, IpNet::new(ip, range(ip).prefix_len()).unwrap()).unwrap();
                    route_default(&mut handle, gateway(*family, net(number)), link);
                }
                let addresses =
                    DualStack::dual(IpFamily::V4, pod_ip(IpFamily::V4, number), pod_ip(IpFamily::V6, number));
                // Larger than what fits into tunnels: whoever sends too much must be told.
                let link = PodLink { key: "pod", netns: pod.as_fd(), addresses, node: None, mtu: 1500 };
                pod::add(&mut handle, &link).unwrap();
            })
            .unwrap();
            (node, pod)
        });
        let nodes = nodes.collect();
        let known = (1..=3).map(|number| {
            let node = Node {
                ips: underlay.iter().map(|family| node_ip(*family, number)).collect(),
                pod_ranges: IpFamily::BOTH.map(|family| range(pod_ip(family, number)).trunc()).to_vec(),
                ..Node::default()
            };
            (Name::new("", &format!("node{number}")), node)
        });
        Self { nodes, router, known: known.collect() }
    }

    /// Has every node do what it is for; the largest packet of pods there.
    fn apply(&self, routing: Routing, underlay: Option<IpFamily>) -> Vec<Option<u32>> {
        let each = self.nodes.iter().zip(self.known.keys()).map(|((node, _), name)| {
            let tunnels = Tunnels { underlay, ..Tunnels::default() };
            let config = Config { routing, tunnels, ..test_config() };
            let mut handle = Handle::open_in(node.as_fd()).unwrap();
            let Ways { mtu, strangers, .. } =
                routes::apply(&mut handle, &config, None, name, &self.known, &[]).unwrap();
            assert_eq!(
                strangers.is_empty(),
                handle.links().unwrap().iter().all(|link| !link.name.starts_with("dyad-"))
            );
            let before = handle.routes(OURS).unwrap();
            routes::apply(&mut handle, &config, None, name, &self.known, &[]).unwrap();
            assert_eq!(handle.routes(OURS).unwrap(), before, "{name}: what is there is adopted");
            mtu
        });
        each.collect()
    }

    /// The link that leads from a node to another's pods.
    pub(super) fn link(&self, from: usize, to: IpAddr) -> Option<String> {
        let mut handle = Handle::open_in(self.nodes[from - 1].0.as_fd()).unwrap();
        let routes = handle.routes(OURS).unwrap();
        let index = routes.iter().find(|route| route.destination == range(to).trunc())?.hops[0].link;
        handle.links().unwrap().into_iter().find(|link| link.index == index).map(|link| link.name)
    }

    /// Sends much from one to the other; as whom they came.
    pub(super) fn send(what: &str, client: &OwnedFd, server: &OwnedFd, to: IpAddr) -> IpAddr {
        let listener = netns::within(server.as_fd(), || TcpListener::bind((to, 0)).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let received = std::thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            (all.len(), peer.ip())
        });
        netns::within(client.as_fd(), move || {
            let mut stream = TcpStream::connect_timeout(&at, PATIENCE)
                .unwrap_or_else(|error| panic!("{what}: to {to}: {error}"));
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&vec![7; BYTES]).unwrap();
        })
        .unwrap();
        let (count, peer) = received.join().unwrap();
        assert_eq!(count, BYTES, "{what}: to {to}");
        peer
    }

    pub(super) fn pods_talk(&self, what: &str) {
        for (from, to) in [(1, 2), (2, 1), (1, 3), (3, 2)] {
            for family in IpFamily::BOTH {
                let seen =
                    Self::send(what, &self.nodes[from - 1].1, &self.nodes[to - 1].1, pod_ip(family, to));
                assert_eq!(seen, pod_ip(family, from), "{what}: {from} to {to}");
            }
        }
    }
}

#[test]
fn pods_of_all_nodes_reach_each_other_whatever_is_between() {
    if !privileged("tunnels::pods_of_all_nodes_reach_each_other_whatever_is_between") {
        return;
    }
    use IpFamily::{V4, V6};
    let (both, v4, v6) = (vec![V4, V6], vec![V4], vec![V6]);
    for (what, nodes, routing, underlay, mtu, links) in [
        (
            "auto",
            &both,
            Routing::Auto,
            None,
            [1450, 1450, 1450],
            ["dyad-vxlan4", "dyad-vxlan4", "eth0", "eth0"],
        ),
        (
            "in IPv6",
            &both,
            Routing::Auto,
            Some(V6),
            [1430; 3],
            ["dyad-vxlan6", "dyad-vxlan6", "eth0", "eth0"],
        ),
        // IPv6 takes no IPv4 gateway.
        (
            "IPv4 only",
            &v4,
            Routing::Auto,
            None,
            [1450; 3],
            ["dyad-vxlan4", "dyad-vxlan4", "eth0", "dyad-vxlan4"],
        ),
        ("IPv6 only", &v6, Routing::Auto, None, [1430; 3], ["dyad-vxlan6", "dyad-vxlan6", "eth0", "eth0"]),
        ("always", &v6, Routing::Vxlan, None, [1430; 3], ["dyad-vxlan6"; 4]),
    ] {
        let lab = Lab::new(nodes);
        assert_eq!(lab.apply(routing, underlay), mtu.map(Some), "{what}");
        let found = [(2, V4), (2, V6), (3, V4), (3, V6)].map(|(to, of)| lab.link(1, pod_ip(of, to)).unwrap());
        assert_eq!(found, links, "{what}");
        lab.pods_talk(what);
        // The node itself, too, as the first of its range: so answers come through the tunnel.
        let seen = Lab::send(what, &lab.nodes[0].0, &lab.nodes[1].1, pod_ip(V4, 2));
        let expected = range(pod_ip(V4, 1)).network();
        assert_eq!(seen, expected, "{what}: from the node");
    }
}

#[test]
fn one_way_takes_the_place_of_another() {
    if !privileged("tunnels::one_way_takes_the_place_of_another") {
        return;
    }
    let lab = Lab::new(&IpFamily::BOTH);
    for routing in [Routing::Auto, Routing::Vxlan, Routing::Auto] {
        lab.apply(routing, None);
        let link = if routing == Routing::Auto { "eth0" } else { "dyad-vxlan4" };
        let found = IpFamily::BOTH.map(|family| lab.link(1, pod_ip(family, 3)).unwrap());
        assert_eq!(found, [link; 2], "{routing:?}");
        lab.pods_talk(&format!("{routing:?}"));
    }
}

#[test]
fn tunnels_lead_to_what_the_node_has_other_routes_for() {
    if !privileged("tunnels::tunnels_lead_to_what_the_node_has_other_routes_for") {
        return;
    }
    let lab = Lab::new(&IpFamily::BOTH);
    for (number, (node, _)) in lab.nodes.iter().enumerate() {
        let mut handle = Handle::open_in(node.as_fd()).unwrap();
        let link = handle.index("eth0").unwrap();
        for (private, last) in [("10.0.0.0/8", "254"), ("fd00::/8", "fe")] {
            let private: IpNet = private.parse().unwrap();
            let own = node_ip(private.into(), number + 1).to_string();
            let (prefix, _) = own.rsplit_once(['.', ':']).unwrap();
            let via = format!("{}{last}", &own[..=prefix.len()]).parse().unwrap();
            handle.replace_route(&Route { protocol: 4, ..Route::via(private, via, link) }).unwrap();
        }
    }
    for routing in [Routing::Auto, Routing::Vxlan, Routing::Auto] {
        lab.apply(routing, None);
        lab.pods_talk(&format!("{routing:?}"));
    }
}

#[test]
fn pods_of_the_nodes_own_prefix_are_reached_from_its_link() {
    if !privileged("tunnels::pods_of_the_nodes_own_prefix_are_reached_from_its_link") {
        return;
    }
    let lab = Lab::new(&IpFamily::BOTH);
    let ip: IpAddr = "2001:db8:1:0:1::5".parse().unwrap();
    let (node, pod) = (&lab.nodes[0].0, netns::create().unwrap());
    let mut handle = Handle::open_in(node.as_fd()).unwrap();
    let addresses = DualStack::single(IpFamily::V6, ip);
    let link = PodLink { key: "global", netns: pod.as_fd(), addresses, node: None, mtu: 1500 };
    netns::within(node.as_fd(), || pod::add(&mut handle, &link).unwrap()).unwrap();
    let mine = Node {
        ips: vec![node_ip(IpFamily::V6, 1)],
        pod_ranges: vec!["2001:db8:1:0:1::/80".parse().unwrap()],
        ..Node::default()
    };
    let answer = || {
        let mut handle = Handle::open().unwrap();
        routes::ndp::answer(&mut handle, &mine, &Switches::default()).unwrap();
        handle.proxies().unwrap().into_iter().map(|(_, ip)| ip).collect::<Vec<_>>()
    };
    assert_eq!(netns::within(node.as_fd(), answer).unwrap(), [ip]);
    // The other node of the link takes it for one of its neighbours.
    let seen = Lab::send("a pod by its neighbour", &lab.nodes[2].0, &pod, ip);
    assert_eq!(seen, node_ip(IpFamily::V6, 3));
    pod::del(&mut handle, "global").unwrap();
    pod::reap(&mut handle).unwrap();
    assert_eq!(netns::within(node.as_fd(), answer).unwrap(), [] as [IpAddr; 0]);
}

#[test]
fn whoever_sends_too_much_for_a_tunnel_is_told_how_much_fits() {
    if !privileged("tunnels::whoever_sends_too_much_for_a_tunnel_is_told_how_much_fits") {
        return;
    }
    for (underlay, fits) in [(IpFamily::V4, 1450), (IpFamily::V6, 1430)] {
        let lab = Lab::new(&[underlay]);
        lab.apply(Routing::Auto, None);
        for family in IpFamily::BOTH {
            let (client, to) = (&lab.nodes[0].1, SocketAddr::new(pod_ip(family, 2), 9));
            let mtu = netns::within(client.as_fd(), || {
                let socket = UdpSocket::bind((family.everything().addr(), 0)).unwrap();
                socket.connect(to).unwrap();
                let deadline = Instant::now() + PATIENCE;
                // The first one goes to the node, which sends back how much fits.
                loop {
                    let _ = socket.send(&[0; 1440]);
                    let mtu = match family {
                        IpFamily::V4 => sockopt::ip_mtu(&socket),
                        IpFamily::V6 => sockopt::ipv6_mtu(&socket),
                    }
                    .unwrap();
                    if mtu < 1500 || Instant::now() > deadline {
                        break mtu;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
            .unwrap();
            assert_eq!(mtu, fits, "{family} in {underlay}");
        }
    }
}

#[test]
fn a_node_that_moves_is_followed() {
    if !privileged("tunnels::a_node_that_moves_is_followed") {
        return;
    }
    let mut lab = Lab::new(&IpFamily::BOTH);
    lab.apply(Routing::Auto, Some(IpFamily::V4));
    // The second node gets another address of each family, and loses the ones it had.
    let moved = |family| match family {
        IpFamily::V4 => IpAddr::from([192, 0, 2, 77]),
        IpFamily::V6 => "2001:db8:2::77".parse().unwrap(),
    };
    let mut handle = Handle::open_in(lab.nodes[1].0.as_fd()).unwrap();
    let link = handle.index("eth0").unwrap();
    for family in IpFamily::BOTH {
        let (old, new) = (node_ip(family, 2), moved(family));
        let length = range(old).prefix_len();
        // Together they would go: the kernel takes all of a prefix with the first of its addresses.
        handle.delete_address(link, IpNet::new(old, length).unwrap()).unwrap();
        handle.replace_address(link, IpNet::new(new, length).unwrap()).unwrap();
    }
    let gateways = ["192.0.2.254", "2001:db8:2::fe"].map(|ip| ip.parse().unwrap());
    gateways.into_iter().for_each(|gateway| route_default(&mut handle, gateway, link));
    let node = lab.known.get_mut(&Name::new("", "node2")).unwrap();
    node.ips = IpFamily::BOTH.map(moved).to_vec();
    lab.apply(Routing::Auto, Some(IpFamily::V4));
    lab.pods_talk("after it has moved");
    // It goes: nothing of it is left where others are still tunnelled to, and no tunnel where nobody is.
    lab.known.remove(&Name::new("", "node2"));
    lab.apply(Routing::Auto, Some(IpFamily::V4));
    let mut handle = Handle::open_in(lab.nodes[0].0.as_fd()).unwrap();
    assert_eq!(handle.link("dyad-vxlan4").unwrap(), None);
    assert_eq!(lab.link(1, pod_ip(IpFamily::V4, 2)), None);
    lab.pods_of_one_link_talk();
}

impl Lab {
    fn pods_of_one_link_talk(&self) {
        let what = "on one link";
        for family in IpFamily::BOTH {
            let seen = Self::send(what, &self.nodes[0].1, &self.nodes[2].1, pod_ip(family, 3));
            assert_eq!(seen, pod_ip(family, 1));
        }
    }
}
