//! From objects to a program, at once or step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily};

use crate::part::Way;
use crate::policy::{ClusterNetworkPolicy, Labels, NetworkPolicy, PeerNode, Pod, Policies};
use crate::service::{self, Rank};
use crate::{EndpointSlice, Frontend, HostPort, Name, NodeView, Program, Service, SliceEndpoint, Table};

mod inputs;
mod serving;
mod step;

pub use inputs::{Inputs, compile};

/// Compiles step by step: the cost of a step follows what has changed, not what there is.
///
/// The program depends on the inputs only, not on the order they came in.
#[derive(Clone, Debug)]
pub struct Compiler {
    node: NodeView,
    services: BTreeMap<Name, State>,
    /// The Service of each slice.
    slices: BTreeMap<Name, Name>,
    /// Pods of this node that have ports of it.
    hosted: BTreeMap<Name, Hosted>,
    /// Who wants which frontend. The first one gets it: two Services may name the same external IP.
    claims: BTreeSet<(IpFamily, Frontend, Rank, Name)>,
    /// Health check node ports, with the Services they ask for.
    health: BTreeSet<(u16, Name)>,
    /// How often an address is an endpoint of this node.
    local: BTreeMap<IpAddr, usize>,
    policies: Policies,
    changed: Changed,
    program: Program,
}

/// What has changed since the last step.
#[derive(Clone, Debug, Default)]
struct Changed {
    node: bool,
    /// Services that lead elsewhere than before, perhaps.
    services: BTreeSet<(Name, IpFamily)>,
    /// Frontends that may have got another owner, or have none any more.
    frontends: BTreeSet<(IpFamily, Frontend)>,
    /// Addresses that may have become endpoints of this node, or ceased to be.
    local: BTreeSet<IpAddr>,
}

/// A Service and its slices, by name. The Service may be missing while its slices are there.
#[derive(Clone, Debug, Default)]
struct State {
    service: Option<Box<Service>>,
    /// Sorted by name. There are few: a map of its own would take more room than they do.
    slices: Vec<(Name, EndpointSlice)>,
}

impl State {
    fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.iter().map(|(_, slice)| slice)
    }
}

/// The ports of a pod on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hosted {
    ports: Vec<HostPort>,
    ips: Vec<IpAddr>,
}

/// The object a frontend belongs to. Prints as `Service default/web`, `Pod default/web-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A Service.
    Service(Name),
    /// A pod that has a port of the node.
    Pod(Name),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
        }
    }
}

/// What a load balancer is told that asks at a Service's `healthCheckNodePort` (A169).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: Name,
    /// How many of its endpoints on this node take new connections, in each of its families.
    pub local_endpoints: DualStack<usize>,
}

impl Compiler {
    /// A compiler for a node, without Services. The families are those of the cluster's pod ranges.
    pub fn new(node: NodeView) -> Self {
        let program = node.cluster_pods.map(|_, _| Table::default());
        let policies = Policies::new(&node.name);
        Self {
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            hosted: BTreeMap::new(),
            claims: BTreeSet::new(),
            health: BTreeSet::new(),
            local: BTreeMap::new(),
            policies,
            changed: Changed { node: true, ..Changed::default() },
            program,
        }
    }

    /// The program as of the last [`step`](Self::step).
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// The node as it was last set.
    pub const fn node(&self) -> &NodeView {
        &self.node
    }

    /// The object that has a frontend, as of what was last set.
    pub fn owner(&self, family: IpFamily, at: Frontend) -> Option<Owner> {
        self.winner(family, at).map(|(rank, name)| match rank {
            Rank::HostPort => Owner::Pod(name.clone()),
            Rank::ClusterIp | Rank::Balancer | Rank::NodePort | Rank::ExternalIp => {
                Owner::Service(name.clone())
            }
        })
    }

    /// The health check node ports this node has to answer at. The first of two Services has a port both want.
    pub fn health_checks(&self) -> BTreeMap<u16, HealthCheck> {
        let check = |(port, name): &(u16, Name)| {
            let state = self.services.get(name)?;
            let ready = |family, _: &IpAddr| service::local_ready(state.slices(), &self.node.name, family);
            let local_endpoints = state.service.as_ref()?.cluster_ips.map(ready);
            Some((*port, HealthCheck { service: name.clone(), local_endpoints }))
        };
        // Of entries with the same key, a map keeps the last.
        self.health.iter().rev().filter_map(check).collect()
    }

