//! Senders learn how large packets may be, whatever stands between them and where they think they send to.
//!
//! ```text
//!   pods ──(1400)── node ── others, a router ──(1300)── beyond: a far pod 10.244.3.2, a client 198.18.0.2
//! ```
//!
//! Who says that a packet is too big quotes it as it was when it got there: with other addresses than the sender gave
//! it. Were they not translated back, the sender would know of no such packet, and go on sending into the void.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use dyad_links::{Handle, NewLink, sysctl};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use super::lab::{Lab, Who, configure, nets, without_waiting};
use super::*;
use crate::Executor;

const PATIENCE: Duration = Duration::from_secs(5);
/// The port of all endpoints here.
const PORT: u16 = 9090;
const POD_MTU: u32 = 1400;
const FAR_MTU: u32 = 1300;
/// Larger than a node's window at the start of a connection, so that it waits for answers.
const TRANSFER: usize = 300_000;

/// A lab with something behind a link that large packets don't fit through.
struct Wide {
    lab: Lab,
    beyond: OwnedFd,
}

impl Wide {
    fn new() -> Self {
        let lab = Lab::new();
        let beyond = netns::create().unwrap();
        within(&beyond, without_waiting);
        within(lab.namespace(Who::Client), || {
            sysctl::forward().unwrap();
            // Every message is to be seen, however fast they come.
            sysctl::write("net/ipv4/icmp_ratelimit", "0").unwrap();
            sysctl::write("net/ipv6/icmp/ratelimit", "0").unwrap();
            let far = NewLink { netns: Some(beyond.as_fd()), ..NewLink::named("eth0") };
            let near = NewLink { mtu: Some(FAR_MTU), ..NewLink::named("narrow") };
            Handle::open().unwrap().add_veth(&near, &far).unwrap();
            let via = ["198.18.0.2", "fd00:198:18::2"].map(|ip| Some(ip.parse().unwrap()));
            let [pods4, pods6] = nets(["10.244.3.0/24", "fd00:10:244:3::/64"]);
            configure(
                "narrow",
                &nets(["198.18.0.1/24", "fd00:198:18::1/64"]),
                &[(pods4, via[0]), (pods6, via[1])],
            );
        });
        // This end knows nothing of the narrow one: TCP asks for larger segments than get here.
        within(&beyond, || {
            let via = ["198.18.0.1", "fd00:198:18::1"].map(|ip| Some(ip.parse().unwrap()));
            let [all4, all6] = nets(["0.0.0.0/0", "::/0"]);
            configure("lo", &nets(["10.244.3.2/32", "fd00:10:244:3::2/128"]), &[]);
            configure(
                "eth0",
                &nets(["198.18.0.2/24", "fd00:198:18::2/64"]),
                &[(all4, via[0]), (all6, via[1])],
            );
        });
        Self { lab, beyond }
    }

    /// Carries out the program of a Service with one endpoint of each family. Pod A is isolated in both directions, and
    /// is let do no more than what is tried here.
    fn serve(&self, endpoints: [&str; 2], node: &str, external: &str) {
        let slices = endpoints.map(|ip| {
            let mut slice = slice("one", &[(ip, node)]);
            for port in slice["ports"].as_array_mut().unwrap() {
                port["port"] = PORT.into();
            }
            slice
        });
        let mut one = service(
            "one",
            1,
            json!({
                "type": "LoadBalancer", "externalIPs": ["203.0.113.7", "2001:db8:113::7"],
                "externalTrafficPolicy": external,
            }),
        );
        one["status"] =
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"ip": "2001:db8:113::9"}]}});
        let mut program = compile(&inputs(&[one], &slices));
        for (family, table) in program.iter_mut() {
            for direction in Direction::BOTH {
                let rule = |ports, decision| Rule {
                    direction,
                    peers: Peers::Any,
                    ports,
                    decision,
                    because: "a test".into(),
                };
                let of = |protocol| rule(Ports::Range(protocol, PORT, PORT), Decision::Accept);
                let rules = [of(Protocol::Tcp), of(Protocol::Udp), rule(Ports::Any, Decision::Deny)];
                let id = Id::of(&format!("{direction:?}"));
                table.insert(Entry::Chain(id, rules.into()));
                table.insert(Entry::Isolated(direction, Lab::source(Who::PodA, family), id));
            }
        }
        within(&self.lab.node, || Executor::open().unwrap().apply(&program).unwrap());
    }
}

