//! Every command of `kubectl` that people use daily, without workarounds, against a running cluster.

#[path = "../support/cluster.rs"]
mod cluster;

use cluster::{Cluster, text};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: dyad/echo
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// The rows of a printed table, split at blanks.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn the_everyday_of_kubectl() {
    let cluster = Cluster::up("kubectl", 1, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    server_and_discovery(&cluster);
    apply_and_change(&cluster);
    reading(&cluster);
    changing(&cluster);
    errors(&cluster);
    removing(&cluster);
}

fn server_and_discovery(cluster: &Cluster) {
    has(&cluster.kubectl(&["version"]), &["Server Version: v1.36"]);
    let resources = cluster.kubectl(&["api-resources"]);
    for kind in [
        "Pod",
        "Service",
        "EndpointSlice",
        "ServiceCIDR",
        "IPAddress",
        "Deployment",
        "DaemonSet",
        "ClusterRole",
    ] {
        assert!(
            rows(&resources).iter().any(|row| row.last() == Some(&kind)),
            "{kind} is not in:\n{resources}"
        );
    }
    has(&cluster.kubectl(&["get", "--raw", "/readyz"]), &["ok"]);
    has(&cluster.kubectl(&["explain", "service.spec.ipFamilyPolicy"]), &["FIELD: ipFamilyPolicy <string>"]);
    has(&cluster.kubectl(&["explain", "pod.spec.containers"]), &["image", "<string>"]);
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "wide"]);
    assert_eq!(rows(&nodes).iter().filter(|row| row.get(1) == Some(&"Ready")).count(), 2, "{nodes}");
    let node = cluster.get(&["node", "node1"]);
    assert_eq!(node["spec"]["podCIDRs"].as_array().map(Vec::len), Some(2), "{node}");
    has(&cluster.kubectl(&["get", "servicecidrs"]), &["kubernetes", "10.250.1.0/24", "fd00:dad:1:100::/112"]);
    let kubernetes = cluster.get(&["service", "kubernetes"]);
    assert_eq!(kubernetes["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2), "{kubernetes}");
    let slices = cluster.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=kubernetes"]);
    has(&slices, &["IPv4", "IPv6", "6443"]);
}

fn apply_and_change(cluster: &Cluster) {
    has(&cluster.apply(WEB), &["deployment.apps/web created", "service/web created"]);
    has(&cluster.apply(WEB), &["deployment.apps/web unchanged", "service/web unchanged"]);
    has(
        &cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]),
        &["successfully rolled out"],
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=30s"]);
    let changed = WEB.replace("replicas: 2", "replicas: 3");
    let diff = cluster.kubectl_with(&["diff", "-f", "-"], &changed);
    assert_eq!(diff.status.code(), Some(1), "{}", text(&diff.stderr));
    has(&text(&diff.stdout), &["-  replicas: 2", "+  replicas: 3"]);
    has(&cluster.apply(&changed), &["deployment.apps/web configured", "service/web unchanged"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
}

fn reading(cluster: &Cluster) {
    let service = cluster.get(&["service", "web"]);
    let ips: Vec<&str> =
        service["spec"]["clusterIPs"].as_array().unwrap().iter().filter_map(|ip| ip.as_str()).collect();
    let listed = cluster.kubectl(&["get", "services", "web", "-o", "wide"]);
    has(&listed, &[&ips.join(","), "80/TCP", "app=web"]);
    let pods = cluster.get(&["pods", "-l", "app=web"]);
    let first = &pods["items"][0];
    let pod_ips: Vec<&str> =
        first["status"]["podIPs"].as_array().unwrap().iter().filter_map(|ip| ip["ip"].as_str()).collect();
    assert_eq!((pod_ips.len(), first["status"]["hostIPs"].as_array().map(Vec::len)), (2, Some(2)), "{first}");
    has(&cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]), &[&pod_ips.join(","), "Running", "1/1"]);
    has(
        &cluster.kubectl(&["get", "all"]),
        &["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"],
    );
    assert_eq!(cluster.kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.ipFamilies[*]}"]), "IPv4 IPv6");
    has(&cluster.kubectl(&["get", "deploy", "web", "-o", "yaml"]), &["kind: Deployment", "replicas: 3"]);
    let none = cluster.kubectl_with(&["get", "pods", "-l", "app=nothing"], "");
    has(&text(&none.stderr), &["No resources found"]);
    let running = cluster.kubectl(&["get", "pods", "--field-selector", "status.phase=Running", "-o", "name"]);
    assert_eq!(running.lines().count(), 3, "{running}");
    let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]);
    let mut families: Vec<&str> =
        slices["items"].as_array().unwrap().iter().filter_map(|one| one["addressType"].as_str()).collect();
    families.sort_unstable();
    assert_eq!(families, ["IPv4", "IPv6"]);
    has(
        &cluster.kubectl(&["describe", "service", "web"]),
        &[ips[0], ips[1], "Endpoints:", "RequireDualStack"],
    );
    let pod = first["metadata"]["name"].as_str().unwrap();
    has(&cluster.kubectl(&["describe", "pod", pod]), &[pod_ips[0], pod_ips[1], "dyad/echo", "Scheduled"]);
    has(
        &cluster.kubectl(&["describe", "node", "node1"]),
        &["InternalIP:", "PodCIDRs:", "HolderIdentity:  node1", "Ready"],
    );
    has(&cluster.kubectl(&["describe", "deployment", "web"]), &["3 desired", "NewReplicaSet:"]);
    has(&cluster.kubectl(&["events", "--for", &format!("pod/{pod}")]), &["Started"]);
    let watch = cluster.kubectl_with(&["get", "pods", "-w", "--request-timeout=2s"], "");
    has(&text(&watch.stdout), &[pod]);
}

