//! Encrypted ways with real packets, between the nodes of [`tunnels`]; a listener at the router sees all that travels.

use std::net::UdpSocket;
use std::path::PathBuf;

use dyad_links::wireguard::{PublicKey, Traffic, Wireguard};
use dyad_program::Name;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use tempfile::TempDir;

use super::tunnels::{Lab, pod_ip, range};
use super::*;
use crate::config::{Routing, Tunnels};
use crate::routes::wireguard::{Encryption, LINK};
use crate::routes::{self, Ways};

/// `ETH_P_ALL`.
const EVERYTHING: u16 = 3;

/// Whether this kernel has WireGuard; who has none is told.
fn can_encrypt(name: &str) -> bool {
    if !privileged(name) {
        return false;
    }
    let here = netns::create().unwrap();
    let able = netns::within(here.as_fd(), || Wireguard::open().unwrap().is_some()).unwrap();
    if !able {
        eprintln!("SKIPPED: this kernel has no WireGuard (CONFIG_WIREGUARD)");
    }
    able
}

/// Nodes with keys of their own.
struct Encrypted {
    lab: Lab,
    underlay: Option<IpFamily>,
    dir: TempDir,
}

impl Encrypted {
    fn new(underlay: &[IpFamily], asked: Option<IpFamily>) -> Self {
        Self { lab: Lab::new(underlay), underlay: asked, dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("{node}/wireguard.key"))
    }

    fn config(&self) -> Config {
        let tunnels = Tunnels { underlay: self.underlay, ..Tunnels::default() };
        Config { routing: Routing::Wireguard, tunnels, ..test_config() }
    }

    /// Has an agent that has just started do what it is for.
    fn apply(&self, node: usize) -> Ways {
        let name = Name::new("", &format!("node{node}"));
        netns::within(self.lab.nodes[node - 1].0.as_fd(), || {
            let mut handle = Handle::open().unwrap();
            let mut encryption = Encryption::open(&self.file(node)).unwrap();
            let mut apply = || {
                let with = Some(&mut encryption);
                routes::apply(&mut handle, &self.config(), with, &name, &self.lab.known, &[]).unwrap()
            };
            let first = apply();
            assert_eq!(first.wireguard_key, apply().wireguard_key);
            first
        })
        .unwrap()
    }

    /// Has nodes say their keys and hear those of others.
    fn meet(&mut self, nodes: &[usize]) -> Vec<Ways> {
        for node in nodes {
            let key = self.apply(*node).wireguard_key;
            let known = self.lab.known.get_mut(&Name::new("", &format!("node{node}"))).unwrap();
            known.announced.wireguard_key = key;
            known.announced.wireguard_port = Some(WIREGUARD_PORT.to_string());
        }
        nodes.iter().map(|node| self.apply(*node)).collect()
    }

    fn key(&self, node: usize) -> PublicKey {
        self.on(node, |_, device| device.public.unwrap())
    }

    fn on<T: Send>(
        &self,
        node: usize,
        look: impl FnOnce(&mut Handle, dyad_links::wireguard::Device) -> T + Send,
    ) -> T {
        netns::within(self.lab.nodes[node - 1].0.as_fd(), || {
            let mut handle = Handle::open().unwrap();
            let index = handle.index(LINK).unwrap();
            let device = Wireguard::open().unwrap().unwrap().device(index).unwrap();
            look(&mut handle, device)
        })
        .unwrap()
    }

    fn traffic(&self, node: usize, with: usize) -> Traffic {
        let key = self.key(with);
        self.on(node, |_, device| device.traffic[&key])
    }
}

/// All that comes by at the router.
struct Listener(OwnedFd);

impl Listener {
    fn new(lab: &Lab) -> Self {
        let protocol = Protocol::from_raw(std::num::NonZeroU32::new(u32::from(EVERYTHING.to_be())).unwrap());
        let open = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol)).unwrap()
        };
        Self(netns::within(lab.router.as_fd(), open).unwrap())
    }

    /// How many packets of WireGuard came by, and what else did but for how neighbours are found.
    fn heard(&self) -> (usize, Vec<String>) {
        let (mut encrypted, mut others) = (0, Vec::new());
        let mut frame = [0; 2048];
        while let Ok((_, length)) = recv(&self.0, &mut frame[..], RecvFlags::TRUNC) {
            let frame = &frame[..length.min(2048)];
            let (protocol, header) = match frame[12..14] {
                [0x08, 0x00] => (frame[14 + 9], 20),
                [0x86, 0xdd] => (frame[14 + 6], 40),
                _ => continue,
            };
            let ports = [14 + header, 14 + header + 2]
                .map(|at| frame.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]])));
            match protocol {
                17 if ports == [Some(WIREGUARD_PORT); 2] => encrypted += 1,
                // Neighbour discovery, and membership in groups (behind a header of options).
                58 if (133..=137).contains(&frame[14 + header]) => {}
                0 | 2 => {}
                _ => others.push(format!("protocol {protocol}, ports {ports:?}")),
            }
        }
        (encrypted, others)
    }
}

