//! What is read through the API.

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use super::ExplainError;

/// All objects of a cluster that decide where packets go, in their wire form.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// core/v1 Services.
    pub services: Vec<Value>,
    /// discovery.k8s.io/v1 EndpointSlices.
    pub slices: Vec<Value>,
    /// core/v1 Pods.
    pub pods: Vec<Value>,
    /// core/v1 Namespaces.
    pub namespaces: Vec<Value>,
    /// core/v1 Nodes.
    pub nodes: Vec<Value>,
    /// networking.k8s.io/v1 NetworkPolicies.
    pub network_policies: Vec<Value>,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicies.
    pub cluster_policies: Vec<Value>,
    /// networking.k8s.io/v1 ServiceCIDRs.
    pub service_ranges: Vec<Value>,
}

/// Reads them.
pub async fn fetch(client: &Client) -> Result<Objects, ExplainError> {
    let all = |group, version, kind, plural| list(client, group, version, kind, plural);
    Ok(Objects {
        services: all("", "v1", "Service", "services").await?,
        slices: all("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices").await?,
        pods: all("", "v1", "Pod", "pods").await?,
        namespaces: all("", "v1", "Namespace", "namespaces").await?,
        nodes: all("", "v1", "Node", "nodes").await?,
        network_policies: all("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies").await?,
        cluster_policies: all(
            "policy.networking.k8s.io",
            "v1alpha2",
            "ClusterNetworkPolicy",
            "clusternetworkpolicies",
        )
        .await?,
        service_ranges: all("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs").await?,
    })
}

/// All objects of a kind; none if the server does not have the kind.
async fn list(
    client: &Client,
    group: &str,
    version: &str,
    kind: &'static str,
    plural: &str,
) -> Result<Vec<Value>, ExplainError> {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resource = ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: kind.into(),
        plural: plural.into(),
    };
    let found = Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await;
    let items = match found {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(source) => return Err(ExplainError::Api { kind, source: Box::new(source) }),
    };
    let values = items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>();
    values.map_err(|source| ExplainError::Object { kind, source })
}