/// The ways to the Service: cluster IP, external IP, load balancer, node port.
fn targets(family: IpFamily) -> [SocketAddr; 4] {
    let texts = match family {
        IpFamily::V4 => ["10.96.0.1", "203.0.113.7", "203.0.113.9", "192.0.2.1"],
        IpFamily::V6 => ["fd00:10:96::1", "2001:db8:113::7", "2001:db8:113::9", "2001:db8::1"],
    };
    let mut targets = texts.map(|text| SocketAddr::new(text.parse().unwrap(), 80));
    targets[3].set_port(30001);
    targets
}

/// What the kernel takes for the largest packet to where a socket is connected to.
fn path_mtu(socket: impl AsFd, family: IpFamily) -> u32 {
    match family {
        IpFamily::V4 => sockopt::ip_mtu(socket).unwrap(),
        IpFamily::V6 => sockopt::ipv6_mtu(socket).unwrap(),
    }
}

/// Never cut datagrams, and say if they are too big.
fn set_whole(socket: &UdpSocket, family: IpFamily) {
    match family {
        IpFamily::V4 => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO).unwrap(),
        IpFamily::V6 => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO).unwrap(),
    }
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Sends a datagram that fits through the first link and not through all, and waits for what comes of it.
fn check_datagram(what: &str, socket: &UdpSocket, family: IpFamily, mtu: u32) {
    let before = path_mtu(socket, family);
    assert!(before > mtu, "{what}: knows it before");
    // Headers of IP and UDP.
    let room = before as usize - if family == IpFamily::V4 { 28 } else { 48 };
    socket.send(&vec![0; room]).unwrap();
    let error = socket.recv(&mut [0; 16]).expect_err("nobody answers");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MSGSIZE.raw_os_error()), "{what}: {error}");
    assert_eq!(path_mtu(socket, family), mtu, "{what}");
}

/// Sends a lot one way.
fn check_stream(what: &str, mut from: &TcpStream, mut to: &TcpStream, family: IpFamily, mtu: u32) {
    from.set_write_timeout(Some(PATIENCE)).unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            from.write_all(&vec![0; TRANSFER])?;
            from.shutdown(Shutdown::Write)
        });
        let mut all = Vec::new();
        let read = to.read_to_end(&mut all);
        assert!(read.is_ok() && all.len() == TRANSFER, "{what}: {} bytes, {read:?}", all.len());
        writer.join().unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
    });
    assert_eq!(path_mtu(from, family), mtu, "{what}");
}

