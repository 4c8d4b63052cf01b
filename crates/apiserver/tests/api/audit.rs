//! The audit log as it is written for requests, and what is never in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dyad_apiserver::audit::{AuditConfig, Policy};
use dyad_apiserver::auth::token::TokenKey;
use dyad_apiserver::{Server, ServerConfig};
use dyad_store::{MemoryStore, Store};
use serde_json::{Value, json};

use crate::harness::{Api, DUAL, config, identities, send};

const EVERYTHING: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- {level: None, userGroups: ['system:nobody']}
- {level: Request, resources: [{group: apps}]}
- {level: RequestResponse}
";
const SECRET: &str = "hunter2-is-the-password";

/// A server that logs everything it may.
async fn server(path: &Path, policy: Option<&str>) -> Api {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let key = TokenKey::from_pem(&identities().tokens).unwrap();
    let mut audit = AuditConfig::new(path);
    if let Some(policy) = policy {
        audit.policy = Policy::read(policy).unwrap();
    }
    let config = config(DUAL, Arc::clone(&store), Vec::new());
    let config = ServerConfig { tokens: Some(Arc::new(key)), ..config };
    let server = Server::start_audited(config, Some(audit)).await.unwrap();
    let service = server.service();
    Api { server, service, store }
}

/// The events of a log that holds at least `count`, in the order of the file.
async fn events(path: &Path, count: usize) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    for _ in 0..2000 {
        if read().len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    read()
}

fn stages<'a>(events: &'a [Value], id: &str) -> Vec<&'a str> {
    events
        .iter()
        .filter(|event| event["auditID"] == id)
        .map(|event| event["stage"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn requests_are_written_down_as_kubernetes_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let api = server(&path, Some(EVERYTHING)).await;
    let jane = api.as_user("jane", &["dev"]);
    let id = |id: &'static str| ("audit-id", id);
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}}).to_string();
    let kind = ("content-type", "application/json");
    let made =
        send(&api.service, "POST", "/api/v1/nodes?x=1", &[kind, id("made"), ("user-agent", "t")], node).await;
    assert_eq!(made.headers["audit-id"], "made");
    send(&jane, "GET", "/api/v1/nodes/n", &[id("refused"), ("x-forwarded-for", "203.0.113.7, x")], "").await;
    send(&api.service, "GET", "/livez", &[id("path")], "").await;
    send(&api.service, "GET", "/api/v1/nodes", &[id("acted"), ("impersonate-user", "bob")], "").await;
    send(&api.service, "GET", "/api/v1/nodes", &[("authorization", "Bearer x"), id("certified")], "").await;
    let watch = "/api/v1/nodes?watch=1&timeoutSeconds=1";
    send(&api.service, "GET", watch, &[id("watched")], "").await;
    let events = events(&path, 13).await;
    assert_eq!(stages(&events, "made"), ["RequestReceived", "ResponseComplete"]);
    assert_eq!(stages(&events, "watched"), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    let last = |id: &str| events.iter().rfind(|event| event["auditID"] == id).unwrap().clone();
    let mut event = last("made");
    let user = json!({"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]});
    let (object, answer) = (event["requestObject"].take(), event["responseObject"].take());
    assert_eq!((&object["metadata"]["name"], &answer["metadata"]["name"]), (&json!("n"), &json!("n")));
    for key in ["requestReceivedTimestamp", "stageTimestamp"] {
        assert_eq!(event[key].take().as_str().unwrap().len(), "2026-01-01T00:00:00.000000Z".len());
    }
    let null = Value::Null;
    assert_eq!(
        event,
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": "made",
            "stage": "ResponseComplete", "requestURI": "/api/v1/nodes?x=1", "verb": "create", "user": user,
            "userAgent": "t", "objectRef": {"resource": "nodes", "name": "n", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 201}, "requestObject": null, "responseObject": null,
            "requestReceivedTimestamp": null, "stageTimestamp": null,
            "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
        })
    );
    let refused = last("refused");
    assert_eq!(refused["sourceIPs"], json!(["203.0.113.7"]));
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    assert_eq!(refused["responseStatus"]["details"], json!({"name": "n", "kind": "nodes"}));
    assert_eq!((&last("path")["verb"], &last("path")["objectRef"]), (&json!("get"), &null));
    assert_eq!(last("acted")["impersonatedUser"]["username"], "bob");
    assert_eq!(last("acted")["user"]["username"], "kubernetes-admin");
}

