//! Who may do what, in a whole cluster: certificates by request, bootstrap tokens, what nodes may see; and that every part
//! of the cluster does its work with what its roles give it, by the audit log of all of it.

#[path = "../support/cluster.rs"]
mod cluster;

use std::time::Duration;

use cluster::{Cluster, text};
use serde_json::Value;

/// A request of jane, in the groups dev and ops.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIbE1JR05BZ0VBTUNzeEREQUtCZ05WQkFvTUEyUmxkakVNTUFvR0ExVUVDZ3dEYjNCek1RMHdDd1lEVlFRRApEQVJxWVc1bE1Ga3dFd1lIS29aSXpqMENBUVlJS29aSXpqMERBUWNEUWdBRXhJb2JkK1dWWUl1alkzM0Ztci93CkNjTXpOa1BwbzRDMk5EbEZrOE9VaWpBZG5aOXFPalpyQ3d3YzN5UXFuVnhLSHp1R004QjJTcU8rVHM3a05BZjUKQ2FBQU1Bb0dDQ3FHU000OUJBTUNBMGNBTUVRQ0lIRElETWlISE1qNGo3bDIwUWNrdE16QWxVcHBFYitWSFg2agpCOURvTFlyVUFpQVY5QitnQld3RzFLYnhKeTV1aE9uVGRvUUZXUFFFSWMyd2JOTkJUM04rclE9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

