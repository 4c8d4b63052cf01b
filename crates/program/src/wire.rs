//! Reading the API's JSON.
//!
//! The wire types take what they need and step over all else. What comes from the API server has been validated
//! there, so nothing here refuses an object: a part that makes no sense (an address that is none) is left out, and the
//! rest is served.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use dyad_net::{DualStack, IpFamily, IpNet};
use serde::Deserialize;
use serde_json::Value;

use crate::input;
use crate::{Name, Protocol, Traffic};

/// Whose Services are another data plane's (KEP-2447).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Marks slices of headless Services.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Names a slice's Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The taint of nodes that the cluster autoscaler is about to remove (KEP-3836).
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// Names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: Option<Labels>,
}

/// `spec` of a core/v1 Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<ServicePort>>,
    external_traffic_policy: Option<String>,
    internal_traffic_policy: Option<String>,
    load_balancer_source_ranges: Option<Vec<String>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    health_check_node_port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePort {
    name: Option<String>,
    protocol: Option<String>,
    port: u16,
    node_port: Option<u16>,
}

/// `status` of a core/v1 Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

/// One of `endpoints` of a discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    hints: Option<Hints>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<Target>>,
    for_nodes: Option<Vec<Target>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Target {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

/// One of `ports` of a discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

/// `spec` of a core/v1 Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

/// `status` of a core/v1 Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    r#type: String,
    address: String,
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("") => Some(Protocol::default()),
        Some(name) => Protocol::from_name(name),
    }
}

fn traffic(policy: Option<&str>) -> Traffic {
    match policy {
        Some("Local") => Traffic::Local,
        Some(_) | None => Traffic::Cluster,
    }
}

/// A Service; `None` if it is none of ours: without cluster IP, or another proxy's.
pub fn service(
    labels: Option<&Labels>,
    spec: &ServiceSpec,
    status: &ServiceStatus,
) -> Option<input::Service> {
    if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL))
        || spec.r#type.as_deref() == Some("ExternalName")
    {
        return None;
    }
    // Objects stored before dual-stack have the singular field only.
    let listed = spec.cluster_ips.as_deref().filter(|list| !list.is_empty());
    let cluster_ips = listed.unwrap_or(spec.cluster_ip.as_slice());
    let cluster_ips = cluster_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let cluster_ips = DualStack::from_ordered(cluster_ips.map(|ip| (IpFamily::from(ip), ip)))?;
    let ingress = status.load_balancer.as_ref().and_then(|balancer| balancer.ingress.as_deref());
    // A balancer in proxy mode wants to see its own traffic again (KEP-1860).
    let delivered = ingress.unwrap_or_default().iter().filter(|at| at.ip_mode.as_deref() != Some("Proxy"));
    let balancer_ips = delivered.filter_map(|at| at.ip.as_ref()?.parse().ok());
    let port = |port: &ServicePort| {
        Some(input::Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: port.port,
            node_port: port.node_port.filter(|node_port| *node_port != 0),
        })
    };
    Some(input::Service {
        cluster_ips,
        external_ips: spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect(),
        balancer_ips: balancer_ips.collect(),
        source_ranges: source_ranges(spec),
        ports: spec.ports.iter().flatten().filter_map(port).filter(|port| port.port != 0).collect(),
        external_traffic: traffic(spec.external_traffic_policy.as_deref()),
        internal_traffic: traffic(spec.internal_traffic_policy.as_deref()),
        affinity: affinity(spec),
        health_check_node_port: health_check_node_port(spec),
    })
}

/// Who may use a load balancer's addresses; an empty list is none. A range that can't be read admits nobody.
fn source_ranges(spec: &ServiceSpec) -> Option<Vec<IpNet>> {
    let listed = spec.load_balancer_source_ranges.as_deref().filter(|list| !list.is_empty())?;
    let range = |text: &String| dyad_net::parse_cidr_sloppy(text.trim()).map(|(_, net)| net);
    Some(listed.iter().filter_map(range).collect())
}

/// The port counts only where there is something to ask for: with load balancers that keep traffic on the node (A169).
fn health_check_node_port(spec: &ServiceSpec) -> Option<u16> {
    let is_asked = spec.r#type.as_deref() == Some("LoadBalancer")
        && traffic(spec.external_traffic_policy.as_deref()) == Traffic::Local;
    spec.health_check_node_port.filter(|port| is_asked && *port != 0)
}