#[tokio::test]
async fn without_a_policy_there_is_metadata_of_everything() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let api = server(&path, None).await;
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.expect(201);
    let events = events(&path, 2).await;
    assert!(events.iter().all(|event| event["level"] == "Metadata"), "{events:?}");
    assert!(events.iter().all(|event| event["requestObject"].is_null() && event["responseObject"].is_null()));
}

/// Every kind of request that could show a secret: what is sent, what is answered, and errors about it.
#[tokio::test]
async fn secrets_are_never_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let api = server(&path, Some(EVERYTHING)).await;
    let encoded = STANDARD.encode(SECRET);
    let secret = |name: &str| {
        json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name},
            "data": {"k": encoded}, "stringData": {"t": SECRET}})
    };
    let map =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "m"}, "data": {"k": SECRET}});
    let (secrets, maps) = ("/api/v1/namespaces/default/secrets", "/api/v1/namespaces/default/configmaps");
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let review = "/apis/authentication.k8s.io/v1/tokenreviews";
    api.post(secrets, secret("s")).await.expect(201);
    api.post(secrets, secret("s")).await.expect(409);
    api.post(maps, map.clone()).await.expect(201);
    api.put(&format!("{secrets}/s"), secret("s")).await.expect(200);
    let merge = json!({"stringData": {"u": SECRET}});
    api.merge(&format!("{secrets}/s"), merge.clone()).await.expect(200);
    let apply = "application/apply-patch+yaml";
    api.patch(&format!("{secrets}/a?fieldManager=t"), apply, secret("a")).await.expect(201);
    api.patch(
        &format!("{secrets}/s"),
        "application/json-patch+json",
        json!([{"op": "test", "path": "/data/k", "value": SECRET}]),
    )
    .await;
    for target in [secrets, maps] {
        api.get(target).await.expect(200);
        api.get_as(target, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
        api.get_as(target, "application/yaml").await;
        api.get_as(target, "application/vnd.kubernetes.protobuf").await;
        api.get(&format!("{target}?watch=1&timeoutSeconds=1")).await;
    }
    // Errors that show what was sent.
    let mut wrong = secret("w");
    wrong["type"] = SECRET.into();
    wrong["data"][SECRET] = json!(7);
    wrong[SECRET] = SECRET.into();
    api.post(&format!("{secrets}?fieldValidation=Strict"), wrong).await;
    let mut wrong = map.clone();
    wrong["data"] = json!({SECRET.to_owned() + "/!": SECRET, "x": {"y": SECRET}});
    api.post(maps, wrong).await;
    api.send("POST", secrets, &[("content-type", "application/json")], format!("{{\"data\": {SECRET}")).await;
    let given = api.post(account, json!({"spec": {}})).await.expect(201);
    let token = given["status"]["token"].as_str().unwrap().to_owned();
    api.post(review, json!({"spec": {"token": token}})).await.expect(201);
    api.post(review, json!({"spec": {"token": SECRET}})).await.expect(201);
    let bearer = format!("Bearer {token}");
    api.send("GET", "/api/v1/nodes", &[("authorization", &bearer)], "").await;
    api.delete(&format!("{secrets}/s")).await.expect(200);
    api.delete(secrets).await.expect(200);
    // The end of the log, by which all before it is there.
    let end = [("audit-id", "end")];
    send(&api.service, "GET", "/livez", &end, "").await;
    for _ in 0..2000 {
        if std::fs::read_to_string(&path).unwrap_or_default().matches("\"end\"").count() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.matches("\"resource\":\"secrets\"").count() > 20, "they are written down");
    for hidden in [SECRET, &encoded, token.as_str()] {
        let shown = text.lines().find(|line| line.contains(hidden));
        assert_eq!(shown, None, "{hidden}");
    }
}
