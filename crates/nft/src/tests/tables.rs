//! What is in the kernel.

use dyad_program::{Action, Endpoint, Entry, Frontend, Op, Protocol, RangeSet, Scope, Table, apply, diff};

use super::*;
use crate::{Executor, Report};

const BOTH: [IpFamily; 2] = IpFamily::BOTH;

fn nothing() -> Report {
    Report { changes: 0, rebuilt: Vec::new() }
}

fn nft(script: &str) -> Option<String> {
    let output = Command::new("nft").arg(script).output().ok()?;
    assert!(output.status.success(), "nft {script}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn what_is_applied_is_read_back_and_adopted() {
    if !privileged("tables::what_is_applied_is_read_back_and_adopted") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let mut executor = Executor::open().unwrap();
        let program = sample();
        let report = executor.apply(&program).unwrap();
        assert_eq!(report, Report { changes: 0, rebuilt: BOTH.to_vec() });
        assert_eq!(executor.read_back().unwrap(), by_family(&program));
        assert!(executor.is_current().unwrap());

        let mut successor = Executor::open().unwrap();
        assert!(!successor.is_current().unwrap(), "it has not looked yet");
        assert_eq!(successor.apply(&program).unwrap(), nothing());
        assert!(executor.is_current().unwrap(), "adopting has changed nothing at all");

        let (mut fewer, mut gone) = (program.clone(), 0);
        for (_, table) in fewer.iter_mut() {
            gone += table.frontends.values().filter(|action| **action == Action::Reject).count();
            table.frontends.retain(|_, action| *action != Action::Reject);
        }
        let report = successor.apply(&fewer).unwrap();
        assert_eq!(report, Report { changes: gone, rebuilt: Vec::new() });
        assert_eq!(successor.read_back().unwrap(), by_family(&fewer));
        assert!(!executor.is_current().unwrap());
    });
}

#[test]
fn a_family_that_is_no_longer_wanted_goes() {
    if !privileged("tables::a_family_that_is_no_longer_wanted_goes") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let mut executor = Executor::open().unwrap();
        let program = sample();
        executor.apply(&program).unwrap();
        let single = Program::single(IpFamily::V6, program.get(IpFamily::V6).unwrap().clone());
        executor.apply(&single).unwrap();
        assert_eq!(executor.read_back().unwrap(), by_family(&single));
    });
}

#[test]
fn every_change_of_a_rule_or_set_is_noticed_and_repaired() {
    if !privileged("tables::every_change_of_a_rule_or_set_is_noticed_and_repaired") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        if Command::new("nft").arg("--version").output().is_err() {
            eprintln!("SKIPPED: there is no nft to make foreign changes with");
            return;
        }
        let mut executor = Executor::open().unwrap();
        let program = sample();
        executor.apply(&program).unwrap();
        #[rustfmt::skip]
        let cases = [
            // What somebody does,                                       what has to be made anew.
            ("flush ruleset",                                             &BOTH[..]),
            ("flush table ip dyad",                                       &BOTH[..1]),
            ("delete table ip6 dyad",                                     &BOTH[1..]),
            ("add rule ip dyad prerouting drop",                          &BOTH[..1]),
            ("insert rule ip6 dyad postrouting counter accept",           &BOTH[1..]),
            ("flush chain ip dyad new-source",                            &BOTH[..1]),
            ("add chain ip dyad foreign",                                 &BOTH[..1]),
            ("add set ip6 dyad foreign { type ipv6_addr; }",              &BOTH[1..]),
            ("chain ip dyad output { policy drop; }",                     &BOTH[..1]),
            ("flush chain ip dyad forward",                               &BOTH[..1]),
            ("flush map ip6 dyad service-actions",                        &BOTH[1..]),
            ("add table ip dyad { flags dormant; }",                      &BOTH[..1]),
            ("flush map ip dyad services",                                &[][..]),
            ("flush set ip6 dyad own-pods",                               &[][..]),
            ("add element ip dyad hairpin { 10.9.9.9 . 10.9.9.9 }",       &[][..]),
            ("add element ip dyad hairpin { 10.9.9.9 . 10.9.9.8 }",       &BOTH[..1]),
            ("add element ip dyad services { 10.9.9.9 . tcp . 80 : tcp . 0x8000 }", &BOTH[..1]),
            ("add table inet dyad",                                       &[][..]),
            ("add table ip other",                                        &[][..]),
        ];
        for (script, rebuilt) in cases {
            nft(script);
            let foreign = script.starts_with("add table inet") || script.ends_with("ip other");
            assert_eq!(executor.is_current().unwrap(), foreign, "{script}");
            let report = executor.apply(&program).unwrap();
            assert_eq!(report.rebuilt, rebuilt, "{script}");
            assert_eq!(executor.read_back().unwrap(), by_family(&program), "{script}");
            assert_eq!(Executor::open().unwrap().apply(&program).unwrap(), nothing(), "{script}");
        }
        executor.cleanup().unwrap();
        assert_eq!(executor.read_back().unwrap(), BTreeMap::new());
        let left = nft("list tables").unwrap();
        assert_eq!(left.trim(), "table inet dyad\ntable ip other", "what is not ours stays");
    });
}

