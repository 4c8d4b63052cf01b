//! What a node may do, as a 1.36 API server with the Node authorizer and NodeRestriction answers it (J62, J64): the
//! table was recorded there.

use dyad_apiserver::Service;
use serde_json::{Value, json};

use crate::harness::{Answer, Api, send};

const IN: &str = "/api/v1/namespaces/a";

/// Two nodes, a pod on each, and what the first refers to.
async fn cluster() -> (Api, Service) {
    let api = Api::with_tokens().await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await.expect(201);
    api.post(&format!("{IN}/serviceaccounts"), json!({"metadata": {"name": "other"}})).await.expect(201);
    for name in ["s1", "s2", "pull", "envs", "pvs"] {
        api.post(&format!("{IN}/secrets"), json!({"metadata": {"name": name}})).await.expect(201);
    }
    for name in ["c1", "c2", "proj"] {
        api.post(&format!("{IN}/configmaps"), json!({"metadata": {"name": name}})).await.expect(201);
    }
    for name in ["n1", "n2"] {
        api.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.expect(201);
    }
    let volume = json!({"metadata": {"name": "pv1"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "claimRef": {"namespace": "a", "name": "claim1"},
        "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"namespace": "a", "name": "pvs"}}}});
    api.post("/api/v1/persistentvolumes", volume).await.expect(201);
    let claim = json!({"metadata": {"name": "claim1"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "volumeName": "pv1", "resources": {"requests": {"storage": "1Gi"}}}});
    api.post(&format!("{IN}/persistentvolumeclaims"), claim).await.expect(201);
    let pod = json!({"metadata": {"name": "p1"}, "spec": {"nodeName": "n1", "imagePullSecrets": [{"name": "pull"}],
    "automountServiceAccountToken": false,
    "containers": [{"name": "c", "image": "i", "env": [
        {"name": "E", "valueFrom": {"secretKeyRef": {"name": "envs", "key": "k"}}}]}],
    "volumes": [
        {"name": "s", "secret": {"secretName": "s1"}},
        {"name": "c", "configMap": {"name": "c1"}},
        {"name": "p", "projected": {"sources": [{"configMap": {"name": "proj"}}]}},
        {"name": "v", "persistentVolumeClaim": {"claimName": "claim1"}},
    ]}});
    api.post(&format!("{IN}/pods"), pod).await.expect(201);
    let bare = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    api.post(&format!("{IN}/pods"), bare("p2", "n2")).await.expect(201);
    api.post(&format!("{IN}/pods"), bare("p3", "n1")).await.expect(201);
    let node = api.as_user("system:node:n1", &["system:nodes"]);
    (api, node)
}

async fn ask(node: &Service, method: &str, path: &str, body: Value) -> Answer {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    send(node, method, path, &[("content-type", kind)], body.to_string()).await
}

async fn uid(api: &Api, path: &str) -> String {
    api.get(path).await.expect(200)["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn j62_a_node_reads_what_its_pods_refer_to() {
    let (_api, node) = cluster().await;
    #[rustfmt::skip]
    let cases = [
        ("/api/v1/namespaces/a/secrets/s1", ""),
        ("/api/v1/namespaces/a/secrets/s2", "secrets \"s2\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" in the namespace \"a\": no relationship found between node 'n1' and this object"),
        ("/api/v1/namespaces/a/secrets/pull", ""),
        ("/api/v1/namespaces/a/secrets/envs", ""),
        ("/api/v1/namespaces/a/secrets/pvs", ""),
        ("/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Ds1", ""),
        ("/api/v1/namespaces/a/secrets", "secrets is forbidden: User \"system:node:n1\" cannot list resource \"secrets\" in API group \"\" in the namespace \"a\": No Object name found"),
        ("/api/v1/secrets", "secrets is forbidden: User \"system:node:n1\" cannot list resource \"secrets\" in API group \"\" at the cluster scope: can only read namespaced object of this type"),
        ("/api/v1/namespaces/a/configmaps/c1", ""),
        ("/api/v1/namespaces/a/configmaps/c2", "configmaps \"c2\" is forbidden: User \"system:node:n1\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"a\": no relationship found between node 'n1' and this object"),
        ("/api/v1/namespaces/a/configmaps/proj", ""),
        ("/api/v1/namespaces/a/persistentvolumeclaims/claim1", ""),
        ("/api/v1/persistentvolumes/pv1", ""),
        ("/api/v1/persistentvolumes/pv2", "persistentvolumes \"pv2\" is forbidden: User \"system:node:n1\" cannot get resource \"persistentvolumes\" in API group \"\" at the cluster scope: no relationship found between node 'n1' and this object"),
        ("/api/v1/namespaces/a/serviceaccounts/default", ""),
        ("/api/v1/namespaces/a/serviceaccounts/other", "serviceaccounts \"other\" is forbidden: User \"system:node:n1\" cannot get resource \"serviceaccounts\" in API group \"\" in the namespace \"a\": no relationship found between node 'n1' and this object"),
        ("/api/v1/nodes", "nodes is forbidden: User \"system:node:n1\" cannot list resource \"nodes\" in API group \"\" at the cluster scope: node 'n1' cannot read all nodes, only its own Node object"),
        ("/api/v1/nodes/n1", ""),
        ("/api/v1/nodes?fieldSelector=metadata.name%3Dn1", ""),
        ("/api/v1/pods", "pods is forbidden: User \"system:node:n1\" cannot list resource \"pods\" in API group \"\" at the cluster scope: can only list/watch pods with spec.nodeName field selector"),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", ""),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", "pods is forbidden: User \"system:node:n1\" cannot list resource \"pods\" in API group \"\" at the cluster scope: can only list/watch pods with spec.nodeName field selector"),
        ("/api/v1/namespaces/a/pods/p1", ""),
        ("/api/v1/namespaces/a/pods/p2", "pods \"p2\" is forbidden: User \"system:node:n1\" cannot get resource \"pods\" in API group \"\" in the namespace \"a\": no relationship found between node 'n1' and this object"),
        ("/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp1", ""),
        ("/api/v1/services", ""),
        ("/apis/storage.k8s.io/v1/csidrivers", ""),
        ("/apis/discovery.k8s.io/v1/endpointslices", "endpointslices.discovery.k8s.io is forbidden: User \"system:node:n1\" cannot list resource \"endpointslices\" in API group \"discovery.k8s.io\" at the cluster scope"),
    ];
    for (path, why) in cases {
        let answer = ask(&node, "GET", path, Value::Null).await;
        if why.is_empty() {
            answer.expect(200);
        } else {
            assert_eq!(answer.failure(403).1, why, "{path}");
        }
    }
}

#[tokio::test]
async fn j62_what_a_pod_refers_to_comes_and_goes_with_it() {
    let (api, node) = cluster().await;
    let secret = format!("{IN}/secrets/s2");
    let code = || async { ask(&node, "GET", &secret, Value::Null).await.code.as_u16() };
    assert_eq!(code().await, 403);
    let pod = json!({"metadata": {"name": "later"}, "spec": {"containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "s", "secret": {"secretName": "s2"}}]}});
    api.post(&format!("{IN}/pods"), pod).await.expect(201);
    assert_eq!(code().await, 403, "it is on no node");
    let binding = json!({"metadata": {"name": "later"}, "target": {"name": "n1"}});
    api.post(&format!("{IN}/pods/later/binding"), binding).await.expect(201);
    // Nodes learn of their pods from what the graph is made of; so do we.
    api.get(&format!("{IN}/pods/later")).await.expect(200);
    assert_eq!(code().await, 200);
    api.delete(&format!("{IN}/pods/later?gracePeriodSeconds=0")).await.expect(200);
    api.get(&format!("{IN}/pods/later")).await.expect(404);
    assert_eq!(code().await, 403);
}

#[tokio::test]
async fn j64_a_node_writes_what_is_its_own() {
    let (api, node) = cluster().await;
    let mirror = |node: &str, owner: Value, spec: Value| {
        let mut pod = json!({
            "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        });
        if !owner.is_null() {
            pod["metadata"]["ownerReferences"] = json!([owner]);
        }
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap_or_default());
        pod
    };
    let n1 = uid(&api, "/api/v1/nodes/n1").await;
    let of = |uid: &str, controller: bool| {
        let mut owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid});
        if controller {
            owner["controller"] = true.into();
        }
        owner
    };
    let pods = format!("{IN}/pods");
    let bare = json!({"metadata": {"name": "m"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let mismatch = format!("node n1 UID mismatch: expected u got {n1}");
    let claim = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    #[rustfmt::skip]
    let cases = [
        (bare, "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods"),
        (mirror("n2", Value::Null, Value::Null), "node \"n1\" can only create pods with spec.nodeName set to itself"),
        (mirror("n1", Value::Null, Value::Null), "node \"n1\" can only create pods with an owner reference set to itself"),
        (mirror("n1", of("u", false), Value::Null), "node \"n1\" can only create pods with a controller owner reference set to itself"),
        (mirror("n1", of("u", true), Value::Null), &mismatch),
        (mirror("n1", of(&n1, true), json!({"serviceAccountName": "default"})), "a mirror pod may not reference service accounts"),
        (mirror("n1", of(&n1, true), claim), "node \"n1\" can not create pods that reference persistentvolumeclaims"),
    ];
    for (pod, why) in cases {
        let answer = ask(&node, "POST", &pods, pod).await;
        assert_eq!(answer.failure(403).1, format!("pods \"m\" is forbidden: {why}"));
    }
    ask(&node, "POST", &pods, mirror("n1", of(&n1, true), Value::Null)).await.expect(201);
    #[rustfmt::skip]
    let cases = [
        ("POST", "/apis/storage.k8s.io/v1/csinodes", json!({"metadata": {"name": "n2"}, "spec": {"drivers": []}}), "csinodes.storage.k8s.io \"n2\" is forbidden: can only access CSINode with the same name as the requesting node"),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", json!({"metadata": {"name": "n2"}}), "leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the requesting node"),
        ("POST", "/api/v1/nodes", json!({"metadata": {"name": "n3"}}), "nodes \"n3\" is forbidden: node \"n1\" is not allowed to modify node \"n3\""),
        ("DELETE", "/api/v1/namespaces/a/pods/p2", Value::Null, "pods \"p2\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to itself"),
        ("POST", "/api/v1/namespaces/a/pods/p2/eviction", json!({"metadata": {"name": "p2"}}), "pods \"p2\" is forbidden: node n1 can only evict pods with spec.nodeName set to itself"),
        ("PATCH", "/api/v1/nodes/n1", json!({"metadata": {"labels": {"a": "b"}}}), ""),
        ("PATCH", "/api/v1/nodes/n1", json!({"metadata": {"labels": {"kubernetes.io/x": "b", "foo.k8s.io/y": "1", "kubelet.kubernetes.io/z": "1"}}}), "nodes \"n1\" is forbidden: is not allowed to modify labels: foo.k8s.io/y, kubernetes.io/x"),
        ("PATCH", "/api/v1/nodes/n1", json!({"metadata": {"labels": {"x.node-restriction.kubernetes.io/x": "b"}}}), "nodes \"n1\" is forbidden: is not allowed to modify labels: x.node-restriction.kubernetes.io/x"),
        ("PATCH", "/api/v1/nodes/n1", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}), "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints"),
        ("PATCH", "/api/v1/nodes/n2/status", json!({"status": {"phase": "Running"}}), "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""),
        ("PATCH", "/api/v1/namespaces/a/pods/p1/status", json!({"metadata": {"labels": {"a": "b"}}}), "pods \"p1\" is forbidden: node \"n1\" cannot update labels through pod status"),
        ("PATCH", "/api/v1/namespaces/a/pods/p1/status", json!({"status": {"phase": "Running"}}), ""),
        ("PATCH", "/api/v1/namespaces/a/persistentvolumeclaims/claim1/status", json!({"status": {"capacity": {"storage": "1Gi"}}}), ""),
        ("PATCH", "/api/v1/namespaces/a/persistentvolumeclaims/claim1/status", json!({"status": {"phase": "Bound"}}), "persistentvolumeclaims \"claim1\" is forbidden: node \"n1\" is not allowed to update fields other than status.quantity and status.conditions"),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({"spec": {"user": "x", "nonResourceAttributes": {"verb": "get", "path": "/"}}}), ""),
    ];
    for (method, path, body, why) in cases {
        let answer = ask(&node, method, path, body).await;
        if why.is_empty() {
            assert!(answer.code.is_success(), "{path}: {answer:?}");
        } else {
            assert_eq!(answer.failure(403).1, why, "{path}");
        }
    }
    assert_eq!(ask(&node, "DELETE", &format!("{IN}/pods/nope"), Value::Null).await.code, 404);
}

#[tokio::test]
async fn j64_a_node_asks_for_tokens_of_its_pods_for_whom_they_mean_them() {
    let (api, node) = cluster().await;
    let [p1, p2, p3] = ["p1", "p2", "p3"].map(|name| format!("{IN}/pods/{name}"));
    let [p1, p2, p3] = [uid(&api, &p1).await, uid(&api, &p2).await, uid(&api, &p3).await];
    let bound = |pod: &str, uid: &str| {
        let mut reference = json!({"apiVersion": "v1", "kind": "Pod", "name": pod});
        if !uid.is_empty() {
            reference["uid"] = uid.into();
        }
        json!({"boundObjectRef": reference})
    };
    let audiences = |of: &[&str], pod: &str, uid: &str| {
        let mut spec = bound(pod, uid);
        spec["audiences"] = json!(of);
        spec
    };
    let path = format!("{IN}/serviceaccounts/default/token");
    #[rustfmt::skip]
    let cases = [
        (json!({}), 403, "serviceaccounts \"default\" is forbidden: node requested token not bound to a pod"),
        (bound("p1", ""), 403, "serviceaccounts \"default\" is forbidden: node requested token with a pod binding without a uid"),
        (bound("p1", "u"), 403, "serviceaccounts \"default\" is forbidden: the UID in the bound object reference (u) does not match the UID in record. The object might have been deleted and then recreated"),
        (bound("p2", &p2), 403, "serviceaccounts \"default\" is forbidden: node requested token bound to a pod scheduled on a different node"),
        (bound("nope", &p2), 404, "pod \"nope\" not found"),
        (audiences(&["x"], "p1", &p1), 403, "serviceaccounts \"default\" is forbidden: error validating audience \"x\": csidriver.storage.k8s.io \"d\" not found"),
        (audiences(&["x", "y"], "p1", &p1), 403, "serviceaccounts \"default\" is forbidden: node may only request 0 or 1 audiences"),
        (audiences(&["x"], "p3", &p3), 403, "serviceaccounts \"default\" is forbidden: audience \"x\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"),
    ];
    for (spec, code, why) in cases {
        let answer = ask(&node, "POST", &path, json!({"spec": spec})).await;
        assert_eq!(answer.failure(code).1, why);
    }
    // What admission has mounted is asked for without an audience.
    ask(&node, "POST", &path, json!({"spec": bound("p3", &p3)})).await.expect(201);
    // The driver of a volume may have wishes of its own.
    let driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "x"}]}});
    api.post("/apis/storage.k8s.io/v1/csidrivers", driver).await.expect(201);
    ask(&node, "POST", &path, json!({"spec": audiences(&["x"], "p1", &p1)})).await.expect(201);
}
