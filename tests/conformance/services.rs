//! What Services can do, end to end: every feature asked by real connections from pods, nodes and the outside, in both
//! families.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/network.rs"]
mod network;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use cluster::Cluster;
use network::{Answer, From, Talk, ask, ask_once, ask_udp, at, ips, script};
use serde_json::{Value, json};

/// A pod of echo servers on port 8080; `extra` goes into the spec.
fn server(name: &str, node: &str, labels: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  nodeName: {node}\n  \
         containers:\n  - name: echo\n    image: dyad/echo\n    env: [{{name: POD_ID, value: {name}}}]\n    \
         ports: [{{name: http, containerPort: 8080}}, {{name: udp, containerPort: 8080, protocol: UDP}}]\n    \
         readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}\n{extra}"
    )
}

const QUICK: &str = "  terminationGracePeriodSeconds: 0\n";

/// A dual-stack Service of the pods with label `app: web`, port 80; `fields` go into the spec.
fn service(name: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ipFamilyPolicy: RequireDualStack\n  \
         selector: {{app: web}}\n  ports: [{{name: http, port: 80, targetPort: http}}, {{name: udp, port: 80, targetPort: udp, protocol: UDP}}]\n{fields}"
    )
}

struct Lab {
    cluster: Cluster,
}

impl Lab {
    /// Two nodes in zones `a` and `b` and a third one in no zone; a web server on each of the first two and a client on each.
    fn up(name: &str, number: u8) -> Option<Self> {
        let cluster = Cluster::up(name, number, &["--nodes", "3"]);
        if !cluster.has_kubectl() {
            return None;
        }
        let lab = Self { cluster };
        let mut yaml = String::new();
        for (pod, node) in [("web-1", "node1"), ("web-2", "node2")] {
            yaml.push_str(&server(pod, node, "app: web", QUICK));
        }
        for (pod, node) in [("client-1", "node1"), ("client-2", "node2"), ("client-3", "node3")] {
            yaml.push_str(&server(pod, node, "app: client", QUICK));
        }
        lab.cluster.apply(&yaml);
        lab.ready();
        Some(lab)
    }

    fn ready(&self) {
        self.cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    }

    fn vips(&self, service: &str) -> Vec<String> {
        let vips = ips(&self.cluster.get(&["service", service]), "/spec/clusterIPs");
        assert_eq!(vips.len(), 2, "{service}");
        vips
    }

    fn node_port(&self, service: &str) -> u16 {
        let port = self.cluster.get(&["service", service])["spec"]["ports"][0]["nodePort"].as_u64();
        port.and_then(|port| u16::try_from(port).ok()).expect("a node port")
    }

    /// The addresses of a node, IPv4 first.
    fn node_ips(&self, node: &str) -> Vec<String> {
        let node = self.cluster.get(&["node", node]);
        let addresses = node["status"]["addresses"].as_array().expect("addresses").iter();
        let internal = addresses.filter(|address| address["type"] == "InternalIP");
        internal.filter_map(|address| address["address"].as_str().map(str::to_owned)).collect()
    }

    /// Who answers how often, of a few connections.
    fn answers(&self, from: From<'_>, at: &str, times: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for answer in ask(&self.cluster, from, at, times) {
            let who = match &answer {
                Answer::Echo(_) => answer.hostname().to_owned(),
                other => format!("{other:?}"),
            };
            *counts.entry(who).or_default() += 1;
        }
        counts
    }

    /// Waits until exactly these answer.
    #[track_caller]
    fn answered_by(&self, what: &str, from: From<'_>, at: &str, wanted: &[&str]) {
        // Silence takes its time, and need not be chosen from.
        let times = if wanted == ["Silence"] { 2 } else { 10 };
        self.cluster.eventually(&format!("{what}: {from:?} to {at}"), || {
            let found = self.answers(from, at, times);
            let who: Vec<&str> = found.keys().map(String::as_str).collect();
            if who == wanted { Ok(()) } else { Err(format!("{found:?}, expected {wanted:?}")) }
        });
    }

    /// Merges a patch into an object.
    fn patch(&self, what: &str, name: &str, patch: &Value, more: &[&str]) {
        let patch = patch.to_string();
        self.cluster.kubectl(&[&["patch", what, name, "--type=merge", "-p", &patch], more].concat());
    }
}

const BOTH: [&str; 2] = ["web-1", "web-2"];

