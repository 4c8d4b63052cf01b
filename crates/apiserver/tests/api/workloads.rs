//! What other objects have to say about a write: budgets, quotas, limits and priorities (J55, J64).

use serde_json::{Value, json};

use crate::harness::{Api, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn eviction(name: &str) -> Value {
    json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name}})
}

/// A running pod with a label.
async fn running(api: &Api, name: &str, ready: bool) {
    let mut pod = pod(name);
    pod["metadata"]["labels"] = json!({"a": "b"});
    api.post(PODS, pod).await.expect(201);
    let status = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": status}]});
    api.merge(&format!("{PODS}/{name}/status"), json!({ "status": status })).await.expect(200);
}

#[tokio::test]
async fn j55_a_budget_is_asked_before_an_eviction() {
    let api = Api::start().await;
    running(&api, "p", true).await;
    running(&api, "q", true).await;
    running(&api, "broken", false).await;
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}});
    api.post(BUDGETS, json!({"metadata": {"name": "b"}, "spec": spec})).await.expect(201);
    let evict = async |name: &str| api.post(&format!("{PODS}/{name}/eviction"), eviction(name)).await;
    let unknown = evict("p").await;
    assert_eq!(unknown.failure(429).0, "TooManyRequests", "nobody has looked at the budget");
    assert_eq!(unknown.json()["details"]["retryAfterSeconds"], 10);
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
                        "expectedPods": 3});
    api.merge(&format!("{BUDGETS}/b/status"), json!({ "status": status })).await.expect(200);
    evict("broken").await.expect(201);
    evict("p").await.expect(201);
    let budget = api.get(&format!("{BUDGETS}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(
        budget["status"]["disruptedPods"]["p"].is_string()
            && budget["status"]["disruptedPods"]["broken"].is_null()
    );
    assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
    let (_, message) = evict("q").await.failure(429);
    assert_eq!(message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let second = json!({"metadata": {"name": "c"}, "spec": {"minAvailable": 0, "selector": {}}});
    api.post(BUDGETS, second).await.expect(201);
    let (_, message) = evict("q").await.failure(500);
    assert!(message.starts_with("This pod has more than one PodDisruptionBudget"), "{message}");
    api.get(&format!("{PODS}/q")).await.expect(200);
}

#[tokio::test]
async fn j64_a_quota_is_charged_with_the_write() {
    let api = Api::start().await;
    let hard = json!({"pods": "2", "count/configmaps": "9"});
    api.post(QUOTAS, json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await.expect(201);
    // What the quota's controller has not seen limits nothing yet, as in Kubernetes.
    api.merge(&format!("{QUOTAS}/q/status"), json!({"status": {"hard": hard}})).await.expect(200);
    let (_, message) = api.post(PODS, pod("early")).await.failure(403);
    assert_eq!(message, "pods \"early\" is forbidden: status unknown for quota: q, resources: pods");
    let used = json!({"hard": hard, "used": {"pods": "0", "count/configmaps": "1"}});
    api.merge(&format!("{QUOTAS}/q/status"), json!({ "status": used })).await.expect(200);
    api.post(&format!("{PODS}?dryRun=All"), pod("dry")).await.expect(201);
    // Many at once: what is allowed gets through, and no more.
    let names: Vec<String> = (0..8).map(|number| format!("p{number}")).collect();
    let answers = futures::future::join_all(names.iter().map(|name| api.post(PODS, pod(name)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.code == 201).count(), 2);
    let refused = answers.iter().find(|answer| answer.code != 201).unwrap().failure(403).1;
    assert!(
        refused.ends_with("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        "{refused}"
    );
    let quota = api.get(&format!("{QUOTAS}/q")).await.expect(200);
    assert_eq!(quota["status"]["used"]["pods"], "2");
}

#[tokio::test]
async fn j64_pods_get_what_their_namespace_and_class_say() {
    let api = Api::start().await;
    let limits = json!([{"type": "Container", "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]);
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": limits}});
    api.post("/api/v1/namespaces/default/limitranges", range).await.expect(201);
    let class = json!({"metadata": {"name": "high"}, "value": 7});
    api.post("/apis/scheduling.k8s.io/v1/priorityclasses", class).await.expect(201);
    let mut wanted = pod("p");
    wanted["spec"]["priorityClassName"] = "high".into();
    let made = api.post(PODS, wanted).await.expect(201);
    assert_eq!(made["spec"]["priority"], 7);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}})
    );
}

#[tokio::test]
async fn j50_jobs_leave_their_pods_unless_told_otherwise() {
    let api = Api::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    api.post(jobs, json!({"metadata": {"name": "j"}, "spec": {"template": template}})).await.expect(201);
    let going = api.delete(&format!("{jobs}/j")).await.expect(200);
    assert_eq!(going["metadata"]["finalizers"], json!(["orphan"]));
}
