//! ClusterNetworkPolicies, a custom resource elsewhere and built in here.

use serde_json::json;

use crate::harness::Api;

const POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

fn policy(rules: serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": rules},
        "status": {"conditions": []},
    })
}

#[tokio::test]
async fn cluster_policies_are_kept_as_they_were_sent() {
    let api = Api::start().await;
    let rules = json!([{"action": "Accept", "name": "dns", "to": [{"pods": {"podSelector": {}}}, {"networks": ["fd00::/8"]}],
        "protocols": [{"udp": {"destinationPort": {"number": 53}}}]}]);
    let created = api.post(POLICIES, policy(rules.clone())).await.expect(201);
    assert_eq!(created["spec"]["egress"], rules, "what is left out stays out");
    assert_eq!((&created["metadata"]["generation"], created.get("status")), (&json!(1), None));
    let path = format!("{POLICIES}/p");
    let conditions = json!([{"type": "Programmed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Done", "message": ""}]);
    let status = api.merge(&format!("{path}/status"), json!({"status": {"conditions": conditions}})).await;
    assert_eq!(status.expect(200)["status"]["conditions"], conditions);
    let changed = api.merge(&path, json!({"spec": {"priority": 6}})).await.expect(200);
    assert_eq!(
        (&changed["metadata"]["generation"], &changed["status"]["conditions"]),
        (&json!(2), &conditions)
    );
    let table = api.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("p"), json!("Admin"), json!("6")]);
}

#[tokio::test]
async fn cluster_policies_that_make_no_sense_are_refused() {
    let api = Api::start().await;
    let rows = [
        // What would match all if it were lost.
        (json!([{"action": "Deny", "to": [{"namespaces": {}}], "protocols": []}]), "have at least 1 items"),
        (json!([{"action": "Deny", "to": []}]), "have at least 1 items"),
        (json!([{"action": "Deny"}]), "spec.egress[0].to: Required value"),
        (json!([{"action": "Deny", "to": [{}]}]), "have at least 1 properties"),
        (
            json!([{"action": "Drop", "to": [{"nodes": {}}]}]),
            "supported values: \"Accept\", \"Deny\", \"Pass\"",
        ),
    ];
    for (rules, wanted) in rows {
        let (reason, message) = api.post(POLICIES, policy(rules.clone())).await.failure(422);
        assert!(reason == "Invalid" && message.contains(wanted), "{rules}: {message}");
    }
    let mut without = policy(json!([]));
    without["spec"].as_object_mut().unwrap().remove("priority");
    let (_, message) = api.post(POLICIES, without).await.failure(422);
    assert!(message.contains("spec.priority: Required value"), "{message}");
    let unknown = policy(json!([{"action": "Accept", "to": [{"domainNames": ["example.com"]}]}]));
    let (_, message) = api.post(&format!("{POLICIES}?fieldValidation=Strict"), unknown).await.failure(400);
    assert!(message.contains("unknown field \"spec.egress[0].to[0].domainNames\""), "{message}");
}

#[tokio::test]
async fn cluster_policies_are_described() {
    let api = Api::start().await;
    let group = api.get("/apis/policy.networking.k8s.io/v1alpha2").await.expect(200);
    assert_eq!(group["resources"][0]["shortNames"], json!(["cnp"]));
    let document = api.get("/openapi/v3/apis/policy.networking.k8s.io/v1alpha2").await.expect(200);
    let schemas = &document["components"]["schemas"];
    let kind = &schemas["io.k8s.networking.policy.v1alpha2.ClusterNetworkPolicy"];
    let gvk =
        json!([{"group": "policy.networking.k8s.io", "version": "v1alpha2", "kind": "ClusterNetworkPolicy"}]);
    assert_eq!(kind["x-kubernetes-group-version-kind"], gvk);
    let spec = &schemas["io.k8s.networking.policy.v1alpha2.ClusterNetworkPolicySpec"];
    assert!(
        spec["properties"]["tier"]["description"]
            .as_str()
            .is_some_and(|text| text.contains("NetworkPolicies"))
    );
    assert_eq!(spec["required"], json!(["tier", "priority", "subject"]));
}
