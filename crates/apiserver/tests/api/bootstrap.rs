//! What a cluster begins with: C20 to C23, C50 to C56, J52, J61.

use std::sync::Arc;

use dyad_apiserver::{Server, StartError};
use dyad_net::{DualStack, IpFamily};
use dyad_store::{MemoryStore, Store};
use serde_json::{Value, json};

use crate::harness::{Api, DUAL, PATIENCE, SERVICES, config};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const CIDR: &str = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";

/// Asks until the answer is as it should be.
async fn until(api: &Api, path: &str, good: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let answer = api.get(path).await.json();
            if good(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{path} does not become right"))
}

#[tokio::test]
async fn j52_j61_namespaces_are_complete() {
    let api = Api::start().await;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let base = format!("/api/v1/namespaces/{namespace}");
        assert_eq!(api.get(&base).await.expect(200)["status"]["phase"], "Active");
        api.get(&format!("{base}/serviceaccounts/default")).await.expect(200);
        let authority = api.get(&format!("{base}/configmaps/kube-root-ca.crt")).await.expect(200);
        assert!(authority["data"]["ca.crt"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    }
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "new"}})).await.expect(201);
    let account = "/api/v1/namespaces/new/serviceaccounts/default";
    until(&api, account, |answer| answer["kind"] == "ServiceAccount").await;
    api.delete(account).await.expect(200);
    until(&api, account, |answer| answer["kind"] == "ServiceAccount").await;
    let authority = "/api/v1/namespaces/new/configmaps/kube-root-ca.crt";
    until(&api, authority, |answer| answer["kind"] == "ConfigMap").await;
    api.merge(authority, json!({"data": {"ca.crt": "forged"}})).await.expect(200);
    until(&api, authority, |answer| answer["data"]["ca.crt"] != "forged").await;
    // What other servers ask who clients are by.
    let authority = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let is_right = |answer: &Value| {
        answer["data"]["client-ca-file"].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE"))
    };
    assert!(is_right(&api.get(authority).await.expect(200)));
    api.merge(authority, json!({"data": {"client-ca-file": "forged"}})).await.expect(200);
    until(&api, authority, is_right).await;
    api.delete(authority).await.expect(200);
    until(&api, authority, is_right).await;
}

#[tokio::test]
async fn c20_c23_the_default_range_is_there_and_ready() {
    let api = Api::start().await;
    let cidr = api.get(CIDR).await.expect(200);
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    assert_eq!(cidr["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(cidr["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn c56_the_kubernetes_service_has_both_families_and_its_first_addresses() {
    for (ranges, ips, slices) in [
        (
            DUAL,
            json!(["10.96.0.1", "fd00:10:96::1"]),
            vec![("kubernetes", "IPv4"), ("kubernetes-ipv6", "IPv6")],
        ),
        (
            "fd00:10:96::/112,10.96.0.0/16",
            json!(["fd00:10:96::1", "10.96.0.1"]),
            vec![("kubernetes", "IPv6"), ("kubernetes-ipv4", "IPv4")],
        ),
        ("fd00:10:96::/112", json!(["fd00:10:96::1"]), vec![("kubernetes", "IPv6")]),
    ] {
        let api = Api::with(ranges, Arc::new(MemoryStore::new())).await;
        let service = api.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
        assert_eq!(service["spec"]["clusterIPs"], ips);
        let policy = if slices.len() == 2 { "RequireDualStack" } else { "SingleStack" };
        assert_eq!(service["spec"]["ipFamilyPolicy"], policy);
        assert_eq!(service["metadata"]["labels"]["provider"], "kubernetes");
        let found = api.get(SLICES).await.expect(200);
        assert_eq!(found["items"].as_array().unwrap().len(), slices.len());
        for (name, family) in &slices {
            let slice = api.get(&format!("{SLICES}/{name}")).await.expect(200);
            assert_eq!(slice["addressType"], *family);
            assert_eq!(slice["ports"][0]["port"], 6443);
            assert_eq!(slice["metadata"]["labels"], json!({"kubernetes.io/service-name": "kubernetes"}));
        }
        let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await.expect(200);
        assert_eq!(
            endpoints["subsets"][0]["addresses"].as_array().unwrap().len(),
            1,
            "C56: the primary family only"
        );
        assert_eq!(endpoints["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"], "true");
    }
}

#[tokio::test]
async fn c50_what_users_made_of_the_service_stays() {
    let api = Api::start().await;
    let path = format!("{SERVICES}/kubernetes");
    let changed = json!({"metadata": {"labels": {"mine": "yes"}}, "spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.1"]}});
    api.merge(&path, changed).await.expect(200);
    // The second slice goes with the second family.
    until(&api, &format!("{SLICES}/kubernetes-ipv6"), |answer| answer["reason"] == "NotFound").await;
    let service = api.get(&path).await.expect(200);
    assert_eq!(service["metadata"]["labels"]["mine"], "yes");
    assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
    // What the server itself keeps comes back.
    api.delete(&format!("{SLICES}/kubernetes")).await.expect(200);
    until(&api, &format!("{SLICES}/kubernetes"), |answer| answer["kind"] == "EndpointSlice").await;
    api.delete(&path).await.expect(200);
    let back = until(&api, &path, |answer| answer["kind"] == "Service").await;
    assert_eq!(back["spec"]["clusterIPs"], json!(["10.96.0.1", "fd00:10:96::1"]));
}

#[tokio::test]
async fn c21_a_second_range_is_added_to_the_first() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let single = Api::with("10.96.0.0/16", Arc::clone(&store)).await;
    assert_eq!(single.get(CIDR).await.expect(200)["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    single.server.shutdown().await;
    let dual = Api::with(DUAL, Arc::clone(&store)).await;
    assert_eq!(
        dual.get(CIDR).await.expect(200)["spec"]["cidrs"],
        json!(["10.96.0.0/16", "fd00:10:96::/112"])
    );
    let service = dual.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.1"]), "C50: it is never updated");
}

#[tokio::test]
async fn c22_other_differences_are_left_to_the_operator() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    Api::with(DUAL, Arc::clone(&store)).await.server.shutdown().await;
    let swapped = Api::with("fd00:10:96::/112,10.96.0.0/16", Arc::clone(&store)).await;
    assert_eq!(
        swapped.get(CIDR).await.expect(200)["spec"]["cidrs"],
        json!(["10.96.0.0/16", "fd00:10:96::/112"])
    );
    let events =
        "/api/v1/namespaces/default/events?fieldSelector=reason%3DKubernetesDefaultServiceCIDRInconsistent";
    assert_eq!(swapped.get(events).await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn c52_the_advertised_address_must_be_of_the_primary_family() {
    let mut wrong = config(DUAL, Arc::new(MemoryStore::new()), Vec::new());
    wrong.advertise = DualStack::single(IpFamily::V6, "2001:db8::1".parse().unwrap());
    let error = Server::start(wrong).await.unwrap_err();
    assert!(matches!(error, StartError::AdvertiseFamily { .. }), "{error}");
    assert!(error.to_string().contains("2001:db8::1") && error.to_string().contains("10.96.0.0/16"));
}
