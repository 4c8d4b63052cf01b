//! Clusters in the shape of real ones: bare nodes, and what is installed on them carries packets.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/plugins.rs"]
mod plugins;
#[path = "../support/report.rs"]
mod report;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cluster::{Cluster, assert_no_traces, down, text};
use report::assert_all_work;
use serde_json::json;

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
fn prepare(name: &str, number: u8, networking: &str) -> Cluster {
    let cluster = Cluster::prepare(name, number);
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
    assert_eq!(cluster.status()["shape"], "bare");
}

fn assert_carries(cluster: &Cluster, families: &[&str], what: &str) {
    let test = ["connectivity", "test", "--name", &cluster.name, "-o", "json", "--timeout", "2m"];
    let tested = cluster.dyad(&test);
    assert_all_work(&tested.stdout, families, &format!("{what}: {}", text(&tested.stderr)));
    assert!(tested.status.success(), "{what}: {}{}", text(&tested.stderr), text(&tested.stdout));
}

#[test]
fn what_is_installed_carries_packets_in_every_mode() {
    if !has_plugins_program() {
        return;
    }
    for Case { number, networking, families, args } in CASES {
        let cluster = prepare("inst", number, networking);
        install(&cluster, args);
        assert_carries(&cluster, families, &format!("{families:?} {args:?}"));
        for command in ["stop", "start"] {
            let done = cluster.dyad(&[command, "--name", &cluster.name]);
            assert!(done.status.success(), "{command}: {}\n{}", text(&done.stderr), cluster.logs());
        }
        // Nodes are ready before their agents know all pods again.
        let test = ["connectivity", "test", "--name", &cluster.name, "--timeout", "2m"];
        let test = || cluster.dyad(&test).status.success();
        if !(0..2).any(|_| test()) {
            assert_carries(&cluster, families, &format!("{families:?} {args:?}, after a stop"));
        }
        down(&cluster);
        assert_no_traces(&cluster);
    }
}

/// Whoever is killed in the middle leaves a cluster that says what is missing, and that `dyad start` completes.
#[test]
fn what_was_cut_short_goes_on() {
    let cluster = prepare(
        "cut",
        98,
        "podSubnet: 10.198.0.0/16,fd00:dad:98::/56\n  serviceSubnet: 10.250.98.0/24,fd00:dad:98:100::/112",
    );
    if !has_plugins_program() {
        return;
    }
    let config = cluster.home.path().join("cluster.yaml");
    let config = config.to_str().expect("a path in UTF-8");
    let up = ["up", "--name", &cluster.name, "--config", config, "--nodes", "1", "--install"];
    // It may be faster than who kills it.
    let is_cut = (0..10).any(|_| {
        let mut command = cluster.dyad_command(&up);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("dyad runs");
        let answers = || {
            let said = std::fs::read_to_string(cluster.dir().join("running.json")).unwrap_or_default();
            said.contains("\"api_ready\":true")
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !answers() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("it is there");
        child.wait().expect("it ends");
        let is_cut =
            cluster.dir().join("cluster.json").exists() && !cluster.dir().join("is-installed").exists();
        if !is_cut {
            down(&cluster);
        }
        is_cut
    });
    assert!(is_cut, "it is always faster");
    let problems = cluster.status()["problems"].to_string();
    assert!(problems.contains(&format!("`dyad start --name {}` goes on", cluster.name)), "{problems}");
    let start = || cluster.dyad(&["start", "--name", &cluster.name]);
    let started = start();
    assert!(started.status.success(), "{}\n{}", text(&started.stderr), cluster.logs());
    let status = cluster.status();
    assert_eq!(
        (&status["state"], &status["nodes"][0]["status"]),
        (&json!("running"), &json!("Ready")),
        "{status}"
    );
    let again = start();
    assert!(!again.status.success() && text(&again.stderr).contains("is running"), "{}", text(&again.stderr));
    down(&cluster);
    assert_no_traces(&cluster);
}

/// The agents carry Services, policies and packets between nodes; plugins of others connect the pods.
#[test]
fn what_is_installed_works_beside_plugins_of_others() {
    let cluster = prepare(
        "beside",
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

const ECHO: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: echo}}}
      containers: [{name: echo, image: dyad/echo}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080}]
"#;

/// A pod that asks the Service again and again, and says what failed.
const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
    - name: client
      image: dyad/tools
      args:
        - sh
        - -c
        - |
          while :; do
            for url in URLS; do
              if http $url > /dev/null 2> /tmp/why; then echo ok; else echo "failed $url $(cat /tmp/why)"; fi
            done
            sleep 0.05
          done
"#;

