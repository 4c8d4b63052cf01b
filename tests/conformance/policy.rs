//! NetworkPolicy and ClusterNetworkPolicy as packets meet them: truth tables of three namespaces with three pods each, two
//! ports and both families. The scenarios are those of the well-known suite of Kubernetes.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/network.rs"]
mod network;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use cluster::Cluster;
use network::{Answer, Flow, From, Talk, ask_once, ask_udp, at, ips, table};

const NAMESPACES: [&str; 3] = ["x", "w", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 2] = [80, 81];

/// A cluster with the nine pods, `x/a` to `z/c`, every other one on the other node.
struct Lab {
    cluster: Cluster,
    pods: BTreeMap<String, Vec<String>>,
}

/// A pod with echo servers on both ports.
fn pod(namespace: &str, name: &str, node: &str) -> String {
    let mut yaml = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{pod: {name}}}}}\nspec:\n  \
         nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n"
    );
    for port in PORTS {
        let _ = write!(
            yaml,
            "  - name: p{port}\n    image: dyad/echo\n    args: [--port={port}, --tcp-port={}]\n    \
             env: [{{name: POD_ID, value: {namespace}/{name}}}]\n    \
             ports: [{{name: serve-{port}, containerPort: {port}}}, {{name: udp-{port}, containerPort: {port}, protocol: UDP}}]\n    \
             readinessProbe: {{httpGet: {{path: /healthz, port: {port}}}, periodSeconds: 1}}\n",
            port + 1000
        );
    }
    yaml
}

impl Lab {
    /// `None` if there is no kubectl.
    fn up(name: &str, number: u8) -> Option<Self> {
        let cluster = Cluster::up(name, number, &["--nodes", "2"]);
        if !cluster.has_kubectl() {
            return None;
        }
        let mut yaml = String::new();
        for namespace in NAMESPACES {
            let _ = write!(
                yaml,
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{ns: {namespace}}}}}\n"
            );
        }
        let mut node = 0;
        for namespace in NAMESPACES {
            for name in PODS {
                yaml.push_str(&pod(namespace, name, ["node1", "node2"][node % 2]));
                node += 1;
            }
        }
        cluster.apply(&yaml);
        let mut pods = BTreeMap::new();
        for namespace in NAMESPACES {
            let args = ["wait", "--for=condition=Ready", "pod", "--all", "-n", namespace, "--timeout=60s"];
            cluster.kubectl(&args);
            for name in PODS {
                let pod = cluster.get(&["pod", name, "-n", namespace]);
                pods.insert(format!("{namespace}/{name}"), ips(&pod, "/status/podIPs"));
            }
        }
        assert!(pods.values().all(|ips| ips.len() == 2), "{pods:?}");
        Some(Self { cluster, pods })
    }

    fn ip(&self, pod: &str, v6: bool) -> &str {
        self.pods[pod].iter().find(|ip| ip.contains(':') == v6).expect("both families")
    }

    /// Waits until exactly the connections are let through that should be.
    #[track_caller]
    fn expect(&self, what: &str, allowed: impl Fn(&Flow) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = table(&self.cluster, &self.pods, &PORTS);
            // What a pod asks of itself never leaves it.
            let wrong: Vec<String> = found
                .iter()
                .filter(|(flow, works)| **works != (flow.from == flow.to || allowed(flow)))
                .map(|(flow, works)| {
                    let family = if flow.v6 { "IPv6" } else { "IPv4" };
                    let verb = if *works { "reaches" } else { "does not reach" };
                    format!("{} {verb} {} port {} in {family}", flow.from, flow.to, flow.port)
                })
                .collect();
            let all = self.pods.len() * self.pods.len() * PORTS.len() * 2;
            if wrong.is_empty() && found.len() == all {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {} of {all} asked, {} wrong:\n{}\n{}",
                found.len(),
                wrong.len(),
                wrong.join("\n"),
                self.cluster.logs()
            );
        }
    }

    /// Applies policies, checks what they let through, and takes them away.
    #[track_caller]
    fn case(&self, what: &str, yaml: &str, allowed: impl Fn(&Flow) -> bool) {
        self.cluster.apply(yaml);
        self.expect(what, allowed);
        self.clear();
    }

    fn clear(&self) {
        for namespace in NAMESPACES {
            self.cluster.kubectl(&["delete", "networkpolicies", "--all", "-n", namespace]);
        }
        self.cluster.kubectl(&["delete", "clusternetworkpolicies", "--all"]);
    }
}

