//! What applications see.

use dyad_program::{Action, Entry, Frontend, Protocol, Scope, apply, diff};

use super::cgroup::Cgroup;
use super::client::Client;
use super::lab::{Lab, within};
use super::*;

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
/// Pod b, and the far pod.
const TWO: [(u8, u8); 2] = [(1, 3), (2, 2)];

/// What a dual-stack socket calls an IPv4 address.
fn mapped(of: SocketAddr) -> SocketAddr {
    match of.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), of.port()),
        IpAddr::V6(_) => of,
    }
}

#[test]
fn connections_and_datagrams_come_to_endpoints_and_look_as_if_from_the_service() {
    if !permitted("sockets") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), &TWO)]);
    let executor = lab.executor(&cgroup, &program);
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    for family in IpFamily::BOTH {
        let own = endpoint_ip(family, 1, 2);
        let expected = TWO.map(|(node, last)| endpoint_ip(family, node, last));
        let cluster = vip(family, 1);
        for to in [cluster, mapped(cluster), SocketAddr::new(node_ip(family), 30001)] {
            for protocol in BOTH {
                let mut seen = BTreeSet::new();
                for _ in 0..60 {
                    let answer = client.connect(protocol, to).unwrap();
                    assert_eq!(answer.peer, to, "{protocol:?}");
                    assert_eq!(answer.client, own, "no masquerade on the way");
                    seen.insert(answer.server);
                }
                assert_eq!(seen, expected.into(), "{protocol:?} {to}");
            }
            let first = client.exchange(to).unwrap();
            assert_eq!(first.peer, to);
            for _ in 0..10 {
                assert_eq!(client.exchange(to).unwrap(), first, "a socket keeps to its endpoint");
            }
        }
        // Straight to the endpoint nothing changes.
        let endpoint = SocketAddr::new(expected[0], 8080);
        assert_eq!(client.connect(Protocol::Tcp, endpoint).unwrap().peer, endpoint);
        assert_eq!(client.connect(Protocol::Udp, endpoint).unwrap().peer, endpoint);
    }
    let counted = executor.counters().unwrap();
    assert_eq!((counted.connections, counted.datagrams), (2 * 3 * 2 * 60, 2 * 3 * 11));
}

#[test]
fn what_is_not_served_here_is_left_as_it_is_and_nftables_serves_it() {
    if !permitted("backstop") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), &TWO[..1]), (service(2, json!({})), &[])]);
    lab.backstop(&program);
    let mut executor = lab.executor(&cgroup, &program);
    let (mut inside, mut outside) =
        (Client::start(&lab.pod_a, Some(&cgroup)), Client::start(&lab.pod_a, None));
    let mut empty = program.clone();
    for family in IpFamily::BOTH {
        let (to, endpoint) = (vip(family, 1), SocketAddr::new(endpoint_ip(family, 1, 3), 8080));
        assert_eq!(inside.route(to), endpoint);
        assert_eq!(outside.route(to), to, "not in the cgroup");
        assert_eq!(inside.connect(Protocol::Tcp, vip(family, 2)).unwrap_err(), "ConnectionRefused");
        assert_eq!(inside.route(vip(family, 2)), vip(family, 2), "refusals are for nftables");
        let ops = diff(family, program.get(family).unwrap(), &Default::default());
        apply(&mut empty, &ops);
        let mut guarded = program.get(family).unwrap().clone();
        guarded.insert(Entry::Guarded(Frontend::Address(to.ip(), Protocol::Udp, 80)));
        let ops = diff(family, program.get(family).unwrap(), &guarded);
        let mut changed = program.clone();
        apply(&mut changed, &ops);
        executor.update(&changed, &ops).unwrap();
        assert_eq!(inside.route(to), to, "who may come is for nftables to say");
        assert_holds(&executor, &changed);
        executor.apply(&program).unwrap();
    }
    let before = executor.counters().unwrap();
    for (client, with) in [(&mut outside, "outside of the cgroup"), (&mut inside, "with empty maps")] {
        for family in IpFamily::BOTH {
            for protocol in BOTH {
                let answer = client.connect(protocol, vip(family, 1)).unwrap();
                assert_eq!(answer.peer, vip(family, 1), "{with}");
                assert_eq!(answer.server, endpoint_ip(family, 1, 3), "{with}");
            }
            assert_eq!(client.exchange(vip(family, 1)).unwrap().server, endpoint_ip(family, 1, 3), "{with}");
        }
        executor.apply(&empty).unwrap();
    }
    assert_eq!(executor.counters().unwrap(), before);
}

