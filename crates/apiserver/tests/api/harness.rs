//! A server of the test's own and a client to talk to it.

use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dyad_apiserver::auth::UserInfo;
use dyad_apiserver::auth::token::TokenKey;
use dyad_apiserver::pki::{Identity, Pki, PkiConfig};
use dyad_apiserver::{Body, Reach, Server, ServerConfig, Service, tls};
use dyad_model::ClusterNet;
use dyad_net::{IpFamily, parse_range_list};
use dyad_store::{MemoryStore, Store};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

/// Ranges of a cluster with both families, IPv4 first.
pub(crate) const DUAL: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server and a client that may do everything.
pub(crate) struct Api {
    pub(crate) server: Server,
    pub(crate) service: Service,
    pub(crate) store: Arc<dyn Store>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The body, if the code is this one.
    #[track_caller]
    pub(crate) fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The reason and message of a failure with this code.
    #[track_caller]
    pub(crate) fn failure(&self, code: u16) -> (String, String) {
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status");
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("message"))
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.headers.get_all("warning").iter().filter_map(|value| value.to_str().ok()).collect()
    }
}

/// The authority of all servers of this test process.
pub(crate) fn pki() -> &'static Pki {
    static PKI: OnceLock<(tempfile::TempDir, Pki)> = OnceLock::new();
    let (_, pki) = PKI.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let names = PkiConfig {
            cluster: "test".into(),
            domain: "cluster.local".into(),
            addresses: Vec::new(),
            dns_names: Vec::new(),
        };
        let pki = Pki::load_or_create(directory.path(), &names).unwrap();
        (directory, pki)
    });
    pki
}

/// Certificates of the server, an administrator and the node `n1`; made once, because they are files.
pub(crate) struct Identities {
    pub(crate) serving: Identity,
    pub(crate) admin: Identity,
    pub(crate) node: Identity,
    pub(crate) tokens: String,
}

pub(crate) fn identities() -> &'static Identities {
    static IDENTITIES: OnceLock<Identities> = OnceLock::new();
    IDENTITIES.get_or_init(|| Identities {
        serving: pki().serving().unwrap(),
        admin: pki().admin().unwrap(),
        node: pki().node("n1").unwrap(),
        tokens: pki().token_key().unwrap(),
    })
}

/// What a server with these ranges is made of.
pub(crate) fn config(ranges: &str, store: Arc<dyn Store>, listeners: Vec<TcpListener>) -> ServerConfig {
    let service_ranges = parse_range_list(ranges).unwrap();
    let advertise = service_ranges.map(|family, _| match family {
        IpFamily::V4 => "192.0.2.1".parse::<IpAddr>().unwrap(),
        IpFamily::V6 => "2001:db8::1".parse::<IpAddr>().unwrap(),
    });
    let certificate = Arc::new(tls::ServingCertificate::new(&identities().serving).unwrap());
    ServerConfig {
        store,
        cluster: ClusterNet { service_ranges, node_ports: 30000..=32767 },
        listeners,
        tls: Arc::new(tls::server_config(pki().ca_pem(), certificate).unwrap()),
        advertise,
        advertise_port: 6443,
        tokens: None,
        reach: Reach::new(None, None).unwrap(),
        ca_pem: pki().ca_pem().to_owned(),
    }
}

impl Api {
    /// A dual-stack cluster, IPv4 first.
    pub(crate) async fn start() -> Self {
        Self::with(DUAL, Arc::new(MemoryStore::new())).await
    }

    pub(crate) async fn with(ranges: &str, store: Arc<dyn Store>) -> Self {
        let server = Server::start(config(ranges, Arc::clone(&store), Vec::new())).await.unwrap();
        let service = server.service();
        Self { server, service, store }
    }

    /// One that gives out tokens.
    pub(crate) async fn with_tokens() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let key = TokenKey::from_pem(&identities().tokens).unwrap();
        let config = config(DUAL, Arc::clone(&store), Vec::new());
        let server = Server::start(ServerConfig { tokens: Some(Arc::new(key)), ..config }).await.unwrap();
        let service = server.service();
        let api = Self { server, service, store };
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        assert_eq!(api.get(account).await.code, 200);
        api
    }

    /// The same server, asked by somebody else.
    pub(crate) fn as_user(&self, name: &str, groups: &[&str]) -> Service {
        self.server.service_as(UserInfo::new(name, groups))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Bytes::new()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send("GET", path, &[("accept", accept)], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: Value) -> Answer {
        self.send("PATCH", path, &[("content-type", content_type)], body.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, body: Value) -> Answer {
        self.patch(path, "application/merge-patch+json", body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Bytes::new()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        send(&self.service, method, path, headers, body).await
    }

    /// Begins a watch.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request = Request::get(path).header("accept", accept).body(Full::new(Bytes::new())).unwrap();
        let response = self.service.call(request).await;
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), rest: Vec::new(), patience: PATIENCE }
    }
}

pub(crate) async fn send(
    service: &Service,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = service.call(request.body(Full::new(body.into())).unwrap()).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Answer { code: parts.status, headers: parts.headers, bytes: body.to_bytes() }
}

/// The events of a watch.
pub(crate) struct Events {
    body: Body,
    rest: Vec<u8>,
    /// Longest wait for an event; longer where time is not the real one.
    pub(crate) patience: Duration,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await;
            let frame = frame.expect("an event comes or the watch ends")?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type, name and resourceVersion of the next event.
    pub(crate) async fn next_brief(&mut self) -> (String, String, u64) {
        let event = self.next().await.expect("the watch goes on");
        let meta = &event["object"]["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&meta["name"]), rev(&event["object"]))
    }
}

/// The resourceVersion of an object or a list.
#[track_caller]
pub(crate) fn rev(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// A ConfigMap in `default`.
pub(crate) fn config_map(name: &str) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"k": "v"}})
}

/// A Service in `default` with one port.
pub(crate) fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

/// A Pod in `default`.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "dyad/echo"}]},
    })
}

/// Where ConfigMaps of `default` are.
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Where Services of `default` are.
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Where Pods of `default` are.
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
