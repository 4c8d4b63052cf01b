//! Labels of nodes that a node may not give itself.
//!
//! A kubelet's labels from the project's own domains are mostly refused (the admission plugin NodeRestriction), so
//! that a node can't take on a role by itself. The control plane sets them, as `kubeadm` does.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tracing::{info, warn};

use crate::spec::{ClusterSpec, NodeSpec};

/// Between two tries for a node that has not registered yet: at first, and at most.
const WAITS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// Whether the control plane sets this label, and not the node.
pub(crate) fn is_reserved(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|reserved| domain.strip_suffix(reserved).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')))
}

/// Sets the reserved labels of every node as soon as it has registered; then stays pending.
pub(crate) async fn keep(client: &kube::Client, spec: &ClusterSpec) -> std::convert::Infallible {
    let nodes = spec.nodes.iter().map(|node| set(client, node));
    futures::future::join_all(nodes).await;
    std::future::pending().await
}

async fn set(client: &kube::Client, node: &NodeSpec) {
    let labels: BTreeMap<_, _> = node.labels.iter().filter(|(label, _)| is_reserved(label)).collect();
    if labels.is_empty() {
        return;
    }
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let api = Api::<Node>::all(client.clone());
    let mut wait = WAITS[0];
    loop {
        match api.patch_metadata(&node.name, &PatchParams::default(), &patch).await {
            Ok(_) => break info!(node = node.name, ?labels, "labelled"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => warn!(node = node.name, %error, "can't set its labels"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::is_reserved;

    #[test]
    fn only_the_projects_own_domains_are_reserved() {
        for label in
            ["node-role.kubernetes.io/worker", "kubernetes.io/x", "topology.kubernetes.io/zone", "a.k8s.io/b"]
        {
            assert!(is_reserved(label), "{label}");
        }
        for label in ["zone", "kubernetes.io", "mykubernetes.io/a", "example.com/kubernetes.io"] {
            assert!(!is_reserved(label), "{label}");
        }
    }
}
