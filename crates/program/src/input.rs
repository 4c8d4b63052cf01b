//! What a program is compiled from: objects of the API, reduced to what decides where packets go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use dyad_net::{DualStack, IpFamily, IpNet};

/// Namespace and name of an object. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name of `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// The part behind the namespace.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// The namespace; empty for an object without one.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Comes before all names there are.
    pub(crate) fn first() -> Self {
        Self("".into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A transport protocol Services can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, what an object that names none means.
    #[default]
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The number in the IP header (IANA protocol numbers).
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The protocol with a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The name as it stands in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The protocol with a name, exactly as the API writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }
}

/// Which endpoints traffic may go to (`externalTrafficPolicy`, `internalTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Only those of the node the traffic came to.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Its name, empty if it has none: what ties it to the ports of EndpointSlices.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses, never 0.
    pub port: u16,
    /// The port on every node, if there is one.
    pub node_port: Option<u16>,
}

/// A Service that this data plane has to serve: not headless, not an ExternalName.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Cluster IPs, at most one of each family. A family without one is not served at all, node ports included.
    pub cluster_ips: DualStack<IpAddr>,
    /// `externalIPs`: other addresses that lead here.
    pub external_ips: BTreeSet<IpAddr>,
    /// Addresses of load balancers that deliver packets unchanged (`ipMode` VIP or none, A162).
    pub balancer_ips: BTreeSet<IpAddr>,
    /// Who may use the load balancer's addresses; `None` for everybody. A list that names ranges of one family only
    /// closes the other one.
    pub source_ranges: Option<Vec<IpNet>>,
    /// The ports.
    pub ports: Vec<Port>,
    /// Where traffic to node ports and external addresses may go.
    pub external_traffic: Traffic,
    /// Where traffic to cluster IPs may go.
    pub internal_traffic: Traffic,
    /// `sessionAffinity: ClientIP`, and for how many seconds (A168).
    pub affinity: Option<NonZeroU32>,
    /// Where load balancers ask this node whether it has endpoints (A169).
    pub health_check_node_port: Option<u16>,
}

/// One endpoint in a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it answers, terminating or not.
    pub serving: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// The node it runs on, if known.
    pub node: Option<String>,
    /// Whom it should serve, if anybody said so.
    pub hints: Option<Box<Hints>>,
}

/// Whom an endpoint should serve (A166, E27).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// Clients on these nodes.
    pub nodes: Vec<String>,
    /// Clients in these zones.
    pub zones: Vec<String>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// The name of the Service's port it belongs to.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the endpoints.
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service it belongs to.
    pub service: Name,
    /// The endpoints, all of one family.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports each of them has.
    pub ports: Vec<SlicePort>,
}

/// What the node that runs the program knows of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its name: what makes an endpoint local.
    pub name: String,
    /// The pod ranges of the node itself. What comes from there is never masqueraded on its way to a Service, for
    /// the answer passes this node anyway. Empty until the node has been given its ranges.
    pub own_pods: Vec<IpNet>,
    /// The ranges of all pods. Their families are those of the program. A family whose range is not known has that of
    /// everything.
    pub cluster_pods: DualStack<IpNet>,
    /// The pod ranges of all nodes, where the network goes by them: they count beside those of the cluster, and in place
    /// of one that is not known.
    pub node_pods: BTreeSet<IpNet>,
    /// The ranges of all cluster IPs, however many there are (KEP-1880): an address of these without a Service is
    /// refused.
    pub services: Vec<IpNet>,
    /// The addresses of all nodes: like pods, they are no outside world.
    pub nodes: BTreeSet<IpAddr>,
    /// Its zone (`topology.kubernetes.io/zone`): what hints are about.
    pub zone: Option<String>,
    /// Where node ports are served: addresses of the node that are in one of these ranges.
    pub node_ports: Vec<IpNet>,
    /// Whether pods with addresses that are known outside the cluster accept new connections from there although
    /// neither a Service nor a host port nor a policy asks for it.
    pub open_pods: bool,
    /// Whether pods that leave the cluster are masqueraded where their addresses mean nothing outside of it; if not,
    /// somebody else does what is needed.
    pub masquerade_pods: bool,
    /// Where and how that is otherwise.
    pub egress: Egress,
}

/// What differs from the rule that pods are known by their own addresses in the cluster, and outside of it if those are
/// global.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Whether pods of a family are masqueraded, whatever their addresses mean.
    pub families: BTreeMap<IpFamily, bool>,
    /// Where pods are known although it is outside.
    pub known: Vec<IpNet>,
    /// Nodes that the way to knows nothing but nodes' addresses.
    pub strangers: BTreeSet<IpAddr>,
}

/// A port of the node that leads to one of its pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The one address it is on; on all that node ports are on if there is none.
    pub ip: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the node, never 0.
    pub port: u16,
    /// The port of the pod.
    pub container_port: u16,
}
