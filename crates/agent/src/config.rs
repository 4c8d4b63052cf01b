//! What an agent is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dyad_net::{Derivation, DualStack, IpFamily, IpNet};
use dyad_program::Egress;

use crate::cni::Cni;

/// What an agent is told.
///
/// [`Config::new`] is for a node whose whole network is Dyad's; [`Config::beside_cni`] for one whose pods somebody
/// else connects, in place of kube-proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node it runs on.
    pub node_name: String,
    /// The cluster's pod ranges: where pods come from, and what is never masqueraded. Their families are those the
    /// agent works on. A family whose range is not known has the range of everything: nobody is outside then.
    pub pod_ranges: DualStack<IpNet>,
    /// The cluster's Service ranges: addresses in them without a Service are refused. `None` to learn them from the
    /// cluster's ServiceCIDR objects.
    pub service_ranges: Option<Vec<IpNet>>,
    /// Whether Services are served; if not, somebody else does, as kube-proxy.
    pub services: bool,
    /// How pods are connected for CNI plugins, if they are.
    pub cni: Option<Cni>,
    /// Where nodes have their pod ranges from.
    pub ipam: Ipam,
    /// Whether the node answers for its pods' IPv6 addresses on its own link.
    pub ndp_proxy: bool,
    /// Links that the node's addresses must be on, by name or, with `*`, by how it begins; those that are not others'
    /// pods' and machines', if none is given.
    pub address_links: Vec<String>,
    /// Ranges that they must be in, if any is given.
    pub address_ranges: Vec<IpNet>,
    /// What counts as a pod of this node.
    pub own_pods: OwnPods,
    /// How packets come to the pods of other nodes. Unless that is somebody else's affair, routes to Services are kept,
    /// too, and the node is made to forward.
    pub routing: Routing,
    /// Tunnels, where there are some.
    pub tunnels: Tunnels,
    /// The file of this node's private key of WireGuard, which is made where it is needed.
    pub wireguard_key: PathBuf,
    /// The largest packet of pods in bytes; that of the links between nodes, if not given.
    pub mtu: Option<u32>,
    /// Whether pods that leave the cluster are masqueraded where their addresses mean nothing outside of it.
    pub masquerade_pods: bool,
    /// Where and how that is otherwise.
    pub egress: Egress,
    /// Whether everything that goes to a Service is masqueraded, that of own pods too.
    pub masquerade_all: bool,
    /// Whether pods with global addresses accept new connections from outside the cluster although neither a Service
    /// nor a host port nor a policy asks for it.
    pub open_pods: bool,
    /// Whether NetworkPolicies and ClusterNetworkPolicies are enforced.
    pub network_policy: bool,
    /// Where node ports are served.
    pub node_ports: NodePorts,
    /// What executes the program.
    pub dataplane: Dataplane,
    /// The cgroup (a directory of a cgroup2 mount) whose processes the eBPF data plane serves; it is made if it is
    /// missing. Without one, nftables does everything.
    pub cgroup: Option<PathBuf>,
    /// Whether the kubelet's is looked for where none is given.
    pub find_cgroup: bool,
    /// Where `/healthz` and `/livez` are. Those of the unspecified address are in both families.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` and `/proxyMode` are, likewise; those of loopback are in both families, too.
    pub metrics: Option<SocketAddr>,
    /// For how long changes may wait to be programmed before `/healthz` and `/livez` complain.
    pub health_timeout: Duration,
    /// The kernel's connection tracking; left as it is if not given.
    pub conntrack: ConntrackLimits,
    /// The directory of what is forgotten when the machine restarts, where switches of the kernel are noted before they are
    /// changed; without one, nobody puts them back.
    pub run_dir: Option<PathBuf>,
    /// The addresses of the cluster's DNS Service, if a server of this node answers queries to them (UDP, port 53):
    /// they are claimed, and queries are taken there while [`Wires::intercept`](crate::Wires::intercept) says so.
    pub intercept: Vec<IpAddr>,
}

/// The port of `/healthz`, as kube-proxy's.
pub const HEALTHZ_PORT: u16 = 10256;
/// The port of `/metrics`, as kube-proxy's.
pub const METRICS_PORT: u16 = 10249;

impl Config {
    /// For a node whose network is Dyad's, in a cluster with these ranges of pods and of Services.
    pub fn new(node_name: &str, pod_ranges: DualStack<IpNet>, service_ranges: DualStack<IpNet>) -> Self {
        let service_ranges = service_ranges.iter().map(|(_, range)| *range).collect();
        Self { service_ranges: Some(service_ranges), ..Self::of_node(node_name, pod_ranges) }
    }

    /// For a node whose pods somebody else connects: routes and the masquerade of what leaves the cluster are theirs.
    pub fn beside_cni(node_name: &str, pod_ranges: DualStack<IpNet>) -> Self {
        Self { routing: Routing::None, masquerade_pods: false, ..Self::of_node(node_name, pod_ranges) }
    }