/// A policy of a namespace for the pods of a selector.
fn policy(name: &str, namespace: &str, selector: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  podSelector: {selector}\n{rest}\n"
    )
}

/// A policy of the cluster for all pods of some namespaces.
fn cluster_policy(name: &str, tier: &str, priority: u16, namespaces: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  tier: {tier}\n  priority: {priority}\n  subject: {{namespaces: {namespaces}}}\n{rest}\n"
    )
}

const A: &str = "{matchLabels: {pod: a}}";
const ALL: &str = "{}";

fn ns(pod: &str) -> &str {
    pod.split('/').next().unwrap_or_default()
}

fn name(pod: &str) -> &str {
    pod.split('/').nth(1).unwrap_or_default()
}

#[test]
fn network_policies_select_pods_ports_and_directions() {
    let Some(lab) = Lab::up("netpol", 65) else { return };
    lab.expect("no policy", |_| true);
    let ingress = "  policyTypes: [Ingress]\n";
    let egress = "  policyTypes: [Egress]\n";
    let x_a = |flow: &Flow| flow.to == "x/a";

    lab.case("default deny of ingress", &policy("p", "x", ALL, ingress), |flow| ns(&flow.to) != "x");
    lab.case("default deny of egress", &policy("p", "x", ALL, egress), |flow| ns(&flow.from) != "x");
    lab.case("default deny of both", &policy("p", "x", ALL, "  policyTypes: [Ingress, Egress]"), |flow| {
        ns(&flow.to) != "x" && ns(&flow.from) != "x"
    });
    lab.case(
        "empty rules admit all",
        &policy("p", "x", ALL, "  ingress: [{}]\n  egress: [{}]\n  policyTypes: [Ingress, Egress]"),
        |_| true,
    );

    let from = |peers: &str| policy("p", "x", A, &format!("  ingress: [{{from: [{peers}]}}]"));
    lab.case("pods of the own namespace", &from("{podSelector: {matchLabels: {pod: b}}}"), |flow| {
        !x_a(flow) || flow.from == "x/b"
    });
    lab.case("a namespace", &from("{namespaceSelector: {matchLabels: {ns: w}}}"), |flow| {
        !x_a(flow) || ns(&flow.from) == "w"
    });
    lab.case(
        "a namespace by its name",
        &from("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}"),
        |flow| !x_a(flow) || ns(&flow.from) == "z",
    );
    lab.case(
        "namespaces by expressions",
        &from("{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}"),
        |flow| !x_a(flow) || ns(&flow.from) != "x",
    );
    lab.case(
        "a namespace and pods",
        &from("{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}"),
        |flow| !x_a(flow) || flow.from == "w/b",
    );
    lab.case(
        "a namespace or pods",
        &from("{namespaceSelector: {matchLabels: {ns: w}}}, {podSelector: {matchLabels: {pod: b}}}"),
        |flow| !x_a(flow) || ns(&flow.from) == "w" || flow.from == "x/b",
    );
    lab.case("pods by expressions in all namespaces", &from("{namespaceSelector: {}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}"), |flow| {
        !x_a(flow) || name(&flow.from) != "a"
    });

    let ports = |ports: &str| {
        policy(
            "p",
            "x",
            A,
            &format!(
                "  ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{ns: w}}}}}}], ports: [{ports}]}}]"
            ),
        )
    };
    for (what, port) in [
        ("a port", "{port: 81}"),
        ("a named port", "{port: serve-81}"),
        ("a range of ports", "{port: 81, endPort: 90}"),
    ] {
        lab.case(what, &ports(port), |flow| !x_a(flow) || (ns(&flow.from) == "w" && flow.port == 81));
    }
    lab.case("all ports of a range", &ports("{port: 80, endPort: 81}"), |flow| {
        !x_a(flow) || ns(&flow.from) == "w"
    });
    lab.case("another protocol", &ports("{port: 81, protocol: UDP}"), |flow| !x_a(flow));
    lab.case(
        "policies add up",
        &format!("{}{}", ports("{port: 81}"), policy("q", "x", A, "  ingress: [{ports: [{port: 80}]}]")),
        |flow| !x_a(flow) || flow.port == 80 || ns(&flow.from) == "w",
    );
    lab.case(
        "ports for everyone",
        &policy("p", "x", A, "  ingress: [{ports: [{port: serve-80}]}]"),
        |flow| !x_a(flow) || flow.port == 80,
    );

    let to = |rules: &str| policy("p", "x", A, &format!("  policyTypes: [Egress]\n  egress: [{rules}]"));
    let of_x_a = |flow: &Flow| flow.from == "x/a";
    lab.case(
        "egress to pods",
        &to("{to: [{namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}]}"),
        |flow| !of_x_a(flow) || flow.to == "w/b",
    );
    lab.case("egress to a port", &to("{ports: [{port: 80}]}"), |flow| !of_x_a(flow) || flow.port == 80);
    lab.case(
        "egress to a named port",
        &to("{to: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: serve-81}]}"),
        |flow| !of_x_a(flow) || (ns(&flow.to) == "z" && flow.port == 81),
    );
    lab.case(
        "both ends must agree",
        &format!(
            "{}{}",
            to("{to: [{namespaceSelector: {matchLabels: {ns: w}}}]}"),
            policy("p", "w", A, "  policyTypes: [Ingress]")
        ),
        |flow| {
            let leaves = !of_x_a(flow) || ns(&flow.to) == "w";
            leaves && flow.to != "w/a"
        },
    );

    let blocks = |except: bool, pods: &[&str]| {
        let families = [("10.165.0.0/16", false, 32), ("fd00:dad:65::/56", true, 128)];
        let blocks: Vec<String> = families
            .iter()
            .map(|(cidr, v6, bits)| {
                let singles: Vec<String> =
                    pods.iter().map(|pod| format!("\"{}/{bits}\"", lab.ip(pod, *v6))).collect();
                match except {
                    true => format!("{{ipBlock: {{cidr: \"{cidr}\", except: [{}]}}}}", singles.join(", ")),
                    false => singles
                        .iter()
                        .map(|single| format!("{{ipBlock: {{cidr: {single}}}}}"))
                        .collect::<Vec<_>>()
                        .join(", "),
                }
            })
            .collect();
        blocks.join(", ")
    };
    lab.case("blocks of addresses with exceptions", &from(&blocks(true, &["w/a", "z/b"])), |flow| {
        !x_a(flow) || !["w/a", "z/b"].contains(&flow.from.as_str())
    });
    lab.case(
        "an exception that another peer allows",
        &from(&format!("{}, {}", blocks(true, &["w/a", "z/b"]), blocks(false, &["z/b"]))),
        |flow| !x_a(flow) || flow.from != "w/a",
    );
    lab.case("a block of one family closes the other", &from("{ipBlock: {cidr: 10.165.0.0/16}}"), |flow| {
        !x_a(flow) || !flow.v6
    });
    lab.case("egress to blocks", &to(&format!("{{to: [{}]}}", blocks(false, &["w/a", "w/c"]))), |flow| {
        !of_x_a(flow) || ["w/a", "w/c"].contains(&flow.to.as_str())
    });
}

