//! A cluster as its API describes it, compiled for one node after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily, IpNet};
use dyad_program::policy::{self, Labels, PeerNode, Pod};
use dyad_program::rule::Direction;
use dyad_program::{Compiler, Inputs, Name, NodeView, Packet, Payload, Protocol, wire};
use serde::Deserialize;
use serde_json::Value;

use super::{ExplainError, Objects, Settings};

/// The port of DNS.
const DNS: u16 = 53;

/// A node.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// All of its addresses, those that count first.
    pub(super) ips: Vec<IpAddr>,
    pod_ranges: Vec<IpNet>,
    zone: Option<String>,
    /// Addresses whose queries of DNS it answers itself.
    dns_cache: Vec<IpAddr>,
}

/// The annotation in which agents say so.
const DNS_CACHE: &str = "dyad.io/dns-cache";
/// The annotation: the ranges of a node's pods, where they are not those of `spec.podCIDRs`.
pub(crate) const POD_RANGES: &str = "dyad.io/pod-ranges";

impl Node {
    /// The address that counts.
    pub(super) fn ip(&self, family: IpFamily) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| IpFamily::from(*ip) == family)
    }
}

/// A cluster.
pub(super) struct Cluster<'a> {
    pub(super) settings: &'a Settings,
    /// Services as they are in the API, for what the compiler does not need to know.
    pub(super) services: BTreeMap<Name, &'a Value>,
    /// EndpointSlices likewise.
    pub(super) slices: &'a [Value],
    pods: BTreeMap<Name, &'a Value>,
    inputs: Inputs,
    pub(super) nodes: BTreeMap<String, Node>,
    /// Who has an address; pods in the network of their node have none of their own.
    pod_at: BTreeMap<IpAddr, Name>,
    compilers: BTreeMap<String, Compiler>,
}

impl<'a> Cluster<'a> {
    pub(super) fn read(objects: &'a Objects, settings: &'a Settings) -> Result<Self, ExplainError> {
        let mut nodes = BTreeMap::new();
        let mut peer_nodes = BTreeMap::new();
        for object in &objects.nodes {
            let (name, node, labels) = node(object).map_err(|source| unreadable("Node", source))?;
            peer_nodes.insert(Name::new("", &name), PeerNode { labels, ips: node.ips.clone() });
            nodes.insert(name, node);
        }
        let pods: BTreeMap<Name, Pod> = read(&objects.pods, "Pod", policy::wire::pod_from_value)?;
        let named = |of: &'a [Value]| of.iter().map(|object| (name_of(object), object)).collect();
        let node_ranges = nodes.values().flat_map(|node: &Node| node.pod_ranges.iter().copied());
        let of_pods =
            || pods.values().filter(|pod| !pod.host_network).flat_map(|pod| pod.ips.iter().copied());
        let pod_ranges = first_of([
            settings.pod_ranges.clone(),
            covers(node_ranges),
            // Where nodes have no ranges, addresses are all there is to know.
            covers(of_pods().map(IpNet::from)),
        ]);
        let service_ranges = first_of([
            settings.service_ranges.clone(),
            objects.service_ranges.iter().flat_map(cidrs).collect(),
            covers(objects.services.iter().flat_map(cluster_ips).map(IpNet::from)),
        ]);
        let pairs = pod_ranges.iter().map(|range| (IpFamily::from(*range), *range));
        let cluster_pods = DualStack::from_ordered(pairs).ok_or_else(|| {
            ExplainError::question(
                "the API does not tell the cluster's pod ranges: give them with --cluster-cidr",
            )
        })?;
        let view = NodeView {
            name: String::new(),
            own_pods: Vec::new(),
            cluster_pods,
            node_pods: [].into(),
            services: service_ranges,
            nodes: nodes.values().flat_map(|node| node.ips.iter().copied()).collect(),
            zone: None,
            node_ports: settings.node_ports.clone(),
            open_pods: settings.open_pods,
            masquerade_pods: settings.masquerade_pods,
            egress: Default::default(),
        };
        let own = pods.iter().filter(|(_, pod)| !pod.host_network);
        let pod_at = own.flat_map(|(name, pod)| pod.ips.iter().map(move |ip| (*ip, name.clone()))).collect();
        let namespaces = objects.namespaces.iter().map(policy::wire::namespace_from_value);
        let policies = objects.network_policies.iter().map(policy::wire::network_policy_from_value);
        let inputs = Inputs {
            services: read(&objects.services, "Service", wire::service_from_value)?,
            slices: read(&objects.slices, "EndpointSlice", wire::slice_from_value)?,
            pods,
            namespaces: namespaces
                .collect::<Result<_, _>>()
                .map_err(|source| unreadable("Namespace", source))?,
            peer_nodes,
            network_policies: policies
                .collect::<Result<_, _>>()
                .map_err(|source| unreadable("NetworkPolicy", source))?,
            cluster_policies: read(
                &objects.cluster_policies,
                "ClusterNetworkPolicy",
                policy::wire::cluster_policy_from_value,
            )?,
            ..Inputs::new(view)
        };
        Ok(Self {
            settings,
            services: named(&objects.services),
            slices: &objects.slices,
            pods: named(&objects.pods),
            inputs,
            nodes,
            pod_at,
            compilers: BTreeMap::new(),
        })
    }