/// Both ends of a connection from `client` to `to`, where `listener` gets it.
fn connection(client: &OwnedFd, to: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = within(client, || TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap_or_else(|error| panic!("{to}: {error}"));
    (near, listener.accept().unwrap().0)
}

/// Clients that send more than fits to a Service, whose endpoint `server` has these addresses.
fn check_clients(wide: &Wide, clients: &[Who], server: &OwnedFd, endpoints: [&str; 2], mtu: u32, tcp: bool) {
    for (family, ip) in IpFamily::BOTH.into_iter().zip(endpoints) {
        let at = SocketAddr::new(ip.parse().unwrap(), PORT);
        let listener = within(server, || TcpListener::bind(at).unwrap());
        for who in clients {
            for to in targets(family) {
                if *who == Who::Node && to.port() == 30001 {
                    // To itself, a node knows no limit but that of loopback.
                    continue;
                }
                let what = format!("{who:?} to {to}");
                let namespace = wide.lab.namespace(*who);
                if tcp {
                    let (near, far) = connection(namespace, to, &listener);
                    check_stream(&what, &near, &far, family, mtu);
                } else {
                    let socket = within(namespace, || {
                        let socket = UdpSocket::bind(SocketAddr::new(Lab::source(*who, family), 0)).unwrap();
                        socket.connect(to).unwrap();
                        socket
                    });
                    set_whole(&socket, family);
                    check_datagram(&what, &socket, family, mtu);
                }
            }
        }
    }
}

/// From pods, isolated and not, and from the node, to an endpoint behind the narrow link: a router says so.
fn check_far_endpoint(tcp: bool) {
    let wide = Wide::new();
    let endpoints = ["10.244.3.2", "fd00:10:244:3::2"];
    wide.serve(endpoints, "node2", "Cluster");
    let clients = [Who::PodA, Who::PodB, Who::Node];
    check_clients(&wide, &clients, &wide.beyond, endpoints, FAR_MTU, tcp);
}

/// From outside to a pod of the node, whose link is the narrow one: the node itself says so. TCP knows from the
/// handshake.
fn check_near_endpoint(external: &str) {
    let wide = Wide::new();
    let endpoints = ["10.244.1.2", "fd00:10:244:1::2"];
    wide.serve(endpoints, "node1", external);
    check_clients(&wide, &[Who::Client], wide.lab.namespace(Who::PodA), endpoints, POD_MTU, false);
}

/// From an isolated pod that answers a client behind the narrow link, through the load balancer's address or the node
/// port.
fn check_answers(external: &str, tcp: bool, target: usize) {
    let wide = Wide::new();
    let endpoints = ["10.244.1.2", "fd00:10:244:1::2"];
    wide.serve(endpoints, "node1", external);
    for (family, ip) in IpFamily::BOTH.into_iter().zip(endpoints) {
        let at = SocketAddr::new(ip.parse().unwrap(), PORT);
        let to = targets(family)[target];
        let what = format!("pod to client of {to}, {external}");
        let pod = wide.lab.namespace(Who::PodA);
        if tcp {
            let listener = within(pod, || TcpListener::bind(at).unwrap());
            let (near, far) = connection(&wide.beyond, to, &listener);
            check_stream(&what, &far, &near, family, FAR_MTU);
        } else {
            let server = within(pod, || UdpSocket::bind(at).unwrap());
            set_whole(&server, family);
            let client = within(&wide.beyond, || {
                let any = match family {
                    IpFamily::V4 => "0.0.0.0:0",
                    IpFamily::V6 => "[::]:0",
                };
                let client = UdpSocket::bind(any).unwrap();
                client.connect(to).unwrap();
                client
            });
            client.send(b"a lot, please").unwrap();
            let (_, peer) = server.recv_from(&mut [0; 32]).unwrap();
            server.connect(peer).unwrap();
            check_datagram(&what, &server, family, FAR_MTU);
        }
    }
}

#[test]
fn datagrams_to_a_far_endpoint() {
    if privileged("pmtu::datagrams_to_a_far_endpoint") {
        check_far_endpoint(false);
    }
}

#[test]
fn streams_to_a_far_endpoint() {
    if privileged("pmtu::streams_to_a_far_endpoint") {
        check_far_endpoint(true);
    }
}

#[test]
fn datagrams_from_outside_to_a_pod() {
    if privileged("pmtu::datagrams_from_outside_to_a_pod") {
        check_near_endpoint("Cluster");
    }
}

#[test]
fn datagrams_from_outside_to_a_pod_that_sees_their_source() {
    if privileged("pmtu::datagrams_from_outside_to_a_pod_that_sees_their_source") {
        check_near_endpoint("Local");
    }
}

#[test]
fn answers_to_a_client_behind_a_narrow_link() {
    if privileged("pmtu::answers_to_a_client_behind_a_narrow_link") {
        for tcp in [false, true] {
            check_answers("Cluster", tcp, 2);
            check_answers("Local", tcp, 3);
        }
    }
}
