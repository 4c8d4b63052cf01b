//! Nobody notices when the agent goes, comes back, changes its mind about sizes, or is replaced by another version.

use std::sync::atomic::{AtomicBool, Ordering};

use dyad_program::Protocol;

use super::cgroup::Cgroup;
use super::client::Client;
use super::lab::{Lab, within};
use super::*;
use crate::Report;

const POD_B: &[(u8, u8)] = &[(1, 3)];

#[test]
fn a_new_executor_adopts_what_is_there_and_repairs_what_differs() {
    if !permitted("adoption") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let old = sticky(&program(&[(service(1, json!({})), POD_B), (service(2, json!({})), &[(2, 2)])]), 60);
    let new = program(&[(service(1, json!({})), POD_B), (service(3, json!({})), &[(1, 3), (2, 2)])]);
    let mut executor = lab.executor(&cgroup, &old);
    within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    drop(executor);
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    let endpoint = SocketAddr::new(endpoint_ip(IpFamily::V4, 1, 3), 8080);
    assert_eq!(client.route(vip(IpFamily::V4, 1)), endpoint, "programs outlive their executor");
    within(&lab.node, || {
        let mut successor = Executor::open(cgroup.path()).unwrap();
        successor.set_node_addresses(&IpFamily::BOTH.map(node_ip).into()).unwrap();
        assert_eq!(successor.apply(&old).unwrap(), Report::default(), "nothing to be done");
        assert_holds(&successor, &old);
        assert_eq!(successor.counters().unwrap().connections, 1);
        assert_eq!(successor.attach_pods(&lab.pods()).unwrap(), Report::default());

        let mut third = Executor::open(cgroup.path()).unwrap();
        third.set_node_addresses(&IpFamily::BOTH.map(node_ip).into()).unwrap();
        let report = third.apply(&new).unwrap();
        assert!(report.changes > 0 && !report.attached, "{report:?}");
        assert_holds(&third, &new);
        third.cleanup().unwrap();
        assert_eq!(client.route(vip(IpFamily::V4, 1)), vip(IpFamily::V4, 1), "not a trace of it");
        let report = Executor::open(cgroup.path()).unwrap().apply(&new).unwrap();
        assert!(report.attached);
    });
    assert_eq!(client.connect(Protocol::Tcp, vip(IpFamily::V4, 1)).unwrap().server, endpoint.ip());
}

#[test]
fn maps_grow_without_a_moment_without_service() {
    if !permitted("growth") {
        return;
    }
    let (lab, cgroup) = (Lab::new(), Cgroup::new());
    let mut compiler = Compiler::new(node());
    hear(&mut compiler, &[service(1, json!({}))], &slices(1, POD_B));
    compiler.step();
    let mut executor = lab.executor(&cgroup, compiler.program());
    within(&lab.node, || executor.attach_pods(&lab.pods()).unwrap());
    let mut client = Client::start(&lab.pod_a, Some(&cgroup));
    client.open("long", vip(IpFamily::V4, 1));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| {
            let endpoint = |family| SocketAddr::new(endpoint_ip(family, 1, 3), 8080);
            while !done.load(Ordering::Relaxed) {
                for family in IpFamily::BOTH {
                    assert_eq!(client.route(vip(family, 1)), endpoint(family));
                }
            }
            client.echo("long").unwrap();
        });
        // Twice past the size the maps begin with: at once, and step by step.
        for numbers in [2..1500, 1500..1600, 1600..4000] {
            let services: Vec<_> = numbers.clone().map(|number| service(number, json!({}))).collect();
            let slices: Vec<_> = numbers.flat_map(|number| slices(number, &[(2, 2), (2, 3)])).collect();
            hear(&mut compiler, &services, &slices);
            let ops = compiler.step();
            within(&lab.node, || executor.update(compiler.program(), &ops).unwrap());
            assert_holds(&executor, compiler.program());
        }
        done.store(true, Ordering::Relaxed);
        tries.join().unwrap();
    });
    let mut successor = within(&lab.node, || Executor::open(cgroup.path()).unwrap());
    successor.set_node_addresses(&IpFamily::BOTH.map(node_ip).into()).unwrap();
    assert_eq!(within(&lab.node, || successor.apply(compiler.program()).unwrap()), Report::default());
}
