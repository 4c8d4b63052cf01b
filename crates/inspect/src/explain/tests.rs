//! Whole answers, about one small cluster: two nodes, both families.

use std::os::fd::AsFd;
use std::process::Command;

use dyad_links::netns;
use serde_json::{Value, json};

use super::counters::Counted;
use super::*;

/// A pod: name, node, number in its ranges, labels.
fn pod(name: &str, node: u8, number: u8, labels: Value) -> Value {
    let ips = [format!("10.244.{node}.{number}"), format!("2001:db8:244:{node}::{number}")];
    json!({
        "metadata": {"namespace": "default", "name": name, "labels": labels},
        "spec": {"nodeName": format!("node{node}"), "containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]},
        ]},
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ips[0]}, {"ip": ips[1]}]},
    })
}

fn node(number: u8) -> Value {
    json!({
        "metadata": {"name": format!("node{number}")},
        "spec": {"podCIDRs": [format!("10.244.{number}.0/24"), format!("2001:db8:244:{number}::/64")]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("192.0.2.{number}")},
            {"type": "InternalIP", "address": format!("2001:db8::{number}")},
        ]},
    })
}

fn service(name: &str, change: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": "ClusterIP", "selector": {"app": name}, "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080}],
        },
    });
    let (spec, change) = (object["spec"].as_object_mut().unwrap(), change.as_object().unwrap().clone());
    spec.extend(change);
    object
}

/// The slices of a Service in both families; its endpoints are pods by node and number.
fn slices(service: &str, endpoints: &[(u8, u8)]) -> Vec<Value> {
    let slice = |family: &str, address: &dyn Fn(u8, u8) -> String| {
        let endpoint = |(node, number): &(u8, u8)| json!({"addresses": [address(*node, *number)], "nodeName": format!("node{node}"), "conditions": {"ready": true}});
        json!({
            "metadata": {
                "namespace": "default", "name": format!("{service}-{family}"),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family,
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        })
    };
    vec![
        slice("IPv4", &|node, number| format!("10.244.{node}.{number}")),
        slice("IPv6", &|node, number| format!("2001:db8:244:{node}::{number}")),
    ]
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
}

fn isolate(labels: Value) -> Value {
    policy("deny", json!({"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"]}))
}

/// `a` on node1 and `web-1` on node1, `web-2` on node2 behind Service `web`.
fn cluster() -> Objects {
    Objects {
        services: vec![service("web", json!({}))],
        slices: slices("web", &[(1, 7), (2, 7)]),
        pods: vec![
            pod("a", 1, 3, json!({"app": "a"})),
            pod("web-1", 1, 7, json!({"app": "web"})),
            pod("web-2", 2, 7, json!({"app": "web"})),
        ],
        namespaces: vec![
            json!({"metadata": {"name": "default", "labels": {"kubernetes.io/metadata.name": "default"}}}),
        ],
        nodes: vec![node(1), node(2)],
        service_ranges: vec![json!({
            "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]},
        })],
        ..Objects::default()
    }
}

fn question(from: &str, to: &str) -> Question {
    Question {
        from: End::parse(from, "default").unwrap(),
        to: Target::parse(to, "default").unwrap(),
        families: Vec::new(),
        protocol: None,
        via: None,
    }
}

fn ask(objects: &Objects, from: &str, to: &str) -> Report {
    explain(objects, &Settings::default(), &question(from, to)).unwrap()
}

/// How it ends in each family, and everything that is said about the ends.
fn ends(report: &Report) -> Vec<(Option<Fate>, String)> {
    let words = |path: &Path| {
        let texts = path.outcomes.iter().flat_map(|end| end.why.iter().chain(&end.advice).cloned());
        texts.collect::<Vec<_>>().join("\n")
    };
    report.paths.iter().map(|path| (path.result(), words(path))).collect()
}

fn v4(objects: &Objects, from: &str, to: &str) -> (Option<Fate>, String) {
    let question = Question { families: vec![IpFamily::V4], ..question(from, to) };
    ends(&explain(objects, &Settings::default(), &question).unwrap()).remove(0)
}

