//! `dyad connectivity test` on clusters of each family set and order, as root and as an ordinary user.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/report.rs"]
mod report;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cluster::{Cluster, text};
use report::assert_all_work;
use serde_json::Value;

#[test]
fn packets_flow_in_every_family_set_and_order() {
    #[rustfmt::skip]
    let cases: [(u8, &str, &[&str]); 3] = [
        (20, "podSubnet: 10.120.0.0/16,fd00:dad:20::/56\n  serviceSubnet: 10.250.20.0/24,fd00:dad:20:100::/112", &["IPv4", "IPv6"]),
        (21, "podSubnet: fd00:dad:21::/56,10.121.0.0/16\n  serviceSubnet: fd00:dad:21:100::/112,10.250.21.0/24", &["IPv6", "IPv4"]),
        (22, "ipFamily: ipv6\n  podSubnet: fd00:dad:22::/56\n  serviceSubnet: fd00:dad:22:100::/112", &["IPv6"]),
    ];
    for (number, networking, families) in cases {
        let cluster = Cluster::prepare("flow", number);
        let config =
            format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  {networking}\n");
        std::fs::write(cluster.home.path().join("cluster.yaml"), config).expect("the cluster's file");
        let started = cluster.start(&["--nodes", "2"]);
        assert!(started.status.success(), "{networking}: {}\n{}", text(&started.stderr), cluster.logs());
        let junit = cluster.home.path().join("junit.xml");
        let junit = junit.to_str().expect("UTF-8");
        let tested = cluster.dyad(&[
            "connectivity",
            "test",
            "--name",
            &cluster.name,
            "-o",
            "json",
            "--junit-file",
            junit,
            "--timeout",
            "2m",
        ]);
        assert_all_work(&tested.stdout, families, &format!("{networking}: {}", text(&tested.stderr)));
        assert!(tested.status.success(), "{}{}", text(&tested.stderr), text(&tested.stdout));
        // Pods without IPv4 find names with IPv4 only.
        let translated = text(&tested.stdout).contains("DNS64, name outside with IPv4 only");
        assert_eq!(translated, families == ["IPv6"], "{networking}");
        assert!(std::fs::read_to_string(junit).is_ok_and(|xml| xml.contains("failures=\"0\"")));
        // Each family by itself, the secondary one too.
        for family in families.iter().filter(|_| families.len() > 1) {
            let chosen = [
                "connectivity",
                "test",
                "--name",
                &cluster.name,
                "-o",
                "json",
                "--timeout",
                "2m",
                "--ip-family",
            ];
            let tested = cluster.dyad(&[&chosen[..], &[&family.to_lowercase()]].concat());
            assert_all_work(&tested.stdout, &[family], &format!("{networking}: {}", text(&tested.stderr)));
            assert!(tested.status.success(), "{}", text(&tested.stderr));
        }
    }
}

#[test]
fn who_lost_a_name_is_said() {
    let cluster = Cluster::up("lost", 24, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    let test = || {
        let tested = cluster.dyad(&["connectivity", "test", "--name", &cluster.name, "-o", "json"]);
        serde_json::from_slice::<Value>(&tested.stdout).unwrap_or_else(|_| panic!("{}", text(&tested.stderr)))
    };
    let hops = |report: &Value, title: &str| -> Vec<String> {
        let row = report["rows"].as_array().expect("rows").iter().find(|row| row["title"] == title);
        let cells = row.expect(title)["cells"].as_array().expect("cells").iter();
        cells.map(|cell| cell["hop"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let dns = ["-n", "kube-system"];
    let corefile = cluster.get(&[&dns[..], &["configmap", "coredns"]].concat())["data"]["Corefile"].clone();
    let nobody =
        corefile.as_str().expect("a Corefile").replace("203.0.113.80 2001:db8:113::80", "203.0.113.99");
    let patch = serde_json::json!({"data": {"Corefile": nobody}}).to_string();
    cluster.kubectl(&[&dns[..], &["patch", "configmap", "coredns", "--type=merge", "-p", &patch]].concat());
    let report = test();
    assert_eq!(hops(&report, "DNS, A of a Service"), ["", ""]);
    for hop in hops(&report, "DNS, name outside") {
        assert!(hop.starts_with("forwarding by the DNS pods"), "{report}");
    }
    cluster.kubectl(&[&dns[..], &["delete", "deployment", "coredns"]].concat());
    cluster.kubectl(&[&dns[..], &["delete", "pods", "--all", "--force", "--grace-period=0"]].concat());
    cluster.eventually("no endpoints", || {
        let slices = cluster
            .get(&[&dns[..], &["endpointslices", "-l", "kubernetes.io/service-name=kube-dns"]].concat());
        let mut all = slices["items"].as_array().into_iter().flatten();
        let left = all.any(|slice| slice["endpoints"].as_array().is_some_and(|some| !some.is_empty()));
        if left { Err(slices.to_string()) } else { Ok(()) }
    });
    for hop in hops(&test(), "DNS, SRV of a Service") {
        assert!(hop.starts_with("the DNS pods: there are none"), "{hop}");
    }
    cluster.kubectl(&[&dns[..], &["delete", "service", "kube-dns"]].concat());
    let report = test();
    let untested = report["untested"].as_array().expect("what was not tested");
    assert_eq!(untested.len(), 8, "{untested:?}");
    assert!(untested.iter().all(|one| one["why"] == "the cluster has no Service kube-dns in kube-system"));
}

/// User and group `nobody` of Debian.
const NOBODY: u32 = 65534;

#[test]
fn an_ordinary_user_gets_the_same() {
    let forbidden =
        std::fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|most| most.trim() == "0");
    if forbidden {
        eprintln!("SKIPPED: this system has no user namespaces");
        return;
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    // The program is where this user can read it.
    let program = home.path().join("dyad");
    std::fs::copy(env!("CARGO_BIN_EXE_dyad"), &program).expect("the program can be copied");
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o777))
        .expect("a directory of our own");
    let config = home.path().join("cluster.yaml");
    let networking =
        "podSubnet: 10.123.0.0/16,fd00:dad:23::/56\n  serviceSubnet: 10.250.23.0/24,fd00:dad:23:100::/112";
    let kind = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nname: user\n";
    std::fs::write(&config, format!("{kind}networking:\n  {networking}\n")).expect("the cluster's file");
    let dyad = |args: &[&str]| {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".into()]);
            command.arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command.args(args).env("HOME", home.path()).env_remove("XDG_DATA_HOME").env_remove("KUBECONFIG");
        command.output().expect("dyad runs")
    };
    let up = dyad(&["up", "--nodes", "2", "--config", config.to_str().expect("UTF-8")]);
    let tested = dyad(&["connectivity", "test", "--name", "user", "-o", "json"]);
    let shell = dyad(&["shell", "--name", "user", "--", "ip", "-brief", "address"]);
    let down = dyad(&["down", "--name", "user"]);
    assert!(up.status.success(), "{}", text(&up.stderr));
    assert_all_work(&tested.stdout, &["IPv4", "IPv6"], &text(&tested.stderr));
    assert!(text(&shell.stdout).contains("eth0"), "{}{}", text(&shell.stdout), text(&shell.stderr));
    assert!(down.status.success(), "{}", text(&down.stderr));
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0)
}
