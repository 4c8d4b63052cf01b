//! NetworkPolicies and ClusterNetworkPolicies compiled to the chains and sets of [`rule`](crate::rule).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::{HostPort, Protocol};

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
