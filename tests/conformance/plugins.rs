//! Nodes without a built-in network, whose pods CNI plugins connect: those of the CNI project, where they are.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/plugins.rs"]
mod plugins;

use std::fs;
use std::path::PathBuf;

use cluster::{Cluster, assert_no_traces, down, kill};

/// A cluster of two bare nodes.
struct Bare {
    cluster: Cluster,
}

const NODES: [&str; 2] = ["node1", "node2"];

impl Bare {
    fn root(&self, node: &str) -> PathBuf {
        plugins::root(&self.cluster, node)
    }

    fn node(&self, name: &str) -> serde_json::Value {
        self.cluster.get(&["node", name])
    }

    /// Leads packets from one node to the pods of another.
    fn route(&self, from: &str, to: &str) {
        let to = self.node(to);
        for (range, via) in plugins::texts(&to["spec"]["podCIDRs"]).iter().zip(addresses(&to)) {
            let words = ["ip", "route", "replace", range, "via", &via];
            let shell = ["shell", "--name", &self.cluster.name, "--node", from, "--"];
            let output = self.cluster.dyad(&[&shell[..], &words].concat());
            assert!(output.status.success(), "{words:?}: {}", cluster::text(&output.stderr));
        }
    }

    /// The addresses that the plugins hold on a node.
    fn held(&self, node: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root(node).join("var/lib/cni/networks/test")).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut held: Vec<String> = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        held.sort();
        held
    }

    /// The addresses that pods of a node have which are not in the node's network.
    fn given(&self, node: &str) -> Vec<String> {
        let pods = self.cluster.get(&["pods", "-A", "--field-selector", &format!("spec.nodeName={node}")]);
        let pods = pods["items"].as_array().expect("pods").clone();
        let own = pods.iter().filter(|pod| pod["spec"]["hostNetwork"] != true);
        let ips = own.flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default());
        let mut given: Vec<String> = ips.filter_map(|ip| ip["ip"].as_str().map(str::to_owned)).collect();
        given.sort();
        given
    }

    fn ready(&self, node: &str) -> serde_json::Value {
        let node = self.node(node);
        let mut conditions = node["status"]["conditions"].as_array().expect("conditions").iter();
        conditions.find(|one| one["type"] == "Ready").expect("Ready").clone()
    }

    fn until_held_is_given(&self) {
        self.cluster.eventually("addresses that are held are those of pods", || {
            let look = |node| (self.held(node), self.given(node));
            let seen = NODES.map(look);
            let fits = seen.iter().all(|(held, given)| held == given && !held.is_empty());
            if fits { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

fn addresses(node: &serde_json::Value) -> Vec<String> {
    let all = node["status"]["addresses"].as_array().expect("addresses").iter();
    let own = all.filter(|one| one["type"] == "InternalIP");
    own.filter_map(|one| one["address"].as_str().map(str::to_owned)).collect()
}

const NOT_READY: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:\
    Network plugin returns error: cni plugin not initialized";

/// A pod in the node's network that looks for the namespaces of others; and one with a host port on each node.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: agent}
spec:
  nodeName: node1
  hostNetwork: true
  tolerations: [{operator: Exists}]
  containers:
    - name: agent
      image: dyad/tools
      securityContext: {capabilities: {add: [NET_ADMIN, SYS_ADMIN]}}
      volumeMounts:
        - {name: netns, mountPath: /var/run/netns, mountPropagation: HostToContainer}
        - {name: conf, mountPath: /host/conf}
  volumes:
    - {name: netns, hostPath: {path: /var/run/netns, type: DirectoryOrCreate}}
    - {name: conf, hostPath: {path: /etc/cni/net.d, type: DirectoryOrCreate}}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  nodeName: node1
  tolerations: [{operator: Exists}]
  containers: [{name: one, image: dyad/echo, ports: [{containerPort: 8080, hostPort: 8085}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  nodeName: node2
  tolerations: [{operator: Exists}]
  containers: [{name: two, image: dyad/echo}]
"#;

#[test]
fn pods_of_bare_nodes_are_connected_by_whatever_plugins_are_brought() {
    let Some(programs) = plugins::find() else { return };
    let bare = Bare { cluster: Cluster::prepare("plug", 60) };
    let cluster = &bare.cluster;
    if !cluster.has_kubectl() {
        return;
    }
    // IPv6 first, so that a wrong order shows.
    let networking =
        "podSubnet: fd00:dad:60::/56,10.160.0.0/16\n  serviceSubnet: fd00:dad:60:100::/112,10.250.60.0/24";
    let kind = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n";
    let config =
        format!("{kind}networking:\n  {networking}\n  disableDefaultCNI: true\n  kubeProxyMode: none\n");
    fs::write(cluster.home.path().join("cluster.yaml"), config).expect("the cluster's file");
    let started = cluster.start(&["--nodes", "2"]);
    assert!(started.status.success(), "{}\n{}", cluster::text(&started.stderr), cluster.logs());

    // Without a network a node is not ready, and runs what needs none.
    let ready = bare.ready("node1");
    assert_eq!(
        (ready["status"].as_str(), ready["reason"].as_str()),
        (Some("False"), Some("KubeletNotReady"))
    );
    assert_eq!(ready["message"], NOT_READY);
    cluster.apply(PODS);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/agent", "--timeout=30s"]);
    cluster.eventually("a pod that waits says for what", || {
        let events =
            cluster.get(&["events", "--field-selector", "involvedObject.name=one,reason=NetworkNotReady"]);
        let text = events["items"][0]["message"].as_str().unwrap_or_default().to_owned();
        if text == format!("network is not ready: {NOT_READY}") { Ok(()) } else { Err(events.to_string()) }
    });

    for node in NODES {
        plugins::plug(cluster, node, &programs, 1500);
    }
    bare.route("node1", "node2");
    bare.route("node2", "node1");
    cluster.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=30s"]);
    let ips = |name: &str| {
        let pod = cluster.get(&["pod", name]);
        let ips = pod["status"]["podIPs"].as_array().expect("podIPs").clone();
        ips.iter().filter_map(|ip| ip["ip"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let (one, two) = (ips("one"), ips("two"));
    assert!(one.len() == 2 && one[0].contains(':') && one[1].contains('.'), "{one:?}");
    for ip in &two {
        let url =
            if ip.contains(':') { format!("http://[{ip}]:8080/") } else { format!("http://{ip}:8080/") };
        cluster.kubectl(&["exec", "one", "--", "http", &url]);
    }
    bare.until_held_is_given();
    // The namespace of a pod has a path that is seen in one of the node's network, which began before.
    let seen = cluster.kubectl(&[
        "exec",
        "agent",
        "--",
        "sh",
        "-c",
        "ls /var/run/netns | grep -c ^cni-; ls /host/conf",
    ]);
    let lines: Vec<&str> = seen.lines().collect();
    assert!(
        lines[0].parse::<u32>().is_ok_and(|count| count >= 1) && lines[1] == "10-test.conflist",
        "{seen}"
    );

    // Neither a kubelet that dies nor a node that does loses or leaks an address.
    kill(cluster.pid("node1"));
    cluster.eventually("the node's process is there again", || {
        let ready = bare.ready("node1");
        if ready["status"] == "True" { Ok(()) } else { Err(ready.to_string()) }
    });
    assert_eq!(ips("one"), one);
    cluster.kubectl(&["exec", "two", "--", "http", &format!("http://[{}]:8080/", one[0])]);
    let stopped = cluster.dyad(&["stop", "--name", &cluster.name]);
    assert!(stopped.status.success(), "{}", cluster::text(&stopped.stderr));
    let started = cluster.dyad(&["start", "--name", &cluster.name]);
    assert!(started.status.success(), "{}\n{}", cluster::text(&started.stderr), cluster.logs());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=30s"]);
    bare.until_held_is_given();

    // What a plugin complains of is told, and a pod is tried again.
    let portmap = bare.root("node2").join("opt/cni/bin/portmap");
    fs::rename(&portmap, portmap.with_extension("away")).expect("a file of the node");
    cluster.kubectl(&["delete", "pod", "two", "--wait=false"]);
    cluster.eventually("a plugin that is missing is named", || {
        let events =
            cluster.get(&["events", "--field-selector", "involvedObject.name=two,reason=FailedKillPod"]);
        let text = events["items"][0]["message"].as_str().unwrap_or_default().to_owned();
        if text.contains("failed to find plugin \"portmap\" in path [/opt/cni/bin]") {
            Ok(())
        } else {
            Err(text)
        }
    });
    fs::rename(portmap.with_extension("away"), &portmap).expect("a file of the node");
    cluster.kubectl(&["delete", "pod", "one", "two", "agent", "--ignore-not-found"]);
    cluster.kubectl(&["-n", "kube-system", "delete", "deployment", "coredns"]);
    cluster.eventually("all addresses are given back", || {
        let held = NODES.map(|node| bare.held(node));
        if held.iter().all(Vec::is_empty) { Ok(()) } else { Err(format!("{held:?}")) }
    });
    down(cluster);
    assert_no_traces(cluster);
}
