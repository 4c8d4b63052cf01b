//! A cluster as it was asked for, with every choice made: what `up` writes and every process reads.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use dyad_controllers::Selection;
use dyad_net::{DualStack, IpFamily, IpNet};
use serde::{Deserialize, Serialize};

use crate::audit::AuditSpec;
use crate::paths::{ClusterDir, write_atomically};

/// Port of the API server on the cluster's own network.
pub const API_PORT: u16 = 6443;

/// What carries Services on the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dataplane {
    /// eBPF where the kernel and the user's rights allow it, nftables elsewhere.
    #[default]
    Auto,
    /// nftables alone.
    Nftables,
    /// eBPF, with nftables for what it does not do; a node without eBPF is an error.
    Ebpf,
}

impl Dataplane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Nftables, Self::Ebpf];

    /// The name, as `--dataplane` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nftables => "nftables",
            Self::Ebpf => "ebpf",
        }
    }
}

impl std::str::FromStr for Dataplane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|plane| plane.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not a data plane: use auto, nftables or ebpf"))
    }
}

/// What nodes bring along besides their kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// The network of pods, Services and policies.
    #[default]
    Whole,
    /// Services and policies; CNI plugins, which somebody else brings, connect the pods.
    Proxy,
    /// Nothing: all of it is somebody else's.
    Bare,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The node's name, unique in the cluster.
    pub name: String,
    /// Labels besides the well-known ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it carries the control-plane taint, so that pods without a toleration stay away.
    #[serde(default)]
    pub control_plane_taint: bool,
}

/// Everything about a cluster that outlives its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// The cluster's name.
    pub name: String,
    /// Pod ranges, primary family first.
    pub pod_ranges: Vec<IpNet>,
    /// Service ranges, primary family first.
    pub service_ranges: Vec<IpNet>,
    /// Prefixes that the nodes share, primary family first.
    pub node_ranges: Vec<IpNet>,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// Addresses of the host that the API server listens on.
    pub api_addresses: Vec<IpAddr>,
    /// Its port there.
    pub api_port: u16,
    /// Whether the user asked for this port; another one may be taken if not.
    #[serde(default)]
    pub api_port_is_fixed: bool,
    /// Search domains put into pods' resolv.conf after the cluster's own.
    #[serde(default)]
    pub dns_search: Vec<String>,
    /// What carries Services on the nodes.
    #[serde(default)]
    pub dataplane: Dataplane,
    /// What nodes bring along.
    #[serde(default)]
    pub shape: Shape,
    /// What was installed on the nodes when the cluster was made: values, as a file of `dyad install`.
    #[serde(default)]
    pub install: Option<String>,
    /// The audit log of the API server.
    #[serde(default)]
    pub audit: Option<AuditSpec>,
    /// Which controllers run beside it, as `--controllers` has it.
    #[serde(default = "all_controllers")]
    pub controllers: String,
    /// Whether this machine has a link to the cluster's network, with routes to its pods and Services; needs root.
    pub host_is_joined: bool,
}

fn all_controllers() -> String {
    Selection::default().to_string()
}

