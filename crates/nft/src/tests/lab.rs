//! A node with two pods, and its neighbourhood: another node's pods and a client, all in namespaces.
//!
//! ```text
//!   pod a (10.244.1.2) ──┐
//!                        ├── node (192.0.2.1) ── uplink ── others (192.0.2.9): a client, the far pod 10.244.2.2
//!   pod b (10.244.1.3) ──┘                                 and the world, 203.0.113.80
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dyad_links::pod::{self, PodLink};
use dyad_links::{Handle, NewLink, NextHop, Route, sysctl};
use dyad_net::IpNet;
use dyad_program::{
    Action, Endpoint, Frontend, Onward, Origin, Packet, Payload, Protocol, Refusal, Scope, Verdict, simulate,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::*;

/// Longer than anything takes here, even on a busy machine, but what is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long is waited for what must not come.
const SILENCE: Duration = Duration::from_millis(150);
/// The port of the servers of all endpoints.
const SERVER_PORT: u16 = 8080;

/// Who a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The pod that ends in 2.
    PodA,
    /// The pod that ends in 3.
    PodB,
    /// A process of the node.
    Node,
    /// A host outside of the cluster.
    Client,
}

pub(super) const EVERYBODY: [Who; 4] = [Who::PodA, Who::PodB, Who::Node, Who::Client];

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// An answer: from whom, and what they took for its source.
    Answer { from: IpAddr, source: IpAddr },
    /// A refusal.
    Refused,
    /// Nothing.
    Silence,
}

pub(super) struct Lab {
    pub(super) node: OwnedFd,
    pod_a: OwnedFd,
    pod_b: OwnedFd,
    others: OwnedFd,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
    /// Where there are servers.
    served: BTreeSet<IpAddr>,
    /// Where a client came to through a sticky frontend; `None` if that could not be seen.
    last: Mutex<BTreeMap<(IpAddr, Payload, IpAddr), Option<Endpoint>>>,
}

pub(super) fn nets<const N: usize>(texts: [&str; N]) -> [IpNet; N] {
    texts.map(|text| text.parse().unwrap())
}

pub(super) fn configure(link: &str, addresses: &[IpNet], routes: &[(IpNet, Option<IpAddr>)]) {
    let mut handle = Handle::open().unwrap();
    handle.set_up(link).unwrap();
    let index = handle.index(link).unwrap();
    addresses.iter().for_each(|net| handle.replace_address(index, *net).unwrap());
    for (to, via) in routes {
        let hops = vec![NextHop { via: *via, link: index, onlink: false, weight: 1 }];
        handle.replace_route(&Route { hops, ..Route::on_link(*to, index) }).unwrap();
    }
}

/// Addresses of links made from now on can be used at once: nobody else has them.
pub(super) fn without_waiting() {
    sysctl::write("net/ipv6/conf/default/accept_dad", "0").unwrap();
}