#[test]
fn a_delivered_connection_in_words() {
    let objects = cluster();
    let mut report = ask(&objects, "pod/a", "svc/web");
    report.paths.truncate(1);
    let expected = "\
pod default/a -> service default/web

IPv4  10.244.1.3 -> 10.96.0.1, TCP port 80
  on node1
    arrival   10.244.1.3 is a pod of this node
    frontend  10.96.0.1:80/TCP: found
              by Service default/web
    endpoint  goes to one of 2 endpoints (10.244.1.7:8080, 10.244.2.7:8080), at random
              by Service default/web
    source    keeps its source address
  on node2, to 10.244.2.7:8080
    arrival   10.244.1.3 is another node of the cluster or a pod there
    frontend  10.244.2.7 is no frontend of a Service: not translated
    source    keeps its source address
  ✓ delivered: 10.244.1.7:8080, pod default/web-1 on node1
  ✓ delivered: 10.244.2.7:8080, pod default/web-2 on node2
";
    assert_eq!(report.text(), expected);
}

#[test]
fn a_dropped_connection_in_words_with_counters() {
    let mut objects = cluster();
    objects.network_policies = vec![isolate(json!({"app": "web"}))];
    let question = Question { families: vec![IpFamily::V6], ..question("pod/a", "pod/web-2:http") };
    let mut report = explain(&objects, &Settings::default(), &question).unwrap();
    let because = "NetworkPolicy default/deny isolates the pod for ingress";
    let counted = |family: &str, rule: &str, packets| Counted {
        family: family.into(),
        chain: "policy-0123456789abcdef".into(),
        rule: rule.into(),
        packets,
        bytes: packets * 80,
    };
    report.count(
        "node2",
        &[
            counted("IPv6", because, 3),
            counted("IPv6", because, 4),
            counted("IPv4", because, 50),
            counted("IPv6", "something else", 600),
        ],
    );
    report.count("node1", &[counted("IPv6", because, 7000)]);
    let expected = "\
pod default/a -> pod default/web-2:http

IPv6  2001:db8:244:1::3 -> 2001:db8:244:2::7, TCP port 8080
  on node1
    arrival   2001:db8:244:1::3 is a pod of this node
    frontend  2001:db8:244:2::7 is no frontend of a Service: not translated
    source    keeps its source address
  on node2, to [2001:db8:244:2::7]:8080
    arrival   2001:db8:244:1::3 is another node of the cluster or a pod there
    frontend  2001:db8:244:2::7 is no frontend of a Service: not translated
    policy    ingress of 2001:db8:244:2::7 from 2001:db8:244:1::3, TCP port 8080: dropped
              by NetworkPolicy default/deny isolates the pod for ingress
              so far 7 packets of new connections, by the kernel's count
  ✗ dropped: [2001:db8:244:2::7]:8080, pod default/web-2 on node2
    NetworkPolicy default/deny isolates the pod for ingress
    → allow it in a NetworkPolicy of namespace default that selects pod default/web-2: an ingress rule from \
namespaceSelector kubernetes.io/metadata.name=default with podSelector app=a, port 8080/TCP
";
    assert_eq!(report.text(), expected);
    assert!(!report.delivered);
}

