//! Addresses and node ports belong to the Services that hold them, whatever happens, C-2, design
//! principle 5.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dyad_apiserver::{Server, Service};
use dyad_store::{Compare, Kv, MemoryStore, Op, RedbStore, Store, StoreError, TxnOutcome, WatchStream};
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, DUAL, PATIENCE, SERVICES, config, send, service};

/// Small, so that everything is scarce: 14 and 15 addresses, of which `kubernetes` has one each.
const SCARCE: &str = "10.96.0.0/28,fd00:10:96::/124";
const FREE_V4: usize = 13;
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=30011;
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const MERGE: [(&str, &str); 1] = [("content-type", "application/merge-patch+json")];

/// A store that fails now and then, as a full disk does: then nothing was written.
struct Flaky {
    inner: Arc<dyn Store>,
    failing: AtomicBool,
}

impl Store for Flaky {
    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        if self.failing.load(Ordering::Relaxed) && rand::rng().random_bool(0.1) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let error = StoreError::Io { what: "write".into(), source: Box::new(full) };
            return Box::pin(async { Err(error) });
        }
        self.inner.txn(compares, ops)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Kv>, StoreError> {
        self.inner.get(key)
    }

    fn range(
        &self,
        prefix: &[u8],
        start: Option<&[u8]>,
        at_rev: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Kv>, u64), StoreError> {
        self.inner.range(prefix, start, at_rev, limit)
    }

    fn watch(&self, prefix: &[u8], after_rev: u64) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, after_rev)
    }

    fn compact(&self, rev: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.compact(rev)
    }

    fn current_rev(&self) -> u64 {
        self.inner.current_rev()
    }
}

async fn start(store: Arc<dyn Store>) -> Api {
    let mut config = config(SCARCE, Arc::clone(&store), Vec::new());
    config.cluster.node_ports = NODE_PORTS;
    let server = Server::start(config).await.unwrap();
    let service = server.service();
    Api { server, service, store }
}

fn random_spec(random: &mut StdRng) -> Value {
    let kind = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"][random.random_range(0..4)];
    let policy = ["SingleStack", "PreferDualStack", "RequireDualStack"][random.random_range(0..3)];
    let mut spec = json!({"type": kind, "ipFamilyPolicy": policy});
    if spec["type"] == "ExternalName" {
        return json!({"type": "ExternalName", "externalName": "example.com", "ports": null, "selector": null});
    }
    if random.random_bool(0.15) {
        spec["type"] = "ClusterIP".into();
        spec["clusterIP"] = "None".into();
    } else if random.random_bool(0.2) {
        spec["clusterIP"] = format!("10.96.0.{}", random.random_range(0..16)).into();
    }
    let mut ports = vec![json!({"name": "a", "port": 80}), json!({"name": "b", "port": 81})];
    ports.truncate(random.random_range(1..=2));
    if spec["type"] != "ClusterIP" && random.random_bool(0.3) {
        ports[0]["nodePort"] = random.random_range(NODE_PORTS).into();
    }
    spec["ports"] = ports.into();
    if spec["type"] == "LoadBalancer" && random.random_bool(0.5) {
        spec["externalTrafficPolicy"] = "Local".into();
    }
    spec
}

/// One request that may take, keep, move or give back addresses and ports.
async fn random_request(service: &Service, random: &mut StdRng) {
    let name = format!("s{}", random.random_range(0..8));
    let path = format!("{SERVICES}/{name}");
    let object = crate::harness::service(&name, random_spec(random));
    let answer = match random.random_range(0..10) {
        0..4 => send(service, "POST", SERVICES, &JSON, object.to_string()).await,
        4..6 => send(service, "PUT", &path, &JSON, object.to_string()).await,
        6..8 => {
            let spec = json!({"spec": random_spec(random)});
            send(service, "PATCH", &path, &MERGE, spec.to_string()).await
        }
        _ => send(service, "DELETE", &path, &[], "").await,
    };
    let code = answer.code.as_u16();
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(
        matches!(code, 200 | 201 | 404 | 409 | 422) || text.contains("full") || text.contains("can't write"),
        "{code} {text}"
    );
}

