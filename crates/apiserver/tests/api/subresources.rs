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
    for (path, resource) in [(logs, "pods/log"), (format!("{PODS}/p/exec?command=ls"), "pods/exec")] {
        let (reason, message) = api.get(&path).await.failure(405);
        assert_eq!(reason, "MethodNotAllowed");
        assert!(message.contains(resource), "{message}");
    }
}
