//! `dyad explain path` about a real cluster: what it says is what packets meet, and what the kernel counts.

#[path = "../support/cluster.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Cluster, text};

const OBJECTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: web, image: dyad/echo, ports: [{name: http, containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  containers:
  - {name: tools, image: dyad/tools, command: [sleep, "100000"]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {friend: "yes"}}}]
"#;

/// The exit status and the answer in JSON.
fn explain(cluster: &Cluster, args: &[&str]) -> (Option<i32>, Value) {
    let all = [&["explain", "path", "--name", &cluster.name, "-o", "json"], args].concat();
    let output = cluster.dyad(&all);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let warnings = text(&output.stderr);
    assert!(output.status.code() == Some(2) || warnings.is_empty(), "{args:?}: {warnings}");
    (output.status.code(), answer)
}

/// Waits until an answer is as wanted.
fn eventually(cluster: &Cluster, args: &[&str], code: i32) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (found, answer) = explain(cluster, args);
        if found == Some(code) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{args:?}: {found:?} {answer:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The counters of the steps that policy decides, by family.
fn counters(answer: &Value) -> Vec<u64> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let hops = list(&answer["paths"]).into_iter().flat_map(|path| list(&path["hops"]));
    let steps = hops.flat_map(|hop| list(&hop["steps"])).filter(|step| step["stage"] == "policy");
    steps.filter_map(|step| step["counter"]["packets"].as_u64()).collect()
}

#[test]
fn answers_are_about_what_is_there() {
    let cluster = Cluster::up("explain", 61, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    let output = cluster.kubectl_with(&["apply", "-f", "-"], OBJECTS);
    assert!(output.status.success(), "{}", text(&output.stderr));

    for usage in [["pod/nobody", "svc/web"], ["pod/client", "svc/web:https"], ["client", "svc/web"]] {
        assert_eq!(explain(&cluster, &usage).0, Some(2), "{usage:?}");
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=30s"]);

    let answer = eventually(&cluster, &["pod/client", "svc/web"], 1);
    for path in answer["paths"].as_array().expect("paths") {
        let end = &path["outcomes"][0];
        assert_eq!(end["result"], "dropped", "{answer:#}");
        assert_eq!(end["why"], "NetworkPolicy default/web isolates the pod for ingress", "{answer:#}");
        assert_eq!(end["pod"], "default/web", "{answer:#}");
    }
    assert_eq!(counters(&answer).len(), 2, "one of each family: {answer:#}");

    cluster.kubectl(&["label", "pod", "client", "friend=yes"]);
    let answer = eventually(&cluster, &["pod/client", "svc/web:http"], 0);
    let families: Vec<&Value> =
        answer["paths"].as_array().expect("paths").iter().map(|path| &path["ipFamily"]).collect();
    assert_eq!(families, ["IPv4", "IPv6"]);
    assert!(
        answer["paths"]
            .as_array()
            .expect("paths")
            .iter()
            .all(|path| path["outcomes"][0]["result"] == "delivered")
    );

    // A Service without endpoints is refused, with the reason.
    cluster.kubectl(&["label", "pod", "web", "app-"]);
    let answer = eventually(&cluster, &["pod/client", "svc/web", "--ip-family", "ipv6"], 1);
    assert_eq!(answer["paths"].as_array().map(Vec::len), Some(1));
    let advice = answer["paths"][0]["outcomes"][0]["advice"].to_string();
    assert!(advice.contains("no pod in namespace default has the labels"), "{answer:#}");
}