#[test]
fn policies_follow_changes_and_reach_running_connections() {
    let Some(lab) = Lab::up("change", 66) else { return };
    let cluster = &lab.cluster;
    let from_role = policy(
        "p",
        "x",
        A,
        "  ingress: [{from: [{namespaceSelector: {matchLabels: {trusted: \"yes\"}}, podSelector: {}}, {namespaceSelector: {}, podSelector: {matchLabels: {role: guest}}}]}]",
    );
    cluster.apply(&from_role);
    lab.expect("nobody is selected yet", |flow| flow.to != "x/a");
    cluster.kubectl(&["label", "pod", "b", "-n", "w", "role=guest"]);
    lab.expect("a pod is labelled", |flow| flow.to != "x/a" || flow.from == "w/b");
    cluster.kubectl(&["label", "namespace", "z", "trusted=yes"]);
    lab.expect("a namespace is labelled", |flow| {
        flow.to != "x/a" || flow.from == "w/b" || ns(&flow.from) == "z"
    });
    cluster.kubectl(&["label", "pod", "b", "-n", "w", "role-"]);
    cluster.kubectl(&["label", "namespace", "z", "trusted-"]);
    lab.expect("labels are gone", |flow| flow.to != "x/a");
    cluster.apply(&policy("p", "x", A, "  ingress: [{}]"));
    lab.expect("the policy admits all", |_| true);
    cluster.kubectl(&["label", "pod", "a", "-n", "x", "pod=d", "--overwrite"]);
    cluster.apply(&policy("p", "x", "{matchLabels: {pod: d}}", "  policyTypes: [Ingress]"));
    lab.expect("the selected pod has another label", |flow| flow.to != "x/a");
    cluster.kubectl(&["label", "pod", "a", "-n", "x", "pod=a", "--overwrite"]);
    lab.expect("it is selected no more", |_| true);
    lab.clear();

    // UDP has ports of its own, and a policy for TCP does not open them.
    let udp = |from: &str| IPV6_TOO.map(|v6| ask_udp(cluster, From::Pod(from), lab.ip("x/a", v6), 80));
    assert_eq!(udp("w/a"), [true; 2]);
    cluster.apply(&policy("p", "x", A, "  ingress: [{ports: [{port: 80}]}]"));
    cluster.eventually("UDP is closed where TCP is open", || verdict(udp("w/a") == [false; 2]));
    cluster.apply(&policy("p", "x", A, "  ingress: [{ports: [{port: udp-80, protocol: UDP}]}]"));
    cluster.eventually("UDP is open by name", || verdict(udp("w/a") == [true; 2]));
    lab.expect("and TCP is not", |flow| flow.to != "x/a");
    lab.clear();

    // A connection that runs while a policy comes and goes.
    for v6 in IPV6_TOO {
        let ip = lab.ip("x/a", v6).to_owned();
        let mut talk = Talk::start(
            cluster,
            &format!(
                "in_pod w/a bash -c 'exec 3<>/dev/tcp/{ip}/1080; for i in $(seq 2000); do echo $i >&3 || exit; \
                 if read -r -t 0.3 line <&3; then echo \"ok $i\" || exit; else echo \"lost $i\" || exit; fi; sleep 0.02; done'"
            ),
        );
        talk.wait("the connection is there", |line| line.starts_with("ok"));
        cluster.apply(&policy("p", "x", A, "  policyTypes: [Ingress]"));
        talk.wait("the policy reaches it", |line| line.starts_with("lost"));
        lab.clear();
        talk.skip();
        talk.wait("it goes on when the policy has gone", |line| line.starts_with("ok"));
    }

    // Nodes: the own one always (its kubelet probes), another one as any peer.
    cluster.apply(&policy("p", "x", ALL, "  policyTypes: [Ingress]"));
    let node = |name: &str, v6: bool| {
        let answer = ask_once(cluster, From::Node(name), &at(lab.ip("x/a", v6), 80));
        matches!(answer, Answer::Echo(_))
    };
    lab.expect("default deny", |flow| ns(&flow.to) != "x");
    for v6 in IPV6_TOO {
        assert_eq!([node("node1", v6), node("node2", v6)], [true, false], "IPv6: {v6}");
    }
    let other = cluster.get(&["node", "node2"]);
    let addresses = other["status"]["addresses"].as_array().expect("addresses").iter();
    let blocks: Vec<String> = addresses
        .filter(|address| address["type"] == "InternalIP")
        .filter_map(|address| address["address"].as_str())
        .map(|ip| format!("{{ipBlock: {{cidr: \"{ip}/{}\"}}}}", if ip.contains(':') { 128 } else { 32 }))
        .collect();
    cluster.apply(&policy("p", "x", ALL, &format!("  ingress: [{{from: [{}]}}]", blocks.join(", "))));
    cluster.eventually("a node is admitted by its addresses", || {
        verdict(IPV6_TOO.iter().all(|v6| node("node2", *v6)))
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "-n", "x", "--timeout=20s"]);
}

