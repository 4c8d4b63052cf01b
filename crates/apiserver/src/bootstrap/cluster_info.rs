//! What somebody who wants to join may know before anybody knows them: where the API server is, and whom to trust. Bootstrap
//! tokens sign it (J60).

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Bootstrap;
use crate::status::ApiError;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";

impl Bootstrap {
    pub(super) async fn ensure_cluster_info(&self) -> Result<(), ApiError> {
        if self.ca_pem.is_empty() {
            return Ok(());
        }
        let server = format!("https://{}", SocketAddr::new(*self.advertise.primary(), self.port));
        let cluster = json!({"server": server, "certificate-authority-data": STANDARD.encode(&self.ca_pem)});
        // JSON is YAML: this is a kubeconfig of a cluster and nobody.
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "",
            "clusters": [{"name": "", "cluster": cluster}], "contexts": null, "users": null,
        })
        .to_string();
        match self.get("", "configmaps", NAMESPACE, NAME) {
            Some(map) if map["data"]["kubeconfig"] == text.as_str() => Ok(()),
            Some(_) => {
                let change = |map: &mut serde_json::Value| {
                    map["data"]["kubeconfig"] = text.as_str().into();
                    Ok(())
                };
                self.change(("", "configmaps", ""), NAMESPACE, NAME, &change).await
            }
            None => {
                let map = json!({"kind": "ConfigMap", "apiVersion": "v1",
                    "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": {"kubeconfig": text}});
                self.create_if_missing("", "configmaps", map).await
            }
        }
    }
}
