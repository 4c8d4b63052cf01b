//! In every namespace: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt` (J61).

use serde_json::json;

use super::Bootstrap;
use crate::status::ApiError;

const CA_CONFIG_MAP: &str = "kube-root-ca.crt";

impl Bootstrap {
    /// Completes every namespace that is not on its way out.
    pub(super) async fn ensure_accounts(&self) -> Result<(), ApiError> {
        for stored in self.registry.namespaces().cache.snapshot("").items {
            let namespace = &*stored.meta.name;
            if !stored.bare()["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            match self.complete(namespace).await {
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
            "metadata": {"name": "default", "namespace": namespace},
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