/// For how long clients come to the same endpoint; three hours if nobody says (A168).
fn affinity(spec: &ServiceSpec) -> Option<NonZeroU32> {
    const THREE_HOURS: u32 = 10_800;
    let is_on = spec.session_affinity.as_deref() == Some("ClientIP");
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(THREE_HOURS);
    NonZeroU32::new(seconds).filter(|_| is_on)
}

fn hints(hints: &Hints) -> Option<Box<input::Hints>> {
    let names = |list: &Option<Vec<Target>>| -> Vec<String> {
        list.iter().flatten().map(|target| target.name.clone()).collect()
    };
    let hints = input::Hints { nodes: names(&hints.for_nodes), zones: names(&hints.for_zones) };
    (hints != input::Hints::default()).then(|| Box::new(hints))
}

/// An EndpointSlice of `namespace`; `None` if it belongs to no Service, to a headless one, or holds host names.
pub fn endpoint_slice(
    namespace: &str,
    labels: Option<&Labels>,
    address_type: &str,
    endpoints: &[SliceEndpoint],
    ports: &[SlicePort],
) -> Option<input::EndpointSlice> {
    let family = IpFamily::from_name(address_type)?;
    let labels = labels?;
    if labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL) {
        return None;
    }
    let endpoint = |endpoint: &SliceEndpoint| {
        // All addresses of an endpoint mean the same; consumers take the first (KEP-752).
        let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        (IpFamily::from(ip) == family).then(|| input::SliceEndpoint {
            ip,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.clone(),
            hints: endpoint.hints.as_ref().and_then(hints),
        })
    };
    let port = |port: &SlicePort| {
        Some(input::SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: port.port.filter(|port| *port != 0)?,
        })
    };
    Some(input::EndpointSlice {
        service: Name::new(namespace, labels.get(SERVICE_NAME_LABEL)?),
        endpoints: endpoints.iter().filter_map(endpoint).collect(),
        ports: ports.iter().filter_map(port).collect(),
    })
}

/// The pod ranges of a node.
pub fn pod_ranges(spec: &NodeSpec) -> Vec<IpNet> {
    let listed = spec.pod_cidrs.as_deref().filter(|list| !list.is_empty());
    let ranges = listed.unwrap_or(spec.pod_cidr.as_slice());
    ranges.iter().filter_map(|text| text.parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

/// Whether the cluster autoscaler is about to remove a node, so that load balancers should send it nothing new.
pub fn is_to_be_deleted(spec: &NodeSpec) -> bool {
    spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED_TAINT)
}

/// The zone of a node, from its labels; `None` if it is in none.
pub fn zone(labels: Option<&Labels>) -> Option<String> {
    labels?.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned()
}

/// The internal addresses of a node, in its order.
pub fn internal_ips(status: &NodeStatus) -> Vec<IpAddr> {
    let internal = status.addresses.iter().flatten().filter(|address| address.r#type == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

#[derive(Deserialize)]
struct WireService {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSlice {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

/// A Service in its wire form, with its name; `None` as for [`service`].
pub fn service_from_value(object: &Value) -> Result<Option<(Name, input::Service)>, serde_json::Error> {
    let WireService { metadata, spec, status } = WireService::deserialize(object)?;
    let name = Name::new(&metadata.namespace, &metadata.name);
    Ok(service(metadata.labels.as_ref(), &spec, &status).map(|service| (name, service)))
}

/// An EndpointSlice in its wire form, with its name; `None` as for [`endpoint_slice`].
pub fn slice_from_value(object: &Value) -> Result<Option<(Name, input::EndpointSlice)>, serde_json::Error> {
    let WireSlice { metadata, address_type, endpoints, ports } = WireSlice::deserialize(object)?;
    let name = Name::new(&metadata.namespace, &metadata.name);
    let (endpoints, ports) = (endpoints.unwrap_or_default(), ports.unwrap_or_default());
    let slice =
        endpoint_slice(&metadata.namespace, metadata.labels.as_ref(), &address_type, &endpoints, &ports);
    Ok(slice.map(|slice| (name, slice)))
}
