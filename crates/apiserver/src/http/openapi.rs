//! `/openapi/v3` and what is left of `/openapi/v2` (J4, J5).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use dyad_schema::{kinds, openapi};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::json;

use super::respond::{self, Body};
use super::{descriptions, negotiate};
use crate::status::ApiError;

/// Every document; each is written when it is first asked for.
#[derive(Default)]
pub(crate) struct Documents {
    written: OnceLock<BTreeMap<String, Document>>,
    /// Written on demand too, because it names the hashes of all others.
    index: OnceLock<Bytes>,
}

struct Document {
    /// Only packed: everybody who asks can read it packed, but for people with curl.
    gzip: Bytes,
    hash: String,
}

impl Documents {
    fn written(&self) -> &BTreeMap<String, Document> {
        self.written.get_or_init(|| {
            let mut documents = BTreeMap::new();
            let options = openapi::Options { descriptions: Some(descriptions::of), ..Default::default() };
            for row in kinds::all() {
                let path = openapi::path_of(row.group, row.version);
                if documents.contains_key(&path) {
                    continue;
                }
                let Some(document) = openapi::built_in(row.group, row.version, options) else {
                    continue;
                };
                let json = Bytes::from(document.to_string());
                let gzip = respond::gzip(&json).expect("memory takes everything").into();
                documents.insert(path, Document { gzip, hash: openapi::hash(&json) });
            }
            documents
        })
    }

    /// The answer for a path without its trailing slash; `None` if it is none of these.
    pub(crate) fn answer(
        &self,
        path: &str,
        accept: &str,
        headers: &HeaderMap,
    ) -> Result<Option<Response<Body>>, ApiError> {
        if path == "/openapi/v2" {
            return old(accept).map(Some);
        }
        let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
        if rest.is_empty() {
            let index = self.index.get_or_init(|| {
                let all = self.written();
                let hashes = all.iter().map(|(path, document)| (path.as_str(), document.hash.as_str()));
                openapi::index(hashes).to_string().into()
            });
            return Ok(Some(respond::full(StatusCode::OK, "application/json", index.clone())));
        }
        let document = rest.strip_prefix('/').and_then(|name| self.written().get(name));
        let Some(document) = document else { return Err(ApiError::no_such_path()) };
        if !negotiate::accepts_json(accept) {
            return Err(ApiError::not_acceptable(&["application/json"]));
        }
        let etag = format!("\"{}\"", document.hash);
        let unchanged = headers.get_all(IF_NONE_MATCH).iter().any(|tag| tag.as_bytes() == etag.as_bytes());
        let gzip = headers
            .get(ACCEPT_ENCODING)
            .is_some_and(|value| value.to_str().is_ok_and(|t| t.contains("gzip")));
        let (code, body) = match (unchanged, gzip) {
            (true, _) => (StatusCode::NOT_MODIFIED, Bytes::new()),
            (false, true) => (StatusCode::OK, document.gzip.clone()),
            (false, false) => {
                let json = respond::gunzip(&document.gzip).map_err(ApiError::internal)?;
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
        // The URLs of the index name the hash: what is behind them does not change.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        Ok(Some(response))
    }
}

/// The old document has a head and nothing in it: whoever can read JSON can read the new ones.
fn old(accept: &str) -> Result<Response<Body>, ApiError> {
    if !negotiate::accepts_json(accept) {
        return Err(ApiError::not_acceptable(&["application/json"]));
    }
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": super::discovery::VERSION.2},
        "paths": {},
        "definitions": {},
    });
    Ok(respond::full(StatusCode::OK, "application/json", document.to_string()))
}