const IPV6_TOO: [bool; 2] = [false, true];

fn verdict(good: bool) -> Result<(), String> {
    if good { Ok(()) } else { Err("not so".into()) }
}

#[test]
fn cluster_policies_have_tiers_priorities_and_pass() {
    let Some(lab) = Lab::up("tiers", 67) else { return };
    let cluster = &lab.cluster;
    let x = "{matchLabels: {ns: x}}";
    let ingress = |action: &str, from: &str| {
        format!("  - action: {action}\n    from: [{{namespaces: {{matchLabels: {{ns: {from}}}}}}}]\n")
    };
    let rules = |rules: &[String]| format!("  ingress:\n{}", rules.concat());
    let allow_all = policy("open", "x", ALL, "  ingress: [{}]");
    let deny_all = policy("shut", "x", ALL, "  policyTypes: [Ingress]");
    let to_x = |flow: &Flow| ns(&flow.to) == "x";

    lab.case(
        "Admin denies what a NetworkPolicy admits",
        &format!("{}{allow_all}", cluster_policy("p", "Admin", 10, x, &rules(&[ingress("Deny", "w")]))),
        |flow| !to_x(flow) || ns(&flow.from) != "w",
    );
    lab.case(
        "Admin accepts what a NetworkPolicy denies",
        &format!("{}{deny_all}", cluster_policy("p", "Admin", 10, x, &rules(&[ingress("Accept", "w")]))),
        |flow| !to_x(flow) || ns(&flow.from) == "w",
    );
    lab.case(
        "the first rule that matches decides",
        &cluster_policy(
            "p",
            "Admin",
            10,
            x,
            &rules(&[ingress("Accept", "w"), ingress("Deny", "w"), ingress("Deny", "z")]),
        ),
        |flow| !to_x(flow) || ns(&flow.from) != "z",
    );
    lab.case(
        "the lower priority value decides",
        &format!(
            "{}{}",
            cluster_policy("p", "Admin", 20, x, &rules(&[ingress("Deny", "w"), ingress("Deny", "z")])),
            cluster_policy("q", "Admin", 10, x, &rules(&[ingress("Accept", "w")]))
        ),
        |flow| !to_x(flow) || ns(&flow.from) != "z",
    );
    lab.case(
        "Pass leaves it to the NetworkPolicies",
        &format!(
            "{}{}{deny_all}",
            cluster_policy("p", "Admin", 10, x, &rules(&[ingress("Pass", "w")])),
            cluster_policy("q", "Admin", 20, x, &rules(&[ingress("Accept", "w"), ingress("Accept", "z")]))
        ),
        |flow| !to_x(flow) || ns(&flow.from) == "z",
    );
    lab.case(
        "Baseline decides for pods without NetworkPolicies",
        &cluster_policy("p", "Baseline", 10, x, &rules(&[ingress("Deny", "w")])),
        |flow| !to_x(flow) || ns(&flow.from) != "w",
    );
    lab.case(
        "a NetworkPolicy overrides Baseline",
        &format!("{}{allow_all}", cluster_policy("p", "Baseline", 10, x, &rules(&[ingress("Deny", "w")]))),
        |_| true,
    );
    lab.case(
        "Pass skips the tier and then Baseline decides",
        &format!(
            "{}{}",
            cluster_policy("p", "Admin", 10, x, &rules(&[ingress("Pass", "w")])),
            cluster_policy("q", "Baseline", 10, x, &rules(&[ingress("Deny", "w"), ingress("Deny", "z")]))
        ),
        |flow| !to_x(flow) || ns(&flow.from) == "x",
    );

    let egress = |rest: &str| format!("  egress:\n{rest}");
    let of_x = |flow: &Flow| ns(&flow.from) == "x";
    lab.case("egress to pods by port",
        &cluster_policy("p", "Admin", 10, x, &egress("  - action: Deny\n    to: [{pods: {namespaceSelector: {matchLabels: {ns: w}}, podSelector: {matchLabels: {pod: b}}}}]\n    protocols: [{tcp: {destinationPort: {number: 80}}}]\n")),
        |flow| !of_x(flow) || flow.to != "w/b" || flow.port != 80);
    lab.case("egress by a range of ports and by name",
        &cluster_policy("p", "Admin", 10, x, &egress("  - action: Accept\n    to: [{namespaces: {matchLabels: {ns: w}}}]\n    protocols: [{tcp: {destinationPort: {range: {start: 81, end: 90}}}}]\n  - action: Accept\n    to: [{namespaces: {matchLabels: {ns: z}}}]\n    protocols: [{destinationNamedPort: serve-80}]\n  - action: Deny\n    to: [{namespaces: {}}]\n")),
        |flow| !of_x(flow) || (ns(&flow.to) == "w" && flow.port == 81) || (ns(&flow.to) == "z" && flow.port == 80));
    let networks =
        IPV6_TOO.map(|v6| format!("\"{}/{}\"", lab.ip("z/c", v6), if v6 { 128 } else { 32 })).join(", ");
    lab.case(
        "egress to networks",
        &cluster_policy(
            "p",
            "Admin",
            10,
            x,
            &egress(&format!("  - action: Deny\n    to: [{{networks: [{networks}]}}]\n")),
        ),
        |flow| !of_x(flow) || flow.to != "z/c",
    );
    lab.case("the subject can be pods",
        &format!("---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {{pods: {{namespaceSelector: {ALL}, podSelector: {A}}}}}\n{}", rules(&[ingress("Deny", "w")])),
        |flow| name(&flow.to) != "a" || ns(&flow.from) != "w");

    // Nodes as peers: x/a is on node1 and may not ask node2.
    let node = cluster.get(&["node", "node2"]);
    let addresses = node["status"]["addresses"].as_array().expect("addresses").iter();
    let addresses: Vec<String> = addresses
        .filter(|address| address["type"] == "InternalIP")
        .filter_map(|address| address["address"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    // Nobody listens there: a refusal is an answer.
    let asked =
        || addresses.iter().map(|ip| ask_once(cluster, From::Pod("x/a"), &at(ip, 9))).collect::<Vec<_>>();
    assert_eq!(asked(), vec![Answer::Refused; 2]);
    cluster.apply(&cluster_policy(
        "p",
        "Admin",
        10,
        x,
        &egress("  - action: Deny\n    to: [{nodes: {matchLabels: {kubernetes.io/hostname: node2}}}]\n"),
    ));
    cluster.eventually("nodes are peers", || {
        let found = asked();
        if found == vec![Answer::Silence; 2] { Ok(()) } else { Err(format!("{found:?}")) }
    });
}
