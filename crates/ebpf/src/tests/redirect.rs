//! From pod to pod without the node's stack. In most of these tests the stack forwards nothing, so that what arrives
//! can only have been redirected.

use dyad_program::Entry;
use dyad_program::Protocol;
use dyad_program::rule::{Direction, Id};

use super::cgroup::Cgroup;
use super::client::Client;
use super::lab::{Lab, within};
use super::*;

const POD_B: &[(u8, u8)] = &[(1, 3)];

fn pod_b(family: IpFamily) -> SocketAddr {
    SocketAddr::new(endpoint_ip(family, 1, 3), 8080)
}

/// The program, with pod b isolated.
fn isolated(program: &Program) -> Program {
    let mut isolated = program.clone();
    for (family, table) in isolated.iter_mut() {
        table.insert(Entry::Isolated(Direction::Ingress, endpoint_ip(family, 1, 3), Id::of("nobody")));
    }
    isolated
}

#[test]
fn between_pods_packets_need_no_stack() {
    if !permitted("redirect") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), POD_B), (service(2, json!({})), &[(2, 2)])]);
    let mut executor = lab.executor(&cgroup, &program);
    let report = within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    assert!(report.attached && report.changes == 4, "{report:?}");
    assert_eq!(within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap()), crate::Report::default());
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    for family in IpFamily::BOTH {
        // To other nodes packets go as ever.
        assert_eq!(client.connect(Protocol::Tcp, vip(family, 2)).unwrap().server, endpoint_ip(family, 2, 2));
    }
    assert_eq!(executor.counters().unwrap().redirected, 0);
    lab.set_forwarding(false);
    for family in IpFamily::BOTH {
        for to in [vip(family, 1), pod_b(family)] {
            client.open("long", to);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for _ in 0..20 {
                    let seen = client.connect(protocol, to).unwrap();
                    assert_eq!((seen.server, seen.peer), (endpoint_ip(family, 1, 3), to));
                }
            }
            assert_eq!(client.exchange(to).unwrap().server, endpoint_ip(family, 1, 3));
            client.echo("long").unwrap();
        }
    }
    assert!(executor.counters().unwrap().redirected > 4 * 20 * 6);
    // A pod that is left out is not reached.
    let only_a: BTreeMap<_, _> = lab
        .pods()
        .into_iter()
        .filter(|(ip, _)| IpFamily::BOTH.map(|of| endpoint_ip(of, 1, 2)).contains(ip))
        .collect();
    within(&lab.node, || executor.attach_pods(&only_a).unwrap());
    assert!(client.is_stuck("long"));
    lab.set_forwarding(true);
}

#[test]
fn isolated_pods_talk_through_the_stack_and_running_connections_are_handed_to_it() {
    if !permitted("isolated") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let open = program(&[(service(1, json!({})), POD_B)]);
    let closed = isolated(&open);
    let mut executor = lab.executor(&cgroup, &open);
    within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    for family in IpFamily::BOTH {
        client.open(&format!("running{family}"), vip(family, 1));
    }
    let ops: Vec<_> = IpFamily::BOTH
        .into_iter()
        .flat_map(|family| dyad_program::diff(family, open.get(family).unwrap(), closed.get(family).unwrap()))
        .collect();
    assert_eq!(within(&lab.node, || executor.update(&closed, &ops).unwrap()).changes, 2);
    for family in IpFamily::BOTH {
        // The answers of what runs are redirected, what the opener says is judged by the stack.
        client.echo(&format!("running{family}")).unwrap();
        let before = executor.counters().unwrap().redirected;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(client.connect(protocol, vip(family, 1)).unwrap().server, endpoint_ip(family, 1, 3));
        }
        assert_eq!(
            executor.counters().unwrap().redirected,
            before,
            "new ones go through the stack both ways"
        );
    }
    lab.set_forwarding(false);
    for family in IpFamily::BOTH {
        assert!(client.is_stuck(&format!("running{family}")), "it is the stack that lets the opener talk");
        assert!(client.is_silent(vip(family, 1)));
    }
    // Free again.
    within(&lab.node, || executor.apply(&open).unwrap());
    for family in IpFamily::BOTH {
        assert_eq!(client.connect(Protocol::Tcp, vip(family, 1)).unwrap().server, endpoint_ip(family, 1, 3));
    }
    lab.set_forwarding(true);
}

#[test]
fn what_nftables_has_translated_finds_its_way_back() {
    if !permitted("translated") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), POD_B)]);
    lab.backstop(&program);
    let mut executor = lab.executor(&cgroup, &program);
    within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    // Its sockets are not served, its link is: the hardest case.
    let mut client = Client::start(&lab.pod_a, None);
    for family in IpFamily::BOTH {
        for to in [vip(family, 1), SocketAddr::new(node_ip(family), 30001)] {
            let before = executor.counters().unwrap();
            client.open("long", to);
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for _ in 0..20 {
                    let seen = client.connect(protocol, to).unwrap();
                    assert_eq!((seen.server, seen.peer), (endpoint_ip(family, 1, 3), to));
                }
            }
            assert_eq!(client.exchange(to).unwrap().peer, to);
            client.echo("long").unwrap();
            assert_eq!(executor.counters().unwrap(), before, "all of it went through the stack");
        }
    }
    for family in IpFamily::BOTH {
        // The same socket, straight to the pod: whoever carries it, the answer is understood.
        assert_eq!(client.exchange(pod_b(family)).unwrap().peer, pod_b(family));
        assert_eq!(client.connect(Protocol::Tcp, pod_b(family)).unwrap().peer, pod_b(family));
    }
    assert!(executor.counters().unwrap().redirected > 0);
}

#[test]
fn connections_from_before_stay_with_the_stack() {
    if !permitted("before") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), POD_B)]);
    lab.backstop(&program);
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    for family in IpFamily::BOTH {
        client.open(&format!("translated{family}"), vip(family, 1));
        client.open(&format!("direct{family}"), pod_b(family));
    }
    let mut executor = lab.executor(&cgroup, &program);
    within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    for family in IpFamily::BOTH {
        client.echo(&format!("translated{family}")).unwrap();
        client.echo(&format!("direct{family}")).unwrap();
    }
    assert_eq!(executor.counters().unwrap().redirected, 0);
    // Programs away, connections stay.
    client.open("redirected", pod_b(IpFamily::V4));
    assert!(executor.counters().unwrap().redirected > 0);
    within(&lab.node, || executor.cleanup().unwrap());
    client.echo("redirected").unwrap();
    client.echo(&format!("translated{}", IpFamily::V4)).unwrap();
}