    /// Sets what is known of the node. Its name and families must stay what they were.
    pub fn set_node(&mut self, node: NodeView) {
        if self.node.zone != node.zone {
            let families = || self.program.families();
            let all = self.services.keys().flat_map(|name| families().map(|family| (name.clone(), family)));
            self.changed.services.extend(all);
        }
        self.changed.node |= self.node != node;
        self.node = node;
    }

    /// Sets or removes a Service.
    pub fn set_service(&mut self, name: Name, service: Option<Service>) {
        let state = self.services.entry(name.clone()).or_default();
        if state.service.as_deref() != service.as_ref() {
            let old = std::mem::replace(&mut state.service, service.map(Box::new));
            if let Some(old) = old {
                for (family, at, rank) in service::all_claims(&old, &self.program) {
                    self.claims.remove(&(family, at, rank, name.clone()));
                    self.changed.frontends.insert((family, at));
                }
                old.health_check_node_port.map(|port| self.health.remove(&(port, name.clone())));
            }
            if let Some(new) = &state.service {
                let claims = service::all_claims(new, &self.program);
                self.claims.extend(claims.map(|(family, at, rank)| (family, at, rank, name.clone())));
                self.health.extend(new.health_check_node_port.map(|port| (port, name.clone())));
                self.changed.services.extend(self.program.families().map(|family| (name.clone(), family)));
            }
        }
        self.forget_if_empty(&name);
    }

    /// Sets or removes an EndpointSlice.
    pub fn set_slice(&mut self, name: Name, slice: Option<EndpointSlice>) {
        let before = self.slices.get(&name).cloned();
        let after = slice.as_ref().map(|slice| slice.service.clone());
        let mut old = None;
        if let Some(state) = before.as_ref().and_then(|owner| self.services.get_mut(owner))
            && let Ok(at) = state.slices.binary_search_by(|(other, _)| other.cmp(&name))
        {
            if slice.as_ref() == Some(&state.slices[at].1) {
                return;
            }
            old = Some(state.slices.remove(at).1);
        }
        for (slice, owner) in [(&old, &before), (&slice, &after)] {
            let (Some(slice), Some(owner)) = (slice, owner) else { continue };
            let has = |family: &IpFamily| slice.endpoints.iter().any(|at| IpFamily::from(at.ip) == *family);
            let families = self.program.families().filter(has);
            self.changed.services.extend(families.map(|family| (owner.clone(), family)));
        }
        if let Some(old) = old {
            old.endpoints.iter().for_each(|endpoint| self.uncount_endpoint(endpoint));
        }
        if let (Some(mut slice), Some(owner)) = (slice, after) {
            slice.endpoints.iter().for_each(|endpoint| self.count_endpoint(endpoint));
            // All that name the Service share one text, and there is no room for slices that never come.
            let known = self.services.get_key_value(&owner).map(|(known, _)| known.clone());
            let owner = known.unwrap_or(owner);
            slice.service = owner.clone();
            let slices = &mut self.services.entry(owner.clone()).or_default().slices;
            let at = slices.partition_point(|(other, _)| *other < name);
            slices.reserve_exact(1);
            slices.insert(at, (name.clone(), slice));
            self.slices.insert(name, owner);
        } else {
            self.slices.remove(&name);
        }
        if let Some(before) = before {
            self.forget_if_empty(&before);
        }
    }

    /// Sets or removes a pod of any node. What is finished is to be removed.
    pub fn set_pod(&mut self, name: Name, pod: Option<Pod>) {
        let here = pod.as_ref().filter(|pod| *pod.node == *self.node.name && !pod.host_network);
        let hosted = here
            .filter(|pod| !pod.host_ports.is_empty())
            .map(|pod| Hosted { ports: pod.host_ports.clone(), ips: pod.ips.clone() });
        self.set_hosted(&name, hosted);
        self.policies.set_pod(name, pod);
    }