#[test]
fn every_kind_of_address_leads_to_the_endpoints() {
    let Some(lab) = Lab::up("services", 60) else { return };
    let cluster = &lab.cluster;
    cluster.apply(&format!(
        "{}{}{}",
        service("plain", "  type: NodePort\n"),
        service("outer", "  type: LoadBalancer\n  externalIPs: [198.51.100.60, \"2001:db8:60::60\"]\n"),
        service("headless", "  clusterIP: None\n"),
    ));
    let balanced = ["198.51.100.61", "2001:db8:60::61"];
    let proxied = ["198.51.100.62", "2001:db8:60::62"];
    let ingress: Vec<Value> = balanced
        .iter()
        .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
        .chain(proxied.iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"})))
        .collect();
    lab.patch(
        "service",
        "outer",
        &json!({"status": {"loadBalancer": {"ingress": ingress}}}),
        &["--subresource=status"],
    );
    let sources = [From::Pod("client-1"), From::Pod("client-3"), From::Node("node1"), From::Node("node3")];
    for vip in lab.vips("plain") {
        for from in sources {
            lab.answered_by("cluster IP", from, &at(&vip, 80), &BOTH);
        }
        assert!(ask_udp(cluster, From::Pod("client-1"), &vip, 80), "UDP to {vip}");
        lab.answered_by("hairpin", From::Pod("web-1"), &at(&vip, 80), &BOTH);
    }
    let port = lab.node_port("plain");
    for node in ["node1", "node2", "node3"] {
        for ip in lab.node_ips(node) {
            for from in [From::Pod("client-1"), From::Node("node1"), From::Outside] {
                lab.answered_by("node port", from, &at(&ip, port), &BOTH);
            }
        }
    }
    for ip in balanced.iter().chain(&["198.51.100.60", "2001:db8:60::60"]) {
        for from in [From::Pod("client-1"), From::Pod("client-3"), From::Node("node2")] {
            lab.answered_by("load balancer and external IP", from, &at(ip, 80), &BOTH);
        }
    }
    // A load balancer that is a proxy gets its own traffic: nothing short-cuts it, so nobody has the address here.
    for ip in proxied {
        let answer = ask_once(cluster, From::Pod("client-1"), &at(ip, 80));
        assert!(!matches!(answer, Answer::Echo(_)), "ipMode Proxy, {ip}: {answer:?}");
    }
    let headless = cluster.get(&["service", "headless"]);
    assert_eq!(ips(&headless, "/spec/clusterIPs"), ["None"]);
    let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=headless"]);
    assert_eq!(slices["items"].as_array().map(Vec::len), Some(2), "a slice per family, and no rules to ask");
}

#[test]
fn traffic_policies_affinity_and_source_ranges() {
    let Some(lab) = Lab::up("policies", 61) else { return };
    let cluster = &lab.cluster;
    cluster.apply(&format!(
        "{}{}{}{}",
        service("inner", "  internalTrafficPolicy: Local\n"),
        service("local", "  type: LoadBalancer\n  externalTrafficPolicy: Local\n"),
        service(
            "sticky",
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}\n"
        ),
        service("ranges", "  type: LoadBalancer\n  loadBalancerSourceRanges: [198.18.0.0/15]\n"),
    ));
    for vip in lab.vips("inner") {
        lab.answered_by("internalTrafficPolicy Local", From::Pod("client-1"), &at(&vip, 80), &["web-1"]);
        lab.answered_by("internalTrafficPolicy Local", From::Pod("client-2"), &at(&vip, 80), &["web-2"]);
        // Dropped, not refused (A164).
        lab.answered_by("internalTrafficPolicy Local", From::Pod("client-3"), &at(&vip, 80), &["Silence"]);
    }

    // externalTrafficPolicy Local: endpoints of the node, with the client's address; nothing on the node without.
    let port = lab.node_port("local");
    for (node, wanted) in [("node1", "web-1"), ("node2", "web-2"), ("node3", "Silence")] {
        for ip in lab.node_ips(node) {
            lab.answered_by("externalTrafficPolicy Local", From::Outside, &at(&ip, port), &[wanted]);
            let answer = ask_once(cluster, From::Outside, &at(&ip, port));
            if wanted != "Silence" {
                let outside = script(cluster, "outside", "ip -o addr show");
                assert!(
                    outside.contains(&format!(" {}/", answer.peer())),
                    "{ip}: {} is not of\n{outside}",
                    answer.peer()
                );
            }
        }
    }
    // From within, all endpoints (A165).
    for ip in lab.node_ips("node3") {
        lab.answered_by(
            "externalTrafficPolicy Local, from a pod",
            From::Pod("client-3"),
            &at(&ip, port),
            &BOTH,
        );
    }
    let health = cluster.get(&["service", "local"])["spec"]["healthCheckNodePort"].as_u64().expect("a port");
    let health = u16::try_from(health).expect("a port");
    for (node, count, good) in [("node1", 1, true), ("node3", 0, false)] {
        for ip in lab.node_ips(node) {
            let asked =
                format!("curl -s --max-time 2 -w '\\nstatus %{{http_code}}' http://{}/", at(&ip, health));
            cluster.eventually(&format!("the health check of {node} at {ip}"), || {
                let printed = script(cluster, "outside", &asked);
                let status = if good { "status 200" } else { "status 503" };
                let endpoints = format!("\"localEndpoints\":{count}");
                let seen = printed.replace(": ", ":");
                if seen.contains(status) && seen.contains(&endpoints) { Ok(()) } else { Err(printed) }
            });
        }
    }

    let mut talks = Vec::new();
    for vip in lab.vips("sticky") {
        let at = at(&vip, 80);
        cluster.eventually("affinity", || {
            let found = lab.answers(From::Pod("client-3"), &at, 12);
            if found.len() == 1 && BOTH.iter().any(|name| found.contains_key(*name)) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        });
        // Connections further apart than the time-out start afresh, so that the other endpoint has its turn; that it has none
        // in fourteen is one in sixteen thousand.
        let apart = format!(
            "for i in $(seq 15); do in_pod client-3 curl -s --max-time 2 http://{at}/hostname; echo; sleep 2.2; done"
        );
        talks.push(Talk::start(cluster, &apart));
    }
    for talk in &mut talks {
        let mut first = String::new();
        talk.wait("somebody answers", |line| {
            BOTH.contains(&line) && {
                first = line.to_owned();
                true
            }
        });
        talk.wait("affinity ends", |line| BOTH.contains(&line) && line != first);
    }

    // Source ranges are about load balancer addresses; a list of one family closes the other.
    let balanced = ["198.51.100.71", "2001:db8:61::71"];
    let ingress: Vec<Value> = balanced.iter().map(|ip| json!({ "ip": ip })).collect();
    lab.patch(
        "service",
        "ranges",
        &json!({"status": {"loadBalancer": {"ingress": ingress}}}),
        &["--subresource=status"],
    );
    for ip in balanced {
        lab.answered_by(
            "sources that are not in the ranges",
            From::Pod("client-1"),
            &at(ip, 80),
            &["Silence"],
        );
    }
    let pods: Vec<String> = ips(&cluster.get(&["pod", "client-1"]), "/status/podIPs");
    lab.patch(
        "service",
        "ranges",
        &json!({"spec": {"loadBalancerSourceRanges": [format!("{}/32", pods[0])]}}),
        &[],
    );
    lab.answered_by("a source in the ranges", From::Pod("client-1"), &at(balanced[0], 80), &BOTH);
    lab.answered_by("the other family", From::Pod("client-1"), &at(balanced[1], 80), &["Silence"]);
    lab.answered_by("another source", From::Pod("client-2"), &at(balanced[0], 80), &["Silence"]);
    let ranges = json!([format!("{}/32", pods[0]), format!("{}/128", pods[1])]);
    lab.patch("service", "ranges", &json!({"spec": {"loadBalancerSourceRanges": ranges}}), &[]);
    for ip in balanced {
        lab.answered_by("a source in the ranges of both families", From::Pod("client-1"), &at(ip, 80), &BOTH);
    }
}

