//! Queries to a DNS Service come to a server of this node, and to the Service's endpoints as soon as nobody intercepts.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dyad_links::Handle;

use super::lab::{EVERYBODY, Lab, Who};
use super::*;
use crate::conntrack::{Conntrack, Expected};
use crate::{DNS_TABLE, Error, Executor, Interception};

const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(150);
/// What the server of the node takes some time to answer.
const LATE: &[u8; 4] = b"late";
/// What the child says when it intercepts.
const READY: &str = "> ready";

fn vips() -> BTreeSet<IpAddr> {
    ips(["10.96.0.10", "fd00:10:96::a"])
}

fn vip(family: IpFamily) -> SocketAddr {
    let ip = vips().into_iter().find(|ip| IpFamily::from(*ip) == family).unwrap();
    SocketAddr::new(ip, 53)
}

/// The pod of the other node, which is the cluster's DNS.
fn far(family: IpFamily) -> IpAddr {
    let text = match family {
        IpFamily::V4 => "10.244.2.2",
        IpFamily::V6 => "fd00:10:244:2::2",
    };
    text.parse().unwrap()
}

fn program() -> Program {
    let ports = ["TCP", "UDP"]
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 53}));
    let slices = IpFamily::BOTH.map(|family| slice("dns", &[(&far(family).to_string(), "node2")]));
    compile(&inputs(&[service("dns", 10, json!({"ports": ports}))], &slices))
}

/// A node with the addresses of the Service, a server on them and the program.
struct Node {
    lab: Lab,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

/// Servers on the addresses of the Service in this namespace.
fn serve(stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let serve = |family| {
        let (socket, stop) = (UdpSocket::bind(vip(family)).unwrap(), stop.clone());
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        std::thread::spawn(move || {
            let ip = socket.local_addr().unwrap().ip();
            while !stop.load(Ordering::Relaxed) {
                let mut bytes = [0; 4];
                if let Ok((_, peer)) = socket.recv_from(&mut bytes) {
                    if bytes == *LATE {
                        std::thread::sleep(SILENCE);
                    }
                    socket.send_to(format!("{ip} {}", peer.ip()).as_bytes(), peer).unwrap();
                }
            }
        })
    };
    IpFamily::BOTH.map(serve).into()
}

impl Node {
    fn new(program: &Program) -> Self {
        let mut node = Self::without_server(program);
        node.servers = within(&node.lab.node, || serve(&node.stop));
        node
    }

    fn without_server(program: &Program) -> Self {
        let lab = Lab::new();
        within(&lab.node, || {
            let mut handle = Handle::open().unwrap();
            let lo = handle.index("lo").unwrap();
            vips().into_iter().for_each(|ip| handle.claim_address(lo, ip).unwrap());
            Executor::open().unwrap().apply(program).unwrap();
        });
        let node = Self { lab, stop: Arc::default(), servers: Vec::new() };
        // Links may take a moment; from then on not one query may be lost.
        node.sockets().iter().for_each(|socket| while socket.ask(SILENCE).is_none() {});
        node
    }

    fn intercept(&self, spared: &BTreeSet<IpAddr>) -> Interception {
        within(&self.lab.node, || Interception::open(&vips(), spared).unwrap())
    }

    /// Sockets of everybody, and one of the node whose source is the kernel's choice, connected to the Service.
    fn sockets(&self) -> Vec<Asking> {
        let of = |family: IpFamily, who, source: IpAddr| {
            let socket = within(self.lab.namespace(who), || {
                let socket = UdpSocket::bind((source, 0)).unwrap();
                socket.connect(vip(family)).unwrap();
                socket
            });
            Asking { family, who, socket }
        };
        let any = |family: IpFamily| of(family, Who::Node, family.everything().addr());
        let bound = |family| EVERYBODY.map(|who| of(family, who, Lab::source(who, family)));
        IpFamily::BOTH.into_iter().flat_map(|family| bound(family).into_iter().chain([any(family)])).collect()
    }

