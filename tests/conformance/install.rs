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
    args: &'static [&'static str],
}

#[rustfmt::skip]
const CASES: [Case; 4] = [
    Case { number: 61, families: &["IPv4", "IPv6"], args: &["--dataplane", "nftables", "--routing", "direct"],
        networking: "podSubnet: 10.161.0.0/16,fd00:dad:61::/56\n  serviceSubnet: 10.250.61.0/24,fd00:dad:61:100::/112" },
    Case { number: 62, families: &["IPv6", "IPv4"], args: &["--dataplane", "auto", "--routing", "vxlan"],
        networking: "podSubnet: fd00:dad:62::/56,10.162.0.0/16\n  serviceSubnet: fd00:dad:62:100::/112,10.250.62.0/24" },
    Case { number: 63, families: &["IPv4"], args: &["--dataplane", "nftables", "--routing", "vxlan"],
        networking: "ipFamily: ipv4\n  podSubnet: 10.163.0.0/16\n  serviceSubnet: 10.250.63.0/24" },
    Case { number: 64, families: &["IPv6"], args: &["--dataplane", "auto", "--set", "cni.routing=direct"],
        networking: "ipFamily: ipv6\n  podSubnet: fd00:dad:64::/56\n  serviceSubnet: fd00:dad:64:100::/112" },
];

/// Room for a cluster with this network.
fn prepare(number: u8, networking: &str) -> Cluster {
    let cluster = Cluster::prepare("inst", number);
    let config = format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  {networking}\n");
    std::fs::write(cluster.home.path().join("cluster.yaml"), config).expect("the cluster's file");
    cluster
}

/// Makes it of two nodes, and installs. The data plane is what the test says, whatever is asked of others.
fn install(cluster: &Cluster, args: &[&str]) {
    let config = cluster.home.path().join("cluster.yaml");
    let config = config.to_str().expect("a path in UTF-8");
    let up = ["up", "--name", &cluster.name, "--config", config, "--nodes", "2", "--install"];
    let started = cluster.dyad(&[&up[..], args].concat());
    assert!(started.status.success(), "{args:?}: {}\n{}", text(&started.stderr), cluster.logs());
}

fn assert_carries(cluster: &Cluster, families: &[&str], what: &str) {
    let tested = cluster.dyad(&["connectivity", "test", "--name", &cluster.name, "-o", "json"]);
    assert_all_work(&tested.stdout, families, what);
    assert!(tested.status.success(), "{what}: {}{}", text(&tested.stderr), text(&tested.stdout));
}

#[test]
fn what_is_installed_carries_packets_in_every_mode() {
    if !has_plugins_program() {
        return;
    }
    for Case { number, networking, families, args } in CASES {
        let cluster = prepare(number, networking);
        install(&cluster, args);
        assert_carries(&cluster, families, &format!("{families:?} {args:?}"));
        if number == CASES[0].number {
            // All of it is there again after a reboot.
            for command in ["stop", "start"] {
                let output = cluster.dyad(&[command, "--name", &cluster.name]);
                assert!(output.status.success(), "{command}: {}\n{}", text(&output.stderr), cluster.logs());
            }
            assert_carries(&cluster, families, "started again");
        }
        down(&cluster);
        assert_no_traces(&cluster);
    }
}

/// The agents carry Services, policies and packets between nodes; plugins of others connect the pods.
#[test]
fn what_is_installed_works_beside_plugins_of_others() {
    let cluster = prepare(
        65,
        "podSubnet: 10.165.0.0/16,fd00:dad:65::/56\n  serviceSubnet: 10.250.65.0/24,fd00:dad:65:100::/112",
    );
    if !has_plugins_program() || !cluster.has_kubectl() {
        return;
    }
    let Some(programs) = plugins::find() else { return };
    let agents = "agent.extraArgs={--masquerade-pods=true,--routing=direct}";
    install(&cluster, &["--set", "cni.enabled=false", "--set", agents]);
    for node in ["node1", "node2"] {
        plugins::plug(&cluster, node, &programs, 1500);
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]);
    for what in ["daemonset/dyad-agent", "deployment/coredns"] {
        cluster.kubectl(&["-n", "kube-system", "rollout", "status", what, "--timeout=60s"]);
    }
    assert_carries(&cluster, &["IPv4", "IPv6"], "beside plugins of others");
}
