//! NetworkPolicies and ClusterNetworkPolicies compiled to the chains and sets of [`rule`](crate::rule).
//!
//! ```text
//! for a pod of this node, in one direction:
//!     Admin tier      rules of ClusterNetworkPolicies, by priority and name: Accept, Deny, Pass to the next tier
//!     NetworkPolicies if any selects the pod: Accept what one of them allows, Deny the rest
//!     Baseline tier   else: rules of ClusterNetworkPolicies, likewise
//!     and what nobody has decided is accepted
//! ```
//!
//! Only what pods of this node need is in the tables: sets that none of their chains names are not there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use dyad_model::selector::LabelSelector;
use dyad_net::IpNet;

use crate::{HostPort, Protocol};

mod blocks;
mod decide;
mod policies;
mod rules;
pub mod wire;

pub use decide::{Admission, Flow, Ruling, decide};
pub use policies::Policies;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A pod, as far as policy and host ports are concerned. Finished pods (Succeeded, Failed) are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// All of its addresses (`status.podIPs`).
    pub ips: Vec<IpAddr>,
    /// The node it runs on, empty until it has been given one.
    pub node: Arc<str>,
    /// Whether it has no network of its own: policy does not select it then, as subject or as peer (H7).
    pub host_network: bool,
    /// Container ports that have names: name, protocol and number.
    pub named_ports: Vec<(String, Protocol, u16)>,
    /// Its ports on the node.
    pub host_ports: Vec<HostPort>,
}

/// A node, as far as policy is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNode {
    /// Its labels.
    pub labels: Labels,
    /// All of its addresses.
    pub ips: Vec<IpAddr>,
}

/// A networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The pods of that namespace it selects.
    pub pods: LabelSelector,
    /// What may come to them; `None` if that is not its concern.
    pub ingress: Option<Vec<Traffic>>,
    /// What may come from them, likewise.
    pub egress: Option<Vec<Traffic>>,
}

/// Connections, by their other end and their destination port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The other end: one of these; `None` for anybody.
    pub peers: Option<Vec<Peer>>,
    /// One of these; `None` for everything, with ports or without (H12).
    pub ports: Option<Vec<Port>>,
}

/// Somebody at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods: those that `pods` selects in the namespaces that `namespaces` selects, or in the policy's own.
    Pods {
        /// Namespaces.
        namespaces: Option<LabelSelector>,
        /// Pods in them.
        pods: LabelSelector,
    },
    /// Nodes, by all of their addresses.
    Nodes(LabelSelector),
    /// A range without some of its parts.
    Block(IpNet, Vec<IpNet>),
}

/// Destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// From the first to the last, both included.
    Range(Protocol, u16, u16),
    /// What the destination pod calls so (H13); of any protocol if none is said.
    Named(Option<Protocol>, String),
}

/// Which of the two tiers around NetworkPolicies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Before them.
    Admin,
    /// For pods that none of them selects.
    Baseline,
}

/// What a rule of a tier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Admits.
    Accept,
    /// Drops.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// A rule of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierRule {
    /// Its name, empty if it has none.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// With what.
    pub traffic: Traffic,
}

/// A policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its tier.
    pub tier: Tier,
    /// Lower goes first, 0 to 1000.
    pub priority: i32,
    /// The namespaces of its subjects.
    pub namespaces: LabelSelector,
    /// The pods in them.
    pub pods: LabelSelector,
    /// Rules for what comes to them, in their order.
    pub ingress: Vec<TierRule>,
    /// Rules for what comes from them, likewise.
    pub egress: Vec<TierRule>,
}

#[cfg(test)]
mod tests;
