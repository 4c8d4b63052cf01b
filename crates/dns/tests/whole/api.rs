//! An API that lists and watches, and goes away when told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::Client;
use serde_json::{Value, json};

/// Objects, and who watches them. Copies are the same.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    away: bool,
    refused: usize,
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    /// Changes by version.
    history: Vec<(u64, String, Value)>,
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
}

type Body = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

impl Fake {
    /// One with the namespace `default`.
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.set("namespaces", "default", json!({"metadata": {"name": "default"}}));
        fake
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let fake = fake.clone();
            async move { fake.answer(request.uri()) }
        });
        Client::new(service, "default")
    }

    /// Connections end, and there are no new ones until it is back.
    pub(crate) fn set_away(&self, away: bool) {
        let mut state = self.lock();
        state.away = away;
        if away {
            state.watches.clear();
        }
    }

    /// How often somebody came in vain.
    pub(crate) fn refused(&self) -> usize {
        self.lock().refused
    }

    /// Creates or changes an object.
    pub(crate) fn set(&self, plural: &str, name: &str, object: Value) {
        self.change(plural, name, Some(object));
    }

    pub(crate) fn remove(&self, plural: &str, name: &str) {
        self.change(plural, name, None);
    }

    fn change(&self, plural: &str, name: &str, object: Option<Value>) {
        let mut state = self.lock();
        state.version += 1;
        let version = state.version;
        let key = (plural.to_owned(), name.to_owned());
        let kind = match (&object, state.objects.contains_key(&key)) {
            (None, _) => "DELETED",
            (Some(_), true) => "MODIFIED",
            (Some(_), false) => "ADDED",
        };
        let mut shown = match &object {
            Some(object) => object.clone(),
            None => state.objects.get(&key).cloned().unwrap(),
        };
        shown["metadata"]["resourceVersion"] = json!(version.to_string());
        match object {
            Some(_) => state.objects.insert(key, shown.clone()),
            None => state.objects.remove(&key),
        };
        let event = json!({"type": kind, "object": shown});
        let line = line(&event);
        state.watches.retain(|(of, to)| of != plural || to.unbounded_send(line.clone()).is_ok());
        state.history.push((version, plural.to_owned(), event));
    }

    /// A Service with cluster IPs and a port `http`.
    pub(crate) fn service(&self, name: &str, ips: &[&str]) {
        let spec = json!({
            "clusterIP": ips[0], "clusterIPs": ips, "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        });
        self.set("services", name, json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}));
    }

    fn answer(&self, uri: &http::Uri) -> io::Result<http::Response<Body>> {
        let mut state = self.lock();
        if state.away {
            state.refused += 1;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let plural = uri.path().rsplit('/').next().unwrap().to_owned();
        let query = uri.query().unwrap_or_default();
        let option =
            |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let (to, lines) = mpsc::unbounded();
        if option("watch").is_some() {
            let since: u64 = option("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default();
            for (version, of, event) in &state.history {
                if *version > since && *of == plural {
                    to.unbounded_send(line(event)).unwrap();
                }
            }
            state.watches.push((plural, to));
        } else {
            let of_kind = state.objects.iter().filter(|((of, _), _)| *of == plural);
            let items: Vec<&Value> = of_kind.map(|(_, object)| object).collect();
            let list = json!({
                "apiVersion": "v1", "kind": "List",
                "metadata": {"resourceVersion": state.version.to_string()}, "items": items,
            });
            to.unbounded_send(line(&list)).unwrap();
        }
        let body = StreamBody::new(lines.map(|line| Ok(Frame::data(line))).boxed());
        Ok(http::Response::builder().header("content-type", "application/json").body(body).unwrap())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}