#[test]
fn an_update_notices_what_others_did() {
    if !privileged("tables::an_update_notices_what_others_did") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let (mut ours, mut other) = (Executor::open().unwrap(), Executor::open().unwrap());
        let mut program = sample();
        ours.apply(&program).unwrap();
        other.cleanup().unwrap();
        let entry = Entry::Hairpin("10.244.1.77".parse().unwrap());
        let ops = [Op::Add(IpFamily::V4, entry)];
        apply(&mut program, &ops);
        assert_eq!(ours.update(&program, &ops).unwrap().rebuilt, BOTH, "the tables were gone");
        assert_eq!(ours.read_back().unwrap(), by_family(&program));
        assert!(ours.is_current().unwrap());
    });
}

#[test]
fn what_others_do_with_their_tables_is_no_matter() {
    if !privileged("tables::what_others_do_with_their_tables_is_no_matter") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let mut executor = Executor::open().unwrap();
        let mut program = sample();
        executor.apply(&program).unwrap();
        let Some(_) = nft("add table ip other; add set ip other numbers { type inet_service; }") else {
            eprintln!("SKIPPED: there is no nft to make foreign changes with");
            return;
        };
        for round in 1..=3u8 {
            nft(&format!("add element ip other numbers {{ {round} }}"));
            assert!(executor.is_current().unwrap());
            nft(&format!("add table inet dyad; add chain ip other chain-{round}"));
            // Unlooked, too.
            let ops = [Op::Add(IpFamily::V4, Entry::Hairpin(IpAddr::from([10, 244, 1, 100 + round])))];
            apply(&mut program, &ops);
            let report = executor.update(&program, &ops).unwrap();
            assert_eq!(report, Report { changes: 1, rebuilt: Vec::new() });
            assert!(executor.is_current().unwrap());
            assert_eq!(executor.read_back().unwrap(), by_family(&program));
            // Ours among others, in one batch.
            nft(
                "add chain ip other more; delete element ip dyad hairpin { 10.244.1.2 . 10.244.1.2 }; delete chain ip other more",
            );
            assert!(!executor.is_current().unwrap());
            executor.apply(&program).unwrap();
            assert_eq!(executor.read_back().unwrap(), by_family(&program));
        }
        // A large change, too.
        let many: Vec<String> = (1..8_000u32).map(|port| port.to_string()).collect();
        let script = format!("add element ip other numbers {{ {} }}\n", many.join(","));
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut nft.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        assert!(executor.is_current().unwrap());
        assert_eq!(executor.apply(&program).unwrap(), nothing());
        assert!(executor.is_current().unwrap());
    });
}

#[test]
fn the_nft_program_understands_the_tables() {
    if !privileged("tables::the_nft_program_understands_the_tables") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        Executor::open().unwrap().apply(&sample()).unwrap();
        let Some(text) = nft("list ruleset") else {
            eprintln!("SKIPPED: there is no nft");
            return;
        };
        for line in [
            "10.96.0.2 . tcp . 80 : tcp . 0x00000002",
            "10.96.0.4 . udp . 80 : udp . 0x00000000",
            "tcp . 30003 : tcp . 0x00000209",
            "198.51.100.7 . tcp . 80 : tcp . 0x00000001",
            "10.96.0.6 . tcp . 80 : tcp . 0x00960002",
            "0x00960002 : goto service-endpoints-2-sticky-600",
            "0x00000000 : goto refuse",
            "0x00004000 : drop",
            "203.0.113.9 . tcp . 80 . 192.0.2.0/24",
            "10.244.1.2 . 8080 . 10.96.0.6 . tcp . 80",
            "size 65536",
            "type filter hook forward priority filter; policy accept;",
            "ct state established,related accept",
            "ip saddr vmap @isolated-egress",
            "comment \"NetworkPolicy a/friends, ingress rule 1\"",
            "udp dport 53",
            "10.96.0.2 . tcp . 80 . 0x00000001 : 10.244.2.2 . 8080",
            "fd00:10:96::2 . udp . 80 . 0x00000000 : fd00:10:244:1::2 . 8080",
            "type nat hook prerouting priority dstnat; policy accept;",
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @service-endpoints",
            "dnat ip6 to meta l4proto . th dport . numgen random mod 2 map @node-port-endpoints",
            "fib daddr type local",
            "ip saddr != @own-pods meta mark set meta mark | 0x00002000",
            "masquerade fully-random",
            "reject with tcp reset",
            "elements = { 10.96.0.0/16 }",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    });
}

