//! What policies say is in the kernel, and packets follow it.

use dyad_program::{Op, Payload, RangeSet, Table, Verdict, diff};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::lab::{EVERYBODY, Lab, Who};
use super::*;
use crate::{Executor, Report};

/// Policies drawn at random: two levels of chains, so that none leads in a circle.
#[derive(Clone, Debug)]
struct Draft {
    members: Vec<Vec<u8>>,
    chains: Vec<Vec<(u8, u8, u8, u8)>>,
    isolated: Vec<(u8, bool, u8)>,
    closed: bool,
}

fn a_draft() -> impl Strategy<Value = Draft> {
    let members = prop::collection::vec(prop::collection::vec(0u8..8, 0..4), 3);
    let rule = (any::<u8>(), any::<u8>(), any::<u8>(), 0u8..4);
    let chains = prop::collection::vec(prop::collection::vec(rule, 0..5), 1..4);
    let isolated = prop::collection::vec((0u8..2, any::<bool>(), any::<u8>()), 0..4);
    (members, chains, isolated, any::<bool>()).prop_map(|(members, chains, isolated, closed)| Draft {
        members,
        chains,
        isolated,
        closed,
    })
}

impl Draft {
    /// Puts the policies into a table.
    fn draw(&self, family: IpFamily, table: &mut Table) {
        let (ips, blocks) = match family {
            IpFamily::V4 => (
                ["10.244.1.2", "10.244.1.3", "10.244.2.2", "192.0.2.9", "203.0.113.80", "192.0.2.1"],
                ["10.244.0.0/16", "192.0.2.8/29", "203.0.0.0/8", "10.244.1.3/32"],
            ),
            IpFamily::V6 => (
                [
                    "fd00:10:244:1::2",
                    "fd00:10:244:1::3",
                    "fd00:10:244:2::2",
                    "2001:db8::9",
                    "2001:db8:113::80",
                    "2001:db8::1",
                ],
                ["fd00:10:244::/48", "2001:db8::8/125", "2001:db8:113::/48", "fd00:10:244:1::3/128"],
            ),
        };
        let ip = |number: u8| -> IpAddr { ips[usize::from(number) % ips.len()].parse().unwrap() };
        let [peers, ranges, named] = ["peers", "ranges", "named"].map(Id::of);
        for (kind, id, members) in [
            (SetKind::Peers, peers, &self.members[0]),
            (SetKind::Blocks, ranges, &self.members[1]),
            (SetKind::NamedPorts, named, &self.members[2]),
        ] {
            // A set that is empty may also be missing, if nothing names it.
            table.insert(Entry::Set(kind, id));
            let blocks: Vec<dyad_net::IpNet> =
                members.iter().map(|number| blocks[usize::from(number % 4)].parse().unwrap()).collect();
            let blocks = dyad_net::IpNet::aggregate(&blocks);
            for (index, number) in members.iter().enumerate() {
                let protocol = if number % 2 == 0 { Protocol::Tcp } else { Protocol::Udp };
                let member = match kind {
                    SetKind::Peers => Member::Peer(ip(*number)),
                    SetKind::NamedPorts => Member::NamedPort(ip(*number), protocol, 8080),
                    SetKind::Blocks => match blocks.get(index) {
                        Some(block) => Member::Block(*block),
                        None => continue,
                    },
                };
                table.insert(Entry::Member(id, member));
            }
        }
        let id = |direction: Direction, level: usize, number: usize| {
            Id::of(&format!("{direction:?} {level} {number}"))
        };
        for direction in Direction::BOTH {
            for level in 0..2 {
                for (number, rules) in self.chains.iter().enumerate() {
                    let rule = |(at, (peer, port, decision, protocol)): (usize, &(u8, u8, u8, u8))| Rule {
                        direction,
                        peers: match peer % 3 {
                            0 => Peers::Any,
                            1 => Peers::Set(peers),
                            _ => Peers::Blocks(ranges),
                        },
                        ports: match port % 4 {
                            0 => Ports::Any,
                            1 => Ports::Named(named),
                            2 => Ports::Range(Protocol::ALL[usize::from(protocol % 3)], 8080, 8080),
                            _ => Ports::Range(Protocol::ALL[usize::from(protocol % 3)], 80, 9000),
                        },
                        decision: match decision % 3 {
                            0 => Decision::Accept,
                            1 => Decision::Deny,
                            _ if level == 0 => {
                                Decision::Goto(id(direction, 1, usize::from(*decision) % self.chains.len()))
                            }
                            _ => Decision::Accept,
                        },
                        because: format!("{direction:?} {level} {number}, rule {at}").into(),
                    };
                    let rules: dyad_program::rule::Chain = rules.iter().enumerate().map(rule).collect();
                    table.insert(Entry::Chain(id(direction, level, number), rules));
                }
            }
        }
        for (pod, egress, chain) in &self.isolated {
            let direction = if *egress { Direction::Egress } else { Direction::Ingress };
            let chain = id(direction, 0, usize::from(*chain) % self.chains.len());
            table.insert(Entry::Isolated(direction, ip(*pod), chain));
        }
        if self.closed {
            let own: Vec<_> =
                table.ranges.iter().filter(|(set, _)| *set == RangeSet::OwnPods).copied().collect();
            own.into_iter().for_each(|(_, range)| table.insert(Entry::Range(RangeSet::Closed, range)));
        }
    }
}

