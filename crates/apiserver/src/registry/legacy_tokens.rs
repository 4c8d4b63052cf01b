//! Tokens of service accounts that are kept in Secrets, as they were before there were requests for them (J60): made for
//! those who ask with such a Secret, good for as long as that and the account are there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Registry;
use super::tokens::Bearer;
use crate::auth::token::{ISSUER, TokenKey};
use crate::auth::{AUTHENTICATED, UserInfo};

/// Type of such Secrets.
pub(crate) const KIND: &str = "kubernetes.io/service-account-token";
const LEGACY: &str = "kubernetes/serviceaccount";
/// What stands before the names of claims.
const CLAIM: &str = "kubernetes.io/serviceaccount/";

#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

/// A token for an account, in a Secret of its namespace.
pub(crate) fn sign(
    key: &TokenKey,
    namespace: &str,
    secret: &str,
    account: (&str, &str),
) -> Result<String, String> {
    let mut claims =
        json!({"iss": LEGACY, "sub": format!("system:serviceaccount:{namespace}:{}", account.0)});
    for (name, value) in [
        ("namespace", namespace),
        ("secret.name", secret),
        ("service-account.name", account.0),
        ("service-account.uid", account.1),
    ] {
        claims[format!("{CLAIM}{name}")] = value.into();
    }
    key.sign_value(claims.to_string().as_bytes())
}

impl Registry {
    /// Who shows such a token to one of `audiences`; `None` if it is none.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn legacy_bearer(&self, token: &str, audiences: &[String]) -> Result<Option<Bearer>, String> {
        let Some(key) = &self.token_key else { return Ok(None) };
        let Some(said) = key.read_of(LEGACY, token)? else { return Ok(None) };
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == ISSUER) {
            return Ok(None);
        }
        let claims: Claims = serde_json::from_slice(&said).map_err(|error| error.to_string())?;
        let get = |plural: &str, name: &str| {
            let stored = self.builtin("", plural).cache.get(&format!("{}/{name}", claims.namespace))?;
            let object = stored.bare();
            object["metadata"]["deletionTimestamp"].is_null().then_some(object)
        };
        let Some(secret) = get("secrets", &claims.secret) else {
            return Err("service account token has been invalidated".into());
        };
        let kept = secret["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok());
        if kept.as_deref() != Some(token.as_bytes()) {
            return Err("service account token does not match server's copy".into());
        }
        let Some(account) = get("serviceaccounts", &claims.account) else {
            return Err("service account has been deleted".into());
        };
        let uid = account["metadata"]["uid"].as_str().unwrap_or_default();
        if uid != claims.uid {
            return Err(format!("service account UID ({uid}) does not match claim ({})", claims.uid));
        }
        let user = UserInfo {
            name: claims.sub,
            uid: claims.uid,
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{}", claims.namespace),
                AUTHENTICATED.into(),
            ],
            ..UserInfo::default()
        };
        Ok(Some(Bearer { user, audiences: vec![ISSUER.into()] }))
    }
}

/// What is missing in such a Secret, for an account of this uid.
pub(crate) fn complete(
    secret: &mut Value,
    key: &TokenKey,
    account: (&str, &str),
    ca_pem: &str,
) -> Result<(), String> {
    let text = |of: &str| secret["metadata"][of].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let token = match secret["data"]["token"].is_null() {
        true => Some(sign(key, &namespace, &name, account)?),
        false => None,
    };
    let mut fill = |key: &str, value: &str| {
        if !value.is_empty() && secret["data"][key].is_null() {
            secret["data"][key] = STANDARD.encode(value).into();
        }
    };
    fill("token", &token.unwrap_or_default());
    fill("namespace", &namespace);
    fill("ca.crt", ca_pem);
    secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"] = account.1.into();
    Ok(())
}