#[test]
fn pods_of_all_nodes_reach_each_other_and_nothing_is_in_the_clear() {
    if !can_encrypt("wireguard::pods_of_all_nodes_reach_each_other_and_nothing_is_in_the_clear") {
        return;
    }
    use IpFamily::{V4, V6};
    for (what, nodes, underlay, mtu) in [
        ("both", vec![V4, V6], None, 1440),
        ("in IPv6", vec![V4, V6], Some(V6), 1420),
        ("IPv4 only", vec![V4], None, 1440),
        ("IPv6 only", vec![V6], None, 1420),
    ] {
        let mut lab = Encrypted::new(&nodes, underlay);
        let listener = Listener::new(&lab.lab);
        for Ways { mtu: fits, warnings, strangers, .. } in lab.meet(&[1, 2, 3]) {
            assert_eq!(
                (fits, warnings.len(), strangers.len()),
                (Some(mtu), 0, 2 * nodes.len()),
                "{what}: {warnings:?}"
            );
        }
        for family in IpFamily::BOTH {
            assert_eq!(lab.lab.link(1, pod_ip(family, 2)).as_deref(), Some(LINK), "{what}");
        }
        lab.lab.pods_talk(what);
        // The node itself, too, as the first of its range.
        let seen = Lab::send(what, &lab.lab.nodes[0].0, &lab.lab.nodes[1].1, pod_ip(V4, 2));
        assert_eq!(seen, range(pod_ip(V4, 1)).network(), "{what}: from the node");
        let (encrypted, others) = listener.heard();
        assert!(encrypted > 0, "{what}");
        assert_eq!(others, [""; 0], "{what}: in the clear");
    }
}

/// A service that says back what it is told, and a client that never says anything twice.
struct Exchange {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Exchange {
    fn start(lab: &Lab, family: IpFamily, from: usize, to: usize) -> Self {
        let at = pod_ip(family, to);
        let server =
            netns::within(lab.nodes[to - 1].1.as_fd(), || UdpSocket::bind((at, 0)).unwrap()).unwrap();
        let at = server.local_addr().unwrap();
        let any = family.everything().addr();
        let client =
            netns::within(lab.nodes[from - 1].1.as_fd(), || UdpSocket::bind((any, 0)).unwrap()).unwrap();
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 8];
            for socket in [&client, &server] {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            while !stopped.load(Ordering::Relaxed) {
                client.send_to(b"ask", at).unwrap();
                let (_, asker) = server.recv_from(&mut buffer).expect("a question is lost");
                server.send_to(b"answer", asker).unwrap();
                client.recv_from(&mut buffer).expect("an answer is lost");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, count, thread }
    }