impl Lab {
    pub(super) fn new() -> Self {
        let [node, pod_a, pod_b, others] = [(); 4].map(|()| netns::create().unwrap());
        [&node, &others].into_iter().for_each(|namespace| within(namespace, without_waiting));
        let [gateway4, gateway6] = ["192.0.2.1", "2001:db8::1"].map(|ip| Some(ip.parse().unwrap()));
        let [client4, client6] = ["192.0.2.9", "2001:db8::9"].map(|ip| Some(ip.parse().unwrap()));
        within(&node, || {
            sysctl::forward().unwrap();
            sysctl::write("net/ipv4/ping_group_range", "0 0").unwrap();
            // Every refusal is to be seen, however fast they come.
            sysctl::write("net/ipv4/icmp_ratelimit", "0").unwrap();
            sysctl::write("net/ipv6/icmp/ratelimit", "0").unwrap();
            let mut handle = Handle::open().unwrap();
            let far = NewLink { netns: Some(others.as_fd()), ..NewLink::named("eth0") };
            handle.add_veth(&NewLink::named("uplink"), &far).unwrap();
            let [pods4, pods6, all4, all6] =
                nets(["10.244.2.0/24", "fd00:10:244:2::/64", "0.0.0.0/0", "::/0"]);
            configure(
                "uplink",
                &nets(["192.0.2.1/24", "2001:db8::1/64"]),
                &[(pods4, client4), (pods6, client6), (all4, client4), (all6, client6)],
            );
            for (key, namespace, last) in [("a", &pod_a, 2), ("b", &pod_b, 3)] {
                let addresses = DualStack::dual(
                    IpFamily::V4,
                    IpAddr::from([10, 244, 1, last]),
                    format!("fd00:10:244:1::{last}").parse().unwrap(),
                );
                let addresses_of_node = DualStack::dual(IpFamily::V4, gateway4.unwrap(), gateway6.unwrap());
                let node = Some(addresses_of_node);
                pod::add(&mut handle, &PodLink { key, netns: namespace.as_fd(), addresses, node, mtu: 1400 })
                    .unwrap();
            }
        });
        within(&others, || {
            configure(
                "lo",
                &nets(["10.244.2.2/32", "fd00:10:244:2::2/128", "203.0.113.80/32", "2001:db8:113::80/128"]),
                &[],
            );
            let [pods4, pods6, all4, all6] =
                nets(["10.244.1.0/24", "fd00:10:244:1::/64", "0.0.0.0/0", "::/0"]);
            configure(
                "eth0",
                &nets(["192.0.2.9/24", "2001:db8::9/64"]),
                &[(pods4, gateway4), (pods6, gateway6), (all4, gateway4), (all6, gateway6)],
            );
        });
        for namespace in [&pod_a, &pod_b, &others] {
            within(namespace, || sysctl::write("net/ipv4/ping_group_range", "0 0").unwrap());
        }
        let mut lab = Self {
            node,
            pod_a,
            pod_b,
            others,
            stop: Arc::default(),
            servers: Vec::new(),
            served: BTreeSet::new(),
            last: Mutex::default(),
        };
        for (who, ips) in [
            (Who::PodA, ["10.244.1.2", "fd00:10:244:1::2"].as_slice()),
            (Who::PodB, &["10.244.1.3", "fd00:10:244:1::3"]),
            (Who::Client, &["10.244.2.2", "fd00:10:244:2::2", "203.0.113.80", "2001:db8:113::80"]),
        ] {
            for ip in ips {
                lab.serve(who, ip.parse().unwrap());
            }
        }
        lab
    }

    pub(super) fn namespace(&self, who: Who) -> &OwnedFd {
        match who {
            Who::PodA => &self.pod_a,
            Who::PodB => &self.pod_b,
            Who::Node => &self.node,
            Who::Client => &self.others,
        }
    }

    /// Servers that tell their own address and their client's.
    fn serve(&mut self, who: Who, ip: IpAddr) {
        self.served.insert(ip);
        let at = SocketAddr::new(ip, SERVER_PORT);
        let (tcp, udp) =
            within(self.namespace(who), || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let stop = self.stop.clone();
        self.servers.push(std::thread::spawn(move || {
            let mut open = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Ok((mut stream, peer)) = tcp.accept() {
                    // One segment; a client that is gone already has its reasons.
                    let _ = stream.write_all(format!("{ip} {}\n", peer.ip()).as_bytes());
                    stream.set_nonblocking(true).unwrap();
                    open.push(stream);
                }
                // Long connections: what comes goes back.
                open.retain_mut(|stream| {
                    let mut bytes = [0; 64];
                    match stream.read(&mut bytes) {
                        Ok(0) => false,
                        Ok(length) => stream.write_all(&bytes[..length]).is_ok(),
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                    }
                });
                let mut bytes = [0; 64];
                if let Ok((_, peer)) = udp.recv_from(&mut bytes) {
                    let _ = udp.send_to(format!("{ip} {}", peer.ip()).as_bytes(), peer);
                }
            }
        }));
    }

    /// The address from which somebody talks.
    pub(super) fn source(who: Who, family: IpFamily) -> IpAddr {
        let texts = match who {
            Who::PodA => ["10.244.1.2", "fd00:10:244:1::2"],
            Who::PodB => ["10.244.1.3", "fd00:10:244:1::3"],
            Who::Node => ["192.0.2.1", "2001:db8::1"],
            Who::Client => ["192.0.2.9", "2001:db8::9"],
        };
        texts.map(|text| text.parse().unwrap()).into_iter().find(|ip| IpFamily::from(*ip) == family).unwrap()
    }

