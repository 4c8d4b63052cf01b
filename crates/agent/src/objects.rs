//! The kinds the agent watches, with the fields it reads; everything else is stepped over while it arrives.

use std::borrow::Cow;

use dyad_program::policy::{self, ClusterNetworkPolicy, Labels, NetworkPolicy, Pod};
use dyad_program::{EndpointSlice, Name, Service, wire};
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::Deserialize;

use crate::routes::Node;

/// A kind, and what an object of it means to the agent.
pub(crate) trait Object: Sized {
    /// Which objects are asked for at all.
    const LABELS: Option<&'static str>;
    /// What becomes of an object; `None` if the agent has no use for it.
    type Meaning: Send;

    fn meaning(&self) -> Option<Self::Meaning>;
}

/// The name of any object.
pub(crate) fn name(meta: &ObjectMeta) -> Name {
    Name::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

macro_rules! resource {
    ($of:ident, $scope:ident, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl Resource for $of {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(ServiceObject, NamespaceResourceScope, "", "v1", "Service", "services");
resource!(SliceObject, NamespaceResourceScope, "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
resource!(NodeObject, ClusterResourceScope, "", "v1", "Node", "nodes");
resource!(PodObject, NamespaceResourceScope, "", "v1", "Pod", "pods");
resource!(NamespaceObject, ClusterResourceScope, "", "v1", "Namespace", "namespaces");
resource!(
    NetworkPolicyObject,
    NamespaceResourceScope,
    "networking.k8s.io",
    "v1",
    "NetworkPolicy",
    "networkpolicies"
);
resource!(
    ClusterPolicyObject,
    ClusterResourceScope,
    "policy.networking.k8s.io",
    "v1alpha2",
    "ClusterNetworkPolicy",
    "clusternetworkpolicies"
);

/// A core/v1 Service.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServiceObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: wire::ServiceSpec,
    #[serde(default)]
    status: wire::ServiceStatus,
}

impl Object for ServiceObject {
    const LABELS: Option<&'static str> = Some("!service.kubernetes.io/service-proxy-name");
    type Meaning = Service;

    fn meaning(&self) -> Option<Service> {
        wire::service(self.metadata.labels.as_ref(), &self.spec, &self.status)
    }
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceObject {
    metadata: ObjectMeta,
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<wire::SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<wire::SlicePort>>,
}

impl Object for SliceObject {
    const LABELS: Option<&'static str> = Some(
        "kubernetes.io/service-name,!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
    );
    type Meaning = EndpointSlice;

    fn meaning(&self) -> Option<EndpointSlice> {
        wire::endpoint_slice(
            self.metadata.namespace.as_deref().unwrap_or_default(),
            self.metadata.labels.as_ref(),
            &self.address_type,
            self.endpoints.as_deref().unwrap_or_default(),
            self.ports.as_deref().unwrap_or_default(),
        )
    }
}

/// A core/v1 Node.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NodeObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: wire::NodeSpec,
    #[serde(default)]
    status: wire::NodeStatus,
}

impl Object for NodeObject {
    const LABELS: Option<&'static str> = None;
    type Meaning = Node;

    fn meaning(&self) -> Option<Node> {
        Some(Node {
            ips: wire::internal_ips(&self.status),
            pod_ranges: wire::pod_ranges(&self.spec),
            labels: self.metadata.labels.clone().unwrap_or_default(),
            leaving: self.metadata.deletion_timestamp.is_some() || wire::is_to_be_deleted(&self.spec),
        })
    }
}

/// A core/v1 Pod.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PodObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: policy::wire::PodSpec,
    #[serde(default)]
    status: policy::wire::PodStatus,
}

impl Object for PodObject {
    const LABELS: Option<&'static str> = None;
    type Meaning = Pod;

    fn meaning(&self) -> Option<Pod> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        policy::wire::pod(namespace, self.metadata.labels.as_ref(), &self.spec, &self.status)
    }
}

/// A core/v1 Namespace.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamespaceObject {
    metadata: ObjectMeta,
}

impl Object for NamespaceObject {
    const LABELS: Option<&'static str> = None;
    type Meaning = Labels;

    fn meaning(&self) -> Option<Labels> {
        Some(self.metadata.labels.clone().unwrap_or_default())
    }
}

/// A networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NetworkPolicyObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: policy::wire::NetworkPolicySpec,
}

impl Object for NetworkPolicyObject {
    const LABELS: Option<&'static str> = None;
    type Meaning = NetworkPolicy;

    fn meaning(&self) -> Option<NetworkPolicy> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Some(policy::wire::network_policy(namespace, &self.spec))
    }
}

/// A policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ClusterPolicyObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: policy::wire::ClusterNetworkPolicySpec,
}

impl Object for ClusterPolicyObject {
    const LABELS: Option<&'static str> = None;
    type Meaning = ClusterNetworkPolicy;

    fn meaning(&self) -> Option<ClusterNetworkPolicy> {
        policy::wire::cluster_policy(&self.spec)
    }
}