impl ClusterSpec {
    /// Reads the description of a cluster.
    pub fn load(dir: &ClusterDir) -> Result<Self> {
        let path = dir.spec();
        let text = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes it.
    pub fn save(&self, dir: &ClusterDir) -> Result<()> {
        write_atomically(&dir.spec(), &serde_json::to_vec_pretty(self)?)
    }

    /// Whether nodes are to have something that has not been installed on them. What somebody has taken away since stays
    /// away.
    pub fn lacks_install(&self, dir: &ClusterDir) -> bool {
        self.install.is_some() && !dir.is_installed().exists()
    }

    /// Service ranges by family.
    pub fn services(&self) -> Result<DualStack<IpNet>> {
        by_family(&self.service_ranges).context("service ranges")
    }

    /// Pod ranges by family.
    pub fn pods(&self) -> Result<DualStack<IpNet>> {
        by_family(&self.pod_ranges).context("pod ranges")
    }

    /// The kubeconfig context.
    pub fn context(&self) -> String {
        format!("dyad-{}", self.name)
    }

    /// The URL of the API server on the host.
    pub fn server(&self) -> String {
        let ip = match self.api_addresses.first().copied().unwrap_or(Ipv4Addr::LOCALHOST.into()) {
            // It listens on every address; this one is always there.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("https://{}", SocketAddr::new(ip, self.api_port))
    }

    /// The addresses of one place on the cluster's own network, primary family first, with the prefix lengths.
    pub fn addresses(&self, place: Place) -> Vec<IpNet> {
        let offset = place.offset();
        self.node_ranges.iter().filter_map(|range| nth(*range, offset)).collect()
    }

    /// The same by family, without prefix lengths.
    pub fn addresses_by_family(&self, place: Place) -> Result<DualStack<IpAddr>> {
        DualStack::from_ordered(self.addresses(place).into_iter().map(|net| (net.into(), net.addr())))
            .context("the node network has no usable ranges")
    }

    /// The ranges of this cluster that must not overlap with anybody else's.
    pub fn ranges(&self) -> impl Iterator<Item = (&'static str, IpNet)> + '_ {
        let named = |what: &'static str, ranges: &'_ [IpNet]| {
            ranges.iter().map(move |range| (what, *range)).collect::<Vec<_>>()
        };
        [
            named("pod range", &self.pod_ranges),
            named("service range", &self.service_ranges),
            named("node range", &self.node_ranges),
        ]
        .into_iter()
        .flatten()
    }

    /// The first overlap with another cluster, told by naming both.
    pub fn overlap(&self, other: &Self) -> Option<String> {
        for (mine, a) in self.ranges() {
            for (theirs, b) in other.ranges() {
                if a.contains(&b) || b.contains(&a) {
                    return Some(format!(
                        "the {mine} {a} of cluster {:?} overlaps the {theirs} {b} of cluster {:?}: choose other ranges \
                         (networking.podSubnet and networking.serviceSubnet in --config), or `dyad down --name {}` first",
                        self.name, other.name, other.name
                    ));
                }
            }
        }
        None
    }
}

/// Who sits on the cluster's own network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The machine the cluster runs on.
    Host,
    /// The API server.
    Api,
    /// The node with this index.
    Node(usize),
    /// The router to the rest of the world.
    Outside,
}

/// More nodes than this do not fit the /24 that the nodes share.
pub const MAX_NODES: usize = 200;

impl Place {
    fn offset(self) -> u32 {
        match self {
            Self::Host => 1,
            Self::Api => 2,
            Self::Node(index) => 11 + u32::try_from(index.min(MAX_NODES)).unwrap_or(0),
            Self::Outside => 254,
        }
    }
}

/// The address `offset` into `range`, with the range's prefix length.
pub(crate) fn nth(range: IpNet, offset: u32) -> Option<IpNet> {
    let ip: IpAddr = match range.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).checked_add(offset)?).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).checked_add(offset.into())?).into(),
    };
    IpNet::new(ip, range.prefix_len()).ok().filter(|_| range.contains(&ip))
}

fn by_family(ranges: &[IpNet]) -> Result<DualStack<IpNet>> {
    let Some(ranges) = DualStack::from_ordered(ranges.iter().map(|range| (IpFamily::from(*range), *range)))
    else {
        bail!("expected one range, or one of each family, not {ranges:?}");
    };
    Ok(ranges)
}

/// How many node ranges there are to choose from.
const NODE_RANGES: u16 = 254;

/// Node ranges for a new cluster: the first numbered pair that nobody uses, looked for from a place that depends on
/// the cluster's name, so that clusters made at the same moment hardly meet.
pub fn choose_node_ranges(name: &str, families: &[IpFamily], taken: &[IpNet]) -> Result<Vec<IpNet>> {
    let start = name.bytes().fold(0u16, |sum, byte| (sum * 31 + u16::from(byte)) % NODE_RANGES);
    for number in (0..NODE_RANGES).map(|step| 1 + (start + step) % NODE_RANGES) {
        let ranges: Vec<IpNet> = families.iter().map(|family| node_range(*family, number)).collect();
        if !ranges
            .iter()
            .any(|range| taken.iter().any(|other| range.contains(other) || other.contains(range)))
        {
            return Ok(ranges);
        }
    }
    bail!("no free node network is left in 172.30.0.0/16 and fd00:172:30::/48")
}

