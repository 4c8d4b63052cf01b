//! `/openapi/v3` and, for those who know no better, `/openapi/v2` (J4, J5).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use dyad_schema::patch::PatchType;
use dyad_schema::{kinds, openapi};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::respond::{self, Body};
use super::{descriptions, negotiate};
use crate::registry::CustomKinds;
use crate::status::ApiError;

/// The documents as of what is defined.
#[derive(Default)]
pub(crate) struct OpenApi {
    now: RwLock<(Arc<CustomKinds>, Arc<Documents>)>,
}

impl OpenApi {
    /// The documents with what is defined now.
    pub(crate) fn now(&self, custom: &Arc<CustomKinds>) -> Arc<Documents> {
        let known = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        if Arc::ptr_eq(&known.0, custom) {
            return known.1;
        }
        let documents = Arc::new(Documents { custom: Arc::clone(custom), ..Documents::default() });
        *self.now.write().unwrap_or_else(PoisonError::into_inner) =
            (Arc::clone(custom), Arc::clone(&documents));
        documents
    }
}

/// Every document; each is written when it is first asked for.
#[derive(Default)]
pub(crate) struct Documents {
    /// What is defined besides the kinds of the table.
    custom: Arc<CustomKinds>,
    /// Those that there would not be, or not so, without it.
    defined: OnceLock<BTreeMap<String, Document>>,
    /// Written on demand too, because it names the hashes of all others.
    index: OnceLock<Bytes>,
    /// All of them in one, in the older form.
    old: OnceLock<Document>,
}

/// The documents of the kinds of the table, by their paths.
fn built_in() -> &'static BTreeMap<String, Document> {
    static WRITTEN: OnceLock<BTreeMap<String, Document>> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        documents().into_iter().map(|(path, document)| (path, Document::new(&document))).collect()
    })
}

fn options() -> openapi::Options<'static> {
    openapi::Options { descriptions: Some(descriptions::of), ..Default::default() }
}

/// The document of every group and version of the table, by its path.
fn documents() -> BTreeMap<String, Value> {
    let mut documents = BTreeMap::new();
    for row in kinds::all() {
        let path = openapi::path_of(row.group, row.version);
        if documents.contains_key(&path) {
            continue;
        }
        if let Some(document) = openapi::built_in(row.group, row.version, options()) {
            documents.insert(path, document);
        }
    }
    documents
}

/// The document of every group and version that something was defined in.
fn defined_documents(custom: &CustomKinds) -> BTreeMap<String, Value> {
    let schemas: BTreeMap<String, Value> = custom
        .all()
        .filter_map(|served| Some(served.defined()?.version.openapi(served.row)))
        .flatten()
        .collect();
    // Such kinds take no strategic merge.
    const PATCHES: &[PatchType] = &[PatchType::Json, PatchType::Merge];
    let mut documents = BTreeMap::new();
    for row in custom.rows() {
        let path = openapi::path_of(row.group, row.version);
        if documents.contains_key(&path) {
            continue;
        }
        let rows = kinds::all().iter().chain(custom.rows().iter().copied());
        let resources: Vec<_> = rows
            .filter(|other| (other.group, other.version) == (row.group, row.version))
            .map(openapi::Resource::from)
            .collect();
        let options = openapi::Options { patch_types: PATCHES, custom: Some(&schemas), ..options() };
        documents.insert(path, openapi::document(row.group, row.version, &resources, options));
    }
    documents
}

struct Document {
    /// Only packed: everybody who asks can read it packed, but for people with curl.
    gzip: Bytes,
    hash: String,
}

impl Document {
    fn new(document: &Value) -> Self {
        let json = Bytes::from(document.to_string());
        let gzip = respond::gzip(&json).expect("memory takes everything").into();
        Self { gzip, hash: openapi::hash(&json) }
    }

    /// The answer to whoever accepts JSON.
    fn answer(&self, headers: &HeaderMap, cache: &'static str) -> Result<Response<Body>, ApiError> {
        let etag = format!("\"{}\"", self.hash);
        let unchanged = headers.get_all(IF_NONE_MATCH).iter().any(|tag| tag.as_bytes() == etag.as_bytes());
        let gzip = headers
            .get(ACCEPT_ENCODING)
            .is_some_and(|value| value.to_str().is_ok_and(|t| t.contains("gzip")));
        let (code, body) = match (unchanged, gzip) {
            (true, _) => (StatusCode::NOT_MODIFIED, Bytes::new()),
            (false, true) => (StatusCode::OK, self.gzip.clone()),
            (false, false) => {
                let json = respond::gunzip(&self.gzip).map_err(ApiError::internal)?;
                (StatusCode::OK, json.into())
            }
        };
        let mut response = respond::full(code, "application/json", body);
        let headers = response.headers_mut();
        if gzip && !unchanged {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            headers.insert(ETAG, etag);
        }
        headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
        Ok(response)
    }
}

impl Documents {
    fn defined(&self) -> &BTreeMap<String, Document> {
        self.defined.get_or_init(|| {
            let documents = defined_documents(&self.custom);
            documents.into_iter().map(|(path, document)| (path, Document::new(&document))).collect()
        })
    }

    fn get(&self, path: &str) -> Option<&Document> {
        self.defined().get(path).or_else(|| built_in().get(path))
    }

    /// The answer for a path without its trailing slash; `None` if it is none of these.
    pub(crate) fn answer(
        &self,
        path: &str,
        accept: &str,
        headers: &HeaderMap,
    ) -> Result<Option<Response<Body>>, ApiError> {
        if path == "/openapi/v2" {
            if !negotiate::accepts_json(accept) {
                return Err(ApiError::not_acceptable(&["application/json"]));
            }
            let old = self.old.get_or_init(|| {
                let mut documents = documents();
                documents.append(&mut defined_documents(&self.custom));
                Document::new(&openapi::old(documents.values(), super::discovery::VERSION.2))
            });
            return old.answer(headers, "no-cache, private").map(Some);
        }
        let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
        if rest.is_empty() {
            let index = self.index.get_or_init(|| {
                let all: BTreeMap<_, _> = built_in().iter().chain(self.defined()).collect();
                let hashes = all.iter().map(|(path, document)| (path.as_str(), document.hash.as_str()));
                openapi::index(hashes).to_string().into()
            });
            return Ok(Some(respond::full(StatusCode::OK, "application/json", index.clone())));
        }
        let document = rest.strip_prefix('/').and_then(|name| self.get(name));
        let Some(document) = document else { return Err(ApiError::no_such_path()) };
        if !negotiate::accepts_json(accept) {
            return Err(ApiError::not_acceptable(&["application/json"]));
        }
        // The URLs of the index name the hash: what is behind them does not change.
        document.answer(headers, "public, immutable").map(Some)
    }
}
