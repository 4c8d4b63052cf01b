//! The kinds the agent watches, with the fields it reads; everything else is stepped over while it arrives.

use std::borrow::Cow;

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
    ($of:ident, $scope:ident, $group:literal, $kind:literal, $plural:literal) => {
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
                "v1".into()
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

resource!(ServiceObject, NamespaceResourceScope, "", "Service", "services");
resource!(SliceObject, NamespaceResourceScope, "discovery.k8s.io", "EndpointSlice", "endpointslices");
resource!(NodeObject, ClusterResourceScope, "", "Node", "nodes");

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
        Some(Node { ips: wire::internal_ips(&self.status), pod_ranges: wire::pod_ranges(&self.spec) })
    }
}
