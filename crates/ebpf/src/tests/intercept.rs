//! Sockets of pods and the interception of nftables, together.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dyad_links::Handle;
use dyad_nft::Interception;
use dyad_program::{Frontend, Protocol};

use super::cgroup::Cgroup;
use super::client::Client;
use super::lab::{Lab, within};
use super::*;

/// Ends the servers, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The cluster IP of the DNS Service.
fn dns(family: IpFamily) -> SocketAddr {
    SocketAddr::new(vip(family, 10).ip(), 53)
}

#[test]
fn queries_of_pods_come_to_the_node_while_it_intercepts_and_to_the_cluster_else() {
    if !permitted("interception") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let ports = json!([{"name": "udp", "protocol": "UDP", "port": 53, "targetPort": 8080}]);
    // A pod of this node, whose answers could be redirected past everything, and one of another.
    let program = program(&[(service(10, json!({"ports": ports})), &[(1, 3), (2, 2)])]);
    lab.backstop(&program);
    let mut executor = lab.executor(&cgroup, &program);
    within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    let servers = within(&lab.node, || {
        let mut handle = Handle::open().unwrap();
        let lo = handle.index("lo").unwrap();
        IpFamily::BOTH.map(|family| {
            handle.claim_address(lo, dns(family).ip()).unwrap();
            UdpSocket::bind(dns(family)).unwrap()
        })
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for socket in &servers {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            scope.spawn(|| {
                let ip = socket.local_addr().unwrap().ip();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                        socket.send_to(format!("{ip} {}", peer.ip()).as_bytes(), peer).unwrap();
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        let mut client = Client::start(&lab.pod_a, Some(&cgroup));
        let mut comes_to = |is_near: bool, when: &str| {
            for to in IpFamily::BOTH.map(dns) {
                // One socket for all, and a new one.
                for seen in [client.exchange(to), client.connect(Protocol::Udp, to)] {
                    let seen = seen.unwrap();
                    assert_eq!((seen.peer, seen.server == to.ip()), (to, is_near), "{when}");
                }
            }
        };
        let left = IpFamily::BOTH.map(|family| Frontend::Address(dns(family).ip(), Protocol::Udp, 53)).into();
        let addresses = IpFamily::BOTH.map(|family| dns(family).ip()).into();
        comes_to(false, "at first");
        for _ in 0..2 {
            let interception =
                within(&lab.node, || Interception::open(&addresses, &BTreeSet::new()).unwrap());
            comes_to(false, "before sockets are told");
            executor.leave(&program, &left).unwrap();
            comes_to(true, "intercepted");
            drop(interception);
            comes_to(false, "with the interception gone, and nobody to say so");
            executor.leave(&program, &BTreeSet::new()).unwrap();
            comes_to(false, "taken back");
        }
    });
}
