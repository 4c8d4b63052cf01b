//! The kinds the agent watches, with the fields it reads; everything else is stepped over while it arrives.

use std::borrow::Cow;
use std::net::IpAddr;

use dyad_net::IpNet;
use dyad_program::policy::{self, wire as policy_wire};
use dyad_program::{Name, wire};
use jiff::Timestamp;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::Deserialize;

use crate::announce::{self, Announcement};
use crate::routes::Node;
use crate::watch::{Change, Kind};

/// When the change of endpoints was made that a slice tells of, as the one who made it has noted.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Pods with this annotation and `"false"` are not served at their sockets, and not redirected to.
const SOCKET_LOAD_BALANCING: &str = "dyad.io/socket-load-balancing";

/// A kind, and what an object of it means to the agent.
pub(crate) trait Object: Sized {
    /// The kind.
    const KIND: Kind;
    /// Which objects are asked for at all.
    const LABELS: Option<&'static str> = None;

    /// The object is there, or has changed.
    fn heard(self, name: Name) -> Change;

    /// It is gone.
    fn gone(self, name: Name) -> Change;
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
    PolicyObject,
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
resource!(ServiceRangeObject, ClusterResourceScope, "networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs");

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
    const KIND: Kind = Kind::Services;
    const LABELS: Option<&'static str> = Some("!service.kubernetes.io/service-proxy-name");

    fn heard(self, name: Name) -> Change {
        Change::Service(name, wire::service(self.metadata.labels.as_ref(), &self.spec, &self.status))
    }

    fn gone(self, name: Name) -> Change {
        Change::Service(name, None)
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
    const KIND: Kind = Kind::Slices;
    const LABELS: Option<&'static str> = Some(
        "kubernetes.io/service-name,!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
    );

    fn heard(self, name: Name) -> Change {
        let slice = wire::endpoint_slice(
            self.metadata.namespace.as_deref().unwrap_or_default(),
            self.metadata.labels.as_ref(),
            &self.address_type,
            self.endpoints.as_deref().unwrap_or_default(),
            self.ports.as_deref().unwrap_or_default(),
        );
        let noted = self.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGER_TIME));
        Change::Slice(name, slice, noted.and_then(|time| time.parse::<Timestamp>().ok()))
    }

    fn gone(self, name: Name) -> Change {
        Change::Slice(name, None, None)
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

/// Addresses with commas between them; what is none is left out.
pub(crate) fn ips(text: &str) -> Vec<IpAddr> {
    text.split(',').filter_map(|part| part.trim().parse().ok()).collect()
}

/// Ranges with commas between them; what is none is left out.
fn ranges(text: &str) -> Vec<IpNet> {
    let parsed = text.split(',').filter_map(|part| part.trim().parse::<IpNet>().ok());
    parsed.map(|range| range.trunc()).collect()
}

impl Object for NodeObject {
    const KIND: Kind = Kind::Nodes;

    fn heard(self, name: Name) -> Change {
        let annotation = |key| self.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        Change::Node(
            name,
            Some(Node {
                ips: wire::internal_ips(&self.status),
                said: ips(&annotation(announce::NODE_ADDRESS_OVERRIDE).unwrap_or_default()),
                pod_ranges: wire::pod_ranges(&self.spec),
                granted: ranges(&annotation(announce::POD_CIDRS).unwrap_or_default()),
                zone: wire::zone(self.metadata.labels.as_ref()),
                leaving: wire::is_to_be_deleted(&self.spec) || self.metadata.deletion_timestamp.is_some(),
                announced: Announcement {
                    dataplane: annotation(announce::DATAPLANE),
                    dns_cache: annotation(announce::DNS_CACHE),
                    addresses: annotation(announce::NODE_ADDRESSES),
                    ranges: annotation(announce::POD_RANGES),
                    wanted: annotation(announce::POD_CIDRS_WANTED),
                    warnings: annotation(announce::WARNINGS),
                    wireguard_key: annotation(announce::WIREGUARD_PUBLIC_KEY),
                    wireguard_port: annotation(announce::WIREGUARD_LISTEN_PORT),
                },
                labels: self.metadata.labels.unwrap_or_default(),
            }),
        )
    }

    fn gone(self, name: Name) -> Change {
        Change::Node(name, None)
    }
}

/// A pod, with what only its own node needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Which of the pods that ever had its name.
    pub(crate) uid: String,
    /// What it means to policy and host ports; `None` once it is finished or gone.
    pub(crate) pod: Option<policy::Pod>,
    /// Whether it wants to be left alone by the socket-level data plane.
    pub(crate) is_plain: bool,
}

/// A core/v1 Pod.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PodObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: policy_wire::PodSpec,
    #[serde(default)]
    status: policy_wire::PodStatus,
}

impl PodObject {
    /// What the object means.
    pub(crate) fn meaning(self) -> Pod {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let plain = self.metadata.annotations.as_ref().and_then(|all| all.get(SOCKET_LOAD_BALANCING));
        Pod {
            pod: policy_wire::pod(namespace, self.metadata.labels.as_ref(), &self.spec, &self.status),
            is_plain: plain.is_some_and(|value| value == "false"),
            uid: self.metadata.uid.unwrap_or_default(),
        }
    }
}

impl Object for PodObject {
    const KIND: Kind = Kind::Pods;

    fn heard(self, name: Name) -> Change {
        Change::Pod(name, self.meaning())
    }

    fn gone(self, name: Name) -> Change {
        Change::Pod(name, Pod { uid: self.metadata.uid.unwrap_or_default(), pod: None, is_plain: false })
    }
}

/// A core/v1 Namespace.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamespaceObject {
    metadata: ObjectMeta,
}

impl Object for NamespaceObject {
    const KIND: Kind = Kind::Namespaces;

    fn heard(self, name: Name) -> Change {
        Change::Namespace(name, Some(self.metadata.labels.unwrap_or_default()))
    }

    fn gone(self, name: Name) -> Change {
        Change::Namespace(name, None)
    }
}

/// A networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PolicyObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: policy_wire::NetworkPolicySpec,
}

impl Object for PolicyObject {
    const KIND: Kind = Kind::NetworkPolicies;

    fn heard(self, name: Name) -> Change {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Change::NetworkPolicy(name, Some(policy_wire::network_policy(namespace, &self.spec)))
    }

    fn gone(self, name: Name) -> Change {
        Change::NetworkPolicy(name, None)
    }
}

/// A policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ClusterPolicyObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: policy_wire::ClusterNetworkPolicySpec,
}

impl Object for ClusterPolicyObject {
    const KIND: Kind = Kind::ClusterPolicies;

    fn heard(self, name: Name) -> Change {
        Change::ClusterPolicy(name, policy_wire::cluster_policy(&self.spec))
    }

    fn gone(self, name: Name) -> Change {
        Change::ClusterPolicy(name, None)
    }
}

/// `spec` of a ServiceCIDR.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceRangeSpec {
    cidrs: Option<Vec<String>>,
}

/// A networking.k8s.io/v1 ServiceCIDR.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ServiceRangeObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceRangeSpec,
}

impl Object for ServiceRangeObject {
    const KIND: Kind = Kind::ServiceRanges;

    fn heard(self, name: Name) -> Change {
        let ranges = self.spec.cidrs.iter().flatten().filter_map(|text| text.parse().ok()).collect();
        Change::ServiceRange(name, Some(ranges))
    }

    fn gone(self, name: Name) -> Change {
        Change::ServiceRange(name, None)
    }
}