#[test]
fn the_answer_for_programs_keeps_its_shape() {
    let mut objects = cluster();
    objects.slices = slices("web", &[(1, 7)]);
    let question = Question { families: vec![IpFamily::V4], ..question("pod/a", "svc/web:http") };
    let report = explain(&objects, &Settings::default(), &question).unwrap();
    let expected = json!({
        "from": "pod default/a",
        "to": "service default/web:http",
        "delivered": true,
        "paths": [{
            "ipFamily": "IPv4",
            "source": "10.244.1.3",
            "destination": "10.96.0.1",
            "payload": "TCP port 80",
            "hops": [{"node": "node1", "steps": [
                {"stage": "arrival", "text": "10.244.1.3 is a pod of this node"},
                {"stage": "frontend", "text": "10.96.0.1:80/TCP: found", "because": "Service default/web"},
                {"stage": "endpoint", "text": "goes to 10.244.1.7:8080", "because": "Service default/web"},
                {"stage": "source", "text": "keeps its source address"},
            ]}],
            "outcomes": [
                {"result": "delivered", "endpoint": "10.244.1.7:8080", "pod": "default/web-1", "node": "node1"},
            ],
            "notFollowed": 0,
        }],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
}

#[test]
fn every_end_reaches_what_it_should() {
    let objects = cluster();
    for (from, to) in [
        ("pod/a", "pod/web-2"),
        ("pod/a", "pod/web-2:http"),
        ("node/node2", "svc/web"),
        ("node/node2", "pod/a"),
        ("10.244.1.3", "svc/web"),
        ("192.0.2.1", "svc/web:80"),
        ("pod/web-1", "svc/web"),
        ("pod/a", "node/node2:30080"),
        ("pod/a", "outside:443"),
        ("outside", "node/node2:30080"),
        ("outside", "svc/web"),
    ] {
        let report = ask(&objects, from, to);
        assert!(report.delivered, "{}", report.text());
    }
}

#[test]
fn node_ports_lead_on_from_node_to_node() {
    let mut objects = cluster();
    objects.slices = slices("web", &[(1, 7)]);
    let report = ask(&objects, "outside", "node/node2:30080");
    for path in &report.paths {
        let nodes: Vec<&str> = path.hops.iter().map(|hop| hop.node.as_str()).collect();
        assert_eq!(nodes, ["node2", "node1"], "{}", report.text());
        assert_eq!(path.outcomes[0].pod.as_deref(), Some("default/web-1"));
        let source = path.hops[0].steps.last().unwrap();
        assert!(source.text.contains("takes an address of this node"), "{source:?}");
    }
    assert!(ask(&objects, "pod/a", "node/node2:30080").delivered);
}

#[test]
fn closed_pods_and_what_opens_them() {
    let objects = cluster();
    let report = ask(&objects, "outside", "pod/web-2:8080");
    let [(v4, _), (v6, words)] = ends(&report).try_into().unwrap();
    // Whether anybody outside has a route to a private address is the routers' matter.
    assert!(
        report.paths[0].note.as_ref().is_some_and(|note| note.contains("10.244.2.7 means nothing outside"))
    );
    assert_eq!((v4, v6), (Some(Fate::Delivered), Some(Fate::Dropped)), "{}", report.text());
    assert!(words.contains("closed to the outside") && words.contains("NodePort or LoadBalancer"), "{words}");
    let open = Settings { open_pods: true, ..Settings::default() };
    assert!(explain(&objects, &open, &question("outside", "pod/web-2:8080")).unwrap().delivered);
}

#[test]
fn services_without_endpoints_tell_what_is_wrong_with_the_pods() {
    let mut objects = cluster();
    objects.slices.clear();
    let (fate, words) = v4(&objects, "pod/a", "svc/web");
    assert_eq!(fate, Some(Fate::Refused));
    assert!(
        words.contains("Service default/web") && words.contains("is ready: default/web-1 (Running)"),
        "{words}"
    );
    objects.pods.truncate(1);
    let (_, words) = v4(&objects, "pod/a", "svc/web");
    assert!(
        words.contains("no pod in namespace default has the labels") && words.contains("app=web"),
        "{words}"
    );
    let mut web = pod("web-1", 1, 7, json!({"app": "web"}));
    web["status"]["podIPs"] = json!([{"ip": "2001:db8:244:1::7"}]);
    web["status"]["podIP"] = json!("2001:db8:244:1::7");
    objects.pods.push(web);
    let (_, words) = v4(&objects, "pod/a", "svc/web");
    assert!(words.contains("has an IPv4 address: default/web-1"), "{words}");
    objects.services = vec![service("web", json!({"selector": null}))];
    let (_, words) = v4(&objects, "pod/a", "svc/web");
    assert!(words.contains("has no selector"), "{words}");
}

#[test]
fn queries_of_dns_are_answered_by_the_nodes_cache() {
    let mut objects = cluster();
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]);
    objects.services = vec![service("web", json!({"ports": ports}))];
    objects.slices = slices("web", &[(2, 7)]);
    for slice in &mut objects.slices {
        slice["ports"] = ports.clone();
    }
    let way = |objects: &Objects, to: &str| {
        let report = ask(objects, "pod/a", to);
        assert!(report.delivered, "{}", report.text());
        report.paths.iter().map(|path| path.hops[0].steps[0].stage).collect::<Vec<_>>()
    };
    assert_eq!(way(&objects, "svc/web:dns"), ["arrival", "arrival"], "no cache");
    objects.nodes[0]["metadata"]["annotations"] = json!({"dyad.io/dns-cache": "10.96.0.1,fd00:10:96::1"});
    assert_eq!(way(&objects, "svc/web:dns"), ["cache", "cache"]);
    assert_eq!(way(&objects, "svc/web:dns-tcp"), ["arrival", "arrival"], "TCP takes the Service's way");
    let text = ask(&objects, "pod/a", "svc/web:dns").text();
    assert!(
        text.contains("by the DNS cache of node1") && text.contains("[fd00:10:96::1]:53, on node1"),
        "{text}"
    );
    assert_eq!(way(&objects, "10.244.2.7:53"), ["arrival"], "who is asked by himself answers");
    // Pods whose egress is isolated are spared.
    let egress = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
    objects.network_policies = vec![policy("egress", egress)];
    assert_eq!(way(&objects, "svc/web:dns"), ["arrival", "arrival"]);
    // The cache in one family leaves the other one alone.
    objects.network_policies.clear();
    objects.nodes[0]["metadata"]["annotations"] = json!({"dyad.io/dns-cache": "fd00:10:96::1"});
    assert_eq!(way(&objects, "svc/web:dns"), ["arrival", "cache"]);
}

