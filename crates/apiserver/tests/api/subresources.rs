//! Subresources: J55, J56.

use serde_json::json;

use crate::harness::{Api, PODS, SERVICES, pod, rev, service};

#[tokio::test]
async fn j55_status_and_spec_have_their_own_endpoints() {
    let api = Api::start().await;
    api.post(SERVICES, service("s", json!({"type": "LoadBalancer"}))).await.expect(201);
    let path = format!("{SERVICES}/s");
    let both = json!({
        "spec": {"sessionAffinity": "ClientIP"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}},
    });
    let on_status = api.merge(&format!("{path}/status"), both.clone()).await.expect(200);
    assert_eq!(on_status["spec"]["sessionAffinity"], "None");
    assert_eq!(on_status["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.7");
    let other =
        json!({"spec": {"sessionAffinity": "ClientIP"}, "status": {"loadBalancer": {"ingress": null}}});
    let on_main = api.merge(&path, other).await.expect(200);
    assert_eq!(on_main["spec"]["sessionAffinity"], "ClientIP");
    assert_eq!(on_main["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.7");
    assert_eq!(api.get(&format!("{path}/status")).await.expect(200), on_main);
    let mut put = on_main.clone();
    put["status"] = json!({"loadBalancer": {}});
    assert_eq!(
        api.put(&format!("{path}/status"), put).await.expect(200)["status"],
        json!({"loadBalancer": {}})
    );
}

#[tokio::test]
async fn j55_scale_is_another_form_of_replicas() {
    let api = Api::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    api.post(deployments, deployment).await.expect(201);
    let path = format!("{deployments}/d/scale");
    let scale = api.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "a=b");
    let patched = api.merge(&path, json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    let mut put = patched.clone();
    put["spec"]["replicas"] = 1.into();
    api.put(&path, put.clone()).await.expect(200);
    assert_eq!(api.put(&path, put).await.failure(409).0, "Conflict", "the version is old by now");
    let deployment = api.get(&format!("{deployments}/d")).await.expect(200);
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(api.merge(&path, json!({"spec": {"replicas": -1}})).await.failure(422).0, "Invalid");
}

#[tokio::test]
async fn j56_a_pod_is_bound_once() {
    let api = Api::start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "other": "x"});
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "labels": labels}});
    api.post("/api/v1/nodes", node).await.expect(201);
    api.post(PODS, pod("p")).await.expect(201);
    let binding = |node: &str| {
        json!({
            "kind": "Binding",
            "apiVersion": "v1",
            "metadata": {"name": "p", "annotations": {"why": "fits"}},
            "target": {"kind": "Node", "name": node},
        })
    };
    let path = format!("{PODS}/p/binding");
    assert_eq!(api.post(&path, binding("")).await.failure(422).0, "Invalid");
    assert_eq!(api.post(&path, binding("n1")).await.expect(201)["status"], "Success");
    let bound = api.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["metadata"]["annotations"]["why"], "fits");
    assert_eq!(bound["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
    assert!(bound["metadata"]["labels"]["other"].is_null());
    let mut placed = pod("q");
    placed["spec"]["nodeName"] = "n1".into();
    let placed = api.post(PODS, placed).await.expect(201);
    assert_eq!(placed["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (reason, message) = api.post(&path, binding("n2")).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    assert_eq!(api.post(&format!("{PODS}/none/binding"), json!({"target": {"name": "n"}})).await.code, 404);
}

#[tokio::test]
async fn j55_an_eviction_deletes() {
    let api = Api::start().await;
    let created = api.post(PODS, pod("p")).await.expect(201);
    let eviction = json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}});
    let path = format!("{PODS}/p/eviction");
    api.post(&format!("{path}?dryRun=All"), eviction.clone()).await.expect(201);
    assert_eq!(rev(&api.get(&format!("{PODS}/p")).await.expect(200)), rev(&created));
    api.post(&path, eviction.clone()).await.expect(201);
    assert_eq!(api.post(&path, eviction).await.failure(404).0, "NotFound");
}

#[tokio::test]
async fn connections_to_pods_are_refused_in_words() {
    let api = Api::start().await;
    let logs = format!("{PODS}/p/log?follow=true");
    assert_eq!(api.get(&logs).await.failure(404).1, "pods \"p\" not found");
    api.post(PODS, pod("p")).await.expect(201);
    // Nothing was written where nothing runs.
    assert_eq!((api.get(&logs).await.code.as_u16(), api.get(&logs).await.bytes.len()), (200, 0));
    for (path, code, reason, message) in [
        ("p/log?tailLines=-1", 422, "Invalid", "tailLines: Invalid value: -1"),
        ("p/log?container=x", 400, "BadRequest", "container x is not valid for pod p"),
        ("p/exec?command=ls", 400, "BadRequest", "pod p does not have a host assigned"),
        ("p/portforward", 400, "BadRequest", "pod p does not have a host assigned"),
        ("p/proxy/", 400, "BadRequest", "address not allowed"),
        ("a:b:c:d/proxy/", 400, "BadRequest", "invalid pod request \"a:b:c:d\""),
    ] {
        let (found, said) = api.get(&format!("{PODS}/{path}")).await.failure(code);
        assert_eq!(found, reason, "{path}");
        assert!(said.contains(message), "{path}: {said}");
    }
}

#[tokio::test]
async fn j55_ephemeral_containers_are_added_and_stay() {
    let api = Api::start().await;
    api.post(PODS, pod("p")).await.expect(201);
    let path = format!("{PODS}/p/ephemeralcontainers");
    let kind = "application/strategic-merge-patch+json";
    let change = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "dyad/tools"}]}});
    let changed = api.patch(&path, kind, change).await.expect(200);
    assert_eq!(changed["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File");
    assert_eq!(changed["metadata"]["generation"], 2);
    let (reason, message) =
        api.merge(&path, json!({"spec": {"ephemeralContainers": null}})).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("existing ephemeral containers \"e\" may not be removed"), "{message}");
}

#[tokio::test]
async fn figures_are_discovered_and_asked_for() {
    let api = Api::start().await;
    let list = api.get("/apis/metrics.k8s.io/v1beta1").await.expect(200);
    assert_eq!(list["resources"][1]["kind"], "PodMetrics");
    let none = api.get("/apis/metrics.k8s.io/v1beta1/nodes").await.expect(200);
    assert_eq!((&none["kind"], &none["items"]), (&json!("NodeMetricsList"), &json!([])));
    api.get("/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/p").await.failure(404);
    api.get("/apis/metrics.k8s.io/v1beta1/services").await.failure(404);
}
