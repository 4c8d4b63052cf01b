//! Real namespaces, links and packets. Every test makes its own namespaces and leaves nothing; without root a test
//! runs itself again inside a user namespace.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use dyad_net::{DualStack, IpFamily, IpNet};

use crate::pod::{self, PodLink};
use crate::{
    Handle, Limits, LinkChange, Mac, Neighbour, NewLink, OURS, Rate, Route, RouteKind, netns, sysctl,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether this process may make namespaces; if not, the test `name` has been run by one that may.
fn privileged(name: &str) -> bool {
    if netns::create().is_ok() {
        return true;
    }
    run_in_user_namespace(name);
    false
}

fn run_in_user_namespace(name: &str) {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::{name}"), "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in a user namespace: {text}{problem}"
    );
}

fn node_addresses() -> DualStack<IpAddr> {
    DualStack::dual(IpFamily::V4, "192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap())
}

/// A namespace that forwards and has an address of each family.
fn node() -> OwnedFd {
    let namespace = netns::create().unwrap();
    netns::within(namespace.as_fd(), || {
        sysctl::forward().unwrap();
        let mut handle = Handle::open().unwrap();
        handle.add_veth(&NewLink::named("uplink"), &NewLink::named("other")).unwrap();
        handle.set_up("uplink").unwrap();
        handle.set_up("other").unwrap();
        let uplink = handle.index("uplink").unwrap();
        for (_, &ip) in node_addresses().iter() {
            handle.replace_address(uplink, ip.into()).unwrap();
        }
    })
    .unwrap();
    namespace
}

fn addresses(last: u8) -> DualStack<IpAddr> {
    let v6: IpAddr = format!("fd00:10:244:1::{last:x}").parse().unwrap();
    DualStack::dual(IpFamily::V4, IpAddr::from([10, 244, 1, last]), v6)
}

fn link<'a>(key: &'a str, netns: &'a OwnedFd, last: u8) -> PodLink<'a> {
    PodLink { key, netns: netns.as_fd(), addresses: addresses(last), node: Some(node_addresses()), mtu: 1400 }
}

/// One TCP and one UDP exchange from `client` to `ip` in `server`; the address the server saw.
fn talk(client: &OwnedFd, server: &OwnedFd, ip: IpAddr) -> IpAddr {
    let (tcp, udp) = netns::within(server.as_fd(), || {
        (TcpListener::bind((ip, 0)).unwrap(), UdpSocket::bind((ip, 0)).unwrap())
    })
    .unwrap();
    let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    netns::within(client.as_fd(), move || {
        let mut stream = TcpStream::connect_timeout(&tcp_at, TIMEOUT).unwrap();
        stream.write_all(b"ask").unwrap();
        let (mut accepted, peer) = tcp.accept().unwrap();
        let mut asked = [0; 3];
        accepted.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"ask");

        let any: IpAddr = crate::wire::unspecified(IpFamily::from(ip));
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
        socket.send_to(b"datagram", udp_at).unwrap();
        udp.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (length, _) = udp.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(length, 8);
        peer.ip()
    })
    .unwrap()
}

#[test]
fn pods_reach_each_other_and_the_node_in_both_families_at_once() {
    if !privileged("pods_reach_each_other_and_the_node_in_both_families_at_once") {
        return;
    }
    let (node, a, b) = (node(), netns::create().unwrap(), netns::create().unwrap());
    let mut handle = Handle::open_in(node.as_fd()).unwrap();
    pod::add(&mut handle, &link("a", &a, 5)).unwrap();
    pod::add(&mut handle, &link("b", &b, 6)).unwrap();
    for family in IpFamily::BOTH {
        let [pod_a, pod_b] = [5, 6].map(|last| *addresses(last).get(family).unwrap());
        let node_ip = *node_addresses().get(family).unwrap();
        assert_eq!(talk(&a, &b, pod_b), pod_a, "pod to pod, {family}");
        assert_eq!(talk(&node, &b, pod_b), node_ip, "node to pod, {family}");
        assert_eq!(talk(&b, &node, node_ip), pod_b, "pod to node, {family}");
        assert_eq!(talk(&a, &a, pod_a), pod_a, "pod to itself, {family}");
    }
    let unusable: Vec<_> = netns::within(a.as_fd(), || Handle::open().unwrap().addresses().unwrap())
        .unwrap()
        .into_iter()
        .filter(|address| address.is_unusable())
        .collect();
    assert_eq!(unusable, [], "no address waits for duplicate address detection");
}

#[test]
fn pods_work_in_a_user_namespace() {
    let allowed = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this machine does not allow user namespaces");
        return;
    }
    run_in_user_namespace("pods_reach_each_other_and_the_node_in_both_families_at_once");
}

