//! The kinds that names come from, with the fields that matter; everything else is stepped over while it arrives.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::Deserialize;

use super::{Change, Kind};
use crate::zone::{Endpoint, ObjectName, Pod, Port, Protocol, Service, ServiceKind, Slice};

/// The Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// When the change of endpoints was made that a slice tells of.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A kind, and what an object of it means to names.
pub(super) trait Object: Sized {
    /// The kind.
    const KIND: Kind;
    /// Which objects are asked for at all.
    const LABELS: Option<&'static str> = None;

    /// The object is there, or has changed.
    fn heard(self, name: ObjectName) -> Change;

    /// It is gone.
    fn gone(name: ObjectName) -> Change;
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
resource!(PodObject, NamespaceResourceScope, "", "Pod", "pods");
resource!(NamespaceObject, ClusterResourceScope, "", "Namespace", "namespaces");

/// A port of a Service or slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortObject {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

fn ports(ports: Option<Vec<PortObject>>) -> Vec<Port> {
    let read = |port: PortObject| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => return None,
        };
        // A slice's port without a number is every port: there is none to tell.
        Some(Port { name: port.name.unwrap_or_default().into(), protocol, port: port.port? })
    };
    ports.into_iter().flatten().filter_map(read).collect()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    external_name: Option<String>,
    ports: Option<Vec<PortObject>>,
}

/// A core/v1 Service.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServiceObject {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ServiceSpec,
}

impl Object for ServiceObject {
    const KIND: Kind = Kind::Services;

    fn heard(self, name: ObjectName) -> Change {
        let ServiceSpec { r#type, cluster_ip, cluster_ips, external_name, ports: listed } = self.spec;
        // Stored before there were lists of them (A11).
        let ips =
            cluster_ips.filter(|ips| !ips.is_empty()).unwrap_or_else(|| cluster_ip.into_iter().collect());
        let kind = if r#type.as_deref() == Some("ExternalName") {
            ServiceKind::External(external_name.unwrap_or_default().into())
        } else if ips.iter().any(|ip| ip == "None") {
            ServiceKind::Headless
        } else {
            ServiceKind::ClusterIps(ips.iter().filter_map(|ip| ip.parse().ok()).collect())
        };
        Change::Service(name, Some(Service { kind, ports: ports(listed) }))
    }

    fn gone(name: ObjectName) -> Change {
        Change::Service(name, None)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Reference {
    kind: Option<String>,
    name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointObject {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    hostname: Option<String>,
    target_ref: Option<Reference>,
}

impl EndpointObject {
    fn read(self) -> Endpoint {
        let pod = self.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
        Endpoint {
            addresses: self.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
            ready: self.conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
            hostname: self.hostname.map(Into::into),
            pod: pod.and_then(|pod| pod.name).map(Into::into),
        }
    }
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SliceObject {
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<EndpointObject>>,
    #[serde(default)]
    ports: Option<Vec<PortObject>>,
}

impl Object for SliceObject {
    const KIND: Kind = Kind::Slices;
    const LABELS: Option<&'static str> = Some(SERVICE_NAME);

    fn heard(self, name: ObjectName) -> Change {
        let service = self.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let annotations = self.metadata.annotations.as_ref();
        let changed = annotations.and_then(|all| all.get(TRIGGER_TIME)).and_then(|time| time.parse().ok());
        let slice = service.filter(|_| self.address_type != "FQDN").map(|service| Slice {
            service: ObjectName::new(&name.namespace, service),
            ports: ports(self.ports),
            endpoints: self.endpoints.into_iter().flatten().map(EndpointObject::read).collect(),
        });
        Change::Slice(name, slice, changed)
    }

    fn gone(name: ObjectName) -> Change {
        Change::Slice(name, None, None::<Timestamp>)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

/// A core/v1 Pod.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodObject {
    metadata: ObjectMeta,
    #[serde(default)]
    status: PodStatus,
}

impl Object for PodObject {
    const KIND: Kind = Kind::Pods;

    fn heard(self, name: ObjectName) -> Change {
        let is_over = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let all = self.status.pod_ips.filter(|ips| !ips.is_empty());
        let texts = match all {
            Some(all) => all.into_iter().map(|ip| ip.ip).collect(),
            None => self.status.pod_ip.into_iter().collect::<Vec<_>>(),
        };
        let ips: Vec<IpAddr> = texts.iter().filter_map(|ip| ip.parse().ok()).collect();
        Change::Pod(name, (!is_over && !ips.is_empty()).then_some(Pod { ips }))
    }

    fn gone(name: ObjectName) -> Change {
        Change::Pod(name, None)
    }
}

/// A core/v1 Namespace.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NamespaceObject {
    metadata: ObjectMeta,
}

impl Object for NamespaceObject {
    const KIND: Kind = Kind::Namespaces;

    fn heard(self, name: ObjectName) -> Change {
        Change::Namespace(name, true)
    }

    fn gone(name: ObjectName) -> Change {
        Change::Namespace(name, false)
    }
}

/// The name of any object.
pub(super) fn name(meta: &ObjectMeta) -> ObjectName {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ObjectName::new(&text(&meta.namespace), &text(&meta.name))
}