#[test]
fn a_pod_that_does_not_answer_in_a_family_is_told_of() {
    let mut objects = cluster();
    for pod in &mut objects.pods[1..] {
        pod["status"]["conditions"] = json!([
            {"type": "Ready", "status": "True"},
            {"type": "dyad.io/ReadyIPv4", "status": "True"},
            {"type": "dyad.io/ReadyIPv6", "status": "False", "message": "dial tcp [::]:8080: refused"},
        ]);
    }
    // Nobody asked for readiness per family: it is sent there, and what will become of it is said.
    let [(v4, silent), (v6, words)] = ends(&ask(&objects, "pod/a", "svc/web")).try_into().unwrap();
    assert_eq!((v4, &*silent, v6), (Some(Fate::Delivered), "", Some(Fate::Delivered)));
    assert!(words.contains("not ready in IPv6: dial tcp [::]:8080: refused"), "{words}");
    // Somebody did.
    objects.services[0]["metadata"]["annotations"] = json!({"dyad.io/readiness-per-family": "true"});
    objects.slices.pop();
    let [(v4, _), (v6, words)] = ends(&ask(&objects, "pod/a", "svc/web")).try_into().unwrap();
    assert_eq!((v4, v6), (Some(Fate::Delivered), Some(Fate::Refused)));
    assert!(
        words.contains("is ready in IPv6: default/web-1 (dial tcp [::]:8080: refused), default/web-2"),
        "{words}"
    );
    assert!(words.contains("listen there"), "{words}");
}

#[test]
fn a_family_the_service_lacks_is_told_of_and_no_failure_unless_asked_for() {
    let mut objects = cluster();
    objects.services =
        vec![service("web", json!({"clusterIPs": ["10.96.0.1"], "ipFamilyPolicy": "SingleStack"}))];
    let report = ask(&objects, "pod/a", "svc/web");
    assert!(report.delivered, "{}", report.text());
    let (fate, words) = ends(&report).remove(1);
    assert_eq!(fate, Some(Fate::NoAddress));
    assert!(words.contains("PreferDualStack: now it is SingleStack"), "{words}");
    let asked = Question { families: vec![IpFamily::V6], ..question("pod/a", "svc/web") };
    assert!(!explain(&objects, &Settings::default(), &asked).unwrap().delivered);
}

