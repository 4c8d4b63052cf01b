//! Clients of sticky Services come to the same endpoint again.

use std::net::SocketAddr;

use dyad_program::{Endpoint, Verdict, apply};

use super::lab::{Lab, Who};
use super::*;
use crate::batch::Changes;
use crate::element::{Data, Element, Life};
use crate::layout::{Kind, SetId};
use crate::read::read_set;
use crate::socket::Socket;
use crate::{Executor, Report};

/// A sticky Service with these of the endpoints of the lab.
fn sticky(which: &[usize]) -> Program {
    let spec = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 300}},
    });
    let endpoints = [
        [("10.244.1.2", "node1"), ("10.244.1.3", "node1"), ("10.244.2.2", "node2")],
        [("fd00:10:244:1::2", "node1"), ("fd00:10:244:1::3", "node1"), ("fd00:10:244:2::2", "node2")],
    ];
    let slices = endpoints.map(|all| slice("sticky", &which.iter().map(|at| all[*at]).collect::<Vec<_>>()));
    compile(&inputs(&[service("sticky", 1, spec)], &slices))
}

fn targets() -> [SocketAddr; 4] {
    ["10.96.0.1:80", "[fd00:10:96::1]:80", "192.0.2.1:30001", "[2001:db8::1]:30001"]
        .map(|at| at.parse().unwrap())
}

/// What the kernel remembers.
fn remembered(family: IpFamily, kind: Kind) -> Vec<Element> {
    let mut found = Vec::new();
    read_set(&mut Socket::open().unwrap(), family, SetId::Affinity(kind), |element| found.extend(element))
        .unwrap();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

#[test]
fn clients_stay_where_they_are_until_their_endpoint_goes() {
    if !privileged("affinity::clients_stay_where_they_are_until_their_endpoint_goes") {
        return;
    }
    let lab = Lab::new();
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    let all = sticky(&[0, 1, 2]);
    executor.apply(&all).unwrap();
    let everybody = [Who::Client, Who::Node, Who::PodA];
    let ask = |program: &Program| -> Vec<Endpoint> {
        let pairs = everybody.iter().flat_map(|who| targets().map(|to| (*who, to)));
        let mut seen = Vec::new();
        for (who, to) in pairs {
            // Asks several times, and is content with one endpoint only.
            lab.check(program, who, Protocol::Tcp, to);
            let Verdict::Forward(now) = lab.check(program, who, Protocol::Tcp, to) else {
                panic!("{who:?} {to}")
            };
            seen.push(*now.first_key_value().unwrap().0);
            assert_eq!(now.len(), 1, "the simulator has been told where it went");
        }
        seen
    };
    let first = ask(&all);
    assert!(executor.is_current().unwrap(), "what the kernel remembers is no change of anybody's");
    assert_eq!(ask(&all), first);
    for family in IpFamily::BOTH {
        for kind in Kind::BOTH {
            let found = within(&lab.node, || remembered(family, kind));
            assert_eq!(found.len(), everybody.len());
            let in_time = |life: Life| life.whole == 300_000 && (200_000..=300_000).contains(&life.left);
            assert!(found.iter().all(|element| element.life.is_some_and(in_time)), "{found:?}");
        }
    }

    // A table made anew remembers, whether because something outgrew it or because somebody damaged it.
    let mut grown = all.clone();
    let ops: Vec<_> = (0..300u16)
        .map(|n| {
            dyad_program::Op::Add(
                IpFamily::V4,
                Entry::Hairpin(IpAddr::from([10, 9, (n >> 8) as u8, n as u8])),
            )
        })
        .collect();
    apply(&mut grown, &ops);
    assert_eq!(executor.update(&grown, &ops).unwrap().rebuilt, [IpFamily::V4]);
    assert_eq!(ask(&grown), first);
    within(&lab.node, || {
        let mut socket = Socket::open().unwrap();
        let mut changes = Changes::new(usize::MAX);
        IpFamily::BOTH.iter().for_each(|family| changes.delete_rules(*family, "forward"));
        let generation = socket.generation().unwrap();
        for batch in changes.seal(1, generation) {
            socket.commit(&batch).unwrap();
        }
    });
    assert_eq!(executor.apply(&grown).unwrap(), Report { changes: 0, rebuilt: IpFamily::BOTH.to_vec() });
    assert_eq!(ask(&grown), first);

    // An endpoint goes: who was there goes elsewhere and stays; nobody else moves.
    let gone = first[0];
    let index =
        ["10.244.1.2", "10.244.1.3", "10.244.2.2"].iter().position(|ip| *ip == gone.ip.to_string()).unwrap();
    let left: Vec<usize> = (0..3).filter(|at| *at != index).collect();
    let fewer = sticky(&left);
    executor.apply(&fewer).unwrap();
    let second = ask(&fewer);
    for (before, after) in first.iter().zip(&second) {
        let is_there = fewer.get(before.ip.into()).unwrap().endpoints.values().any(|at| at == before);
        assert!(if is_there { before == after } else { before != after }, "{before:?} {after:?}");
    }
    // It comes back: nobody moves.
    executor.apply(&all).unwrap();
    assert_eq!(ask(&all), second);
}

#[test]
fn who_can_not_be_remembered_is_served() {
    if !privileged("affinity::who_can_not_be_remembered_is_served") {
        return;
    }
    let lab = Lab::new();
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    let program = sticky(&[0, 1]);
    executor.apply(&program).unwrap();
    within(&lab.node, || {
        let mut socket = Socket::open().unwrap();
        let mut changes = Changes::new(usize::MAX);
        for n in 0..1u32 << 16 {
            let client = [0x0b00_0000 + n, 0x0a60_0001].map(u32::to_be_bytes).concat();
            let key = [&client[..], &[6, 0, 0, 0, 0, 80, 0, 0]].concat();
            let data = Data::Value([&[6, 0, 0, 0, 10, 244, 1, 2][..], &[0x1f, 0x90, 0, 0]].concat());
            let life = Some(Life { whole: 300_000, left: 300_000 });
            let element = Element { life, ..Element::new(key, data) };
            changes.element(true, IpFamily::V4, SetId::Affinity(Kind::Address), element);
        }
        let generation = socket.generation().unwrap();
        for batch in changes.seal(1, generation) {
            socket.commit(&batch).unwrap();
        }
    });
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(lab.answer(Who::Client, Protocol::Tcp, targets()[0]));
    }
    assert_eq!(seen, ips(["10.244.1.2", "10.244.1.3"]), "any endpoint will do");
    assert_eq!(within(&lab.node, || remembered(IpFamily::V4, Kind::Address)).len(), 1 << 16);
}