    /// The families of the cluster, the primary one first.
    pub(super) fn families(&self) -> Vec<IpFamily> {
        self.inputs.node.cluster_pods.families().collect()
    }

    /// A pod that runs, or is about to.
    pub(super) fn pod(&self, name: &Name) -> Option<&Pod> {
        self.inputs.pods.get(name)
    }

    /// A pod as it is in the API.
    pub(super) fn pod_object(&self, name: &Name) -> Option<&'a Value> {
        self.pods.get(name).copied()
    }

    /// All pods as they are in the API.
    pub(super) fn pod_objects(&self) -> impl Iterator<Item = (&Name, &'a Value)> {
        self.pods.iter().map(|(name, object)| (name, *object))
    }

    pub(super) fn service(&self, name: &Name) -> Option<&dyad_program::Service> {
        self.inputs.services.get(name)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = (&Name, &dyad_program::Service)> {
        self.inputs.services.iter()
    }

    /// The endpoints of a Service.
    pub(super) fn endpoints(&self, service: &Name) -> impl Iterator<Item = &dyad_program::SliceEndpoint> {
        let of_service = self.inputs.slices.values().filter(move |slice| slice.service == *service);
        of_service.flat_map(|slice| &slice.endpoints)
    }

    /// The pod that has an address of its own.
    pub(super) fn pod_at(&self, ip: IpAddr) -> Option<(&Name, &Pod)> {
        let name = self.pod_at.get(&ip)?;
        Some((name, self.inputs.pods.get(name)?))
    }

    /// The node that has an address.
    pub(super) fn node_at(&self, ip: IpAddr) -> Option<&str> {
        self.nodes.iter().find(|(_, node)| node.ips.contains(&ip)).map(|(name, _)| name.as_str())
    }

    /// Whether an address is of the range of all pods.
    pub(super) fn is_of_pods(&self, ip: IpAddr) -> bool {
        self.inputs.node.cluster_pods.iter().any(|(_, range)| range.contains(&ip))
    }

    /// The addresses of a node.
    pub(super) fn addresses(&self, node: &str) -> BTreeSet<IpAddr> {
        self.nodes.get(node).map(|node| node.ips.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether a node answers a packet itself, as a query of DNS. Pods whose egress is isolated are spared, so that
    /// their policies see where queries go.
    pub(super) fn is_answered_by(&mut self, name: &str, packet: &Packet) -> bool {
        let asked = self.nodes.get(name).is_some_and(|node| node.dns_cache.contains(&packet.destination));
        asked
            && packet.payload == Payload::Port(Protocol::Udp, DNS)
            && self
                .compiler(name)
                .program()
                .get(packet.source.into())
                .is_none_or(|table| !table.isolated.contains_key(&(Direction::Egress, packet.source)))
    }

    /// What the node called so should hold.
    pub(super) fn compiler(&mut self, name: &str) -> &Compiler {
        if !self.compilers.contains_key(name) {
            let node = self.nodes.get(name).cloned().unwrap_or_default();
            let view = &mut self.inputs.node;
            view.name = name.to_owned();
            view.zone = node.zone;
            view.own_pods = node.pod_ranges;
            if view.own_pods.is_empty() {
                let here = self.inputs.pods.values().filter(|pod| *pod.node == *name && !pod.host_network);
                view.own_pods = here.flat_map(|pod| pod.ips.iter().map(|ip| IpNet::from(*ip))).collect();
            }
        }
        let inputs = &self.inputs;
        self.compilers.entry(name.to_owned()).or_insert_with(|| Compiler::of(inputs))
    }
}

fn unreadable(kind: &'static str, source: serde_json::Error) -> ExplainError {
    ExplainError::Object { kind, source }
}

fn read<T>(
    objects: &[Value],
    kind: &'static str,
    one: impl Fn(&Value) -> Result<Option<(Name, T)>, serde_json::Error>,
) -> Result<BTreeMap<Name, T>, ExplainError> {
    let all = objects.iter().filter_map(|object| one(object).transpose());
    all.collect::<Result<_, _>>().map_err(|source| unreadable(kind, source))
}

/// The name of any object.
pub(super) fn name_of(object: &Value) -> Name {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    Name::new(text("namespace"), text("name"))
}

fn node(object: &Value) -> Result<(String, Node, Labels), serde_json::Error> {
    let spec = wire::NodeSpec::deserialize(object.get("spec").unwrap_or(&EMPTY))?;
    let status = wire::NodeStatus::deserialize(object.get("status").unwrap_or(&EMPTY))?;
    let labels = Option::<Labels>::deserialize(&object["metadata"]["labels"])?.unwrap_or_default();
    let mut ips = wire::internal_ips(&status);
    // A node's other addresses are its own, too.
    let listed = object["status"]["addresses"].as_array().into_iter().flatten();
    let others = listed.filter_map(|address| address["address"].as_str()?.parse().ok());
    for ip in others {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    let zone = wire::zone(Some(&labels));
    let cached = object["metadata"]["annotations"][DNS_CACHE].as_str().unwrap_or_default();
    let dns_cache = cached.split(',').filter_map(|ip| ip.parse().ok()).collect();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let own = object["metadata"]["annotations"][POD_RANGES].as_str();
    let own = own.map(|text| text.split(',').filter_map(|range| range.parse().ok()).collect());
    let pod_ranges = own.unwrap_or_else(|| wire::pod_ranges(&spec));
    Ok((name, Node { ips, pod_ranges, zone, dns_cache }, labels))
}

static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| Value::Object(serde_json::Map::new()));

/// The ranges of a ServiceCIDR; a cluster may have several (KEP-1880).
fn cidrs(object: &Value) -> impl Iterator<Item = IpNet> {
    let listed = object["spec"]["cidrs"].as_array().into_iter().flatten();
    listed.filter_map(|text| text.as_str()?.parse().ok())
}

fn cluster_ips(service: &Value) -> impl Iterator<Item = IpAddr> {
    let listed = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    listed.filter_map(|text| text.as_str()?.parse().ok())
}

fn first_of<const N: usize>(choices: [Vec<IpNet>; N]) -> Vec<IpNet> {
    choices.into_iter().find(|ranges| !ranges.is_empty()).unwrap_or_default()
}

/// For each family the smallest range that covers all of its ranges; in the order in which families come first.
fn covers(ranges: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut covers: Vec<IpNet> = Vec::new();
    for range in ranges {
        match covers.iter_mut().find(|cover| IpFamily::from(**cover) == IpFamily::from(range)) {
            None => covers.push(range),
            Some(cover) => {
                while !cover.contains(&range) {
                    let Some(wider) = cover.supernet() else { break };
                    *cover = wider;
                }
            }
        }
    }
    covers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_are_the_smallest_of_each_family() {
        let ranges = ["fd00:1::/64", "10.244.0.0/24", "10.244.3.0/24", "fd00:1:0:1::/64"];
        let covers = covers(ranges.iter().map(|text| text.parse().unwrap()));
        assert_eq!(covers, ["fd00:1::/63", "10.244.0.0/22"].map(|text| text.parse::<IpNet>().unwrap()));
        assert!(super::covers(std::iter::empty()).is_empty());
    }
}
