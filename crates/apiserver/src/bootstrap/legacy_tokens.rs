//! Secrets that ask for a token of a ServiceAccount get one, and go with the account.

use super::Bootstrap;
use crate::registry::{DeleteOptions, Stored, legacy_tokens};
use crate::status::ApiError;

const OF: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

impl Bootstrap {
    pub(super) async fn ensure_legacy_tokens(&self) -> Result<(), ApiError> {
        let secrets = &self.registry.builtin_served("", "secrets").resource.cache;
        for stored in secrets.snapshot("").items {
            if stored.meta.field("type") != legacy_tokens::KIND {
                continue;
            }
            match self.ensure_token(&stored).await {
                // It has gone, or somebody else has written it meanwhile.
                Err(error) if matches!(error.reason(), "NotFound" | "Conflict" | "Forbidden") => {}
                result => result?,
            }
        }
        Ok(())
    }

    async fn ensure_token(&self, stored: &Stored) -> Result<(), ApiError> {
        let Some(key) = &self.registry.token_key else { return Ok(()) };
        let (namespace, name) = (&*stored.meta.namespace, &*stored.meta.name);
        let secret = stored.bare();
        let annotation = |key: &str| secret["metadata"]["annotations"][key].as_str().unwrap_or_default();
        let account = self.get("", "serviceaccounts", namespace, annotation(OF));
        let uid =
            account.as_ref().and_then(|account| account["metadata"]["uid"].as_str()).unwrap_or_default();
        let known = annotation(UID);
        if uid.is_empty() || !known.is_empty() && known != uid {
            let served = self.registry.builtin_served("", "secrets");
            let scope = self.scope(served, namespace, name, "delete");
            let options =
                DeleteOptions { uid: Some(stored.meta.uid.to_string()), ..DeleteOptions::default() };
            return self.registry.delete(scope, &options).await.map(drop);
        }
        let has = |key: &str| !secret["data"][key].is_null();
        let whole = has("token") && has("namespace") && (has("ca.crt") || self.ca_pem.is_empty());
        if whole && annotation(UID) == uid {
            return Ok(());
        }
        let of = (annotation(OF), uid);
        self.change(("", "secrets", ""), namespace, name, &|secret| {
            legacy_tokens::complete(secret, key, of, &self.ca_pem).map_err(ApiError::internal)
        })
        .await
    }
}