const WORK: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: work}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota, namespace: work}
spec: {hard: {pods: "50", services: "10"}}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: work}
stringData: {k: hunter2-is-the-password}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: work}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: echo, image: dyad/echo, env: [{name: K, valueFrom: {secretKeyRef: {name: s, key: k}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: work}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: by-hand, namespace: work}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: by-hand, namespace: work}
subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{port: 80}]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: work}
spec:
  replicas: 1
  serviceName: web
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: echo, image: dyad/echo}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each, namespace: work}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: echo, image: dyad/echo}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: old, namespace: work}
spec:
  replicas: 1
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: echo, image: dyad/echo}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: work}
spec:
  ttlSecondsAfterFinished: 1
  template:
    spec: {restartPolicy: Never, containers: [{name: c, image: "host:", command: ["true"]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: often, namespace: work}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec: {restartPolicy: Never, containers: [{name: c, image: "host:", command: ["true"]}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: work}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: work}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
"#;

const TOKEN: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-signing: "true"
  usage-bootstrap-authentication: "true"
"#;

/// Runs `kubectl` until what it prints is as it should be.
#[track_caller]
fn until(cluster: &Cluster, args: &[&str], is: impl Fn(&str) -> bool) {
    let mut said = String::new();
    for _ in 0..240 {
        let output = cluster.kubectl_command(args).output().expect("kubectl runs");
        said = text(&output.stdout) + &text(&output.stderr);
        if is(&said) {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("{args:?}: {said}");
}

#[test]
fn j60_j65_a_whole_cluster_with_the_least_that_each_part_needs() {
    let cluster = Cluster::prepare("identity", 81);
    let log = cluster.home.path().join("audit.log");
    let file = cluster.home.path().join("cluster.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    let audit = format!("apiServer:\n  extraArgs:\n    audit-log-path: {}\n", log.display());
    std::fs::write(&file, config + &audit).unwrap();
    let output = cluster.start(&["--nodes", "2"]);
    assert!(output.status.success(), "dyad up: {}\n{}", text(&output.stderr), cluster.logs());
    if !cluster.has_kubectl() {
        return;
    }
    certificates(&cluster);
    tokens(&cluster);
    nodes(&cluster);
    work(&cluster);
    everybody_may_do_what_they_do(&std::fs::read_to_string(&log).unwrap());
}

fn certificates(cluster: &Cluster) {
    let request = |name: &str, signer: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: \
             {{request: {REQUEST}, signerName: {signer}, usages: [client auth], expirationSeconds: 3600}}\n"
        )
    };
    for (name, signer) in [
        ("jane", "kubernetes.io/kube-apiserver-client"),
        ("denied", "kubernetes.io/kube-apiserver-client"),
        ("wrong", "kubernetes.io/kubelet-serving"),
    ] {
        let made = cluster.kubectl_with(&["apply", "-f", "-"], &request(name, signer));
        assert!(made.status.success(), "{}", text(&made.stderr));
    }
    for args in [
        ["certificate", "approve", "jane"],
        ["certificate", "approve", "wrong"],
        ["certificate", "deny", "denied"],
    ] {
        let output = cluster.kubectl_command(&args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
    let is = |condition: &'static str| move |said: &str| said.lines().any(|line| line.ends_with(condition));
    until(cluster, &["get", "csr", "jane"], is("Approved,Issued"));
    until(cluster, &["get", "csr", "denied"], is("Denied"));
    until(cluster, &["get", "csr", "wrong"], is("Approved,Failed"));
}

fn tokens(cluster: &Cluster) {
    let made = cluster.kubectl_with(&["apply", "-f", "-"], TOKEN);
    assert!(made.status.success(), "{}", text(&made.stderr));
    until(cluster, &["get", "cm", "-n", "kube-public", "cluster-info", "-o", "yaml"], |said| {
        said.contains("jws-kubeconfig-abcdef: ") && said.contains("certificate-authority-data")
    });
}

fn nodes(cluster: &Cluster) {
    for (verb, what, allowed) in [
        ("get", "nodes/node1", true),
        ("get", "nodes/node2", false),
        ("list", "pods", false),
        ("get", "secrets/coredns-access", false),
        ("create", "certificatesigningrequests.certificates.k8s.io", true),
    ] {
        let as_node = ["--as", "system:node:node1", "--as-group", "system:nodes", "-n", "default"];
        let output = cluster.kubectl_command(&["auth", "can-i", verb, what]).args(as_node).output().unwrap();
        let said = text(&output.stdout);
        assert_eq!(said.trim().starts_with("yes"), allowed, "{verb} {what}: {said}");
    }
}

fn work(cluster: &Cluster) {
    let made = cluster.kubectl_with(&["apply", "-f", "-"], WORK);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let namespaced = |args: &[&'static str]| [&["-n", "work"], args].concat();
    for what in ["deployment/web", "statefulset/db", "daemonset/each"] {
        let status =
            cluster.kubectl_command(&namespaced(&["rollout", "status", "--timeout=120s"])).arg(what).output();
        let status = status.unwrap();
        assert!(status.status.success(), "{what}: {}{}", text(&status.stderr), cluster.logs());
    }
    until(cluster, &namespaced(&["get", "endpointslices"]), |said| {
        said.contains("by-hand-") && said.contains("web-")
    });
    until(
        cluster,
        &namespaced(&["get", "pdb", "web", "-o", "jsonpath={.status.disruptionsAllowed}"]),
        |said| said == "1",
    );
    until(
        cluster,
        &namespaced(&["get", "quota", "quota", "-o", "jsonpath={.status.used.services}"]),
        |said| said == "2",
    );
    let logs = cluster.kubectl_command(&namespaced(&["logs", "statefulset/db"])).output().unwrap();
    assert!(logs.status.success(), "the API server may ask kubelets: {}", text(&logs.stderr));
    let deleted =
        cluster.kubectl_command(&["delete", "namespace", "work", "--timeout=120s"]).output().unwrap();
    assert!(deleted.status.success(), "{}", text(&deleted.stderr));
}

fn everybody_may_do_what_they_do(log: &str) {
    let mut seen = std::collections::BTreeSet::new();
    for line in log.lines() {
        assert!(!line.contains("hunter2"), "{line}");
        let event: Value = serde_json::from_str(line).expect("JSON lines");
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let groups = event["user"]["groups"].as_array().cloned().unwrap_or_default();
        if groups.iter().any(|group| group == "system:masters") {
            assert!(matches!(user, "kubernetes-admin" | "system:apiserver"), "{line}");
        }
        // Nodes ask for it until the server has its roles.
        let acts = event["impersonatedUser"].is_null() && event["requestURI"] != "/version";
        // Nobody may write into what is going, and who does not know that yet tries.
        let going = event["responseStatus"]["details"]["causes"][0]["reason"] == "NamespaceTerminating";
        if user.starts_with("system:") && user != "system:anonymous" && acts && !going {
            assert_ne!(event["responseStatus"]["code"], 403, "{line}");
        }
        seen.insert(user.to_owned());
    }
    for user in [
        "kubernetes-admin",
        "system:node:node1",
        "system:dyad:agent:node1",
        "system:dyad:dns",
        "system:dyad:installer",
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "system:serviceaccount:kube-system:certificate-controller",
        "system:serviceaccount:kube-system:deployment-controller",
        "system:serviceaccount:kube-system:endpointslicemirroring-controller",
        "system:serviceaccount:kube-system:namespace-controller",
        "system:serviceaccount:kube-system:replicaset-controller",
    ] {
        assert!(seen.contains(user), "{user} is not among {seen:?}");
    }
}