#[test]
fn local_policies_name_the_nodes_that_have_endpoints() {
    let mut objects = cluster();
    objects.slices = slices("web", &[(2, 7)]);
    objects.services = vec![service("web", json!({"type": "NodePort", "externalTrafficPolicy": "Local"}))];
    let (fate, words) = v4(&objects, "outside", "node/node1:30080");
    assert_eq!(fate, Some(Fate::Dropped));
    assert!(words.contains("externalTrafficPolicy") && words.contains("has endpoints: node2"), "{words}");
    // A load balancer would choose that node by itself.
    let (fate, _) = v4(&objects, "outside", "svc/web");
    assert_eq!(fate, Some(Fate::Delivered));
    objects.services = vec![service("web", json!({"internalTrafficPolicy": "Local"}))];
    let (fate, words) = v4(&objects, "pod/a", "svc/web");
    assert_eq!(fate, Some(Fate::Dropped));
    assert!(words.contains("spec.internalTrafficPolicy of Service default/web to Cluster"), "{words}");
}

#[test]
fn source_ranges_say_what_to_add() {
    let mut objects = cluster();
    let mut balanced =
        service("web", json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24"]}));
    balanced["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "198.18.0.1"}, {"ip": "2001:db8:18::1"}]}});
    objects.services = vec![balanced];
    let report = ask(&objects, "outside", "svc/web");
    for (fate, words) in ends(&report) {
        assert_eq!(fate, Some(Fate::Dropped), "{}", report.text());
        assert!(words.contains("to spec.loadBalancerSourceRanges of Service default/web"), "{words}");
    }
    assert_eq!(v4(&objects, "198.51.100.9", "svc/web").0, Some(Fate::Delivered));
}

#[test]
fn egress_policies_and_cluster_policies_say_how_to_allow() {
    let mut objects = cluster();
    let egress = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    objects.network_policies = vec![policy("shut", egress)];
    let (fate, words) = v4(&objects, "pod/a", "outside:443");
    assert_eq!(fate, Some(Fate::Dropped));
    assert!(words.contains("an egress rule to ipBlock 203.0.113.80/32, port 443/TCP"), "{words}");
    // Endpoints may fare differently.
    objects.network_policies = vec![policy(
        "one",
        json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
        }),
    )];
    objects.pods[2]["metadata"]["labels"] = json!({"app": "other"});
    let question = Question { families: vec![IpFamily::V4], ..question("pod/a", "svc/web") };
    let report = explain(&objects, &Settings::default(), &question).unwrap();
    assert_eq!((report.paths[0].result(), report.delivered), (None, false), "{}", report.text());
    objects.network_policies.clear();
    objects.cluster_policies = vec![json!({
        "metadata": {"name": "fence"},
        "spec": {
            "tier": "Admin", "priority": 10, "subject": {"namespaces": {}},
            "ingress": [{"name": "all", "action": "Deny", "from": [{"namespaces": {}}]}],
        },
    })];
    let (fate, words) = v4(&objects, "pod/a", "pod/web-2:8080");
    assert_eq!(fate, Some(Fate::Dropped));
    assert!(
        words.contains("ClusterNetworkPolicy fence") && words.contains("lower priority number"),
        "{words}"
    );
}

#[test]
fn ports_a_service_lacks_are_refused_with_those_it_has() {
    let objects = cluster();
    let (fate, words) = v4(&objects, "pod/a", "svc/web:81");
    assert_eq!(fate, Some(Fate::Refused));
    assert!(words.contains("has other ports: http (80/TCP)"), "{words}");
    let (fate, words) = v4(&objects, "pod/a", "10.96.7.7:80");
    assert_eq!(fate, Some(Fate::Refused));
    assert!(words.contains("no Service has this cluster IP"), "{words}");
    let (fate, words) = v4(&objects, "pod/a", "10.244.2.99:80");
    assert_eq!(fate, Some(Fate::Unreachable));
    assert!(words.contains("no pod has it"), "{words}");
}

#[test]
fn headless_services_are_what_dns_says() {
    let mut objects = cluster();
    objects.services = vec![service("web", json!({"clusterIP": "None", "clusterIPs": ["None"]}))];
    let report = ask(&objects, "pod/a", "svc/web");
    assert!(report.delivered, "{}", report.text());
    assert!(report.text().contains("Service default/web is headless"), "{}", report.text());
    assert_eq!(report.paths[1].outcomes.len(), 2);
    objects.slices.clear();
    assert!(!ask(&objects, "pod/a", "svc/web").delivered);
}