    /// A long TCP connection, after the greeting.
    pub(super) fn connect(&self, who: Who, to: SocketAddr) -> TcpStream {
        within(self.namespace(who), || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            greeting(&mut stream).unwrap();
            stream
        })
    }

    /// Who answers a new connection.
    pub(super) fn answer(&self, who: Who, protocol: Protocol, to: SocketAddr) -> IpAddr {
        match self.ask(who, Payload::Port(protocol, to.port()), to.ip(), PATIENCE) {
            Seen::Answer { from, .. } => from,
            seen @ (Seen::Refused | Seen::Silence) => panic!("{who:?} {protocol:?} to {to}: {seen:?}"),
        }
    }

    /// Sends a first packet and looks what comes of it, waiting only shortly for what is expected not to come.
    fn ask(&self, who: Who, payload: Payload, to: IpAddr, patience: Duration) -> Seen {
        // No port twice: the kernel remembers for a while where the last datagram from a port went.
        static PORT: AtomicU16 = AtomicU16::new(10_000);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let source = SocketAddr::new(Self::source(who, to.into()), port);
        let answer = within(self.namespace(who), || match payload {
            Payload::Port(Protocol::Tcp, port) => ask_tcp(SocketAddr::new(to, port), patience),
            Payload::Port(Protocol::Udp, port) => ask_udp(source, SocketAddr::new(to, port), patience),
            Payload::Echo => ask_echo(source.ip(), to, patience),
            Payload::Port(Protocol::Sctp, _) | Payload::Control => unreachable!("nobody can send it here"),
        });
        match answer {
            Ok(text) => {
                let (from, source) = text.split_once(' ').unwrap();
                Seen::Answer { from: from.parse().unwrap(), source: source.parse().unwrap() }
            }
            // To a process of the node itself a refused packet is one that was not permitted.
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied) =>
            {
                Seen::Refused
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Seen::Silence
            }
            Err(error) => panic!("{who:?} {payload} to {to}: {error}"),
        }
    }

    /// Compares what the simulator says with what really happens.
    pub(super) fn check(&self, program: &Program, who: Who, protocol: Protocol, to: SocketAddr) -> Verdict {
        self.check_payload(program, who, Payload::Port(protocol, to.port()), to.ip())
    }

    /// The same with anything that can be sent.
    pub(super) fn check_payload(&self, program: &Program, who: Who, payload: Payload, to: IpAddr) -> Verdict {
        let addresses = ips(["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"]);
        let source = Self::source(who, to.into());
        let origin = if who == Who::Node { Origin::Host } else { Origin::Link };
        let last = self.last.lock().unwrap().get(&(source, payload, to)).copied();
        if last == Some(None) {
            return Verdict::Drop;
        }
        let packet = Packet { origin, source, destination: to, payload, last: last.flatten() };
        let verdict = simulate(program, &addresses, &packet);
        let right = |expected: IpAddr, masqueraded, from: IpAddr, source_seen: IpAddr| {
            from == expected
                && if masqueraded { addresses.contains(&source_seen) } else { source_seen == source }
        };
        let what = format!("{who:?} {payload} to {to}");
        // What a process of the node itself sends is not permitted rather than lost.
        let lost = |seen| seen == Seen::Silence || who == Who::Node && seen == Seen::Refused;
        match &verdict {
            Verdict::Forward(endpoints) => self.check_forward(program, who, &packet, endpoints, &right),
            Verdict::Pass(Onward { admitted: false, .. }) | Verdict::Drop => {
                let seen = self.ask(who, payload, to, SILENCE);
                assert!(lost(seen), "{what}: {seen:?}, not {verdict:?}");
            }
            Verdict::Pass(Onward { masqueraded, .. }) => {
                let served = match payload {
                    Payload::Port(_, port) => port == SERVER_PORT && self.served.contains(&to),
                    Payload::Echo | Payload::Control => self.served.contains(&to) || addresses.contains(&to),
                };
                match self.ask(who, payload, to, if served { PATIENCE } else { SILENCE }) {
                    Seen::Answer { from, source } => {
                        let right = payload == Payload::Echo || right(to, *masqueraded, from, source);
                        assert!(right, "{what}: {from} {source}, not {verdict:?}");
                    }
                    seen @ (Seen::Refused | Seen::Silence) => assert!(!served, "{what}: {seen:?}"),
                }
            }
            Verdict::Reject(Refusal::Reset | Refusal::PortUnreachable) => {
                assert_eq!(self.ask(who, payload, to, PATIENCE), Seen::Refused, "{what}");
            }
        }
        verdict
    }

    /// Asks until every endpoint that may answer has done so: enough times to see a few, very nearly surely.
    fn check_forward(
        &self,
        program: &Program,
        who: Who,
        packet: &Packet,
        endpoints: &BTreeMap<Endpoint, Onward>,
        right: &impl Fn(IpAddr, bool, IpAddr, IpAddr) -> bool,
    ) {
        let (payload, to) = (packet.payload, packet.destination);
        let is_sticky = is_sticky(program, payload, to);
        let mut missing: BTreeSet<Endpoint> = endpoints.keys().copied().collect();
        missing.retain(|at| endpoints[at].admitted && self.served.contains(&at.ip));
        let some_lost = missing.len() < endpoints.len();
        for _ in 0..60 {
            let seen = self.ask(who, payload, to, if some_lost { SILENCE } else { PATIENCE });
            let Seen::Answer { from, source } = seen else {
                assert!(some_lost, "{who:?} {payload} to {to}: {seen:?}, not {endpoints:?}");
                if is_sticky {
                    self.last.lock().unwrap().insert((packet.source, payload, to), None);
                }
                if is_sticky || missing.is_empty() {
                    return;
                }
                continue;
            };
            let fits = |(at, onward): &(&Endpoint, &Onward)| {
                onward.admitted && right(at.ip, onward.masqueraded, from, source)
            };
            let Some((found, _)) = endpoints.iter().find(fits) else {
                panic!("{who:?} {payload} to {to}: {seen:?}, not {endpoints:?}");
            };
            missing.remove(found);
            if is_sticky {
                self.last.lock().unwrap().insert((packet.source, payload, to), Some(*found));
                for _ in 0..2 {
                    let again = self.ask(who, payload, to, PATIENCE);
                    assert!(matches!(again, Seen::Answer { from, .. } if from == found.ip), "{again:?}");
                }
                return;
            }
            if missing.is_empty() {
                return;
            }
        }
        panic!("{who:?} {payload} to {to}: never came to {missing:?}");
    }
}