#[test]
fn endpoints_come_and_go() {
    let Some(lab) = Lab::up("endpoints", 62) else { return };
    let cluster = &lab.cluster;
    cluster.apply(&format!(
        "{}{}",
        service("plain", "  type: NodePort\n"),
        service("early", "  publishNotReadyAddresses: true\n")
    ));
    let vips = lab.vips("plain");
    for vip in &vips {
        lab.answered_by("two endpoints", From::Pod("client-3"), &at(vip, 80), &BOTH);
    }
    // Terminating and still serving: nobody else is there, so they are asked (A163).
    let stop = "  terminationGracePeriodSeconds: 20\n";
    let lingers = "    lifecycle: {preStop: {sleep: {seconds: 15}}}\n";
    cluster.kubectl(&["delete", "pod", "web-1", "web-2", "--wait=true"]);
    cluster.apply(&server("web-3", "node2", "app: web", &format!("{lingers}{stop}")));
    lab.ready();
    for vip in &vips {
        lab.answered_by("a new endpoint", From::Pod("client-1"), &at(vip, 80), &["web-3"]);
    }
    cluster.kubectl(&["delete", "pod", "web-3", "--wait=false"]);
    cluster.eventually("the slice says terminating", || {
        let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=plain"]);
        let conditions = &slices["items"][0]["endpoints"][0]["conditions"];
        let wanted = json!({"ready": false, "serving": true, "terminating": true});
        if *conditions == wanted { Ok(()) } else { Err(slices.to_string()) }
    });
    for vip in &vips {
        lab.answered_by("terminating but serving", From::Pod("client-1"), &at(vip, 80), &["web-3"]);
    }
    cluster.apply(&server("web-4", "node1", "app: web", QUICK));
    lab.cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web-4", "--timeout=30s"]);
    for vip in &vips {
        lab.answered_by("a ready endpoint wins", From::Pod("client-3"), &at(vip, 80), &["web-4"]);
    }
    cluster.kubectl(&["delete", "pod", "web-3", "web-4", "--grace-period=0", "--force"]);

    // Nobody: a refusal at once, on every port and in both families (A167).
    let port = lab.node_port("plain");
    for vip in &vips {
        lab.answered_by("no endpoints", From::Pod("client-1"), &at(vip, 80), &["Refused"]);
        lab.answered_by("no endpoints", From::Node("node2"), &at(vip, 80), &["Refused"]);
    }
    for ip in ["10.250.62.250", "fd00:dad:62:100::fff0"] {
        assert!(!vips.iter().any(|vip| vip == ip), "{ip} is nobody's");
        lab.answered_by("no such Service", From::Pod("client-1"), &at(ip, 80), &["Refused"]);
    }
    for ip in lab.node_ips("node1") {
        lab.answered_by("no endpoints behind a node port", From::Outside, &at(&ip, port), &["Refused"]);
    }

    // Not ready: published only where that is asked for.
    let never = server("web-5", "node1", "app: web", QUICK).replace("/healthz", "/nothing-there");
    cluster.apply(&never);
    for vip in lab.vips("early") {
        lab.answered_by("publishNotReadyAddresses", From::Pod("client-2"), &at(&vip, 80), &["web-5"]);
    }
    for vip in &vips {
        lab.answered_by("not ready", From::Pod("client-2"), &at(vip, 80), &["Refused"]);
    }

    // UDP flows follow their endpoints.
    cluster.kubectl(&["delete", "pod", "web-5", "--wait=true"]);
    cluster.apply(&server("web-6", "node1", "app: web", QUICK));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web-6", "--timeout=30s"]);
    for vip in &vips {
        cluster.eventually("UDP is answered", || {
            if ask_udp(cluster, From::Pod("client-3"), vip, 80) { Ok(()) } else { Err("silence".into()) }
        });
    }
    // One socket and one flow per family, all the time.
    let mut talks: Vec<Talk> = vips
        .iter()
        .map(|vip| {
            Talk::start(
                cluster,
                &format!(
                    "in_pod client-3 bash -c 'exec 3<>/dev/udp/{vip}/80; for i in $(seq 600); do echo hi >&3; \
                     timeout 0.2 dd bs=2048 count=1 <&3 2>/dev/null | grep -a hostname || [ $? -eq 1 ] || exit; sleep 0.05; done'"
                ),
            )
        })
        .collect();
    for talk in &mut talks {
        talk.wait("the first endpoint answers", |line| line.ends_with("web-6"));
    }
    cluster.apply(&server("web-7", "node2", "app: web", QUICK));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web-7", "--timeout=30s"]);
    cluster.kubectl(&["delete", "pod", "web-6", "--wait=true"]);
    for talk in &mut talks {
        talk.wait("the flow moves to the other endpoint", |line| line.ends_with("web-7"));
    }
}

