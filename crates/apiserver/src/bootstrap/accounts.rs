//! In every namespace: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt` (J61).

use serde_json::json;

use super::Bootstrap;
use super::follow::Parts;
use crate::registry::Meta;
use crate::status::ApiError;

const ACCOUNT: &str = "default";
const CA_CONFIG_MAP: &str = "kube-root-ca.crt";

/// Whether a ServiceAccount or ConfigMap is one that every namespace has.
pub(super) fn concerns(meta: &Meta) -> bool {
    [ACCOUNT, CA_CONFIG_MAP].contains(&&*meta.name)
}

impl Bootstrap {
    /// Completes namespaces that are not on their way out.
    pub(super) async fn ensure_accounts(&self, parts: &Parts) -> Result<(), ApiError> {
        let namespaces = &self.registry.namespaces().cache;
        let all = if parts.all_namespaces { namespaces.snapshot("").items } else { Vec::new() };
        let some = parts.namespaces.iter().filter_map(|name| namespaces.get(name));
        for stored in all.into_iter().chain(some) {
            if !stored.bare()["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            match self.complete(&stored.meta.name).await {
                // It has gone, or begun to go, meanwhile.
                Err(error) if matches!(error.reason(), "NotFound" | "Forbidden") => {}
                result => result?,
            }
        }
        Ok(())
    }

    async fn complete(&self, namespace: &str) -> Result<(), ApiError> {
        let account = json!({
            "kind": "ServiceAccount",
            "apiVersion": "v1",
            "metadata": {"name": ACCOUNT, "namespace": namespace},
        });
        self.create_if_missing("", "serviceaccounts", account).await?;
        if self.ca_pem.is_empty() {
            return Ok(());
        }
        let authority = json!({
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {
                "name": CA_CONFIG_MAP,
                "namespace": namespace,
                "annotations": {
                    "kubernetes.io/description": "The certificate authority with which clients check this API server.",
                },
            },
            "data": {"ca.crt": self.ca_pem},
        });
        self.put("", "configmaps", authority, &["data"]).await
    }
}