fn is_sticky(program: &Program, payload: Payload, to: IpAddr) -> bool {
    let Payload::Port(protocol, port) = payload else { return false };
    let table = program.get(to.into()).unwrap();
    let ats = [Frontend::Address(to, protocol, port), Frontend::NodePort(protocol, port)];
    Scope::BOTH
        .into_iter()
        .flat_map(|scope| ats.map(|at| (scope, at)))
        .any(|key| matches!(table.frontends.get(&key), Some(Action::Forward { sticky: Some(_), .. })))
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for server in self.servers.drain(..) {
            let result = server.join();
            if !std::thread::panicking() {
                result.unwrap();
            }
        }
    }
}

fn ask_udp(source: SocketAddr, to: SocketAddr, patience: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind(source)?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    socket.send(b"who?")?;
    let mut bytes = [0; 128];
    let length = socket.recv(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// An echo request through a socket of the kernel's `ping`, which sees to checksum and answer.
fn ask_echo(source: IpAddr, to: IpAddr, patience: Duration) -> io::Result<String> {
    let (family, protocol, request) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(patience))?;
    rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    socket.connect(SocketAddr::new(to, 0))?;
    socket.send(&[request, 0, 0, 0, 0, 0, 0, 1])?;
    let mut bytes = [0; 64];
    socket.recv(&mut bytes)?;
    Ok(format!("{to} {source}"))
}

/// The standard library can't bind before it connects, and need not: routes choose the right source.
fn ask_tcp(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    greeting(&mut stream)
}

/// What a server says first, up to the end of the line.
fn greeting(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        text.extend(byte);
    }
}