#[test]
fn traffic_stays_near_where_it_is_asked_to() {
    let cluster = Cluster::prepare("zones", 63);
    let config = cluster.home.path().join("cluster.yaml");
    let mut text = std::fs::read_to_string(&config).expect("the cluster's file");
    text.push_str("nodes:\n- role: control-plane\n");
    for zone in ["a", "b"] {
        let _ = writeln!(text, "- role: worker\n  labels: {{topology.kubernetes.io/zone: {zone}}}");
    }
    std::fs::write(&config, text).expect("the cluster's file");
    let started = cluster.start(&[]);
    assert!(started.status.success(), "{}", cluster::text(&started.stderr));
    if !cluster.has_kubectl() {
        return;
    }
    let lab = Lab { cluster };
    let cluster = &lab.cluster;
    let nodes = [format!("{}-worker", cluster.name), format!("{}-worker2", cluster.name)];
    let mut yaml = String::new();
    for (index, node) in (1..).zip(&nodes) {
        yaml.push_str(&server(&format!("web-{index}"), node, "app: web", QUICK));
        yaml.push_str(&server(&format!("client-{index}"), node, "app: client", QUICK));
    }
    yaml.push_str(&service("near", "  trafficDistribution: PreferSameZone\n"));
    yaml.push_str(&service("nearest", "  trafficDistribution: PreferSameNode\n"));
    yaml.push_str(&service("auto", ""));
    cluster.apply(&yaml);
    cluster.kubectl(&["annotate", "service", "auto", "service.kubernetes.io/topology-mode=Auto"]);
    lab.ready();
    let shell = |pod: &'static str| From::Pod(pod);
    for name in ["near", "nearest", "auto"] {
        for vip in lab.vips(name) {
            zoned(&lab, name, shell("client-1"), &vip, &["web-1"]);
            zoned(&lab, name, shell("client-2"), &vip, &["web-2"]);
        }
    }
    // The zone without endpoints gets those of the other.
    cluster.kubectl(&["delete", "pod", "web-2", "--wait=true"]);
    for name in ["near", "nearest", "auto"] {
        for vip in lab.vips(name) {
            zoned(&lab, name, shell("client-2"), &vip, &["web-1"]);
        }
    }
    cluster.eventually("users are told that there are too few endpoints for hints", || {
        let events = cluster.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
        let both = ["TopologyAwareHintsEnabled", "TopologyAwareHintsDisabled"]
            .iter()
            .all(|one| events.contains(one));
        if both { Ok(()) } else { Err(events) }
    });
}

