//! What others have in the kernel.

use super::*;
use crate::Executor;
use crate::others::look;

/// What firewalls leave in a namespace, and the chains that are in the way, if pods are in both families.
const FIREWALLS: [(&str, &[&str]); 9] = [
    (
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; oifname docker0 accept; }; }",
        &["ip filter FORWARD forward"],
    ),
    (
        "table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; ip6 saddr fd00:1::/64 accept; }; }",
        &["ip6 filter FORWARD forward"],
    ),
    (
        "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; ct state established accept; \
      counter reject with icmpx admin-prohibited; }; }",
        &["inet firewalld filter_FORWARD forward"],
    ),
    (
        "table inet raw { chain early { type filter hook prerouting priority -300; policy drop; }; }",
        &["inet raw early prerouting"],
    ),
    // No harm: one that lets pods pass, in a chain of its own; input; what is not dropped; what is not IP.
    (
        "table inet filter { chain FORWARD { type filter hook forward priority 0; policy drop; jump more; }; chain more { ip saddr 10.244.0.0/16 accept; \
      ip daddr 10.244.0.0/16 accept; ip6 saddr fd00:10:244::/56 accept; ip6 daddr fd00:10:244::/56 accept; }; }",
        &[],
    ),
    // firewalld with the pod ranges in its zone `trusted`.
    (
        "table inet firewalld { chain filter_FWD_trusted { accept; }; chain filter_FWD_public { reject; }; chain filter_FORWARD_POLICIES { \
      ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 jump filter_FWD_trusted; ip6 saddr fd00:10:244::/56 ip6 daddr fd00:10:244::/56 jump \
      filter_FWD_trusted; jump filter_FWD_public; }; chain filter_FORWARD { type filter hook forward priority 10; policy accept; jump \
      filter_FORWARD_POLICIES; reject with icmpx admin-prohibited; }; }",
        &[],
    ),
    ("table inet filter { chain INPUT { type filter hook input priority 0; policy drop; }; }", &[]),
    (
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; tcp dport 25 reject; }; }",
        &[],
    ),
    ("table bridge filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }", &[]),
];

#[test]
fn firewalls_that_pods_do_not_pass_are_found() {
    if !privileged("others::firewalls_that_pods_do_not_pass_are_found") {
        return;
    }
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no nft to make foreign tables with");
        return;
    }
    let pods = ["10.244.0.0/16", "fd00:10:244::/56"].map(|range| range.parse().unwrap());
    for (script, wanted) in FIREWALLS {
        let namespace = netns::create().unwrap();
        let found = within(&namespace, || {
            let output = Command::new("nft").arg(script).output().unwrap();
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
            // Our own tables are none of others.
            Executor::open().unwrap().apply(&sample()).unwrap();
            look(&pods).unwrap()
        });
        let closed = found.closed.iter();
        let closed: Vec<String> =
            closed.map(|(of, hook)| format!("{} {} {} {hook}", of.family, of.table, of.name)).collect();
        assert_eq!(closed, wanted, "{script}");
        assert!(found.chains.iter().all(|chain| chain.table != crate::TABLE));
    }
}

/// One direction is not enough, nor is a part of the range.
#[test]
fn rules_of_iptables_count() {
    if !privileged("others::rules_of_iptables_count") {
        return;
    }
    let iptables = |args: &str| Command::new("iptables-nft").args(args.split(' ')).output();
    if iptables("--version").is_err() {
        eprintln!("SKIPPED: there is no iptables-nft to make foreign tables with");
        return;
    }
    let namespace = netns::create().unwrap();
    for range in ["10.244.0.0/16", "10.64.0.0/10"] {
        for (args, closed) in [
            ("-P FORWARD DROP", true),
            ("-I FORWARD -s RANGE -j ACCEPT", true),
            ("-I FORWARD -d 10.244.0.0/24 -j ACCEPT", true),
            ("-I FORWARD -d RANGE -j ACCEPT", false),
            ("-F FORWARD", true),
            ("-P FORWARD ACCEPT", false),
            ("-A FORWARD -j REJECT", true),
            ("-F FORWARD", false),
        ] {
            let found = within(&namespace, || {
                let output = iptables(&args.replace("RANGE", range)).unwrap();
                assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
                look(&[range.parse().unwrap()]).unwrap()
            });
            assert_eq!(!found.closed.is_empty(), closed, "{range} {args}");
            assert!(found.chains.iter().any(|chain| chain.name == "FORWARD"));
        }
    }
}