/// Requests from many sides at once, some of which are given up at any point.
async fn storm(api: &Api, seed: u64, sides: u64, requests: usize) {
    let sides = (0..sides).map(|side| {
        let service = api.service.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed * 1000 + side);
            for _ in 0..requests {
                if !random.random_bool(0.15) {
                    random_request(&service, &mut random).await;
                    continue;
                }
                let mut given_up = StdRng::seed_from_u64(random.random());
                let service = service.clone();
                let request = tokio::spawn(async move { random_request(&service, &mut given_up).await });
                for _ in 0..random.random_range(0..6) {
                    tokio::task::yield_now().await;
                }
                request.abort();
                match request.await {
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    _ => {}
                }
            }
        })
    });
    for side in sides.collect::<Vec<_>>() {
        side.await.unwrap();
    }
}

/// Every address and port belongs to exactly the Services that list it.
async fn check(api: &Api) {
    // Transactions of requests that were given up may still be under way; they are ahead of this one.
    let last = json!({"metadata": {"generateName": "last-"}});
    api.post(CONFIG_MAPS, last).await.expect(201);
    let services = api.get("/api/v1/services").await.expect(200);
    let mut ips: BTreeMap<String, String> = BTreeMap::new();
    let mut ports: BTreeMap<u64, String> = BTreeMap::new();
    for service in services["items"].as_array().unwrap() {
        let owner = format!(
            "{}/{}",
            service["metadata"]["namespace"].as_str().unwrap(),
            service["metadata"]["name"].as_str().unwrap()
        );
        let spec = &service["spec"];
        if spec["type"] != "ExternalName" {
            for ip in spec["clusterIPs"].as_array().into_iter().flatten().filter(|ip| **ip != "None") {
                let before = ips.insert(ip.as_str().unwrap().to_owned(), owner.clone());
                assert_eq!(before, None, "{ip} is used twice");
            }
        }
        let node_ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
        let own: BTreeSet<u64> = node_ports
            .chain([&spec["healthCheckNodePort"]])
            .filter_map(Value::as_u64)
            .filter(|port| *port != 0)
            .collect();
        for port in own {
            assert_eq!(ports.insert(port, owner.clone()), None, "port {port} is used twice");
        }
    }
    let addresses = api.get(ADDRESSES).await.expect(200);
    let allocated: BTreeMap<String, String> = addresses["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|address| {
            let parent = &address["spec"]["parentRef"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&address["metadata"]["name"]),
                format!("{}/{}", text(&parent["namespace"]), text(&parent["name"])),
            )
        })
        .collect();
    assert_eq!(allocated, ips, "addresses");
    let (reserved, _) = api.store.range(b"/registry/ranges/nodeports/", None, None, 0).unwrap();
    let reserved: BTreeMap<u64, String> = reserved
        .iter()
        .map(|kv| {
            let key = std::str::from_utf8(&kv.key).unwrap();
            let port = key.rsplit('/').next().unwrap().parse().unwrap();
            (port, String::from_utf8(kv.value.to_vec()).unwrap())
        })
        .collect();
    assert_eq!(reserved, ports, "node ports");
}