#[test]
fn adding_a_pod_again_changes_nothing_and_deleting_leaves_nothing() {
    if !privileged("adding_a_pod_again_changes_nothing_and_deleting_leaves_nothing") {
        return;
    }
    let (node, netns_a) = (node(), netns::create().unwrap());
    let mut handle = Handle::open_in(node.as_fd()).unwrap();
    let before = handle.links().unwrap();
    pod::add(&mut handle, &link("ns/a/uid", &netns_a, 5)).unwrap();
    let links = handle.links().unwrap();
    pod::add(&mut handle, &link("ns/a/uid", &netns_a, 5)).unwrap();
    assert_eq!(handle.links().unwrap(), links);

    let [existing] = pod::list(&mut handle).unwrap().try_into().unwrap();
    assert_eq!((&*existing.key, &existing.name), ("ns/a/uid", &pod::name("ns/a/uid")));
    for (_, ip) in addresses(5).iter() {
        assert!(existing.addresses.contains(ip));
    }

    // The namespace of a pod that is started again is another one.
    let again = netns::create().unwrap();
    pod::add(&mut handle, &link("ns/a/uid", &again, 5)).unwrap();
    assert_eq!(talk(&node, &again, *addresses(5).primary()), *node_addresses().primary());

    pod::del(&mut handle, "ns/a/uid").unwrap();
    assert_eq!(pod::list(&mut handle).unwrap(), []);
    assert_eq!(handle.routes(OURS).unwrap(), [], "routes go at once");
    pod::reap(&mut handle).unwrap();
    pod::reap(&mut handle).unwrap();
    pod::del(&mut handle, "ns/a/uid").unwrap();
    assert_eq!(handle.links().unwrap(), before);
}

/// How many of 20 packets of 1,000 bytes, sent at once, come through.
fn burst(client: &OwnedFd, server: &OwnedFd, ip: IpAddr) -> usize {
    let listener = netns::within(server.as_fd(), || UdpSocket::bind((ip, 9)).unwrap()).unwrap();
    listener.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let unspecified: IpAddr = if ip.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let sender = netns::within(client.as_fd(), || UdpSocket::bind((unspecified, 0)).unwrap()).unwrap();
    for _ in 0..20 {
        sender.send_to(&[0; 1000], (ip, 9)).unwrap();
    }
    std::iter::from_fn(|| listener.recv_from(&mut [0; 1000]).ok()).take(20).count()
}

#[test]
fn a_pod_is_limited_in_the_direction_that_is_asked_for() {
    if !privileged("a_pod_is_limited_in_the_direction_that_is_asked_for") {
        return;
    }
    let (node, netns_a) = (node(), netns::create().unwrap());
    let mut handle = Handle::open_in(node.as_fd()).unwrap();
    let before = handle.links().unwrap();
    let ips: Vec<IpAddr> = addresses(5).iter().map(|(_, ip)| *ip).collect();
    // Packets beyond those that go at once are dropped.
    let rate = Some(Rate { bytes: 1000, burst: 5000 });
    let cases =
        [(rate, None), (None, rate), (rate, rate)].map(|(ingress, egress)| Limits { ingress, egress });
    for (limits, ip) in cases.iter().flat_map(|limits| ips.iter().map(move |ip| (limits, *ip))) {
        pod::add(&mut handle, &link("pod", &netns_a, 5)).unwrap();
        assert!(!pod::list(&mut handle).unwrap()[0].is_limited);
        // What is there already is replaced, and not added to.
        for _ in 0..2 {
            match pod::limit(&mut handle, "pod", limits) {
                Err(error) if error.is_unsupported() => {
                    eprintln!("SKIPPED: this kernel has no tbf or no ifb that may be used here: {error}");
                    return;
                }
                other => other.unwrap(),
            }
            assert!(pod::list(&mut handle).unwrap()[0].is_limited);
        }
        let of_node = *node_addresses().get(ip.into()).unwrap();
        let (taken, sent) = (burst(&node, &netns_a, ip), burst(&netns_a, &node, of_node));
        assert_eq!(taken < 15, limits.ingress.is_some(), "{taken} packets of 20 to {ip}");
        assert_eq!(sent < 15, limits.egress.is_some(), "{sent} packets of 20 from {ip}");
        assert!(taken > 1 && sent > 1, "some of each come through: {taken}, {sent}");
        pod::del(&mut handle, "pod").unwrap();
        pod::reap(&mut handle).unwrap();
        assert_eq!(handle.links().unwrap(), before);
    }

    // A namespace that goes by itself takes its link along, and leaves what belongs to it.
    pod::add(&mut handle, &link("pod", &netns_a, 5)).unwrap();
    pod::limit(&mut handle, "pod", &Limits { ingress: rate, egress: rate }).unwrap();
    pod::sweep(&mut handle).unwrap();
    assert_eq!(handle.links().unwrap().len(), before.len() + 2, "both are in use");
    handle.delete_link(&pod::name("pod")).unwrap();
    pod::sweep(&mut handle).unwrap();
    assert_eq!(handle.links().unwrap(), before);
}