    /// How many connections of the node have this end.
    fn tracked(&self, end: SocketAddr) -> usize {
        let mut found = 0;
        let mut conntrack = within(&self.lab.node, || Conntrack::open().unwrap());
        conntrack
            .flows(end.ip().into(), |flow| {
                let ends = [flow.original, flow.reply].map(|way| [way.source_port(), way.destination_port()]);
                found += usize::from(ends.concat().contains(&Some(end)));
            })
            .unwrap();
        found
    }
}

impl Drop for Node {
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

/// A client's socket.
struct Asking {
    family: IpFamily,
    who: Who,
    socket: UdpSocket,
}

impl Asking {
    /// Who answers, and what they took for the source; `None` for silence.
    fn ask(&self, patience: Duration) -> Option<(IpAddr, IpAddr)> {
        self.socket.send(b"who?").ok()?;
        self.hear(patience)
    }

    fn hear(&self, patience: Duration) -> Option<(IpAddr, IpAddr)> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut bytes = [0; 128];
        let length = self.socket.recv(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let (from, source) = text.split_once(' ').unwrap();
        Some((from.parse().unwrap(), source.parse().unwrap()))
    }

    fn comes_to(&self, whom: impl Fn(IpFamily) -> IpAddr, when: &str) {
        let seen = self.ask(PATIENCE).map(|(from, _)| from);
        let from = self.socket.local_addr().unwrap();
        assert_eq!(seen, Some(whom(self.family)), "{:?} from {from} {when}", self.who);
    }
}

fn near(family: IpFamily) -> IpAddr {
    vip(family).ip()
}

#[test]
fn queries_come_to_this_node_untracked_and_to_the_cluster_when_nobody_intercepts() {
    if !privileged("intercept::queries_come_to_this_node_untracked_and_to_the_cluster_when_nobody_intercepts")
    {
        return;
    }
    let node = Node::new(&program());
    // These keep their source ports through everything.
    let sockets = node.sockets();
    sockets.iter().for_each(|socket| socket.comes_to(far, "before"));
    for _ in 0..2 {
        let interception = node.intercept(&BTreeSet::new());
        sockets.iter().for_each(|socket| socket.comes_to(near, "while it is intercepted"));
        for socket in node.sockets() {
            let local = socket.socket.local_addr().unwrap();
            assert_eq!(socket.ask(PATIENCE), Some((near(socket.family), local.ip())), "{:?}", socket.who);
            assert_eq!(node.tracked(local), 0, "{:?} from {local}", socket.who);
        }
        drop(interception);
        sockets.iter().for_each(|socket| socket.comes_to(far, "afterwards"));
        for socket in node.sockets() {
            let (from, source) = socket.ask(PATIENCE).unwrap();
            assert_eq!((from, source.is_loopback()), (far(socket.family), false));
            assert_eq!(node.tracked(socket.socket.local_addr().unwrap()), 1);
            assert_ne!(source, near(socket.family), "nobody outside of the node knows that as a source");
        }
    }
}

#[test]
fn answers_that_are_late_leave_nothing_behind() {
    if !privileged("intercept::answers_that_are_late_leave_nothing_behind") {
        return;
    }
    let node = Node::new(&program());
    let mut interception = node.intercept(&BTreeSet::new());
    for _ in 0..2 {
        for socket in node.sockets() {
            socket.socket.send(LATE).unwrap();
            // It has come to this node's server.
            std::thread::sleep(SILENCE / 3);
            interception.pause().unwrap();
            assert_eq!(socket.hear(PATIENCE).map(|(from, _)| from), Some(near(socket.family)));
            assert_eq!(node.tracked(socket.socket.local_addr().unwrap()), 0);
            socket.comes_to(far, "while it is paused");
            interception.resume().unwrap();
            socket.comes_to(near, "when it goes on");
        }
    }
    drop(interception);
    // Without a pause there is something to tidy up.
    let is_elsewhere = |socket: &Asking| !vips().contains(&socket.socket.local_addr().unwrap().ip());
    for socket in node.sockets().into_iter().filter(is_elsewhere) {
        let interception = node.intercept(&BTreeSet::new());
        socket.socket.send(LATE).unwrap();
        std::thread::sleep(SILENCE / 3);
        drop(interception);
        assert!(socket.hear(PATIENCE).is_some());
        socket.comes_to(near, "as if it belonged to the answer");
        let expected = Expected {
            program: &program(),
            node_addresses: &ips([
                "192.0.2.1",
                "2001:db8::1",
                "127.0.0.1",
                "::1",
                "10.96.0.10",
                "fd00:10:96::a",
            ]),
            serves: &|_, _, _| false,
        };
        within(&node.lab.node, || Conntrack::open().unwrap()).reconcile(&expected).unwrap();
        socket.comes_to(far, "afterwards");
    }
}

/// Starts a process that intercepts: [`hold`] or [`answer`].
fn start(node: &Node, what: &str) -> Child {
    let mut child = within(&node.lab.node, || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("tests::intercept::{what}"), "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(READY)), "the child died");
    child
}

#[test]
#[ignore = "not a test: the process that others start and kill"]
fn hold() {
    let _held = Interception::open(&vips(), &BTreeSet::new()).unwrap();
    println!("{READY}");
    // Until it is killed, or whoever has started it is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
#[ignore = "not a test: the process that others start and kill"]
fn answer() {
    let servers = serve(&Arc::default());
    let _held = Interception::open(&vips(), &BTreeSet::new()).unwrap();
    println!("{READY}");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(servers);
}

#[test]
fn a_server_that_is_killed_costs_nobody_more_than_asking_again() {
    if !privileged("intercept::a_server_that_is_killed_costs_nobody_more_than_asking_again") {
        return;
    }
    let node = Node::without_server(&program());
    let (stop, sockets) = (AtomicBool::new(false), node.sockets());
    let (near_seen, again) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = socket.ask(SILENCE).or_else(|| {
                        again.fetch_add(1, Ordering::Relaxed);
                        socket.ask(PATIENCE)
                    });
                    // The others see to the end.
                    let Some((from, _)) = answer else { panic!("{:?} asked twice", socket.who) };
                    near_seen.fetch_add(usize::from(from == near(socket.family)), Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            let mut child = start(&node, "answer");
            near_seen.store(0, Ordering::Relaxed);
            let deadline = Instant::now() + PATIENCE;
            while near_seen.load(Ordering::Relaxed) < 100 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            std::thread::sleep(SILENCE);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(near_seen.load(Ordering::Relaxed) >= 100, "it was there at last");
    eprintln!("{} clients had to ask again {} times, at five kills", sockets.len(), again.into_inner());
    sockets.iter().for_each(|socket| socket.comes_to(far, "after the last one"));
}

#[test]
fn it_ends_with_the_process_however_that_ends() {
    if !privileged("intercept::it_ends_with_the_process_however_that_ends") {
        return;
    }
    let node = Node::new(&program());
    let sockets = node.sockets();
    for _ in 0..3 {
        let mut child = start(&node, "hold");
        sockets.iter().for_each(|socket| socket.comes_to(near, "while the process lives"));
        let refused = within(&node.lab.node, || Interception::open(&vips(), &BTreeSet::new()).unwrap_err());
        assert!(matches!(refused, Error::Held { table: DNS_TABLE }), "{refused}");
        sockets.iter().for_each(|socket| socket.comes_to(near, "although another wants to"));
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        sockets.iter().for_each(|socket| socket.comes_to(far, "when it was killed"));
    }
}

/// A pod's policy that admits the far pod alone.
fn isolate(program: &mut Program, direction: Direction, who: Who) {
    for (family, table) in program.iter_mut() {
        let (peers, chain) = (Id::of("dns"), Id::of("only-dns"));
        let rule = |peers, decision| Rule {
            direction,
            peers,
            ports: Ports::Any,
            decision,
            because: "NetworkPolicy".into(),
        };
        let rules = [rule(Peers::Set(peers), Decision::Accept), rule(Peers::Any, Decision::Deny)];
        for entry in [
            Entry::Set(SetKind::Peers, peers),
            Entry::Member(peers, Member::Peer(far(family))),
            Entry::Chain(chain, rules.as_slice().into()),
            Entry::Isolated(direction, Lab::source(who, family), chain),
        ] {
            table.insert(entry);
        }
    }
}

#[test]
fn who_is_spared_keeps_to_the_service_and_to_policy() {
    if !privileged("intercept::who_is_spared_keeps_to_the_service_and_to_policy") {
        return;
    }
    let mut egress = program();
    isolate(&mut egress, Direction::Egress, Who::PodB);
    let node = Node::new(&egress);
    let spared = IpFamily::BOTH.map(|family| Lab::source(Who::PodB, family)).into();
    let sockets = node.sockets();
    let all = |is_spared: bool, when: &str| {
        for socket in &sockets {
            let is_near = socket.who != Who::PodB || !is_spared;
            socket.comes_to(if is_near { near } else { far }, when);
        }
    };
    let mut interception = node.intercept(&spared);
    all(true, "under its policy");
    // The policy knows the cluster's DNS, not this node: why it has to be spared.
    interception.spare(&BTreeSet::new()).unwrap();
    for socket in sockets.iter().filter(|socket| socket.who == Who::PodB) {
        assert_eq!(socket.ask(SILENCE), None);
    }
    interception.spare(&spared).unwrap();
    all(true, "again");
    // What comes to a pod from its own node is no matter of policy.
    let mut ingress = program();
    isolate(&mut ingress, Direction::Ingress, Who::PodB);
    within(&node.lab.node, || Executor::open().unwrap().apply(&ingress).unwrap());
    interception.spare(&BTreeSet::new()).unwrap();
    all(false, "without a policy of its own sending");
    interception.spare(&spared).unwrap();
    all(true, "for no reason");
    // Addresses of a family that is not intercepted are no matter.
    drop(interception);
    let v6 = ips(["fd00:10:96::a"]);
    let _one = within(&node.lab.node, || Interception::open(&v6, &spared).unwrap());
    for socket in sockets.iter().filter(|socket| socket.who == Who::PodA) {
        let whom = if socket.family == IpFamily::V6 { near } else { far };
        socket.comes_to(whom, "in one family");
    }
}

#[test]
fn nothing_but_its_own_tables_and_queries_is_touched() {
    if !privileged("intercept::nothing_but_its_own_tables_and_queries_is_touched") {
        return;
    }
    let program = program();
    let node = Node::new(&program);
    let mut executor = within(&node.lab.node, || Executor::open().unwrap());
    executor.apply(&program).unwrap();
    let nft = |arguments: &[&str]| {
        within(&node.lab.node, || Command::new("nft").args(arguments).output().ok())
            .map(|output| (output.status.success(), String::from_utf8(output.stdout).unwrap()))
    };
    let listed = || nft(&["list", "ruleset"]).map(|(_, text)| text);
    nft(&["add table inet theirs; add chain inet theirs all { type filter hook input priority 0; }"]);
    let before = listed();
    let stream = node.lab.connect(Who::PodA, vip(IpFamily::V6));
    let interception = node.intercept(&BTreeSet::new());
    assert!(executor.is_current().unwrap(), "the program's tables are others");
    for family in IpFamily::BOTH {
        // TCP is the Service's, and so is every other port.
        assert_eq!(node.lab.answer(Who::PodA, Protocol::Tcp, vip(family)), far(family));
        let other = SocketAddr::new(near(family), 54);
        let refused = within(node.lab.namespace(Who::PodA), || {
            let socket = UdpSocket::bind((family.everything().addr(), 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(other).unwrap();
            socket.send(b"who?").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err()
        });
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{other}");
    }
    // Nobody else can damage it, whatever they may do otherwise.
    for (family, table) in [("ip", DNS_TABLE), ("ip6", DNS_TABLE)] {
        if let Some((deleted, _)) = nft(&["delete", "table", family, table]) {
            assert!(!deleted);
        }
    }
    executor.cleanup().unwrap();
    nft(&["flush", "ruleset"]);
    node.sockets().iter().for_each(|socket| socket.comes_to(near, "with all other tables gone"));
    executor.apply(&program).unwrap();
    nft(&["add table inet theirs; add chain inet theirs all { type filter hook input priority 0; }"]);
    drop(interception);
    assert_eq!(
        nft(&["list", "table", "ip", DNS_TABLE]).map(|(there, _)| there),
        before.as_ref().map(|_| false)
    );
    let tables = |text: Option<String>| {
        let is_table = |line: &&str| line.starts_with("table");
        text.map(|text| text.lines().filter(is_table).map(str::to_owned).collect::<BTreeSet<_>>())
    };
    assert_eq!(tables(listed()), tables(before));
    drop(stream);
}
