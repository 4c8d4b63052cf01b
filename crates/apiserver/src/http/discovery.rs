//! Discovery and `/version` (J1, J2, J3): documents that change only when a kind is defined.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use dyad_schema::discovery;
use dyad_schema::kinds::{self, Kind};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::figures;
use super::negotiate::{self, Format};
use super::respond::{self, Body};
use crate::registry::CustomKinds;
use crate::status::ApiError;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The Kubernetes version whose behaviour this is.
pub(crate) const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.0+dyad");

/// The documents as of what is defined.
pub(crate) struct Discovery {
    servers: Vec<SocketAddr>,
    now: RwLock<(Arc<CustomKinds>, Arc<Documents>)>,
}

impl Discovery {
    /// `servers` is where the server can be reached.
    pub(crate) fn new(servers: &[SocketAddr]) -> Self {
        let custom = Arc::<CustomKinds>::default();
        let documents = Arc::new(Documents::new(servers, &custom));
        Self { servers: servers.to_vec(), now: RwLock::new((custom, documents)) }
    }

    /// The documents with what is defined now, written anew if that is not what it was.
    pub(crate) fn now(&self, custom: &Arc<CustomKinds>) -> Arc<Documents> {
        let known = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        if Arc::ptr_eq(&known.0, custom) {
            return known.1;
        }
        let documents = Arc::new(Documents::new(&self.servers, custom));
        *self.now.write().unwrap_or_else(PoisonError::into_inner) =
            (Arc::clone(custom), Arc::clone(&documents));
        documents
    }
}

/// The rows of the table with those that were defined: a group of the table that gets more kinds stays where it is.
fn rows(custom: &CustomKinds) -> Vec<&'static Kind> {
    let mut rows: Vec<&'static Kind> = kinds::all().iter().collect();
    for row in custom.rows() {
        let end = rows.iter().rposition(|known| known.group == row.group).map_or(rows.len(), |last| last + 1);
        rows.insert(end, row);
    }
    rows
}

/// Every document, written once.
pub(crate) struct Documents {
    plain: HashMap<String, Value>,
    /// Aggregated, with its hash.
    aggregated: HashMap<&'static str, (Bytes, String)>,
}

impl Documents {
    /// `servers` is where the server can be reached, `custom` what is defined besides the kinds of the table.
    fn new(servers: &[SocketAddr], custom: &CustomKinds) -> Self {
        let rows = &rows(custom);
        let mut plain = HashMap::from([
            ("/api".to_owned(), discovery::api_versions(rows, servers.iter().copied())),
            ("/apis".to_owned(), with_item(discovery::group_list(rows), "groups", figures_group())),
            ("/version".to_owned(), version()),
        ]);
        let figures = format!("/apis/{}", figures::GROUP);
        plain.insert(format!("{figures}/{}", figures::VERSION), figures_list());
        let mut group = figures_group();
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
        plain.insert(figures, group);
        for row in rows {
            let base = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
            if let Some(list) = discovery::resource_list(rows, row.group, row.version) {
                plain.entry(format!("{base}/{}", row.version)).or_insert(list);
            }
            if let Some(group) = discovery::group(rows, row.group) {
                plain.entry(base).or_insert(group);
            }
        }
        let mut paths: Vec<Value> = plain.keys().map(|path| path.as_str().into()).collect();
        let more = ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz"];
        paths.extend(more.map(Value::from));
        paths.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        plain.insert(String::new(), json!({ "paths": paths }));
        let written = |value: Value| {
            let bytes = Bytes::from(value.to_string());
            let hash =
                Sha256::digest(&bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02X}"));
            (bytes, format!("\"{hash}\""))
        };
        Self {
            plain,
            aggregated: HashMap::from([
                ("/api", written(discovery::aggregated_core(rows))),
                (
                    "/apis",
                    written(with_item(discovery::aggregated_groups(rows), "items", figures_aggregated())),
                ),
            ]),
        }
    }

    /// The document at a path without its trailing slash; `None` if there is none.
    pub(crate) fn answer(
        &self,
        path: &str,
        accept: &str,
        headers: &HeaderMap,
    ) -> Result<Option<Response<Body>>, ApiError> {
        let Some(document) = self.plain.get(path) else { return Ok(None) };
        // The version and the paths are of no kind.
        if document["kind"].is_null() && !negotiate::accepts_json(accept) {
            return Err(ApiError::not_available(&[Format::Json.content_type()]));
        }
        let (format, aggregated) = negotiate::discovery(accept)?;
        let vary = HeaderValue::from_static("Accept");
        if let Some((bytes, etag)) =
            self.aggregated.get(path).filter(|_| aggregated && format == Format::Json)
        {
            let unchanged =
                headers.get_all(IF_NONE_MATCH).iter().any(|tag| tag.as_bytes() == etag.as_bytes());
            let mut response = if unchanged {
                let mut response = respond::full(StatusCode::NOT_MODIFIED, AGGREGATED, Bytes::new());
                response.headers_mut().remove(CONTENT_TYPE);
                response
            } else {
                respond::full(StatusCode::OK, AGGREGATED, bytes.clone())
            };
            if let Ok(etag) = HeaderValue::from_str(etag) {
                response.headers_mut().insert(ETAG, etag);
            }
            response.headers_mut().insert(VARY, vary);
            return Ok(Some(response));
        }
        let mut response = respond::value(StatusCode::OK, format, document);
        response.headers_mut().insert(VARY, vary);
        Ok(Some(response))
    }
}

fn with_item(mut document: Value, list: &str, item: Value) -> Value {
    if let Some(list) = document.get_mut(list).and_then(Value::as_array_mut) {
        list.push(item);
    }
    document
}

/// The group of figures, whose resources are in no table because nothing of them is stored.
fn figures_group() -> Value {
    let version = json!({"groupVersion": format!("{}/{}", figures::GROUP, figures::VERSION), "version": figures::VERSION});
    json!({"name": figures::GROUP, "versions": [version], "preferredVersion": version})
}

fn figures_list() -> Value {
    let resources = figures::RESOURCES.map(|(plural, kind, namespaced)| {
        json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]})
    });
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{}/{}", figures::GROUP, figures::VERSION), "resources": resources,
    })
}

fn figures_aggregated() -> Value {
    let resources = figures::RESOURCES.map(|(plural, kind, namespaced)| {
        json!({
            "resource": plural, "singularResource": "", "verbs": ["get", "list"],
            "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "responseKind": {"group": figures::GROUP, "version": figures::VERSION, "kind": kind},
        })
    });
    json!({
        "metadata": {"name": figures::GROUP, "creationTimestamp": null},
        "versions": [{"version": figures::VERSION, "resources": resources, "freshness": "Current"}],
    })
}

fn version() -> Value {
    let (major, minor, git_version) = VERSION;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The machine, as Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