fn node_range(family: IpFamily, number: u16) -> IpNet {
    let (ip, len): (IpAddr, u8) = match family {
        IpFamily::V4 => (Ipv4Addr::new(172, 30, u8::try_from(number).unwrap_or(u8::MAX), 0).into(), 24),
        IpFamily::V6 => (Ipv6Addr::new(0xfd00, 0x172, 0x30, number, 0, 0, 0, 0).into(), 64),
    };
    IpNet::new_assert(ip, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, pods: &str) -> ClusterSpec {
        ClusterSpec {
            name: name.into(),
            pod_ranges: vec![pods.parse().unwrap()],
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            node_ranges: choose_node_ranges(name, &[IpFamily::V4, IpFamily::V6], &[]).unwrap(),
            nodes: Vec::new(),
            api_addresses: Vec::new(),
            api_port: 1,
            api_port_is_fixed: false,
            dns_search: Vec::new(),
            audit: None,
            controllers: all_controllers(),
            dataplane: Dataplane::Auto,
            shape: Shape::Whole,
            install: None,
            host_is_joined: true,
        }
    }

    #[test]
    fn clusters_from_before_have_no_word_about_the_data_plane() {
        let mut written = serde_json::to_value(spec("a", "10.244.0.0/16")).unwrap();
        assert_eq!(written["dataplane"], "auto");
        written.as_object_mut().unwrap().remove("dataplane");
        assert_eq!(serde_json::from_value::<ClusterSpec>(written).unwrap(), spec("a", "10.244.0.0/16"));
        for plane in Dataplane::ALL {
            assert_eq!(plane.as_str().parse(), Ok(plane));
        }
        assert!("iptables".parse::<Dataplane>().unwrap_err().contains("use auto, nftables or ebpf"));
    }

    #[test]
    fn the_url_is_one_that_can_be_typed_in_either_family() {
        for (ip, want) in [
            ("127.0.0.1", "https://127.0.0.1:6"),
            ("::1", "https://[::1]:6"),
            ("0.0.0.0", "https://127.0.0.1:6"),
            ("::", "https://[::1]:6"),
            ("2001:db8::5", "https://[2001:db8::5]:6"),
        ] {
            let mut spec = spec("a", "10.244.0.0/16");
            (spec.api_addresses, spec.api_port) = (vec![ip.parse().unwrap()], 6);
            assert_eq!(spec.server(), want);
        }
    }

    #[test]
    fn overlap_names_both_clusters_and_both_ranges() {
        let text = spec("a", "10.244.0.0/16").overlap(&spec("b", "10.244.128.0/17")).unwrap();
        for part in ["\"a\"", "\"b\"", "10.244.0.0/16", "10.244.128.0/17"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }

    #[test]
    fn node_networks_avoid_what_is_taken() {
        let both = [IpFamily::V6, IpFamily::V4];
        let first = choose_node_ranges("", &both, &[]).unwrap();
        assert_eq!(first, ["fd00:172:30:1::/64".parse().unwrap(), "172.30.1.0/24".parse::<IpNet>().unwrap()]);
        let second = choose_node_ranges("", &both, &first[1..]).unwrap();
        assert_eq!(second[0], "fd00:172:30:2::/64".parse().unwrap(), "both families move on together");
        assert_ne!(
            choose_node_ranges("a", &both, &[]).unwrap(),
            choose_node_ranges("b", &both, &[]).unwrap()
        );
    }

    #[test]
    fn places_have_distinct_addresses_inside_the_range() {
        let spec = spec("a", "10.244.0.0/16");
        let places = [Place::Host, Place::Api, Place::Outside, Place::Node(0), Place::Node(MAX_NODES)];
        let mut all: Vec<IpNet> = places.iter().flat_map(|place| spec.addresses(*place)).collect();
        assert_eq!(all.len(), 2 * places.len());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2 * places.len());
    }
}