    fn set_hosted(&mut self, name: &Name, hosted: Option<Hosted>) {
        if self.hosted.get(name) == hosted.as_ref() {
            return;
        }
        for (pod, comes) in [(self.hosted.remove(name), false), (hosted.clone(), true)] {
            let Some(pod) = pod else { continue };
            for family in self.program.families() {
                for (at, _) in pod.frontends(family) {
                    let claim = (family, at, Rank::HostPort, name.clone());
                    if comes {
                        self.claims.insert(claim)
                    } else {
                        self.claims.remove(&claim)
                    };
                    self.changed.frontends.insert((family, at));
                }
            }
            for ip in pod.ips {
                if comes { self.count(ip) } else { self.uncount(ip) }
            }
        }
        self.hosted.extend(hosted.map(|hosted| (name.clone(), hosted)));
    }

    /// Sets the labels of a namespace, or removes it.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        self.policies.set_namespace(name, labels);
    }

    /// Sets or removes a node that policies may name as a peer; this one too.
    pub fn set_peer_node(&mut self, name: Name, node: Option<PeerNode>) {
        self.policies.set_peer_node(name, node);
    }

    /// Sets or removes a NetworkPolicy.
    pub fn set_network_policy(&mut self, name: Name, policy: Option<NetworkPolicy>) {
        self.policies.set_network_policy(name, policy);
    }

    /// Sets or removes a ClusterNetworkPolicy.
    pub fn set_cluster_policy(&mut self, name: Name, policy: Option<ClusterNetworkPolicy>) {
        self.policies.set_cluster_policy(name, policy);
    }

    /// What policy is compiled from: whom it concerns, and the names of what was set, for comparison with a new
    /// listing.
    pub const fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The names of all Services, for comparison with a new listing.
    pub fn service_names(&self) -> impl Iterator<Item = &Name> {
        self.services.iter().filter(|(_, state)| state.service.is_some()).map(|(name, _)| name)
    }

    /// The names of all slices, likewise.
    pub fn slice_names(&self) -> impl Iterator<Item = &Name> {
        self.slices.keys()
    }

    /// By what right a frontend is whose.
    fn winner(&self, family: IpFamily, at: Frontend) -> Option<(Rank, &Name)> {
        let (of, claimed, rank, name) =
            self.claims.range((family, at, Rank::FIRST, Name::first())..).next()?;
        ((*of, *claimed) == (family, at)).then_some((*rank, name))
    }

    fn count_endpoint(&mut self, endpoint: &SliceEndpoint) {
        if endpoint.node.as_ref() == Some(&self.node.name) {
            self.count(endpoint.ip);
        }
    }

    fn uncount_endpoint(&mut self, endpoint: &SliceEndpoint) {
        if endpoint.node.as_ref() == Some(&self.node.name) {
            self.uncount(endpoint.ip);
        }
    }

    fn count(&mut self, ip: IpAddr) {
        *self.local.entry(ip).or_default() += 1;
        self.changed.local.insert(ip);
    }

    fn uncount(&mut self, ip: IpAddr) {
        let count = self.local.entry(ip).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.local.remove(&ip);
        }
        self.changed.local.insert(ip);
    }

    fn forget_if_empty(&mut self, name: &Name) {
        let empty = |state: &State| state.service.is_none() && state.slices.is_empty();
        if self.services.get(name).is_some_and(empty) {
            self.services.remove(name);
        }
    }
}

impl Hosted {
    /// The frontends of the pod in `family`, each with where it leads.
    fn frontends(&self, family: IpFamily) -> impl Iterator<Item = (Frontend, Way)> {
        let pod = self.ips.iter().find(move |ip| IpFamily::from(**ip) == family);
        // The unspecified address is all of its family.
        let at = |port: &HostPort| match port.ip.filter(|ip| !ip.is_unspecified()) {
            None => Frontend::NodePort(port.protocol, port.port),
            Some(ip) => Frontend::Address(ip, port.protocol, port.port),
        };
        let of_family = move |port: &&HostPort| port.ip.is_none_or(|ip| IpFamily::from(ip) == family);
        pod.into_iter().flat_map(move |pod| {
            let ports = self.ports.iter().filter(of_family);
            ports.map(move |port| (at(port), service::host_port_way(port, *pod)))
        })
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::random_inputs;