    fn of_node(node_name: &str, pod_ranges: DualStack<IpNet>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            pod_ranges,
            service_ranges: None,
            services: true,
            cni: None,
            ipam: Ipam::Kubernetes,
            ndp_proxy: false,
            address_links: Vec::new(),
            address_ranges: Vec::new(),
            own_pods: OwnPods::OfNode,
            routing: Routing::Direct,
            tunnels: Tunnels::default(),
            wireguard_key: WIREGUARD_KEY.into(),
            mtu: None,
            masquerade_pods: true,
            egress: Egress::default(),
            masquerade_all: false,
            open_pods: false,
            network_policy: true,
            node_ports: NodePorts::All,
            dataplane: Dataplane::Auto,
            cgroup: None,
            find_cgroup: false,
            healthz: Some((Ipv4Addr::UNSPECIFIED, HEALTHZ_PORT).into()),
            metrics: Some((Ipv4Addr::LOCALHOST, METRICS_PORT).into()),
            health_timeout: Duration::from_secs(60),
            conntrack: ConntrackLimits::default(),
            run_dir: None,
            intercept: Vec::new(),
        }
    }
}

/// How packets come to the pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Somebody else sees to it.
    #[default]
    None,
    /// By routes through the other nodes' addresses, which must be on a link of this node.
    Direct,
    /// By routes to nodes whose addresses are on a link of this node, and in VXLAN to all others.
    Auto,
    /// In VXLAN.
    Vxlan,
    /// Encrypted by WireGuard, and to nodes that don't do so not at all.
    Wireguard,
}

/// Where nodes have their pod ranges from; the same on all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipam {
    /// `spec.podCIDRs` of the Node.
    #[default]
    Kubernetes,
    /// The annotation [`POD_CIDRS`](crate::POD_CIDRS), which `dyad controllers` writes.
    Pool,
    /// One family's are the Node's, by the annotation or else its `spec.podCIDRs`; the other's follow from them.
    Derived(Derivation),
}

/// What tunnels between nodes are like; the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnels {
    /// The family of the packets outside; the first of the node's addresses that both ends have, if not given.
    pub underlay: Option<IpFamily>,
    /// The UDP port.
    pub port: u16,
    /// The number of the network (VNI).
    pub id: u32,
    /// The UDP port of WireGuard, which other nodes are told of.
    pub wireguard_port: u16,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self { underlay: None, port: VXLAN_PORT, id: VXLAN_ID, wireguard_port: WIREGUARD_PORT }
    }
}

/// The UDP port of VXLAN, as Linux and flannel have it.
pub const VXLAN_PORT: u16 = 8472;
/// The number of our VXLAN network, which none of the others in use is likely to have.
pub const VXLAN_ID: u32 = 214;
/// The UDP port of WireGuard: not the one that everybody takes for links of their own.
pub const WIREGUARD_PORT: u16 = 51871;
/// Where a node's private key is kept: beside what plugins keep across restarts of the machine.
pub const WIREGUARD_KEY: &str = "/var/lib/cni/dyad/wireguard.key";

/// What counts as a pod of this node: its traffic to Services keeps its source, and may go to endpoints anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnPods {
    /// Addresses in `spec.podCIDRs` of the Node (kube-proxy's `NodeCIDR`).
    #[default]
    OfNode,
    /// Addresses in the cluster's pod ranges (kube-proxy's `ClusterCIDR`): those of other nodes come by rarely.
    OfCluster,
}

/// Where node ports are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// On every address of the node but loopback.
    #[default]
    All,
    /// On the Node's first internal address of each family.
    Primary,
    /// On addresses in one of these ranges; in a family that has none, on every address (as kube-proxy has it).
    Ranges(Vec<IpNet>),
}

/// What executes the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dataplane {
    /// eBPF where this machine can, with nftables behind it; else nftables.
    #[default]
    Auto,
    /// nftables alone.
    Nftables,
    /// eBPF, with nftables behind it. It is an error if it can't be had.
    Ebpf,
}

/// Limits of the kernel's connection tracking, by kube-proxy's names. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackLimits {
    /// How many connections there may be per processor.
    pub max_per_core: Option<u32>,
    /// How many there may be at least, where there is a limit per processor.
    pub min: u32,
    /// For how long an idle TCP connection is kept.
    pub tcp_established: Option<Duration>,
    /// For how long a TCP connection is kept that one side has closed.
    pub tcp_close_wait: Option<Duration>,
    /// Whether packets out of the window pass as part of their connection.
    pub tcp_be_liberal: bool,
    /// For how long UDP is kept that nobody has answered.
    pub udp: Option<Duration>,
    /// For how long UDP is kept that goes both ways.
    pub udp_stream: Option<Duration>,
}
