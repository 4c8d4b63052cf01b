//! Running connections follow the program as far as they should, with real packets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use dyad_program::{Endpoint, Frontend};

use super::lab::{Lab, Who};
use super::*;
use crate::Executor;
use crate::conntrack::{Conntrack, Expected, Flow, Report};
use crate::layout::DENIED_MARK;

/// What must not come is not waited for longer.
const SILENCE: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(5);

fn vip(family: IpFamily) -> SocketAddr {
    let text = match family {
        IpFamily::V4 => "10.96.0.1",
        IpFamily::V6 => "fd00:10:96::1",
    };
    SocketAddr::new(text.parse().unwrap(), 80)
}

/// The program of a Service whose endpoints are these pods.
fn program(endpoints: &[Who]) -> Program {
    let slices = IpFamily::BOTH.map(|family| {
        let ips: Vec<_> = endpoints.iter().map(|who| Lab::source(*who, family).to_string()).collect();
        let ips: Vec<_> = ips.iter().map(|ip| (ip.as_str(), "node1")).collect();
        slice("one", &ips)
    });
    let slices: Vec<_> = slices.into_iter().filter(|_| !endpoints.is_empty()).collect();
    let external = json!({"externalIPs": ["203.0.113.7", "2001:db8:113::7"]});
    compile(&inputs(&[service("one", 1, external)], &slices))
}

fn no_services() -> Program {
    compile(&inputs(&[], &[]))
}

fn node_addresses() -> BTreeSet<IpAddr> {
    ips(["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"])
}

fn reconcile_with(
    conntrack: &mut Conntrack,
    program: &Program,
    serves: &dyn Fn(IpFamily, Frontend, Endpoint) -> bool,
) -> BTreeMap<IpFamily, Report> {
    let node_addresses = node_addresses();
    conntrack.reconcile(&Expected { program, node_addresses: &node_addresses, serves }).unwrap()
}

fn reconcile(conntrack: &mut Conntrack, program: &Program) -> BTreeMap<IpFamily, Report> {
    reconcile_with(conntrack, program, &|_, _, _| false)
}

/// What was done in each family, all in all.
fn done(reports: &BTreeMap<IpFamily, Report>) -> BTreeMap<IpFamily, [usize; 3]> {
    reports.iter().map(|(family, done)| (*family, [done.deleted, done.denied, done.admitted])).collect()
}

fn both(each: [usize; 3]) -> BTreeMap<IpFamily, [usize; 3]> {
    IpFamily::BOTH.map(|family| (family, each)).into()
}

fn socket(lab: &Lab, who: Who, to: SocketAddr) -> UdpSocket {
    within(lab.namespace(who), || {
        let socket = UdpSocket::bind(SocketAddr::new(Lab::source(who, to.ip().into()), 0)).unwrap();
        socket.connect(to).unwrap();
        socket
    })
}

