//! Server-side apply and the owners of fields, as clients see them (J45).

use serde_json::{Value, json};

use crate::harness::Api;

const APPLY: &str = "application/apply-patch+yaml";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn deployment(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

/// Who owns something of an object, in the order in which it says so: `name/operation/subresource`.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| {
            format!("{}/{}/{}", text(entry, "manager"), text(entry, "operation"), text(entry, "subresource"))
        })
        .collect()
}

#[tokio::test]
async fn apply_makes_merges_and_refuses() {
    let api = Api::start().await;
    let apply =
        async |query: &str, data: Value| api.patch(&format!("{MAPS}/c?{query}"), APPLY, map(data)).await;
    let message =
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
    assert_eq!(apply("", json!({})).await.failure(422), ("Invalid".into(), message.into()));
    apply("fieldManager=one&dryRun=All", json!({"a": "1"})).await.expect(201);
    assert_eq!(api.get(&format!("{MAPS}/c")).await.code, 404, "a dry run makes nothing");
    let made = apply("fieldManager=one", json!({"a": "1"})).await.expect(201);
    let again = apply("fieldManager=one", json!({"a": "1"})).await.expect(200);
    assert_eq!(again, made, "nothing new, and no other version");
    let (reason, message) = apply("fieldManager=two", json!({"a": "2"})).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let taken = apply("fieldManager=two&force=true", json!({"a": "2"})).await.expect(200);
    assert_eq!(owners(&taken), ["two/Apply/"]);
    let gone = apply("fieldManager=two", json!({})).await.expect(200);
    assert!(gone["data"]["a"].is_null());
}

#[tokio::test]
async fn a_configuration_is_yaml_and_says_nothing_twice() {
    let api = Api::start().await;
    let path = format!("{MAPS}/c?fieldManager=m");
    let headers = [("content-type", APPLY)];
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: x\n  a: z\n";
    let strict =
        api.send("PATCH", &format!("{path}&fieldValidation=Strict"), &headers, body.to_owned()).await;
    let (_, message) = strict.failure(400);
    assert!(message.ends_with("line 7: key \"a\" already set in map"), "{message}");
    let made = api.send("PATCH", &path, &headers, body.to_owned()).await.expect(201);
    assert_eq!(made["data"]["a"], "z");
    let (_, message) = api.send("PATCH", &path, &headers, "[1]".to_owned()).await.failure(400);
    assert!(message.starts_with("error decoding YAML: "), "{message}");
}

#[tokio::test]
async fn every_write_says_who_wrote() {
    let api = Api::start().await;
    api.post(&format!("{DEPLOYMENTS}?fieldManager=creator"), deployment(1)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let status = json!({"status": {"replicas": 1}});
    api.merge(&format!("{path}/status?fieldManager=reporter"), status).await.expect(200);
    api.merge(&format!("{path}/scale?fieldManager=scaler"), json!({"spec": {"replicas": 2}}))
        .await
        .expect(200);
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    let object = api.merge(&format!("{path}?fieldManager=labeller"), labels).await.expect(200);
    let mut names = owners(&object);
    names.sort();
    let all = ["creator/Update/", "labeller/Update/", "reporter/Update/status", "scaler/Update/scale"];
    assert_eq!(names, all);
    let applied = api.patch(&format!("{path}?fieldManager=m"), APPLY, deployment(3)).await;
    let message = "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: \
                   .spec.replicas";
    assert_eq!(applied.failure(409).1, message);
    let cleared = api.merge(&path, json!({"metadata": {"managedFields": []}})).await.expect(200);
    assert!(owners(&cleared).is_empty());
}