/// The program of a node with two Services and the policies.
fn program(draft: Option<&Draft>) -> Program {
    let endpoints = [
        [("10.244.1.2", "node1"), ("10.244.1.3", "node1"), ("10.244.2.2", "node2")],
        [("fd00:10:244:1::2", "node1"), ("fd00:10:244:1::3", "node1"), ("fd00:10:244:2::2", "node2")],
    ];
    let mut program = compile(&inputs(
        &[service("all", 1, json!({})), service("own", 2, json!({"externalTrafficPolicy": "Local"}))],
        &[
            slice("all", &endpoints[0]),
            slice("all", &endpoints[1]),
            slice("own", &endpoints[0][..1]),
            slice("own", &endpoints[1][..1]),
        ],
    ));
    for (family, table) in program.iter_mut() {
        if let Some(draft) = draft {
            draft.draw(family, table);
        }
    }
    program
}

fn table_of(program: &mut Program, family: IpFamily) -> &mut Table {
    program.iter_mut().find(|(of, _)| *of == family).unwrap().1
}

fn changes(old: &Program, new: &Program) -> Vec<Op> {
    let table = |program: &Program, family| program.get(family).cloned().unwrap_or_default();
    IpFamily::BOTH
        .into_iter()
        .flat_map(|family| diff(family, &table(old, family), &table(new, family)))
        .collect()
}

