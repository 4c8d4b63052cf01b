//! Reading the API's JSON: pods, namespaces and policies.
//!
//! As in [`wire`](crate::wire), nothing refuses an object. What can't be read fails closed: a peer that makes no sense is
//! nobody, and a rule without a peer that makes sense allows nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use dyad_model::selector::LabelSelector;
use dyad_net::parse_cidr_sloppy;
use serde::Deserialize;
use serde_json::Value;

use super::{Action, ClusterNetworkPolicy, Labels, NetworkPolicy, Peer, Pod, Port, Tier, TierRule, Traffic};
use crate::{HostPort, Name, Protocol};

/// `spec` of a core/v1 Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i64,
    host_port: Option<i64>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

/// `status` of a core/v1 Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
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

/// `spec` of a networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    pod_selector: Value,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct IngressRule {
    from: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EgressRule {
    to: Option<Vec<PolicyPeer>>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicyPeer {
    pod_selector: Option<Value>,
    namespace_selector: Option<Value>,
    ip_block: Option<IpBlock>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct IpBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicyPort {
    protocol: Option<String>,
    port: Option<Value>,
    end_port: Option<i64>,
}

/// `spec` of a policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicySpec {
    tier: String,
    priority: i32,
    subject: Subject,
    ingress: Option<Vec<ClusterRule>>,
    egress: Option<Vec<ClusterRule>>,
}

/// Subjects, and peers too: exactly one of the fields is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    namespaces: Option<Value>,
    pods: Option<NamespacedPod>,
    nodes: Option<Value>,
    networks: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NamespacedPod {
    namespace_selector: Value,
    pod_selector: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ClusterRule {
    name: Option<String>,
    action: String,
    from: Option<Vec<Subject>>,
    to: Option<Vec<Subject>>,
    protocols: Option<Vec<ClusterProtocol>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClusterProtocol {
    tcp: Option<DestinationPort>,
    udp: Option<DestinationPort>,
    sctp: Option<DestinationPort>,
    destination_named_port: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DestinationPort {
    destination_port: Option<PortNumbers>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortNumbers {
    number: Option<i64>,
    range: Option<PortRange>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortRange {
    start: i64,
    end: i64,
}

/// A pod of `namespace`; `None` if it is finished: its addresses may be another's then.
pub fn pod(namespace: &str, labels: Option<&Labels>, spec: &PodSpec, status: &PodStatus) -> Option<Pod> {
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut seen = BTreeSet::new();
    let ips = listed.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse::<IpAddr>().ok());
    let ips = ips.filter(|ip| seen.insert(*ip)).collect();
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().flatten().chain(sidecars);
    let ports = || containers.clone().flat_map(|container| container.ports.iter().flatten());
    let named = |port: &ContainerPort| {
        let name = port.name.clone().filter(|name| !name.is_empty())?;
        Some((name, protocol(port.protocol.as_deref())?, number(port.container_port)?))
    };
    let hosted = |port: &ContainerPort| {
        let ip = port.host_ip.as_deref().filter(|text| !text.is_empty());
        let ip = ip.map(|text| text.parse::<IpAddr>().ok());
        Some(HostPort {
            // The unspecified address of either family means all addresses.
            ip: match ip {
                None => None,
                Some(ip) => Some(ip?).filter(|ip| !ip.is_unspecified()),
            },
            protocol: protocol(port.protocol.as_deref())?,
            port: number(port.host_port?)?,
            container_port: number(port.container_port)?,
        })
    };
    Some(Pod {
        namespace: namespace.into(),
        labels: Arc::new(labels.cloned().unwrap_or_default()),
        ips,
        node: spec.node_name.as_deref().unwrap_or_default().into(),
        host_network: spec.host_network.unwrap_or(false),
        named_ports: ports().filter_map(named).collect(),
        host_ports: ports().filter_map(hosted).collect(),
    })
}

/// A port, unless it is none.
fn number(port: i64) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("") => Some(Protocol::default()),
        Some(name) => Protocol::from_name(name),
    }
}

/// A NetworkPolicy of `namespace`.
pub fn network_policy(namespace: &str, spec: &NetworkPolicySpec) -> NetworkPolicy {
    let types = spec.policy_types.as_deref().filter(|types| !types.is_empty());
    // Objects that no server has defaulted (H4).
    let has = |direction: &str, default: bool| {
        types.map_or(default, |types| types.iter().any(|of| of == direction))
    };
    let (ingress, egress) = (spec.ingress.iter().flatten(), spec.egress.iter().flatten());
    let ingress = ingress.map(|rule| traffic(rule.from.as_deref(), rule.ports.as_deref()));
    let egress = egress.map(|rule| traffic(rule.to.as_deref(), rule.ports.as_deref()));
    let pods = selector_or_all(&spec.pod_selector);
    // A policy that can't be read isolates all pods rather than none, and lets nothing through to them.
    let is_sound = pods.is_some();
    NetworkPolicy {
        namespace: namespace.into(),
        pods: pods.unwrap_or_default(),
        ingress: has("Ingress", true).then(|| ingress.filter(|_| is_sound).collect()),
        egress: has("Egress", spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()))
            .then(|| egress.filter(|_| is_sound).collect()),
    }
}

/// A selector that selects everything if it is left out; `None` if it makes no sense.
fn selector_or_all(object: &Value) -> Option<LabelSelector> {
    match object {
        Value::Null => Some(LabelSelector::default()),
        object => LabelSelector::from_object(object).ok(),
    }
}

fn traffic(peers: Option<&[PolicyPeer]>, ports: Option<&[PolicyPort]>) -> Traffic {
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    Traffic {
        peers: peers.map(|peers| peers.iter().filter_map(peer).collect()),
        ports: ports.map(|ports| ports.iter().filter_map(port).collect()),
    }
}

fn peer(peer: &PolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let (_, range) = parse_cidr_sloppy(&block.cidr)?;
        let holes: Option<Vec<_>> =
            block.except.iter().flatten().map(|text| Some(parse_cidr_sloppy(text)?.1)).collect();
        // A hole that can't be read would be open.
        return Some(Peer::Block(range, holes?));
    }
    let selector = |object: &Value| LabelSelector::from_object(object).ok();
    match (&peer.namespace_selector, &peer.pod_selector) {
        (None, None) => None,
        (None, Some(pods)) => Some(Peer::Pods { namespaces: None, pods: selector(pods)? }),
        (Some(namespaces), pods) => Some(Peer::Pods {
            namespaces: Some(selector(namespaces)?),
            pods: pods.as_ref().map_or(Some(LabelSelector::default()), selector)?,
        }),
    }
}

fn port(port: &PolicyPort) -> Option<Port> {
    let protocol = protocol(port.protocol.as_deref())?;
    match &port.port {
        None | Some(Value::Null) => Some(Port::Range(protocol, 0, u16::MAX)),
        Some(Value::String(name)) => Some(Port::Named(Some(protocol), name.clone())),
        Some(first) => {
            let first = number(first.as_i64()?)?;
            let last = port.end_port.map_or(Some(first), number)?;
            (first <= last).then_some(Port::Range(protocol, first, last))
        }
    }
}

/// A ClusterNetworkPolicy; `None` if its tier or its subject can't be read.
pub fn cluster_policy(spec: &ClusterNetworkPolicySpec) -> Option<ClusterNetworkPolicy> {
    let tier = match spec.tier.as_str() {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        _ => return None,
    };
    let Peer::Pods { namespaces, pods } = subject(&spec.subject)?.into_iter().next()? else { return None };
    let rules = |rules: &Option<Vec<ClusterRule>>| rules.iter().flatten().filter_map(tier_rule).collect();
    Some(ClusterNetworkPolicy {
        tier,
        priority: spec.priority,
        namespaces: namespaces.unwrap_or_default(),
        pods,
        ingress: rules(&spec.ingress),
        egress: rules(&spec.egress),
    })
}

/// What a subject or a peer of a ClusterNetworkPolicy means; `None` if it makes no sense to us.
fn subject(subject: &Subject) -> Option<Vec<Peer>> {
    let selector = selector_or_all;
    match subject {
        Subject { namespaces: Some(namespaces), .. } => {
            Some(vec![Peer::Pods { namespaces: Some(selector(namespaces)?), pods: LabelSelector::default() }])
        }
        Subject { pods: Some(pods), .. } => Some(vec![Peer::Pods {
            namespaces: Some(selector(&pods.namespace_selector)?),
            pods: selector(&pods.pod_selector)?,
        }]),
        Subject { nodes: Some(nodes), .. } => Some(vec![Peer::Nodes(selector(nodes)?)]),
        Subject { networks: Some(networks), .. } => {
            networks.iter().map(|text| Some(Peer::Block(parse_cidr_sloppy(text)?.1, Vec::new()))).collect()
        }
        Subject { namespaces: None, pods: None, nodes: None, networks: None } => None,
    }
}

/// A rule. One with a peer or a port that makes no sense to us fails closed as the API asks for it: it accepts nothing,
/// or it denies everything.
fn tier_rule(rule: &ClusterRule) -> Option<TierRule> {
    let name = rule.name.clone().unwrap_or_default();
    let action = match rule.action.as_str() {
        "Accept" => Action::Accept,
        "Pass" => Action::Pass,
        _ => Action::Deny,
    };
    let peers: Option<Vec<Vec<Peer>>> =
        rule.from.iter().flatten().chain(rule.to.iter().flatten()).map(subject).collect();
    let ports: Option<Option<Vec<Port>>> = rule
        .protocols
        .as_ref()
        .map(|all| all.iter().map(cluster_port).collect())
        .map_or(Some(None), |ports| {
            let ports: Option<Vec<Port>> = ports;
            ports.map(Some)
        });
    match (peers, ports) {
        (Some(peers), Some(ports)) => {
            let peers = Some(peers.into_iter().flatten().collect());
            Some(TierRule { name, action, traffic: Traffic { peers, ports } })
        }
        _ if action == Action::Accept => None,
        _ => Some(TierRule { name, action: Action::Deny, traffic: Traffic::default() }),
    }
}

fn cluster_port(of: &ClusterProtocol) -> Option<Port> {
    if let Some(name) = &of.destination_named_port {
        return Some(Port::Named(None, name.clone()));
    }
    let given = [(Protocol::Tcp, &of.tcp), (Protocol::Udp, &of.udp), (Protocol::Sctp, &of.sctp)];
    let (protocol, port) = given.into_iter().find_map(|(protocol, port)| Some((protocol, port.as_ref()?)))?;
    match &port.destination_port {
        None => Some(Port::Range(protocol, 0, u16::MAX)),
        Some(PortNumbers { range: Some(PortRange { start, end }), .. }) => {
            let (start, end) = (number(*start)?, number(*end)?);
            (start <= end).then_some(Port::Range(protocol, start, end))
        }
        Some(PortNumbers { number: exact, range: None }) => {
            let exact = number((*exact)?)?;
            Some(Port::Range(protocol, exact, exact))
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: String,
    name: String,
    labels: Option<Labels>,
}

#[derive(Deserialize)]
struct Object<Spec, Status> {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
struct Nothing {}

/// A Pod in its wire form, with its name; `None` as for [`pod`].
pub fn pod_from_value(object: &Value) -> Result<Option<(Name, Pod)>, serde_json::Error> {
    let Object { metadata, spec, status } = Object::<PodSpec, PodStatus>::deserialize(object)?;
    let name = Name::new(&metadata.namespace, &metadata.name);
    Ok(pod(&metadata.namespace, metadata.labels.as_ref(), &spec, &status).map(|pod| (name, pod)))
}

/// A Namespace in its wire form: its name and its labels.
pub fn namespace_from_value(object: &Value) -> Result<(String, Labels), serde_json::Error> {
    let Object { metadata, .. } = Object::<Nothing, Nothing>::deserialize(object)?;
    Ok((metadata.name, metadata.labels.unwrap_or_default()))
}

/// A NetworkPolicy in its wire form, with its name.
pub fn network_policy_from_value(object: &Value) -> Result<(Name, NetworkPolicy), serde_json::Error> {
    let Object { metadata, spec, .. } = Object::<NetworkPolicySpec, Nothing>::deserialize(object)?;
    let name = Name::new(&metadata.namespace, &metadata.name);
    Ok((name, network_policy(&metadata.namespace, &spec)))
}

/// A ClusterNetworkPolicy in its wire form, with its name; `None` as for [`cluster_policy`].
pub fn cluster_policy_from_value(
    object: &Value,
) -> Result<Option<(Name, ClusterNetworkPolicy)>, serde_json::Error> {
    let Object { metadata, spec, .. } = Object::<ClusterNetworkPolicySpec, Nothing>::deserialize(object)?;
    Ok(cluster_policy(&spec).map(|policy| (Name::new("", &metadata.name), policy)))
}
