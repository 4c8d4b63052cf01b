//! All there is at once.

use std::collections::BTreeMap;

use super::Compiler;
use crate::policy::{ClusterNetworkPolicy, Labels, NetworkPolicy, PeerNode, Pod};
use crate::{EndpointSlice, Name, NodeView, Program, Service};

/// All a program is compiled from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The node and its cluster.
    pub node: NodeView,
    /// Services by name.
    pub services: BTreeMap<Name, Service>,
    /// EndpointSlices by name.
    pub slices: BTreeMap<Name, EndpointSlice>,
    /// Pods of all nodes by name.
    pub pods: BTreeMap<Name, Pod>,
    /// The labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Nodes that policies may name as peers.
    pub peer_nodes: BTreeMap<Name, PeerNode>,
    /// NetworkPolicies by name.
    pub network_policies: BTreeMap<Name, NetworkPolicy>,
    /// ClusterNetworkPolicies by name.
    pub cluster_policies: BTreeMap<Name, ClusterNetworkPolicy>,
}

impl Inputs {
    /// A cluster with nothing in it.
    pub const fn new(node: NodeView) -> Self {
        Self {
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            peer_nodes: BTreeMap::new(),
            network_policies: BTreeMap::new(),
            cluster_policies: BTreeMap::new(),
        }
    }
}

/// The program for a node.
pub fn compile(inputs: &Inputs) -> Program {
    Compiler::of(inputs).program
}

impl Compiler {
    /// A compiler that has compiled `inputs`.
    pub fn of(inputs: &Inputs) -> Self {
        let mut compiler = Self::new(inputs.node.clone());
        for (name, service) in &inputs.services {
            compiler.set_service(name.clone(), Some(service.clone()));
        }
        for (name, slice) in &inputs.slices {
            compiler.set_slice(name.clone(), Some(slice.clone()));
        }
        for (name, pod) in &inputs.pods {
            compiler.set_pod(name.clone(), Some(pod.clone()));
        }
        for (name, labels) in &inputs.namespaces {
            compiler.set_namespace(name, Some(labels.clone()));
        }
        for (name, node) in &inputs.peer_nodes {
            compiler.set_peer_node(name.clone(), Some(node.clone()));
        }
        for (name, policy) in &inputs.network_policies {
            compiler.set_network_policy(name.clone(), Some(policy.clone()));
        }
        for (name, policy) in &inputs.cluster_policies {
            compiler.set_cluster_policy(name.clone(), Some(policy.clone()));
        }
        compiler.step();
        compiler
    }
}