/// What a node has in its kernel and in the directories that agents and plugins use, line by line.
fn traces_on(cluster: &Cluster, node: &str) -> BTreeSet<String> {
    let script = "ip -o link show | sed 's/^[0-9]*: //; s/ .*//'; ip -o addr show | awk '{print $2, $4}' | grep -v fe80; \
        ip route show table all | grep -v fe80; ip -6 route show table all | grep -v fe80; ip rule; ip -6 rule; nft list ruleset; \
        find /etc/cni /opt/cni /var/lib/cni /run ! -type d; grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf \
        /proc/sys/net/ipv4/ip_forward /proc/sys/net/netfilter/nf_conntrack_max /proc/sys/net/netfilter/nf_conntrack_tcp* \
        /proc/sys/net/netfilter/nf_conntrack_udp* 2> /dev/null";
    let output = cluster.dyad(&["shell", "--name", &cluster.name, "--node", node, "--", "sh", "-c", script]);
    assert!(!output.stdout.is_empty(), "{node}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn an_upgrade_loses_no_connection_and_what_is_taken_away_leaves_a_bare_node() {
    let networking =
        "podSubnet: 10.166.0.0/16,fd00:dad:66::/56\n  serviceSubnet: 10.250.66.0/24,fd00:dad:66:100::/112";
    let cluster = prepare("life", 66, networking);
    if !has_plugins_program() || !cluster.has_kubectl() {
        return;
    }
    install(&cluster, &["--dataplane", "nftables"]);
    cluster.apply(ECHO);
    cluster.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]);
    let service = cluster.get(&["service", "echo"]);
    let ips: Vec<IpAddr> = plugins::texts(&service["spec"]["clusterIPs"])
        .iter()
        .map(|ip| ip.parse().expect("an address"))
        .collect();
    assert_eq!(ips.len(), 2);
    let urls: Vec<String> = ips.iter().map(|ip| format!("http://{}/", SocketAddr::new(*ip, 80))).collect();
    cluster.apply(&CLIENT.replace("URLS", &urls.join(" ")));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]);
    let asked = |cluster: &Cluster| cluster.kubectl(&["logs", "client"]).lines().count();
    cluster.eventually("traffic", || if asked(&cluster) > 20 { Ok(()) } else { Err("none".into()) });
    // Connections that were there before go on, too. Those to a cluster IP are of IPv4: this machine spreads what it sends
    // over both nodes, and one of IPv6 may change its node when it sends something again.
    let echo = cluster.get(&["pods", "-l", "app=echo"]);
    let echo = echo["items"].as_array().expect("pods").clone();
    let of_pods = echo.iter().flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default());
    let of_pods = of_pods.map(|ip| SocketAddr::new(ip["ip"].as_str().unwrap().parse().unwrap(), 8080));
    let of_service = ips.iter().filter(|ip| ip.is_ipv4()).map(|ip| SocketAddr::new(*ip, 80));
    let mut open: Vec<TcpStream> = of_pods
        .chain(of_service)
        .map(|at| {
            let stream = TcpStream::connect_timeout(&at, Duration::from_secs(10));
            let mut stream = stream.expect("a connection");
            stream.write_all(b"GET / HTTP/1.1\r\n").expect("half a request");
            stream
        })
        .collect();
    assert_eq!(open.len(), 5);
    let pods = |cluster: &Cluster| {
        cluster.kubectl(&["-n", "kube-system", "get", "pods", "-l", "k8s-app=dyad-agent", "-o", "name"])
    };
    let agents = pods(&cluster);
    let context = format!("dyad-{}", cluster.name);
    let dyad = |args: &[&str]| {
        let output = cluster.dyad(&[args, &["--context", &context]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    };
    dyad(&["upgrade", "--set", "agent.verbosity=4"]);
    cluster.kubectl(&["-n", "kube-system", "rollout", "status", "daemonset/dyad-agent", "--timeout=90s"]);
    assert!(agents.lines().all(|agent| !pods(&cluster).contains(agent)), "all agents are others");
    let before = asked(&cluster);
    cluster
        .eventually("traffic goes on", || if asked(&cluster) > before { Ok(()) } else { Err("none".into()) });
    for stream in &mut open {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket's option");
        stream.write_all(b"Host: echo\r\nConnection: close\r\n\r\n").expect("the rest of the request");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer on the old connection");
        assert_eq!(text(&answer), "HTTP/1.1 200");
    }
    let log = cluster.kubectl(&["logs", "client"]);
    let failed: Vec<&str> = log.lines().filter(|line| *line != "ok").collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), log.lines().count());

    // Without pods of theirs nodes are what they were.
    cluster.kubectl(&["delete", "pod/client", "deployment/echo", "service/echo", "--grace-period=1"]);
    cluster.kubectl(&["-n", "kube-system", "delete", "deployment", "coredns"]);
    cluster.eventually("no pods but agents", || {
        let pods = cluster.kubectl(&["get", "pods", "-A", "-o", "name"]);
        if pods.lines().all(|pod| pod.contains("dyad-agent")) { Ok(()) } else { Err(pods) }
    });
    dyad(&["uninstall"]);
    let after = ["node1", "node2"].map(|node| traces_on(&cluster, node));
    down(&cluster);
    let bare = format!("{networking}\n  disableDefaultCNI: true\n  kubeProxyMode: none");
    let config = format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  {bare}\n");
    std::fs::write(cluster.home.path().join("cluster.yaml"), config).expect("the cluster's file");
    let started = cluster.start(&["--nodes", "2"]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    for (node, after) in ["node1", "node2"].into_iter().zip(after) {
        let fresh = traces_on(&cluster, node);
        let more: Vec<&String> = after.difference(&fresh).collect();
        let less: Vec<&String> = fresh.difference(&after).collect();
        assert!(more.is_empty() && less.is_empty(), "{node}: left {more:#?}, missing {less:#?}");
    }
}