#[test]
fn a_hundred_pod_links_come_and_go_together() {
    if !privileged("a_hundred_pod_links_come_and_go_together") {
        return;
    }
    let node = node();
    let mut handle = Handle::open_in(node.as_fd()).unwrap();
    let mut spent = Vec::new();
    let mut namespaces = Vec::new();
    for last in 1..=100 {
        let start = Instant::now();
        let namespace = netns::create().unwrap();
        let made = start.elapsed();
        let key = format!("pod-{last}");
        pod::add(&mut handle, &link(&key, &namespace, last)).unwrap();
        spent.push((start.elapsed() - made, made));
        namespaces.push(namespace);
    }
    spent.sort();
    let start = Instant::now();
    for last in 1..=100 {
        pod::del(&mut handle, &format!("pod-{last}")).unwrap();
    }
    let deleted = start.elapsed();
    pod::reap(&mut handle).unwrap();
    let reaped = start.elapsed() - deleted;
    println!(
        "add p50 {:?} p99 {:?} (namespace {:?}); 100 deleted in {deleted:?}, reaped in {reaped:?}",
        spent[50].0, spent[98].0, spent[50].1
    );
    assert_eq!(handle.links().unwrap().len(), 3, "loopback and the two ends of the uplink");
}

#[test]
fn routes_are_listed_as_they_were_set() {
    if !privileged("routes_are_listed_as_they_were_set") {
        return;
    }
    let node = node();
    let mut handle = Handle::open_in(node.as_fd()).unwrap();
    let (uplink, other) = (handle.index("uplink").unwrap(), handle.index("other").unwrap());
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let mut many = Route::via(net("10.244.7.0/24"), ip("192.0.2.7"), uplink).onlink();
    let mut many6 = Route::via(net("fd00:10:244:7::/64"), ip("2001:db8::7"), uplink).onlink();
    for (route, second) in [(&mut many, "192.0.2.8"), (&mut many6, "2001:db8::8")] {
        let mut hop = route.hops[0].clone();
        (hop.via, hop.link, hop.weight) = (Some(ip(second)), other, 3);
        route.hops.push(hop);
    }
    let mut table = Route::on_link(net("10.9.0.0/16"), other);
    (table.table, table.metric, table.mtu) = (1000, 7, 1300);
    #[rustfmt::skip]
    let mut want = vec![
        Route::on_link(net("10.244.1.0/24"), uplink).from_source(Some(ip("192.0.2.1"))),
        Route::on_link(net("fd00:10:244:1::/64"), uplink).from_source(Some(ip("2001:db8::1"))),
        Route::via(net("0.0.0.0/0"), ip("192.0.2.254"), uplink).onlink(),
        Route::via(net("::/0"), ip("fe80::254"), uplink),
        Route::via(net("10.244.2.0/24"), ip("fe80::2"), uplink),
        Route::refusing(net("10.244.0.0/16"), RouteKind::Unreachable),
        Route::refusing(net("10.250.0.0/16"), RouteKind::Blackhole),
        many, many6, table,
    ];
    for _ in 0..2 {
        for route in &want {
            handle.replace_route(route).unwrap();
        }
    }
    let mut have = handle.routes(OURS).unwrap();
    have.sort();
    want.sort();
    assert_eq!(have, want);
    // What others added is not ours to list or delete.
    assert!(handle.all_routes().unwrap().len() > want.len());
    for route in want.iter().chain(&want) {
        handle.delete_route(route).unwrap();
    }
    assert_eq!(handle.routes(OURS).unwrap(), []);

    let missing = Route::on_link(net("10.1.0.0/16"), 999);
    let text = handle.replace_route(&missing).unwrap_err().to_string();
    assert!(text.starts_with("adding route 10.1.0.0/16"), "{text}");
}

