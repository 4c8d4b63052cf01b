//! A node with two pods, and its neighbourhood, in namespaces.
//!
//! ```text
//!   pod a (10.244.1.2) ──┐
//!                        ├── node (192.0.2.1) ── uplink ── the far pod 10.244.2.2
//!   pod b (10.244.1.3) ──┘
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dyad_links::pod::{self, PodLink};
use dyad_links::{Handle, NewLink, NextHop, Route, netns, sysctl};
use dyad_net::IpNet;

use super::*;

/// The port of the servers of all endpoints.
const SERVER_PORT: u16 = 8080;

pub(super) struct Lab {
    pub(super) node: OwnedFd,
    pub(super) pod_a: OwnedFd,
    pub(super) pod_b: OwnedFd,
    far: OwnedFd,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

/// Runs `work` in a network namespace.
pub(super) fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::within(namespace.as_fd(), work).unwrap()
}

fn nets<const N: usize>(texts: [&str; N]) -> [IpNet; N] {
    texts.map(|text| text.parse().unwrap())
}

fn configure(link: &str, addresses: &[IpNet], routes: &[(IpNet, IpAddr)]) {
    let mut handle = Handle::open().unwrap();
    handle.set_up(link).unwrap();
    let index = handle.index(link).unwrap();
    addresses.iter().for_each(|net| handle.replace_address(index, *net).unwrap());
    for (to, via) in routes {
        let hops = vec![NextHop { via: Some(*via), link: index, onlink: false, weight: 1 }];
        handle.replace_route(&Route { hops, ..Route::on_link(*to, index) }).unwrap();
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        let [node, pod_a, pod_b, far] = [(); 4].map(|()| netns::create().unwrap());
        let [far4, far6]: [IpAddr; 2] = ["192.0.2.9", "2001:db8::9"].map(|ip| ip.parse().unwrap());
        within(&node, || {
            sysctl::forward().unwrap();
            let mut handle = Handle::open().unwrap();
            let peer = NewLink { netns: Some(far.as_fd()), ..NewLink::named("eth0") };
            handle.add_veth(&NewLink::named("uplink"), &peer).unwrap();
            let [all4, all6] = nets(["0.0.0.0/0", "::/0"]);
            configure("uplink", &nets(["192.0.2.1/24", "2001:db8::1/64"]), &[(all4, far4), (all6, far6)]);
            for (key, namespace, last) in [("a", &pod_a, 2), ("b", &pod_b, 3)] {
                let both = |ip: fn(IpFamily, u8) -> IpAddr| {
                    DualStack::dual(IpFamily::V4, ip(IpFamily::V4, last), ip(IpFamily::V6, last))
                };
                let addresses = both(|family, last| endpoint_ip(family, 1, last));
                let node = Some(both(|family, _| node_ip(family)));
                pod::add(&mut handle, &PodLink { key, netns: namespace.as_fd(), addresses, node, mtu: 1400 })
                    .unwrap();
            }
        });
        within(&far, || {
            configure("lo", &nets(["10.244.2.2/32", "fd00:10:244:2::2/128"]), &[]);
            let [pods4, pods6] = nets(["10.244.1.0/24", "fd00:10:244:1::/64"]);
            let routes = [(pods4, node_ip(IpFamily::V4)), (pods6, node_ip(IpFamily::V6))];
            configure("eth0", &nets(["192.0.2.9/24", "2001:db8::9/64"]), &routes);
        });
        let mut lab = Self { node, pod_a, pod_b, far, stop: Arc::default(), servers: Vec::new() };
        for family in IpFamily::BOTH {
            for (node, last) in [(1, 2), (1, 3), (2, 2)] {
                lab.serve(node, last, SocketAddr::new(endpoint_ip(family, node, last), SERVER_PORT));
            }
        }
        lab
    }

    /// A server that tells its own address and its client's, and then says what it is told.
    fn serve(&mut self, node: u8, last: u8, at: SocketAddr) {
        let namespace = match (node, last) {
            (1, 2) => &self.pod_a,
            (1, _) => &self.pod_b,
            _ => &self.far,
        };
        let (tcp, udp) = within(namespace, || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let stop = self.stop.clone();
        self.servers.push(std::thread::spawn(move || {
            let mut open = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                while let Ok((mut stream, peer)) = tcp.accept() {
                    // A client that is gone already has its reasons.
                    let _ = stream.write_all(format!("{} {}\n", at.ip(), peer.ip()).as_bytes());
                    stream.set_nonblocking(true).unwrap();
                    open.push(stream);
                }
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
                    let _ = udp.send_to(format!("{} {}", at.ip(), peer.ip()).as_bytes(), peer);
                }
            }
        }));
    }

    /// The links of the pods, as the agent tells them.
    pub(super) fn pods(&self) -> BTreeMap<IpAddr, u32> {
        let links = within(&self.node, || pod::list(&mut Handle::open().unwrap()).unwrap());
        links.iter().flat_map(|link| link.addresses.iter().map(|ip| (*ip, link.index))).collect()
    }

    /// Whether the node's stack forwards packets between links: without, only what is redirected gets through.
    pub(super) fn set_forwarding(&self, on: bool) {
        within(&self.node, || {
            for path in ["net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"] {
                sysctl::write(path, if on { "1" } else { "0" }).unwrap();
            }
        });
    }

    /// nftables with a program, as it always runs beside.
    pub(super) fn backstop(&self, program: &Program) {
        within(&self.node, || dyad_nft::Executor::open().unwrap().apply(program).unwrap());
    }

    /// An executor in the node's namespace that knows the node's addresses and has applied a program.
    pub(super) fn executor(&self, cgroup: &cgroup::Cgroup, program: &Program) -> Executor {
        within(&self.node, || {
            let mut executor = Executor::open(cgroup.path()).unwrap();
            executor.set_node_addresses(&IpFamily::BOTH.map(node_ip).into()).unwrap();
            executor.apply(program).unwrap();
            executor
        })
    }
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