#[test]
fn frontends_are_left_to_nftables_and_taken_back_while_sockets_are_used() {
    if !permitted("left") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), &TWO[..1])]);
    lab.backstop(&program);
    let mut executor = lab.executor(&cgroup, &program);
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    let left: BTreeSet<_> =
        IpFamily::BOTH.map(|family| Frontend::Address(vip(family, 1).ip(), Protocol::Udp, 80)).into();
    // Sockets without a connection, which are the same all the time; at first with nobody.
    let mut serves = |executor: &Executor, by_sockets: bool| {
        let before = executor.counters().unwrap().datagrams;
        for family in IpFamily::BOTH {
            let (to, endpoint) = (vip(family, 1), SocketAddr::new(endpoint_ip(family, 1, 3), 8080));
            assert_eq!(client.exchange(to).unwrap().server, endpoint.ip());
            assert_eq!(client.route(to), if by_sockets { endpoint } else { to });
            assert_eq!(client.connect(Protocol::Tcp, to).unwrap().server, endpoint.ip(), "TCP is another");
        }
        assert_eq!(executor.counters().unwrap().datagrams > before, by_sockets);
    };
    serves(&executor, true);
    for _ in 0..2 {
        // One that there is not is no matter.
        let unknown = Frontend::Address(vip(IpFamily::V4, 9).ip(), Protocol::Udp, 80);
        let all = left.iter().copied().chain([unknown]).collect();
        assert_eq!(executor.leave(&program, &all).unwrap().changes, 2 * 2, "frontends and their endpoints");
        assert_holds(&executor, &program);
        serves(&executor, false);
        // Changes of the Service leave it at that.
        let ops: Vec<_> =
            program.iter().flat_map(|(family, table)| diff(family, &Default::default(), table)).collect();
        executor.apply(&Program::single(IpFamily::V4, Default::default())).unwrap();
        executor.update(&program, &ops).unwrap();
        assert_holds(&executor, &program);
        serves(&executor, false);
        executor.leave(&program, &BTreeSet::new()).unwrap();
        assert_holds(&executor, &program);
        serves(&executor, true);
    }
    // An executor that comes later knows of nothing that is to be left.
    executor.leave(&program, &left).unwrap();
    let successor = lab.executor(&cgroup, &program);
    serves(&successor, true);
}

#[test]
fn sticky_clients_come_back_to_a_member_until_their_time_is_over() {
    if !permitted("affinity") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let many: Vec<(u8, u8)> = (10..40).map(|last| (2, last)).collect();
    let all = sticky(&program(&[(service(1, json!({})), &many)]), 3600);
    let mut executor = lab.executor(&cgroup, &all);
    let (mut a, mut b) = (Client::start(&lab.pod_a, Some(&cgroup)), Client::start(&lab.pod_b, Some(&cgroup)));
    for family in IpFamily::BOTH {
        let first = a.route(vip(family, 1));
        assert!((0..20).all(|_| a.route(vip(family, 1)) == first));
        // Another process of the pod is the same client.
        assert_eq!(Client::start(&lab.pod_a, Some(&cgroup)).route(vip(family, 1)), first);
        // Other endpoints may come and go.
        let IpAddr::V4(_) = first.ip() else { continue };
        let last =
            many.iter().position(|(node, last)| endpoint_ip(family, *node, *last) == first.ip()).unwrap();
        let half: Vec<_> =
            many.iter().copied().enumerate().filter(|(n, _)| n % 2 == last % 2).map(|(_, to)| to).collect();
        let fewer = sticky(&program(&[(service(1, json!({})), &half)]), 3600);
        executor.apply(&fewer).unwrap();
        assert_eq!(a.route(vip(family, 1)), first);
        let rest: Vec<_> = half.iter().copied().filter(|to| *to != many[last]).collect();
        executor.apply(&sticky(&program(&[(service(1, json!({})), &rest)]), 3600)).unwrap();
        let second = a.route(vip(family, 1));
        assert_ne!(second, first, "it is no member any more");
        executor.apply(&all).unwrap();
        assert_eq!(a.route(vip(family, 1)), second, "there it is a client now");
    }
    // Pods are different clients: that thirty endpoints are the same for both 8 times in a row does not happen.
    let differs = (1..9).any(|_| {
        let (of_a, of_b) = (a.route(vip(IpFamily::V4, 1)), b.route(vip(IpFamily::V4, 1)));
        (a, b) = (Client::start(&lab.pod_a, Some(&cgroup)), Client::start(&lab.pod_b, Some(&cgroup)));
        executor.cleanup().unwrap();
        executor.apply(&all).unwrap();
        of_a != of_b
    });
    assert!(differs);
    // After its second is over a client is as good as new.
    executor.apply(&sticky(&all, 1)).unwrap();
    let first = a.route(vip(IpFamily::V4, 1));
    assert!((0..20).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1050));
        a.route(vip(IpFamily::V4, 1)) != first
    }));
}

#[test]
fn a_sticky_frontend_that_nftables_takes_over_leaves_no_members_behind() {
    if !permitted("members") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let mut compiler = Compiler::new(node());
    let balancer = |ranges: Value| {
        let mut service = service(
            1,
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ranges}),
        );
        service["status"] =
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.8"}, {"ip": "2001:db8:113::8"}]}});
        service
    };
    hear(&mut compiler, &[balancer(json!([]))], &slices(1, &[(1, 3), (2, 2)]));
    compiler.step();
    let mut executor = lab.executor(&cgroup, compiler.program());
    for ranges in [json!(["10.244.1.0/24"]), json!([])] {
        hear(&mut compiler, &[balancer(ranges)], &[]);
        let ops = compiler.step();
        assert!(!ops.is_empty());
        within(&lab.node, || executor.update(compiler.program(), &ops).unwrap());
        assert_holds(&executor, compiler.program());
    }
}

