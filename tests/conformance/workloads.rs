//! Deployments, ReplicaSets, DaemonSets, scheduling and deletion, as someone with `kubectl` meets them.

#[path = "../support/cluster.rs"]
mod cluster;

use cluster::{Cluster, text};
use serde_json::Value;

/// A Deployment of echo servers that finish what they have begun, and its Service.
fn web(replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, annotations: {{kubernetes.io/change-cause: first}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: echo
        image: dyad/echo
        env: [{{name: VERSION, value: "1"}}]
        ports: [{{name: http, containerPort: 8080}}]
        lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"#
    )
}

fn rolled_out(cluster: &Cluster, what: &str) {
    cluster.kubectl(&["rollout", "status", what, "--timeout=30s"]);
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What `jsonpath` finds, once it is `wanted`.
fn comes_to(cluster: &Cluster, what: &[&str], path: &str, wanted: &str) {
    let args = [&["get", "-o", path], what].concat();
    cluster.eventually(&format!("{what:?} {path} comes to {wanted:?}"), || {
        let seen = text(&cluster.kubectl_with(&args, "").stdout);
        if seen == wanted { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn a_rollout_fails_no_request_and_keeps_its_history() {
    let cluster = Cluster::up("rollout", 30, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply(&web(2));
    rolled_out(&cluster, "deployment/web");
    let service = cluster.get(&["service", "web"]);
    let ips: Vec<&str> =
        service["spec"]["clusterIPs"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    // The client asks over both families until it is told to stop, and ends well only if all was answered.
    let client = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 10
  containers:
  - name: client
    image: dyad/tools
    command: [bash, -c]
    args:
    - |
      trap 'stop=1' TERM
      while [ -z "$stop" ]; do
        for url in 'http://{}/' 'http://[{}]/'; do
          curl -s -o /dev/null --max-time 10 "$url" || {{ echo "$url failed" > /dev/termination-log; exit 1; }}
        done
      done
"#,
        ips[0], ips[1]
    );
    cluster.apply(&client);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]);
    cluster.kubectl(&["set", "env", "deployment/web", "VERSION=2"]);
    cluster.kubectl(&["annotate", "deployment/web", "kubernetes.io/change-cause=second", "--overwrite"]);
    rolled_out(&cluster, "deployment/web");
    comes_to(&cluster, &["deployment", "web"], "jsonpath={.status.terminatingReplicas}", "0");
    let phase = cluster.get(&["pod", "client"]);
    assert_eq!(phase["status"]["phase"], "Running", "a request failed: {phase}");

    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("1         first") && history.contains("2         second"), "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/web"]);
    rolled_out(&cluster, "deployment/web");
    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("3         first") && !history.contains("1         first"), "{history}");
}

#[test]
fn paused_recreated_and_stuck_deployments() {
    let cluster = Cluster::up("deploy", 31, &["--nodes", "1"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply(&web(2));
    rolled_out(&cluster, "deployment/web");
    cluster.kubectl(&["rollout", "pause", "deployment/web"]);
    cluster.kubectl(&["set", "env", "deployment/web", "VERSION=2"]);
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    comes_to(&cluster, &["deployment", "web"], "jsonpath={.status.readyReplicas}", "3");
    let sets = cluster.get(&["replicasets"]);
    assert_eq!(items(&sets).len(), 1, "a paused Deployment makes no new set: {sets}");
    assert_eq!(items(&sets)[0]["spec"]["replicas"], 3, "exactly the new size, without the surge");
    cluster.kubectl(&["rollout", "resume", "deployment/web"]);
    rolled_out(&cluster, "deployment/web");

    // From here on: never an old and a new pod at once.
    let recreate = r#"{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}"#;
    cluster.kubectl(&["patch", "deployment", "web", "--type", "merge", "-p", recreate]);
    comes_to(&cluster, &["deployment", "web"], "jsonpath={.status.terminatingReplicas}", "0");
    cluster.kubectl(&["set", "env", "deployment/web", "VERSION=3"]);
    cluster.eventually("all pods are new", || {
        let pods = cluster.get(&["pods", "-l", "app=web"]);
        let alive: Vec<(&str, &Value)> = items(&pods)
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Running" || pod["status"]["phase"] == "Pending")
            .map(|pod| {
                (
                    pod["metadata"]["name"].as_str().unwrap_or_default(),
                    &pod["metadata"]["labels"]["pod-template-hash"],
                )
            })
            .collect();
        let first = alive.first().map(|(_, hash)| *hash);
        assert!(alive.iter().all(|(_, hash)| Some(*hash) == first), "old and new pods at once: {alive:?}");
        let done = cluster.get(&["deployment", "web"]);
        if done["status"]["updatedReplicas"] == 3 && done["status"]["readyReplicas"] == 3 {
            Ok(())
        } else {
            Err(done["status"].to_string())
        }
    });

    let deadline = r#"{"spec":{"progressDeadlineSeconds":1}}"#;
    cluster.kubectl(&["patch", "deployment", "web", "--type", "merge", "-p", deadline]);
    cluster.kubectl(&["set", "image", "deployment/web", "echo=no-such-image"]);
    let complaint = cluster.kubectl_fails(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    assert!(complaint.contains("exceeded its progress deadline"), "{complaint}");
}

#[test]
fn replica_sets_adopt_release_and_leave_orphans() {
    let cluster = Cluster::up("sets", 32, &["--nodes", "1"]);
    if !cluster.has_kubectl() {
        return;
    }
    let orphan = "apiVersion: v1\nkind: Pod\nmetadata: {name: orphan, labels: {app: set}}\nspec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: dyad/tools}]}\n";
    let set = "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: set}\nspec:\n  replicas: 2\n  selector: {matchLabels: {app: set}}\n  template:\n    metadata: {labels: {app: set}}\n    spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: dyad/tools}]}\n";
    cluster.apply(orphan);
    cluster.apply(set);
    comes_to(&cluster, &["replicaset", "set"], "jsonpath={.status.readyReplicas}", "2");
    let owner = "jsonpath={.metadata.ownerReferences[*].name}";
    comes_to(&cluster, &["pod", "orphan"], owner, "set");
    assert_eq!(items(&cluster.get(&["pods"])).len(), 2, "one was adopted, one made");
    cluster.kubectl(&["label", "pod", "orphan", "app=other", "--overwrite"]);
    comes_to(&cluster, &["pod", "orphan"], owner, "");
    comes_to(&cluster, &["replicaset", "set"], "jsonpath={.status.readyReplicas}", "2");
    assert_eq!(items(&cluster.get(&["pods"])).len(), 3, "the one released was replaced");

    cluster.kubectl(&["delete", "replicaset", "set", "--cascade=orphan", "--timeout=30s"]);
    let pods = cluster.get(&["pods", "-l", "app=set"]);
    let free = |pod: &Value| {
        pod["metadata"]["ownerReferences"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
    };
    assert!(items(&pods).len() == 2 && items(&pods).iter().all(free), "{pods}");
    cluster.apply(set);
    comes_to(&cluster, &["replicaset", "set"], "jsonpath={.status.readyReplicas}", "2");
    cluster.kubectl(&["delete", "replicaset", "set", "--cascade=foreground", "--timeout=30s"]);
    assert_eq!(items(&cluster.get(&["pods", "-l", "app=set"])).len(), 0, "foreground: the pods went first");
}

#[test]
fn daemon_sets_follow_nodes_and_keep_revisions() {
    let cluster = Cluster::up("daemons", 33, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    let set = |version: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: d, annotations: {{kubernetes.io/change-cause: \"{version}\"}}}}\nspec:\n  selector: {{matchLabels: {{app: d}}}}\n  updateStrategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}\n  template:\n    metadata: {{labels: {{app: d}}}}\n    spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: dyad/tools, env: [{{name: V, value: \"{version}\"}}]}}]}}\n"
        )
    };
    cluster.apply(&set("one"));
    rolled_out(&cluster, "daemonset/d");
    cluster.apply(&set("two"));
    rolled_out(&cluster, "daemonset/d");
    let history = cluster.kubectl(&["rollout", "history", "daemonset/d"]);
    assert!(history.contains("1         one") && history.contains("2         two"), "{history}");
    cluster.kubectl(&["rollout", "undo", "daemonset/d"]);
    rolled_out(&cluster, "daemonset/d");
    comes_to(
        &cluster,
        &["daemonset", "d"],
        "jsonpath={.spec.template.spec.containers[0].env[0].value}",
        "one",
    );
    assert!(cluster.kubectl(&["rollout", "history", "daemonset/d"]).contains("3         one"));

    // A taint for scheduling counts the node out but drives nobody away; one for execution does.
    let on_node1 = ["pods", "-l", "app=d", "--field-selector", "spec.nodeName=node1"];
    cluster.kubectl(&["taint", "node", "node1", "k=v:NoSchedule"]);
    comes_to(
        &cluster,
        &["daemonset", "d"],
        "jsonpath={.status.desiredNumberScheduled} {.status.numberMisscheduled}",
        "1 1",
    );
    assert_eq!(items(&cluster.get(&on_node1)).len(), 1);
    cluster.kubectl(&["taint", "node", "node1", "k=v:NoExecute"]);
    comes_to(&cluster, &on_node1, "jsonpath={.items[*].metadata.name}", "");
    cluster.kubectl(&["taint", "node", "node1", "k-"]);
    comes_to(&cluster, &["daemonset", "d"], "jsonpath={.status.numberReady}", "2");
}

#[test]
fn pods_wait_for_room_and_taints_drive_out() {
    let cluster = Cluster::up("placing", 34, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    let pod = |name: &str, spec: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}"
        ));
    };
    let port =
        "  containers: [{name: c, image: dyad/tools, ports: [{containerPort: 80, hostPort: 18099}]}]\n";
    for name in ["a", "b", "c"] {
        pod(name, port);
    }
    pod(
        "large",
        "  containers: [{name: c, image: dyad/tools, resources: {requests: {cpu: '500', memory: 900Ti}}}]\n",
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/a", "pod/b", "--timeout=30s"]);
    let message = r#"jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}"#;
    comes_to(
        &cluster,
        &["pod", "c"],
        message,
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.",
    );
    comes_to(
        &cluster,
        &["pod", "large"],
        message,
        "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory.",
    );
    cluster.eventually("an event tells it", || {
        let events = cluster.kubectl(&["events", "--for", "pod/large"]);
        if events.contains("FailedScheduling") { Ok(()) } else { Err(events) }
    });
    cluster.kubectl(&["delete", "pod", "a"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/c", "--timeout=30s"]);

    pod(
        "stays",
        "  nodeSelector: {kubernetes.io/hostname: node1}\n  tolerations: [{key: k, operator: Exists}]\n  containers: [{name: c, image: dyad/tools}]\n",
    );
    pod(
        "goes",
        "  nodeSelector: {kubernetes.io/hostname: node1}\n  containers: [{name: c, image: dyad/tools}]\n",
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/stays", "pod/goes", "--timeout=30s"]);
    cluster.kubectl(&["taint", "node", "node1", "k=v:NoExecute"]);
    cluster.kubectl(&["wait", "--for=delete", "pod/goes", "--timeout=30s"]);
    assert_eq!(cluster.get(&["pod", "stays"])["metadata"]["deletionTimestamp"], Value::Null);
}

#[test]
fn pods_keep_apart_when_told_to() {
    let cluster = Cluster::up("apart", 35, &["--nodes", "2"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: apart}
spec:
  replicas: 3
  selector: {matchLabels: {app: apart}}
  template:
    metadata: {labels: {app: apart}}
    spec:
      terminationGracePeriodSeconds: 0
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector: {matchLabels: {app: apart}}
      containers: [{name: c, image: dyad/tools}]
"#,
    );
    comes_to(&cluster, &["deployment", "apart"], "jsonpath={.status.readyReplicas}", "2");
    let pods = cluster.get(&["pods", "-l", "app=apart"]);
    let waiting: Vec<&Value> = items(&pods).iter().filter(|pod| pod["spec"]["nodeName"].is_null()).collect();
    assert_eq!(waiting.len(), 1, "{pods}");
    let why = waiting[0]["status"]["conditions"].to_string();
    assert!(why.contains("2 node(s) didn't match pod anti-affinity rules"), "{why}");
}

#[test]
fn namespaces_tell_what_holds_them_and_owners_are_counted() {
    let cluster = Cluster::up("holding", 36, &["--nodes", "1"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: held}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: held, finalizers: [example.com/hold]}\n");
    cluster.kubectl(&["delete", "namespace", "held", "--wait=false"]);
    comes_to(
        &cluster,
        &["namespace", "held"],
        r#"jsonpath={.status.phase} {.status.conditions[?(@.status=="True")].message}"#,
        "Terminating Some resources are remaining: configmaps has 1 resource instances \
         Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
    );
    cluster.kubectl(&[
        "patch",
        "configmap",
        "x",
        "-n",
        "held",
        "--type",
        "merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    cluster.kubectl(&["wait", "--for=delete", "namespace/held", "--timeout=30s"]);

    let uid = |name: &str| {
        cluster.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n"));
        cluster.get(&["configmap", name])["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    };
    let owners = ["one", "two"]
        .map(|name| format!("{{apiVersion: v1, kind: ConfigMap, name: {name}, uid: {}}}", uid(name)));
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: [{}]\n",
        owners.join(", ")
    ));
    cluster.kubectl(&["delete", "configmap", "one"]);
    comes_to(&cluster, &["configmap", "owned"], "jsonpath={.metadata.ownerReferences[*].name}", "two");
    cluster.kubectl(&["delete", "configmap", "two", "--cascade=foreground", "--timeout=30s"]);
    let gone = cluster.kubectl_fails(&["get", "configmap", "owned"]);
    assert!(gone.contains("NotFound"), "{gone}");
}
