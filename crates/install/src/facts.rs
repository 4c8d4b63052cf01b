//! What a cluster is, as far as its objects depend on it.

use std::net::IpAddr;

use dyad_net::IpNet;

/// What the objects of an installation depend on, besides [`Values`](crate::Values), which win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where everything goes that is in a namespace.
    pub namespace: String,
    /// Whether that namespace is to be made.
    pub makes_namespace: bool,
    /// The version that is installed, which is the tag of its image.
    pub version: String,
    /// The ranges of pods, the primary family's first.
    pub pod_ranges: Vec<IpNet>,
    /// The addresses of the cluster's DNS, likewise.
    pub dns_ips: Vec<IpAddr>,
    /// Where the API server is for who can't reach Services yet.
    pub api: Option<Endpoint>,
    /// Whether ClusterNetworkPolicy is a kind that others have defined.
    pub has_cluster_policies: bool,
}

/// An address and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address or a name, an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            namespace: "kube-system".into(),
            makes_namespace: false,
            version: env!("CARGO_PKG_VERSION").into(),
            pod_ranges: Vec::new(),
            dns_ips: Vec::new(),
            api: None,
            has_cluster_policies: false,
        }
    }
}