fn changing(cluster: &Cluster) {
    cluster.kubectl(&["label", "deployment", "web", "tier=front"]);
    cluster.kubectl(&["annotate", "deployment", "web", "note=hello"]);
    assert_eq!(
        cluster.kubectl(&["get", "deploy", "-l", "tier=front", "-o", "name"]),
        "deployment.apps/web\n"
    );
    cluster.kubectl(&["scale", "deployment", "web", "--replicas=1"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let patches = [
        ("strategic", r#"{"spec":{"ports":[{"port":81,"name":"more"}]}}"#),
        ("merge", r#"{"metadata":{"labels":{"by":"merge"}}}"#),
        ("json", r#"[{"op":"replace","path":"/spec/sessionAffinity","value":"ClientIP"}]"#),
    ];
    for (kind, patch) in patches {
        cluster.kubectl(&["patch", "service", "web", "--type", kind, "-p", patch]);
    }
    let service = cluster.get(&["service", "web"]);
    assert_eq!(
        service["spec"]["ports"].as_array().map(Vec::len),
        Some(2),
        "strategic merge keeps the other port: {service}"
    );
    assert_eq!(service["metadata"]["labels"]["by"], "merge");
    assert_eq!(service["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800, "A5");
    cluster.kubectl(&["expose", "deployment", "web", "--name", "exposed", "--port", "8080"]);
    assert_eq!(cluster.get(&["service", "exposed"])["spec"]["selector"]["app"], "web");
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: '1'}\n";
    let created = cluster.kubectl_with(&["create", "-f", "-"], config);
    has(&text(&created.stdout), &["configmap/settings created"]);
    let replaced = cluster.kubectl_with(&["replace", "-f", "-"], &config.replace("'1'", "'2'"));
    has(&text(&replaced.stdout), &["configmap/settings replaced"]);
    assert_eq!(cluster.get(&["configmap", "settings"])["data"]["a"], "2");
    edit(cluster);
}

/// `kubectl edit` with an editor that changes one word.
fn edit(cluster: &Cluster) {
    use std::os::unix::fs::PermissionsExt;
    let editor = cluster.home.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/a: \"2\"/a: edited/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    // kubectl takes the editor from its environment only, so this one runs through env.
    let mut command = std::process::Command::new("env");
    let kubectl = std::env::var("DYAD_KUBECTL").unwrap_or_else(|_| "kubectl".into());
    command.arg(format!("KUBE_EDITOR={}", editor.display())).arg(kubectl);
    command.args(["edit", "configmap", "settings", "--context", &format!("dyad-{}", cluster.name)]);
    let output =
        command.env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.home.path()).output().unwrap();
    has(&text(&output.stdout), &["configmap/settings edited"]);
    assert_eq!(cluster.get(&["configmap", "settings"])["data"]["a"], "edited");
}

fn errors(cluster: &Cluster) {
    has(&cluster.kubectl_fails(&["get", "pod", "missing"]), &["(NotFound)", "pods \"missing\" not found"]);
    has(
        &cluster.kubectl_fails(&[
            "patch",
            "service",
            "web",
            "--type",
            "merge",
            "-p",
            r#"{"spec":{"ipFamilies":["IPv6","IPv4"]}}"#,
        ]),
        &["is invalid", "spec.clusterIPs[0]", "expected an IPv6 value"],
    );
    let wrong = WEB.replace("replicas: 2", "replicaz: 2");
    let output = cluster.kubectl_with(&["apply", "-f", "-"], &wrong);
    assert!(!output.status.success());
    has(&text(&output.stderr), &["unknown field \"spec.replicaz\""]);
    // Others own what this file says; whoever insists gets it.
    let apply = cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], WEB);
    assert!(!apply.status.success(), "{}", text(&apply.stdout));
    has(&text(&apply.stderr), &["conflict", "--force-conflicts"]);
    let forced = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
    let apply = cluster.kubectl_with(&forced, WEB);
    assert!(apply.status.success(), "{}", text(&apply.stderr));
    assert!(cluster.kubectl(&["logs", "deployment/web"]).contains("port 8080"));
}

fn removing(cluster: &Cluster) {
    has(
        &cluster.kubectl(&["delete", "service", "exposed", "web"]),
        &["\"exposed\" deleted", "\"web\" deleted"],
    );
    let left = cluster.kubectl(&["get", "ipaddresses", "--no-headers"]);
    let stays = |line: &str| line.contains("/default/kubernetes") || line.contains("/kube-system/");
    assert!(
        left.lines().count() >= 2 && left.lines().all(stays),
        "only those of the cluster's own stay: {left}"
    );
    cluster.kubectl(&["delete", "deployment", "web", "--timeout=30s"]);
    cluster.eventually("the garbage collector removes the pods", || {
        let pods = cluster.kubectl(&["get", "pods,replicasets", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: gone}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: gone}\n");
    cluster.kubectl(&["delete", "namespace", "gone", "--timeout=30s"]);
    has(&cluster.kubectl_fails(&["get", "configmap", "x", "-n", "gone"]), &["(NotFound)"]);
}
