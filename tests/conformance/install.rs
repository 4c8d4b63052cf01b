//! Clusters in the shape of real ones: bare nodes, and what is installed on them carries packets.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/plugins.rs"]
mod plugins;
#[path = "../support/report.rs"]
mod report;

use std::path::Path;

use cluster::{Cluster, assert_no_traces, down, text};
use report::assert_all_work;

/// Whether the program is there whose image is installed.
fn has_plugins_program() -> bool {
    let there = Path::new(env!("CARGO_BIN_EXE_dyad")).with_file_name("dyad-cni").is_file();
    if !there {
        eprintln!("SKIPPED: no dyad-cni beside dyad: `cargo build -p dyad-cni`");
    }
    there
}

/// A network, its families, and how packets are carried.
struct Case {
    number: u8,
    networking: &'static str,
    families: &'static [&'static str],
    dataplane: &'static str,
    routing: &'static str,
    mtu: u32,
}

#[rustfmt::skip]
const CASES: [Case; 4] = [
    Case { number: 61, networking: "podSubnet: 10.161.0.0/16,fd00:dad:61::/56\n  serviceSubnet: 10.250.61.0/24,fd00:dad:61:100::/112",
        families: &["IPv4", "IPv6"], dataplane: "nftables", routing: "direct", mtu: 1500 },
    Case { number: 62, networking: "podSubnet: fd00:dad:62::/56,10.162.0.0/16\n  serviceSubnet: fd00:dad:62:100::/112,10.250.62.0/24",
        families: &["IPv6", "IPv4"], dataplane: "auto", routing: "vxlan", mtu: 1430 },
    Case { number: 63, networking: "ipFamily: ipv4\n  podSubnet: 10.163.0.0/16\n  serviceSubnet: 10.250.63.0/24",
        families: &["IPv4"], dataplane: "nftables", routing: "vxlan", mtu: 1450 },
    Case { number: 64, networking: "ipFamily: ipv6\n  podSubnet: fd00:dad:64::/56\n  serviceSubnet: fd00:dad:64:100::/112",
        families: &["IPv6"], dataplane: "auto", routing: "direct", mtu: 1500 },
];

/// The agents carry Services, policies and packets between nodes; plugins of others connect the pods.
#[test]
fn what_is_installed_carries_packets_in_every_mode() {
    if !has_plugins_program() {
        return;
    }
    let Some(programs) = plugins::find() else { return };
    for case in CASES {
        let cluster = Cluster::prepare("inst", case.number);
        if !cluster.has_kubectl() {
            return;
        }
        let what = format!("{} {} {:?}", case.dataplane, case.routing, case.families);
        let kind = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";
        let config = format!("{kind}networking:\n  {}\n", case.networking);
        std::fs::write(cluster.home.path().join("cluster.yaml"), config).expect("the cluster's file");
        let agents = format!("agent.extraArgs={{--masquerade-pods=true,--routing={}}}", case.routing);
        let dataplane = format!("proxy.dataplane={}", case.dataplane);
        let set = ["--set", "cni.enabled=false", "--set", &agents, "--set", &dataplane];
        let started = cluster.start(&[&["--nodes", "2", "--install"], &set[..]].concat());
        assert!(started.status.success(), "{what}: {}\n{}", text(&started.stderr), cluster.logs());
        for node in ["node1", "node2"] {
            plugins::plug(&cluster, node, &programs, case.mtu);
        }
        cluster.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]);
        let dns = ["-n", "kube-system", "rollout", "status"];
        cluster.kubectl(&[&dns[..], &["daemonset/dyad-agent", "--timeout=60s"]].concat());
        cluster.kubectl(&[&dns[..], &["deployment/coredns", "--timeout=60s"]].concat());
        let tested = cluster.dyad(&["connectivity", "test", "--name", &cluster.name, "-o", "json"]);
        assert_all_work(&tested.stdout, case.families, &what);
        assert!(tested.status.success(), "{what}: {}{}", text(&tested.stderr), text(&tested.stdout));
        down(&cluster);
        assert_no_traces(&cluster);
    }
}