#[test]
fn questions_without_sense_say_what_would_make_some() {
    let mut objects = cluster();
    let two = json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2, "protocol": "UDP"}]});
    objects.services.push(service("two", two));
    objects.services.push(service("alias", json!({"type": "ExternalName", "externalName": "example.com"})));
    let mut done = pod("done", 1, 9, json!({}));
    done["status"]["phase"] = json!("Succeeded");
    objects.pods.push(done);
    for (from, to, words) in [
        ("pod/no", "svc/web", "there is no pod default/no"),
        ("pod/done", "svc/web", "is finished"),
        ("svc/web", "svc/web", "name one of its pods"),
        ("pod/a", "svc/no", "there is no Service default/no"),
        ("pod/a", "svc/two", "It has a (1/TCP), b (2/UDP)"),
        ("pod/a", "svc/two:c", "no port called c"),
        ("pod/a", "svc/alias", "example.com"),
        ("pod/a", "pod/web-1:https", "no port called https"),
        ("node/node7", "svc/web", "there are node1, node2"),
    ] {
        let error = explain(&objects, &Settings::default(), &question(from, to)).unwrap_err();
        assert!(matches!(error, ExplainError::Question(_)), "{from} {to}: {error}");
        assert!(error.to_string().contains(words), "{from} {to}: {error}");
    }
    let via = Question { via: Some("node1".into()), ..question("pod/a", "svc/web") };
    assert!(explain(&objects, &Settings::default(), &via).is_err());
    let udp = Question { protocol: Some(Protocol::Udp), ..question("pod/a", "svc/two") };
    assert!(explain(&objects, &Settings::default(), &udp).is_ok());
    let echo = Question { protocol: Some(Protocol::Udp), ..question("pod/a", "pod/web-1") };
    assert!(explain(&objects, &Settings::default(), &echo).unwrap_err().to_string().contains("need a port"));
    // Without nodes, nobody knows any ranges.
    assert!(explain(&Objects::default(), &Settings::default(), &question("192.0.2.1", "192.0.2.2")).is_err());
}

/// The rules that answers name are the rules that count in the kernel.
#[test]
fn the_kernel_counts_under_the_names_that_answers_use() {
    if !privileged("the_kernel_counts_under_the_names_that_answers_use") {
        return;
    }
    let mut objects = cluster();
    objects.network_policies = vec![isolate(json!({"app": "web"}))];
    let settings = Settings::default();
    let mut cluster = Cluster::read(&objects, &settings).unwrap();
    let program = cluster.compiler("node1").program().clone();
    let node = netns::create().unwrap();
    let counted = netns::within(node.as_fd(), || {
        dyad_nft::Executor::open().unwrap().apply(&program).unwrap();
        counters::read().unwrap()
    });
    let counted = counted.unwrap();
    let step = |stage: &'static str, text: &str, because: Option<&str>| Decision {
        stage,
        text: text.into(),
        because: because.map(str::to_owned),
        counter: None,
    };
    let because = "NetworkPolicy default/deny isolates the pod for ingress";
    for step in [
        step("policy", "dropped", Some(because)),
        step(
            "policy",
            "dropped",
            Some("the pod has a global address and is closed to the outside of the cluster"),
        ),
        step("guard", "dropped: ...", Some("Service default/web")),
        step("frontend", "no Service has this port of 10.96.0.1, which is of the Service range", None),
    ] {
        for family in IpFamily::BOTH {
            let rule = step.rule().unwrap();
            let found = counted.iter().any(|one| one.is_of(family) && one.rule == rule);
            assert!(found, "{family} {rule}: {counted:#?}");
        }
    }
}

/// Whether this process may make namespaces; if not, the test `name` has been run by one that may.
fn privileged(name: &str) -> bool {
    if netns::create().is_ok() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("explain::tests::{name}"), "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in a user namespace: {text}{problem}"
    );
    false
}