/// With all Services gone, everything can be had again: nothing is held in memory only.
async fn take_everything(api: &Api) {
    let services = api.get(SERVICES).await.expect(200);
    for item in services["items"].as_array().unwrap() {
        let name = item["metadata"]["name"].as_str().unwrap();
        if name != "kubernetes" {
            api.delete(&format!("{SERVICES}/{name}")).await.expect(200);
        }
    }
    for index in 0..FREE_V4 {
        let spec = json!({"ipFamilyPolicy": "RequireDualStack"});
        api.post(SERVICES, service(&format!("full{index}"), spec)).await.expect(201);
    }
    let (reason, message) = api.post(SERVICES, service("more", json!({}))).await.failure(500);
    assert_eq!(reason, "InternalError");
    assert!(message.contains("range is full"), "A122: {message}");
    for index in 0..NODE_PORTS.len() {
        let spec = json!({"spec": {"type": "NodePort"}});
        let path = format!("{SERVICES}/full{index}");
        let patched = api.merge(&path, spec).await;
        patched.expect(200);
    }
    let more = json!({"spec": {"type": "NodePort"}});
    let answer = api.merge(&format!("{SERVICES}/full{}", NODE_PORTS.len()), more).await;
    assert!(answer.failure(500).1.contains("range is full"), "A145");
    check(api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_and_nothing_is_used_twice() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let flaky = Arc::new(Flaky { inner: Arc::clone(&store), failing: AtomicBool::new(false) });
    let api = start(Arc::clone(&flaky) as Arc<dyn Store>).await;
    for seed in 0..4 {
        flaky.failing.store(seed % 2 == 1, Ordering::Relaxed);
        storm(&api, seed, 6, 120).await;
        flaky.failing.store(false, Ordering::Relaxed);
        check(&api).await;
    }
    // As after a crash: a new server knows what the store says, and no more.
    let reopened = start(Arc::clone(&store)).await;
    check(&reopened).await;
    drop(reopened);
    take_everything(&api).await;
    let reopened = start(store).await;
    check(&reopened).await;
    take_everything(&reopened).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_store_do_not_take_the_same() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let one = start(Arc::clone(&store)).await;
    let two = start(store).await;
    tokio::join!(storm(&one, 7, 3, 120), storm(&two, 8, 3, 120));
    check(&one).await;
    check(&two).await;
    take_everything(&two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_allocated_survives_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    {
        let api = start(Arc::new(RedbStore::open(&path).unwrap())).await;
        storm(&api, 11, 4, 60).await;
        check(&api).await;
        api.server.shutdown().await;
    }
    // Requests that were given up may hold the store a moment longer.
    let store = loop {
        match RedbStore::open(&path) {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let api = start(Arc::new(store)).await;
    check(&api).await;
    take_everything(&api).await;
}

#[tokio::test]
async fn c6_the_allocator_says_whose_an_address_is() {
    let api = Api::start().await;
    let created =
        api.post(SERVICES, service("s", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.expect(201);
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let ip = created["spec"]["clusterIPs"][index].as_str().unwrap();
        let address = api.get(&format!("{ADDRESSES}/{ip}")).await.expect(200);
        assert_eq!(
            address["metadata"]["labels"],
            json!({
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            })
        );
        let parent = json!({"resource": "services", "namespace": "default", "name": "s"});
        assert_eq!(address["spec"]["parentRef"], parent);
        let rev = |object: &Value| object["metadata"]["resourceVersion"].clone();
        assert_eq!(rev(&address), rev(&created), "one transaction");
    }
}

#[tokio::test]
async fn c12_addresses_that_others_hold_are_taken() {
    let api = Api::start().await;
    let mine = json!({
        "metadata": {"name": "10.96.0.77"},
        "spec": {"parentRef": {"group": "example.com", "resource": "gateways", "name": "g"}},
    });
    api.post(ADDRESSES, mine).await.expect(201);
    let answer = api.post(SERVICES, service("s", json!({"clusterIP": "10.96.0.77"}))).await;
    let (_, message) = answer.failure(422);
    assert!(
        message.contains("failed to allocate IP 10.96.0.77: provided IP is already allocated"),
        "{message}"
    );
    api.delete(&format!("{ADDRESSES}/10.96.0.77")).await.expect(200);
    api.post(SERVICES, service("s", json!({"clusterIP": "10.96.0.77"}))).await.expect(201);
}

#[tokio::test]
async fn c11_c16_ranges_come_and_go_with_service_cidrs() {
    let api = Api::start().await;
    let outside = service("s", json!({"clusterIP": "10.200.0.5"}));
    let (_, message) = api.post(SERVICES, outside.clone()).await.failure(422);
    assert!(message.contains("the provided network does not match the current range"), "A121: {message}");
    let cidrs = "/apis/networking.k8s.io/v1/servicecidrs";
    let cidr = json!({
        "metadata": {"name": "more", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": ["10.200.0.0/24"]},
    });
    api.post(cidrs, cidr).await.expect(201);
    api.post(SERVICES, outside).await.expect(201);
    let not_ready = json!({"status": {"conditions": [{
        "type": "Ready", "status": "False", "reason": "Terminating", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}});
    api.merge(&format!("{cidrs}/more/status"), not_ready).await.expect(200);
    let another = service("t", json!({"clusterIP": "10.200.0.6"}));
    api.post(SERVICES, another.clone()).await.failure(422);
    let ready = json!({"status": {"conditions": null}});
    api.merge(&format!("{cidrs}/more/status"), ready).await.expect(200);
    api.delete(&format!("{cidrs}/more")).await.expect(200);
    api.post(SERVICES, another).await.failure(422);
    api.get(&format!("{SERVICES}/s")).await.expect(200);
    api.merge(&format!("{SERVICES}/s"), json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
}

#[tokio::test]
async fn a126_everything_goes_with_its_service() {
    let api = Api::with(DUAL, Arc::new(MemoryStore::new())).await;
    let mut object = service("s", json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"}));
    object["metadata"]["finalizers"] = json!(["example.com/wait"]);
    api.post(SERVICES, object).await.expect(201);
    let endpoints = "/api/v1/namespaces/default/endpoints";
    api.post(endpoints, json!({"metadata": {"name": "s"}})).await.expect(201);
    let path = format!("{SERVICES}/s");
    api.delete(&path).await.expect(200);
    assert_eq!(
        api.get(ADDRESSES).await.expect(200)["items"].as_array().unwrap().len(),
        4,
        "kept while it waits"
    );
    api.merge(&path, json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(api.get(ADDRESSES).await.expect(200)["items"].as_array().unwrap().len(), 2);
    assert!(api.store.range(b"/registry/ranges/", None, None, 0).unwrap().0.is_empty());
    api.get(&format!("{endpoints}/s")).await.failure(404);
}

#[tokio::test]
async fn c41_an_address_stays_with_its_service_although_its_object_is_deleted() {
    let api = Api::start().await;
    let mine = api.post(SERVICES, service("s", json!({"clusterIP": "10.96.0.77"}))).await.expect(201);
    let path = format!("{ADDRESSES}/10.96.0.77");
    let first = api.get(&path).await.expect(200);
    for round in 0..20 {
        api.delete(&path).await;
        let thief = service(&format!("t{round}"), json!({"clusterIP": "10.96.0.77"}));
        let (_, message) = api.post(SERVICES, thief).await.failure(422);
        assert!(message.contains("provided IP is already allocated"), "{message}");
    }
    let back = async {
        loop {
            let answer = api.get(&path).await;
            if answer.code == 200 && answer.json()["metadata"]["uid"] != first["metadata"]["uid"] {
                return answer.json();
            }
            tokio::task::yield_now().await;
        }
    };
    let back = tokio::time::timeout(PATIENCE, back).await.expect("the object comes back");
    assert_eq!(back["spec"], first["spec"]);
    assert_eq!(back["metadata"]["labels"], first["metadata"]["labels"]);
    api.delete(&format!("{SERVICES}/s")).await.expect(200);
    api.get(&path).await.failure(404);
    api.post(SERVICES, service("u", json!({"clusterIP": mine["spec"]["clusterIP"]}))).await.expect(201);
}