#[test]
fn after_any_history_of_policies_the_kernel_holds_them() {
    if !privileged("policy::after_any_history_of_policies_the_kernel_holds_them") {
        return;
    }
    let namespace = netns::create().unwrap();
    let mut executor = within(&namespace, || Executor::open().unwrap());
    let mut held = program(None);
    executor.apply(&held).unwrap();
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let history = prop::collection::vec((prop::option::weighted(0.8, a_draft()), any::<bool>()), 1..4);
    let held = std::cell::RefCell::new((&mut executor, &mut held));
    let result = runner.run(&history, |history| {
        let mut held = held.borrow_mut();
        let (executor, old) = &mut *held;
        for (draft, by_adoption) in history {
            let new = program(draft.as_ref());
            let ops = changes(old, &new);
            if by_adoption {
                **executor = within(&namespace, || Executor::open().unwrap());
                let report = executor.apply(&new).unwrap();
                prop_assert_eq!(report, Report { changes: ops.len(), rebuilt: Vec::new() });
            } else {
                // Changes of different objects come in any order.
                let mut ops = ops;
                ops.sort_by_key(|op| match op {
                    Op::Remove(_, entry) => (0, entry.clone()),
                    Op::Add(_, entry) => (1, entry.clone()),
                });
                prop_assert_eq!(executor.update(&new, &ops).unwrap().rebuilt, Vec::new());
            }
            prop_assert!(executor.is_current().unwrap());
            **old = new;
            prop_assert_eq!(executor.read_back().unwrap(), by_family(old));
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn packets_are_admitted_as_the_simulator_says() {
    if !privileged("policy::packets_are_admitted_as_the_simulator_says") {
        return;
    }
    let lab = Lab::new();
    let targets = [
        ("10.244.1.2", "fd00:10:244:1::2", 8080),
        ("10.244.1.3", "fd00:10:244:1::3", 8080),
        ("10.244.2.2", "fd00:10:244:2::2", 8080),
        ("203.0.113.80", "2001:db8:113::80", 8080),
        ("192.0.2.1", "2001:db8::1", 8080),
        ("10.96.0.1", "fd00:10:96::1", 80),
        ("10.96.0.2", "fd00:10:96::2", 80),
        ("192.0.2.1", "2001:db8::1", 30001),
        ("192.0.2.1", "2001:db8::1", 30002),
    ];
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    let executor = std::cell::RefCell::new(&mut executor);
    let mut runner = TestRunner::new(Config { cases: 24, max_shrink_iters: 64, ..Config::default() });
    let packets = prop::collection::vec((0..targets.len(), 0usize..4, 0u8..3, any::<bool>()), 8);
    let result = runner.run(&(a_draft(), packets), |(draft, packets)| {
        let program = program(Some(&draft));
        executor.borrow_mut().apply(&program).unwrap();
        for (target, who, payload, v6) in packets {
            let (v4, six, port) = targets[target];
            let to: IpAddr = if v6 { six } else { v4 }.parse().unwrap();
            let who = EVERYBODY[who];
            // Neither to itself, which never leaves, nor from others to where they live.
            let outside = ["10.244.2.2", "203.0.113.80", "fd00:10:244:2::2", "2001:db8:113::80"];
            if Lab::source(who, to.into()) == to
                || who == Who::Client && outside.contains(&to.to_string().as_str())
            {
                continue;
            }
            let payload = match payload {
                0 => Payload::Port(Protocol::Tcp, port),
                1 => Payload::Port(Protocol::Udp, port),
                _ => Payload::Echo,
            };
            lab.check_payload(&program, who, payload, to);
        }
        Ok(())
    });
    result.unwrap();
}

#[test]
fn a_closed_pod_is_opened_by_a_service_and_by_policy() {
    if !privileged("policy::a_closed_pod_is_opened_by_a_service_and_by_policy") {
        return;
    }
    let lab = Lab::new();
    let mut executor = within(&lab.node, || Executor::open().unwrap());
    let pod: IpAddr = "fd00:10:244:1::2".parse().unwrap();
    let tcp = |ip: IpAddr, port| (Payload::Port(Protocol::Tcp, port), ip);
    let direct = [tcp(pod, 8080), (Payload::Port(Protocol::Udp, 8080), pod), (Payload::Echo, pod)];
    let through_a_service = tcp("2001:db8::1".parse().unwrap(), 30002);

    let open = program(None);
    executor.apply(&open).unwrap();
    let passes = |verdict: &Verdict| match verdict {
        Verdict::Pass(onward) => onward.admitted,
        Verdict::Forward(to) => to.values().all(|onward| onward.admitted),
        Verdict::Reject(_) | Verdict::Drop => false,
    };
    for (payload, to) in direct {
        assert!(passes(&lab.check_payload(&open, Who::Client, payload, to)));
    }
    let mut closed = open.clone();
    table_of(&mut closed, IpFamily::V6)
        .insert(Entry::Range(RangeSet::Closed, "fd00:10:244:1::/64".parse().unwrap()));
    executor.update(&closed, &changes(&open, &closed)).unwrap();
    for (payload, to) in direct {
        assert!(!passes(&lab.check_payload(&closed, Who::Client, payload, to)));
        assert!(passes(&lab.check_payload(&closed, Who::PodB, payload, to)), "from inside");
        assert!(passes(&lab.check_payload(&closed, Who::Node, payload, to)), "from the host");
    }
    assert!(passes(&lab.check_payload(&closed, Who::Client, through_a_service.0, through_a_service.1)));

    let mut asked_for = closed.clone();
    let table = table_of(&mut asked_for, IpFamily::V6);
    let rule = Rule {
        direction: Direction::Ingress,
        peers: Peers::Any,
        ports: Ports::Any,
        decision: Decision::Accept,
        because: "NetworkPolicy default/open, ingress rule 1".into(),
    };
    table.insert(Entry::Chain(Id::of("open"), [rule].into()));
    table.insert(Entry::Isolated(Direction::Ingress, pod, Id::of("open")));
    executor.update(&asked_for, &changes(&closed, &asked_for)).unwrap();
    for (payload, to) in direct {
        assert!(passes(&lab.check_payload(&asked_for, Who::Client, payload, to)));
    }
    // And the rule has counted what it let through.
    let key = (
        IpFamily::V6,
        format!("policy-{}", Id::of("open")),
        "NetworkPolicy default/open, ingress rule 1".to_owned(),
    );
    let (packets, bytes) = executor.counters().unwrap()[&key];
    assert!(packets >= 3 && bytes > 3 * 48, "{packets} packets, {bytes} bytes");
    assert_eq!(
        Executor::counters(&mut within(&lab.node, || Executor::open().unwrap())).unwrap()[&key],
        (packets, bytes)
    );
    let mut successor = within(&lab.node, || Executor::open().unwrap());
    assert_eq!(
        successor.apply(&asked_for).unwrap(),
        Report::default(),
        "what was counted makes no difference"
    );
}
