//! Deletion: J49 to J52.

use serde_json::json;

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, pod, rev};

#[tokio::test]
async fn j49_finalizers_keep_an_object_until_the_last_is_gone() {
    let api = Api::start().await;
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    api.post(CONFIG_MAPS, object).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let deleting = api.delete(&path).await.expect(200);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = api.delete(&path).await.expect(200);
    assert_eq!(rev(&again), rev(&deleting), "a second deletion changes nothing");
    let (_, message) = api.post(CONFIG_MAPS, config_map("a")).await.failure(409);
    assert_eq!(message, "object is being deleted: configmaps \"a\" already exists");
    let more = json!({"metadata": {"finalizers": ["example.com/a", "example.com/b", "example.com/c"]}});
    let (_, message) = api.merge(&path, more).await.failure(422);
    assert!(message.contains("no new finalizers can be added if the object is being deleted"), "{message}");
    api.merge(&path, json!({"metadata": {"finalizers": ["example.com/b"]}})).await.expect(200);
    let mut last = api.get(&path).await.expect(200);
    last["metadata"]["finalizers"] = json!([]);
    api.put(&path, last).await.expect(200);
    api.get(&path).await.failure(404);
}

#[tokio::test]
async fn j49_preconditions_are_checked() {
    let api = Api::start().await;
    let created = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let headers = [("content-type", "application/json")];
    for preconditions in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions});
        let answer = api.send("DELETE", &path, &headers, body.to_string()).await;
        assert_eq!(answer.failure(409).0, "Conflict", "{body}");
    }
    let body = json!({"preconditions": {"uid": created["metadata"]["uid"]}});
    api.send("DELETE", &path, &headers, body.to_string()).await.expect(200);
}

#[tokio::test]
async fn j50_propagation_policies_become_finalizers() {
    let api = Api::start().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
        let path = format!("{CONFIG_MAPS}/a");
        let kept = api.delete(&format!("{path}?propagationPolicy={policy}")).await.expect(200);
        assert_eq!(kept["metadata"]["finalizers"], json!([finalizer]));
        api.merge(&path, json!({"metadata": {"finalizers": null}})).await.expect(200);
        api.get(&path).await.failure(404);
    }
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let (_, message) = api.delete(&format!("{CONFIG_MAPS}/a?propagationPolicy=Sideways")).await.failure(422);
    assert!(message.contains("propagationPolicy: Unsupported value"), "{message}");
    let answer = api.delete(&format!("{CONFIG_MAPS}/a?orphanDependents=false")).await;
    answer.expect(200);
}

#[tokio::test]
async fn j51_a_running_pod_is_given_time() {
    let api = Api::start().await;
    let mut object = pod("p");
    object["spec"]["nodeName"] = "n".into();
    api.post(PODS, object).await.expect(201);
    let path = format!("{PODS}/p");
    let going = api.delete(&path).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(going["metadata"]["generation"], 2);
    let longer = api.delete(&format!("{path}?gracePeriodSeconds=60")).await.expect(200);
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = api.delete(&format!("{path}?gracePeriodSeconds=3")).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 3);
    api.merge(&path, json!({"metadata": {"labels": {"still": "there"}}})).await.expect(200);
    api.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
    api.get(&path).await.failure(404);
}

#[tokio::test]
async fn j52_namespaces_go_when_they_are_empty() {
    let api = Api::start().await;
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await.expect(201);
    let path = "/api/v1/namespaces/a";
    let going = api.delete(path).await.expect(200);
    api.delete(path).await.expect(200);
    api.get(path).await.expect(200);
    let mut finalized = going;
    finalized["spec"] = json!({});
    finalized["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    api.put(&format!("{path}/finalize"), finalized).await.expect(200);
    api.get(path).await.failure(404);
    for name in ["default", "kube-system", "kube-public"] {
        let (reason, message) = api.delete(&format!("/api/v1/namespaces/{name}")).await.failure(403);
        assert_eq!(reason, "Forbidden");
        assert_eq!(message, format!("namespaces {name:?} is forbidden: this namespace may not be deleted"));
    }
}

#[tokio::test]
async fn j40_collections_are_deleted_by_selector() {
    let api = Api::start().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"l": label});
        api.post(CONFIG_MAPS, object).await.expect(201);
    }
    let deleted = api.delete(&format!("{CONFIG_MAPS}?labelSelector=l%3Dx")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = api.get(&format!("{CONFIG_MAPS}?labelSelector=l")).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}