#[test]
fn a_full_set_takes_what_comes_before_something_goes() {
    if !privileged("tables::a_full_set_takes_what_comes_before_something_goes") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let mut executor = Executor::open().unwrap();
        let mut program = Program::single(IpFamily::V4, Table::default());
        executor.apply(&program).unwrap();
        let endpoint = |third: u8, last: u8| {
            let at = Frontend::Address(IpAddr::from([10, 96, third, last]), Protocol::Tcp, 80);
            Entry::Endpoint(
                Scope::Cluster,
                at,
                0,
                Endpoint { ip: IpAddr::from([10, 244, 0, last]), port: 80 },
            )
        };
        // As many as the smallest set holds; then others come and these go in one batch, in that order, as endpoints
        // do whose frontends change.
        let fill: Vec<Op> = (0..=255).map(|last| Op::Add(IpFamily::V4, endpoint(1, last))).collect();
        apply(&mut program, &fill);
        executor.update(&program, &fill).unwrap();
        let come = (0..100).map(|last| Op::Add(IpFamily::V4, endpoint(0, last)));
        let go = (0..100).map(|last| Op::Remove(IpFamily::V4, endpoint(1, last)));
        let swap: Vec<Op> = come.chain(go).collect();
        apply(&mut program, &swap);
        executor.update(&program, &swap).unwrap();
        assert_eq!(executor.read_back().unwrap(), by_family(&program));
    });
}

#[test]
fn a_table_grows_when_a_set_is_full() {
    if !privileged("tables::a_table_grows_when_a_set_is_full") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let mut executor = Executor::open().unwrap();
        let mut program = Program::single(IpFamily::V4, Table::default());
        executor.apply(&program).unwrap();
        let mut rebuilt = 0;
        for step in 0..10u16 {
            let ops: Vec<Op> = (0..100)
                .map(|n| Op::Add(IpFamily::V4, Entry::Hairpin(IpAddr::from([10, 0, step as u8, n]))))
                .collect();
            apply(&mut program, &ops);
            rebuilt += executor.update(&program, &ops).unwrap().rebuilt.len();
            assert_eq!(executor.read_back().unwrap(), by_family(&program));
        }
        assert_eq!(rebuilt, 1, "room for four times as much each time");
    });
}

#[test]
fn what_does_not_fit_into_one_batch_goes_in_several() {
    if !privileged("tables::what_does_not_fit_into_one_batch_goes_in_several") {
        return;
    }
    let namespace = netns::create().unwrap();
    within(&namespace, || {
        let mut executor = Executor::open().unwrap();
        executor.limit_batches(20_000);
        let mut table = Table::default();
        for n in 0..1000u16 {
            let at = Frontend::Address(IpAddr::from([10, 96, (n >> 8) as u8, n as u8]), Protocol::Tcp, 80);
            let to = Endpoint { ip: IpAddr::from([10, 244, (n >> 8) as u8, n as u8]), port: 80 };
            table.insert(Entry::Frontend(Scope::Cluster, at, Action::forward(1)));
            table.insert(Entry::Endpoint(Scope::Cluster, at, 0, to));
        }
        table.insert(Entry::Range(RangeSet::Services, "10.96.0.0/16".parse().unwrap()));
        let program = Program::single(IpFamily::V4, table.clone());
        executor.apply(&program).unwrap();
        assert_eq!(executor.read_back().unwrap(), by_family(&program));
        assert!(executor.is_current().unwrap(), "all batches are counted");
        // Every endpoint changes.
        let mut changed = table.clone();
        changed.endpoints.values_mut().for_each(|to| to.port = 81);
        let (ops, changed) = (diff(IpFamily::V4, &table, &changed), Program::single(IpFamily::V4, changed));
        assert_eq!(executor.update(&changed, &ops).unwrap(), Report { changes: 2000, rebuilt: Vec::new() });
        assert_eq!(executor.read_back().unwrap(), by_family(&changed));
        assert!(executor.is_current().unwrap());
    });
}
