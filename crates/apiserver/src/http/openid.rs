//! What others need to check tokens of this server (OpenID Connect Discovery 1.0 section 4).

use std::net::SocketAddr;

use http::header::CACHE_CONTROL;
use http::{HeaderValue, Response, StatusCode};

use super::respond::{self, Body};
use crate::auth::token::{KEYS_PATH, TokenKey, discovery};

/// Where the first document is.
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// Both documents, written; none without tokens.
pub(crate) struct Documents(Option<[String; 2]>);

impl Documents {
    /// `servers` is where this server can be reached.
    pub(crate) fn new(key: Option<&TokenKey>, servers: &[SocketAddr]) -> Self {
        let server = servers.first().map(SocketAddr::to_string).unwrap_or_default();
        Self(key.map(|key| [discovery(&server, &key.algorithms()).to_string(), key.key_set().to_string()]))
    }

    pub(crate) fn answer(&self, path: &str) -> Option<Response<Body>> {
        let [configuration, keys] = self.0.as_ref()?;
        let (content_type, text) = match path {
            DISCOVERY_PATH => ("application/json", configuration),
            KEYS_PATH => ("application/jwk-set+json", keys),
            _ => return None,
        };
        let mut response = respond::full(StatusCode::OK, content_type, text.clone());
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Some(response)
    }
}