#[test]
fn a_bridge_joins_namespaces() {
    if !privileged("a_bridge_joins_namespaces") {
        return;
    }
    let (fabric, a, b) = (netns::create().unwrap(), netns::create().unwrap(), netns::create().unwrap());
    let mut handle = Handle::open_in(fabric.as_fd()).unwrap();
    handle.add_bridge(&NewLink::named("fabric")).unwrap();
    handle.set_up("fabric").unwrap();
    let bridge = handle.index("fabric").unwrap();
    for (port, namespace, last) in [("to-a", &a, 1), ("to-b", &b, 2)] {
        let far = NewLink {
            netns: Some(namespace.as_fd()),
            mac: Some(Mac([2, 0, 0, 0, 0, last])),
            ..NewLink::named("up0")
        };
        handle.add_veth(&NewLink::named(port), &far).unwrap();
        let index = handle.index(port).unwrap();
        let change =
            LinkChange { up: Some(true), master: Some(bridge), alias: Some(port), ..LinkChange::default() };
        handle.change_link(index, &change).unwrap();
        let mut inside = Handle::open_in(namespace.as_fd()).unwrap();
        inside.set_up("up0").unwrap();
        let up0 = inside.index("up0").unwrap();
        inside.replace_address(up0, format!("192.0.2.{last}/24").parse().unwrap()).unwrap();
        inside.replace_address(up0, format!("2001:db8::{last}/64").parse().unwrap()).unwrap();
    }
    for ip in ["192.0.2.2", "2001:db8::2"] {
        talk(&a, &b, ip.parse().unwrap());
    }
    let port = handle.link("to-a").unwrap().unwrap();
    assert_eq!(
        (port.kind.as_deref(), port.master, port.alias.as_deref()),
        (Some("veth"), Some(bridge), Some("to-a"))
    );
    assert!(port.up && port.carrier);
    handle.delete_link("to-a").unwrap();
    handle.delete_link("to-a").unwrap();
    assert_eq!(Handle::open_in(a.as_fd()).unwrap().link("up0").unwrap(), None, "both ends go");
    assert!(handle.delete_group(0).is_err(), "that would be every link");

    let neighbour =
        Neighbour { link: bridge, ip: "192.0.2.9".parse().unwrap(), mac: Mac([2, 0, 0, 0, 0, 9]) };
    handle.replace_neighbour(&neighbour).unwrap();
    assert_eq!(handle.neighbours().unwrap(), std::slice::from_ref(&neighbour));
    handle.delete_neighbour(&neighbour).unwrap();
    handle.delete_neighbour(&neighbour).unwrap();
    assert_eq!(handle.neighbours().unwrap(), []);
}

/// Mounts in a mount namespace of its own, in a process of its own: the test's threads share theirs.
#[test]
fn a_named_namespace_is_found_by_its_name_until_it_is_deleted() {
    const NAME: &str = "a_named_namespace_is_found_by_its_name_until_it_is_deleted";
    if std::env::var_os("DYAD_LINKS_PRIVATE_MOUNTS").is_none() {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let status = command
            .args(["--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("tests::{NAME}")])
            .env("DYAD_LINKS_PRIVATE_MOUNTS", "1")
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node-1");
    drop(netns::create_at(&path).unwrap());
    assert!(netns::create_at(&path).is_err(), "the name is taken");
    let named = netns::open(&path).unwrap();
    let lo = Handle::open_in(named.as_fd()).unwrap().link("lo").unwrap().unwrap();
    assert!(lo.up);
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    assert_ne!(inode(&named), inode(&netns::current().unwrap()), "the caller stays where it is");
    netns::delete(&path).unwrap();
    netns::delete(&path).unwrap();
    assert!(netns::open(&path).is_err());
}

#[test]
fn a_claimed_address_is_answered_for_and_never_a_source() {
    if !privileged("a_claimed_address_is_answered_for_and_never_a_source") {
        return;
    }
    let (node, pod) = (node(), netns::create().unwrap());
    let claimed: [IpAddr; 2] = ["10.96.0.10", "fd00:10:96::a"].map(|ip| ip.parse().unwrap());
    netns::within(node.as_fd(), || {
        let mut handle = Handle::open().unwrap();
        // A link without addresses of its own, as far as the kernel's choice goes.
        pod::add(&mut handle, &PodLink { node: None, ..link("a", &pod, 5) }).unwrap();
        let lo = handle.index("lo").unwrap();
        for ip in claimed {
            for _ in 0..2 {
                handle.claim_address(lo, ip).unwrap();
            }
            let found = handle.addresses().unwrap().into_iter().find(|found| found.net.addr() == ip).unwrap();
            assert_eq!((found.link, found.net, found.is_unusable()), (lo, ip.into(), false));
            // What a kernel before 5.18 does not keep.
            assert_eq!(found.protocol, OURS);
        }
        for (family, ip) in addresses(5).iter() {
            let socket = UdpSocket::bind((family.everything().addr(), 0)).unwrap();
            socket.connect((*ip, 53)).unwrap();
            let source = socket.local_addr().unwrap().ip();
            assert_eq!(Some(&source), node_addresses().get(family), "to {ip}");
        }
    })
    .unwrap();
    for ip in claimed {
        assert_eq!(talk(&pod, &node, ip), *addresses(5).get(ip.into()).unwrap());
    }
    netns::within(node.as_fd(), || {
        let mut handle = Handle::open().unwrap();
        let lo = handle.index("lo").unwrap();
        claimed.iter().for_each(|ip| handle.delete_address(lo, (*ip).into()).unwrap());
        assert!(handle.addresses().unwrap().iter().all(|address| address.protocol != OURS));
    })
    .unwrap();
}