#[test]
fn no_connection_fails_while_endpoints_change() {
    if !permitted("updates") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let mut compiler = Compiler::new(node());
    let sets: [&[(u8, u8)]; 4] = [&TWO[..1], &TWO, &[(1, 2), (1, 3), (2, 2)], &TWO[1..]];
    hear(&mut compiler, &[service(1, json!({}))], &slices(1, sets[0]));
    compiler.step();
    let mut executor = lab.executor(&cgroup, compiler.program());
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| {
            for round in 0..300 {
                for family in IpFamily::BOTH {
                    for protocol in BOTH {
                        let answer = client.connect(protocol, vip(family, 1));
                        answer.unwrap_or_else(|error| {
                            panic!("{error} in round {round}, {protocol:?} {family}")
                        });
                        assert_ne!(client.route(vip(family, 1)), vip(family, 1), "it is always forwarded");
                    }
                }
            }
        });
        let mut steps = 0;
        while !tries.is_finished() || steps < 100 {
            hear(&mut compiler, &[], &slices(1, sets[steps % sets.len()]));
            let ops = compiler.step();
            within(&lab.node, || executor.update(compiler.program(), &ops).unwrap());
            steps += 1;
        }
        tries.join().unwrap();
    });
    assert_holds(&executor, compiler.program());
}

#[test]
fn datagrams_of_a_socket_leave_an_endpoint_that_is_gone_and_no_other() {
    if !permitted("datagrams") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let mut executor = lab.executor(&cgroup, &program(&[(service(1, json!({})), &TWO)]));
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    for family in IpFamily::BOTH {
        executor.apply(&program(&[(service(1, json!({})), &TWO)])).unwrap();
        let first = client.exchange(vip(family, 1)).unwrap().server;
        let stays = TWO.into_iter().find(|(node, last)| endpoint_ip(family, *node, *last) == first).unwrap();
        // Before it in the list others come and go.
        executor.apply(&program(&[(service(1, json!({})), &[(1, 2), stays])])).unwrap();
        assert_eq!(client.exchange(vip(family, 1)).unwrap().server, first);
        executor.apply(&program(&[(service(1, json!({})), &[stays])])).unwrap();
        assert_eq!(client.exchange(vip(family, 1)).unwrap().server, first);
        let other = TWO.into_iter().find(|to| *to != stays).unwrap();
        executor.apply(&program(&[(service(1, json!({})), &[other])])).unwrap();
        assert_eq!(client.exchange(vip(family, 1)).unwrap().server, endpoint_ip(family, other.0, other.1));
    }
}

#[test]
fn connections_to_endpoints_that_are_gone_are_reset_if_they_went_through_a_service() {
    if !permitted("reset") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let program = program(&[(service(1, json!({})), &TWO[..1]), (service(2, json!({})), &TWO[1..])]);
    let executor = lab.executor(&cgroup, &program);
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    let mut gone = BTreeSet::new();
    for family in IpFamily::BOTH {
        let endpoint = SocketAddr::new(endpoint_ip(family, 1, 3), 8080);
        for (name, to) in [("service", vip(family, 1)), ("mapped", mapped(vip(family, 1)))] {
            client.open(&format!("{name}{family}"), to);
        }
        client.open(&format!("direct{family}"), endpoint);
        client.open(&format!("other{family}"), vip(family, 2));
        gone.insert(Endpoint { ip: endpoint.ip(), port: endpoint.port() });
    }
    assert_eq!(within(&lab.pod_b, || executor.reset_sockets(&gone).unwrap()), 0, "none there");
    assert_eq!(within(&lab.pod_a, || executor.reset_sockets(&gone).unwrap()), 4);
    assert_eq!(within(&lab.pod_a, || executor.reset_sockets(&gone).unwrap()), 0, "all done");
    for family in IpFamily::BOTH {
        for name in ["service", "mapped"] {
            let error = client.echo(&format!("{name}{family}")).unwrap_err();
            assert_eq!(error, "ConnectionAborted", "{name} {family}");
        }
        for name in ["direct", "other"] {
            client.echo(&format!("{name}{family}")).unwrap();
        }
    }
}

#[test]
fn a_frontend_without_scope_cluster_is_not_served() {
    if !permitted("scope") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let mut program = program(&[(service(1, json!({})), &TWO)]);
    for (_, table) in program.iter_mut() {
        let frontends: Vec<_> = table.frontends.keys().copied().collect();
        for (scope, at) in frontends {
            assert_eq!(scope, Scope::Cluster);
            table.frontends.remove(&(scope, at));
            table.insert(Entry::Frontend(Scope::Local, at, Action::forward(1)));
        }
    }
    let _executor = lab.executor(&cgroup, &program);
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    for family in IpFamily::BOTH {
        assert_eq!(client.route(vip(family, 1)), vip(family, 1));
    }
}