    /// Waits for more of them.
    fn go_on(&self, more: usize) {
        let until = self.count.load(Ordering::Relaxed) + more;
        while self.count.load(Ordering::Relaxed) < until && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[test]
fn restarts_and_nodes_that_come_and_go_disturb_nobody() {
    if !can_encrypt("wireguard::restarts_and_nodes_that_come_and_go_disturb_nobody") {
        return;
    }
    let mut lab = Encrypted::new(&IpFamily::BOTH, None);
    let third = lab.lab.known.remove(&Name::new("", "node3")).unwrap();
    lab.meet(&[1, 2]);
    let exchanges = IpFamily::BOTH.map(|family| Exchange::start(&lab.lab, family, 1, 2));
    exchanges.iter().for_each(|exchange| exchange.go_on(20));
    let before = lab.traffic(1, 2);
    for _ in 0..5 {
        // Each is an agent that has just started.
        [1, 2].iter().for_each(|node| drop(lab.apply(*node)));
        exchanges.iter().for_each(|exchange| exchange.go_on(5));
    }
    lab.lab.known.insert(Name::new("", "node3"), third);
    assert!(lab.apply(1).warnings.iter().any(|text| text.contains("node3: it says no WireGuard key")));
    lab.meet(&[1, 2, 3]);
    lab.lab.pods_talk("with a third");
    exchanges.iter().for_each(|exchange| exchange.go_on(20));
    lab.lab.known.remove(&Name::new("", "node3"));
    [1, 2].iter().for_each(|node| drop(lab.apply(*node)));
    exchanges.iter().for_each(|exchange| exchange.go_on(20));
    let after = lab.traffic(1, 2);
    exchanges.into_iter().for_each(Exchange::stop);
    assert_eq!(after.handshake, before.handshake, "the session goes on");
    assert!(after.sent > before.sent && after.received > before.received);
    assert_eq!(lab.lab.link(1, pod_ip(IpFamily::V4, 3)), None);
    assert_eq!(lab.on(1, |_, device| device.peers.len()), 1);
}

/// What becomes of a packet that a pod of the first node sends to one of the second.
fn attempt(lab: &Lab, family: IpFamily) -> std::io::Error {
    let at = std::net::SocketAddr::new(pod_ip(family, 2), 9);
    netns::within(lab.nodes[0].1.as_fd(), || std::net::TcpStream::connect_timeout(&at, PATIENCE).unwrap_err())
        .unwrap()
}

#[test]
fn without_a_key_or_the_link_nothing_is_sent_in_the_clear() {
    if !can_encrypt("wireguard::without_a_key_or_the_link_nothing_is_sent_in_the_clear") {
        return;
    }
    let mut lab = Encrypted::new(&IpFamily::BOTH, None);
    let Ways { warnings, .. } = lab.apply(1);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let listener = Listener::new(&lab.lab);
    let refused = |what: &str, lab: &Encrypted| {
        for family in IpFamily::BOTH {
            let error = attempt(&lab.lab, family);
            let kinds = [std::io::ErrorKind::HostUnreachable, std::io::ErrorKind::NetworkUnreachable];
            assert!(kinds.contains(&error.kind()), "{what}, {family}: {error}");
        }
    };
    refused("no key", &lab);
    lab.meet(&[1, 2, 3]);
    lab.lab.pods_talk("with keys");
    // Somebody takes the link away.
    Handle::open_in(lab.lab.nodes[0].0.as_fd()).unwrap().delete_link(LINK).unwrap();
    refused("no link", &lab);
    let (_, others) = listener.heard();
    assert_eq!(others, [""; 0], "in the clear");
    lab.apply(1);
    lab.lab.pods_talk("made anew");
    // Another key: the others hear of it from the Node.
    let old = lab.key(2);
    std::fs::remove_file(lab.file(2)).unwrap();
    lab.meet(&[2, 1, 3]);
    assert_ne!(lab.key(2), old);
    assert!(!lab.on(1, |_, device| device.peers.contains_key(&old)));
    lab.lab.pods_talk("with another key");
    // A machine that is a copy of another has its key.
    std::fs::copy(lab.file(1), lab.file(3)).unwrap();
    let ways = lab.meet(&[3, 1, 2]);
    assert!(
        ways[1].warnings.iter().any(|text| text.contains("node node3 has the WireGuard key of this node"))
    );
    assert!(ways[2].warnings.iter().any(|text| text.contains("node1 and node3 have the same WireGuard key")));
    let (_, others) = listener.heard();
    assert_eq!(others, [""; 0], "in the clear");
}

#[test]
fn what_encrypts_goes_with_cleanup_and_with_another_way() {
    if !can_encrypt("wireguard::what_encrypts_goes_with_cleanup_and_with_another_way") {
        return;
    }
    let mut lab = Encrypted::new(&IpFamily::BOTH, None);
    lab.meet(&[1, 2, 3]);
    let name = Name::new("", "node1");
    let left = |lab: &Encrypted| {
        let mut handle = Handle::open_in(lab.lab.nodes[0].0.as_fd()).unwrap();
        let links = handle.links().unwrap().into_iter().filter(|link| link.name.starts_with("dyad")).count();
        let refusing =
            handle.routes(OURS).unwrap().iter().filter(|of| routes::wireguard::refuses(of)).count();
        (links, refusing, lab.file(1).exists())
    };
    assert_eq!(left(&lab), (1, 4, true));
    let config = Config { routing: Routing::Vxlan, ..test_config() };
    let mut handle = Handle::open_in(lab.lab.nodes[0].0.as_fd()).unwrap();
    routes::apply(&mut handle, &config, None, &name, &lab.lab.known, &[]).unwrap();
    assert_eq!(left(&lab), (1, 0, true), "VXLAN in its place");
    lab.apply(1);
    lab.lab.pods_talk("and back");
    let dir = tempfile::tempdir().unwrap();
    let cni = Cni {
        socket: dir.path().join("cni.sock"),
        conf_dir: dir.path().join("net.d"),
        bin_dir: dir.path().join("bin"),
        data_dir: dir.path().join("networks"),
        plugin: dir.path().join("dyad-cni"),
    };
    let node = lab.lab.nodes[0].0.as_fd();
    netns::within(node, || cleanup(None, Some(&cni), None, &lab.file(1)).unwrap()).unwrap();
    assert_eq!(left(&lab), (0, 0, false));
}

#[test]
fn a_kernel_without_it_is_told_of_before_a_key_is_made() {
    if !privileged("wireguard::a_kernel_without_it_is_told_of_before_a_key_is_made") {
        return;
    }
    let (node, dir) = (netns::create().unwrap(), tempfile::tempdir().unwrap());
    let file = dir.path().join("wireguard.key");
    let able = netns::within(node.as_fd(), || {
        let able = Wireguard::open().unwrap().is_some();
        match Encryption::open(&file) {
            Ok(_) => assert!(able),
            Err(error) => {
                assert!(!able && error.to_string().contains("module `wireguard`"), "{error}");
            }
        }
        able
    });
    assert_eq!(file.exists(), able.unwrap());
}
