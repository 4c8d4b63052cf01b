//! Tokens of service accounts in volumes: asked for, and asked for again before they end.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde::Deserialize;
use serde_json::json;

use super::{Input, namespace};
use crate::error::Error;

/// Of a token's life it is used this much, in percent.
const USED: i64 = 80;
/// And no longer than this, in seconds.
const USED_MAX: i64 = 86_400;

/// When a token begins and ends.
#[derive(Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
    #[serde(rename = "kubernetes.io", default)]
    kubernetes: Private,
}

#[derive(Default, Deserialize)]
struct Private {
    /// What was asked for, where the token is good for longer.
    warnafter: Option<i64>,
}

/// The token that is there, unless it is time for another.
pub(super) fn kept(path: &Path, now: Timestamp) -> Option<String> {
    let token = std::fs::read_to_string(path).ok()?;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Claims { iat, exp, kubernetes } = serde_json::from_slice(&claims).ok()?;
    let life = kubernetes.warnafter.unwrap_or(exp).saturating_sub(iat);
    let used = (life.saturating_mul(USED) / 100).min(USED_MAX);
    (iat..iat.saturating_add(used)).contains(&now.as_second()).then_some(token)
}

/// A token of the pod's service account, bound to the pod.
pub(super) async fn request(
    input: &Input<'_>,
    audience: Option<&str>,
    seconds: Option<i64>,
) -> Result<String, Error> {
    let account =
        input.spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let meta = &input.pod.metadata;
    let audiences: Vec<&str> = audience.into_iter().filter(|audience| !audience.is_empty()).collect();
    let request = json!({
        "metadata": {},
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds.unwrap_or(3607),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid},
        },
    });
    let request: TokenRequest =
        serde_json::from_value(request).map_err(|error| Error::Pod(error.to_string()))?;
    let api: Api<ServiceAccount> = Api::namespaced(input.client.clone(), namespace(input.pod));
    let answer: TokenRequest = api
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .map_err(Error::api("requesting a service account token"))?;
    answer.status.and_then(|status| status.token).ok_or_else(|| Error::Pod("the API gave no token".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j60_tokens_are_kept_for_most_of_their_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(kept(&path, at(0)), None, "there is none");
        for (claims, from, until) in [
            (r#"{"iat": 1000, "exp": 2000}"#, 1000, 1800),
            (r#"{"iat": 1000, "exp": 90000000}"#, 1000, 87_400),
            (r#"{"iat": 0, "exp": 90000000, "kubernetes.io": {"warnafter": 1000}}"#, 0, 800),
        ] {
            let token = format!("a.{}.c", URL_SAFE_NO_PAD.encode(claims));
            std::fs::write(&path, &token).unwrap();
            assert_eq!(kept(&path, at(from)), Some(token.clone()), "{claims}");
            assert_eq!(kept(&path, at(until - 1)), Some(token), "{claims}");
            assert_eq!((kept(&path, at(until)), kept(&path, at(from - 1))), (None, None), "{claims}");
        }
        for junk in ["", "a", "a.b.c", "a.e30.c"] {
            std::fs::write(&path, junk).unwrap();
            assert_eq!(kept(&path, at(1)), None, "{junk}");
        }
    }
}