fn zoned(lab: &Lab, name: &str, from: From<'_>, vip: &str, wanted: &[&str]) {
    lab.answered_by(name, from, &at(vip, 80), wanted);
}

#[test]
fn host_ports_lead_to_their_pods() {
    let Some(lab) = Lab::up("hostport", 64) else { return };
    let cluster = &lab.cluster;
    let with_port = |name: &str, port: &str| {
        server(name, "node1", "app: hosted", QUICK).replace(
            "containerPort: 8080}, {name: udp",
            &format!("containerPort: 8080, {port}}}, {{name: udp"),
        )
    };
    let own = lab.node_ips("node1");
    cluster.apply(&format!(
        "{}{}",
        with_port("any", "hostPort: 31080"),
        with_port("one", &format!("hostPort: 31081, hostIP: \"{}\"", own[1])),
    ));
    lab.ready();
    for (index, ip) in own.iter().enumerate() {
        for from in [From::Pod("client-1"), From::Pod("client-3"), From::Node("node2"), From::Outside] {
            lab.answered_by("host port", from, &at(ip, 31080), &["any"]);
            let wanted = if index == 1 { "one" } else { "Refused" };
            lab.answered_by("host port of one address", from, &at(ip, 31081), &[wanted]);
        }
        let answer = ask_once(cluster, From::Node("node2"), &at(ip, 31080));
        assert!(lab.node_ips("node2").contains(&answer.peer().to_owned()), "the source is kept: {answer:?}");
    }
    cluster.kubectl(&["delete", "pod", "any", "--wait=true"]);
    for ip in &own {
        lab.answered_by("the pod is gone", From::Node("node2"), &at(ip, 31080), &["Refused"]);
    }
    // The scheduler gives a port of a node once.
    let any_node = with_port("first", "hostPort: 31082")
        .replace("  nodeName: node1\n", "  nodeSelector: {kubernetes.io/hostname: node1}\n");
    cluster.apply(&any_node);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/first", "--timeout=30s"]);
    cluster.apply(&any_node.replace("first", "second"));
    cluster.eventually("a conflict keeps a pod from being scheduled", || {
        let pod = cluster.get(&["pod", "second"]);
        let conditions = pod["status"]["conditions"].to_string();
        if conditions.contains("didn't have free ports") { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}