/// Who answers; `None` if nobody does, or if it is refused.
fn ask(socket: &UdpSocket, patience: Duration) -> Option<IpAddr> {
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(b"who?").ok()?;
    let mut bytes = [0; 128];
    let length = socket.recv(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    Some(text.split(' ').next().unwrap().parse().unwrap())
}

/// Whether what is sent comes back. What came late and what was sent again counts, too.
fn echoes(stream: &mut TcpStream, patience: Duration) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    match stream.read_exact(&mut bytes) {
        Ok(()) => true,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}

fn flows(conntrack: &mut Conntrack, family: IpFamily) -> Vec<Flow> {
    let mut all = Vec::new();
    conntrack.flows(family, |flow| all.push(*flow)).unwrap();
    all
}

#[test]
fn connections_are_listed_as_they_are() {
    if !privileged("conntrack::connections_are_listed_as_they_are") {
        return;
    }
    let lab = Lab::new();
    within(&lab.node, || Executor::open().unwrap().apply(&program(&[Who::PodA])).unwrap());
    let mut conntrack = within(&lab.node, || Conntrack::open().unwrap());
    for family in IpFamily::BOTH {
        let datagrams = socket(&lab, Who::Client, vip(family));
        assert_eq!(ask(&datagrams, PATIENCE), Some(Lab::source(Who::PodA, family)));
        let stream = lab.connect(Who::PodB, vip(family));
        let all = flows(&mut conntrack, family);
        for (protocol, local) in [(17, datagrams.local_addr().unwrap()), (6, stream.local_addr().unwrap())] {
            let mut found = all.iter().filter(|flow| {
                flow.original.protocol == protocol && flow.original.source_port() == Some(local)
            });
            let flow = found.next().unwrap_or_else(|| panic!("{local} in {all:?}"));
            assert_eq!(found.next(), None);
            assert_eq!(flow.original.destination_port(), Some(vip(family)));
            let pod = SocketAddr::new(Lab::source(Who::PodA, family), 8080);
            assert_eq!(flow.reply.source_port(), Some(pod));
            assert!(flow.is_running() && flow.is_answered() && flow.is_translated());
            assert_eq!((flow.zone, flow.mark), (0, 0));
        }
        let of_family = |flow: &&Flow| IpFamily::from(flow.original.source) == family;
        assert_eq!(all.iter().filter(of_family).count(), all.len());
    }
}

#[test]
fn stale_udp_is_forgotten_and_nothing_else() {
    if !privileged("conntrack::stale_udp_is_forgotten_and_nothing_else") {
        return;
    }
    let lab = Lab::new();
    let (before, after) = (program(&[Who::PodA]), program(&[Who::PodB]));
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    executor.apply(&before).unwrap();
    let mut conntrack = within(&lab.node, || Conntrack::open().unwrap());
    let mut clients = Vec::new();
    for family in IpFamily::BOTH {
        let external: IpAddr = match family {
            IpFamily::V4 => "203.0.113.7".parse().unwrap(),
            IpFamily::V6 => "2001:db8:113::7".parse().unwrap(),
        };
        let targets = [
            vip(family),
            SocketAddr::new(Lab::source(Who::Node, family), 30001),
            SocketAddr::new(external, 80),
        ];
        for who in [Who::PodB, Who::Node, Who::Client] {
            for to in targets {
                let client = socket(&lab, who, to);
                assert_eq!(ask(&client, PATIENCE), Some(Lab::source(Who::PodA, family)), "{who:?} to {to}");
                clients.push((format!("{who:?} to {to}"), family, client, lab.connect(who, to)));
            }
        }
    }
    let each = clients.len() / 2;
    assert_eq!(done(&reconcile(&mut conntrack, &before)), both([0, 0, 0]), "all is well");

    executor.apply(&after).unwrap();
    for (what, family, client, _) in &clients {
        let old = Lab::source(Who::PodA, *family);
        assert_eq!(ask(client, PATIENCE), Some(old), "{what}: the kernel does nothing by itself");
    }
    let terminating =
        |_, _, to: Endpoint| IpFamily::BOTH.map(|of| Lab::source(Who::PodA, of)).contains(&to.ip);
    let kept = reconcile_with(&mut conntrack, &after, &terminating);
    assert_eq!(done(&kept), both([0, 0, 0]), "an endpoint that terminates keeps what it has");
    assert_eq!(done(&reconcile(&mut conntrack, &after)), both([each, 0, 0]), "until it has gone");
    for (what, family, client, stream) in &mut clients {
        assert_eq!(ask(client, PATIENCE), Some(Lab::source(Who::PodB, *family)), "{what}");
        assert!(echoes(stream, PATIENCE), "{what}: TCP ends by itself");
    }
    assert_eq!(done(&reconcile(&mut conntrack, &after)), both([0, 0, 0]), "once is enough");

    // No endpoint: refused. No Service: whoever has no other way than to a cluster IP is refused as well.
    let none = program(&[]);
    executor.apply(&none).unwrap();
    assert_eq!(done(&reconcile(&mut conntrack, &none)), both([each, 0, 0]));
    for (what, _, client, stream) in &mut clients {
        assert_eq!(ask(client, SILENCE), None, "{what}");
        assert!(echoes(stream, PATIENCE), "{what}");
    }
}

#[test]
fn what_was_ours_is_forgotten_when_its_frontend_goes() {
    if !privileged("conntrack::what_was_ours_is_forgotten_when_its_frontend_goes") {
        return;
    }
    let lab = Lab::new();
    let (before, after) = (program(&[Who::PodA]), no_services());
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    executor.apply(&before).unwrap();
    let clients: Vec<_> = IpFamily::BOTH
        .into_iter()
        .flat_map(|family| {
            [(Who::PodB, vip(family)), (Who::Client, SocketAddr::new(Lab::source(Who::Node, family), 30001))]
        })
        .map(|(who, to)| socket(&lab, who, to))
        .collect();
    assert!(clients.iter().all(|client| ask(client, PATIENCE).is_some()));
    executor.apply(&after).unwrap();
    // One that starts now does not know whose node ports those were; but cluster IPs are ours in any case.
    let mut successor = within(&lab.node, || Conntrack::open().unwrap());
    assert_eq!(done(&reconcile(&mut successor, &after)), both([1, 0, 0]));
    let mut informed = within(&lab.node, || Conntrack::open().unwrap());
    informed.remember(&before);
    assert_eq!(done(&reconcile(&mut informed, &after)), both([1, 0, 0]));
    assert!(clients.iter().all(|client| ask(client, SILENCE).is_none()));
}

#[test]
fn flows_from_before_a_node_port_find_it() {
    if !privileged("conntrack::flows_from_before_a_node_port_find_it") {
        return;
    }
    let lab = Lab::new();
    let (before, after) = (no_services(), program(&[Who::PodA]));
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    executor.apply(&before).unwrap();
    let mut conntrack = within(&lab.node, || Conntrack::open().unwrap());
    for family in IpFamily::BOTH {
        let to = SocketAddr::new(Lab::source(Who::Node, family), 30001);
        // Somebody reads there, so that nothing is refused and the flow lives on.
        let server = within(&lab.node, || UdpSocket::bind(to).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = socket(&lab, Who::Client, to);
        client.send(b"who?").unwrap();
        server.recv_from(&mut [0; 8]).unwrap();
        executor.apply(&after).unwrap();
        client.send(b"who?").unwrap();
        server.recv_from(&mut [0; 8]).expect("the kernel does nothing by itself");
        assert_eq!(reconcile(&mut conntrack, &after)[&family].deleted, 1);
        assert_eq!(ask(&client, PATIENCE), Some(Lab::source(Who::PodA, family)));
        executor.apply(&before).unwrap();
        reconcile(&mut conntrack, &before);
    }
}

#[test]
fn policy_reaches_running_connections() {
    if !privileged("conntrack::policy_reaches_running_connections") {
        return;
    }
    let lab = Lab::new();
    let open = program(&[Who::PodA]);
    // Pod A takes nothing from anybody.
    let mut closed = open.clone();
    for (family, table) in closed.iter_mut() {
        let nobody = Id::of("nobody");
        let rule = Rule {
            direction: Direction::Ingress,
            peers: Peers::Any,
            ports: Ports::Any,
            decision: Decision::Deny,
            because: "a test".into(),
        };
        table.insert(Entry::Chain(nobody, [rule].into()));
        table.insert(Entry::Isolated(Direction::Ingress, Lab::source(Who::PodA, family), nobody));
    }
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    executor.apply(&open).unwrap();
    let mut conntrack = within(&lab.node, || Conntrack::open().unwrap());
    let mut clients = Vec::new();
    for family in IpFamily::BOTH {
        for who in [Who::PodB, Who::Client] {
            let client = (socket(&lab, who, vip(family)), lab.connect(who, vip(family)));
            assert!(ask(&client.0, PATIENCE).is_some());
            clients.push((format!("{who:?} to {}", vip(family)), client));
        }
    }
    // The node itself always may (H11); and what a pod sends is not what comes to it.
    let mut host = IpFamily::BOTH.map(|family| lab.connect(Who::Node, vip(family)));
    let mut outwards = IpFamily::BOTH
        .map(|family| lab.connect(Who::PodA, SocketAddr::new(Lab::source(Who::PodB, family), 8080)));

    executor.apply(&closed).unwrap();
    assert_eq!(done(&reconcile(&mut conntrack, &closed)), both([0, 4, 0]));
    assert_eq!(done(&reconcile(&mut conntrack, &closed)), both([0, 0, 0]), "once is enough");
    for (what, (datagrams, stream)) in &mut clients {
        assert_eq!(ask(datagrams, SILENCE), None, "{what}");
        assert!(!echoes(stream, SILENCE), "{what}");
    }
    assert!(host.iter_mut().chain(&mut outwards).all(|stream| echoes(stream, PATIENCE)));
    let marked = |conntrack: &mut Conntrack| {
        let all = IpFamily::BOTH.map(|family| flows(conntrack, family));
        all.iter().flatten().filter(|flow| flow.mark & DENIED_MARK != 0).count()
    };
    assert_eq!(marked(&mut conntrack), 8);

    // The last policy goes: there is nothing to judge any more, but what was denied comes back.
    executor.apply(&open).unwrap();
    assert_eq!(done(&reconcile(&mut conntrack, &open)), both([0, 0, 4]));
    assert_eq!(marked(&mut conntrack), 0);
    for (what, (datagrams, stream)) in &mut clients {
        assert!(ask(datagrams, PATIENCE).is_some(), "{what}");
        assert!(echoes(stream, PATIENCE), "{what}");
    }
}
