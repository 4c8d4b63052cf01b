//! Settings of an agent in place of kube-proxy: its names, its defaults, its file.
//!
//! Flags and file say the same things; what neither says has kube-proxy's default. A flag wins over the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dyad_net::{Blocks, DualStack, IpFamily, IpNet, parse_cidr_sloppy};
use dyad_program::Egress;

use crate::cni::Cni;
use crate::config::{
    Config, ConntrackLimits, Dataplane, HEALTHZ_PORT, Ipam, METRICS_PORT, NodePorts, OwnPods, Routing,
    Tunnels, WIREGUARD_KEY,
};
use crate::ipam;

mod file;

pub use file::{FileError, read_file};

/// What can be set. `None` is what was not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `clientConnection.kubeconfig`, `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `hostnameOverride`, `--hostname-override`.
    pub hostname_override: Option<String>,
    /// `mode`, `--proxy-mode`.
    pub proxy_mode: Option<String>,
    /// `healthzBindAddress`, `--healthz-bind-address`; empty for none.
    pub healthz_bind_address: Option<String>,
    /// `metricsBindAddress`, `--metrics-bind-address`; empty for none.
    pub metrics_bind_address: Option<String>,
    /// `clusterCIDR`, `--cluster-cidr`: one range per family, with a comma between them.
    pub cluster_cidr: Option<String>,
    /// `nodePortAddresses`, `--nodeport-addresses`: ranges, or `primary` alone.
    pub nodeport_addresses: Option<Vec<String>>,
    /// `detectLocalMode`, `--detect-local-mode`.
    pub detect_local_mode: Option<String>,
    /// `masqueradeAll`, `--masquerade-all`.
    pub masquerade_all: Option<bool>,
    /// `oomScoreAdj`, `--oom-score-adj`.
    pub oom_score_adj: Option<i32>,
    /// `syncPeriod`, `--sync-period`: only what `/healthz` and `/livez` make of it, twice as long.
    pub sync_period: Option<Duration>,
    /// `conntrack.maxPerCore`, `--conntrack-max-per-core`; 0 leaves the limit as it is.
    pub conntrack_max_per_core: Option<u32>,
    /// `conntrack.min`, `--conntrack-min`.
    pub conntrack_min: Option<u32>,
    /// `conntrack.tcpEstablishedTimeout`; 0 leaves it as it is, as with all of these.
    pub conntrack_tcp_established: Option<Duration>,
    /// `conntrack.tcpCloseWaitTimeout`.
    pub conntrack_tcp_close_wait: Option<Duration>,
    /// `conntrack.tcpBeLiberal`.
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// `conntrack.udpTimeout`.
    pub conntrack_udp: Option<Duration>,
    /// `conntrack.udpStreamTimeout`.
    pub conntrack_udp_stream: Option<Duration>,
}

/// What is our own, beyond kube-proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// What executes the program.
    pub dataplane: Dataplane,
    /// The cgroup whose processes the eBPF data plane serves; that of the kubelet's pods if not given.
    pub cgroup: Option<PathBuf>,
    /// Whether policies are somebody else's to enforce.
    pub no_network_policy: bool,
    /// Whether pods with global addresses are open to the outside.
    pub open_pods: bool,
    /// Whether pods that leave the cluster are masqueraded.
    pub masquerade_pods: bool,
    /// Where and how pods are masqueraded otherwise than by the scope of their addresses.
    pub egress: Egress,
    /// How packets come to the pods of other nodes.
    pub routing: Routing,
    /// Tunnels, where there are some.
    pub tunnels: Tunnels,
    /// The file of this node's private key, if it is not the usual one.
    pub wireguard_key: Option<PathBuf>,
    /// Whether Services are somebody else's to serve.
    pub no_services: bool,
    /// How pods are connected for CNI plugins, if they are.
    pub cni: Option<Cni>,
    /// Where nodes have their pod ranges from.
    pub ipam: Ipam,
    /// Whether the node answers for its pods' IPv6 addresses on its own link.
    pub ndp_proxy: bool,
    /// Where switches of the kernel are noted.
    pub run_dir: Option<PathBuf>,
    /// Links that the node's addresses are on.
    pub address_links: Vec<String>,
    /// Ranges that they are in.
    pub address_ranges: Vec<IpNet>,
    /// The largest packet of pods, if it is not that of the links between nodes.
    pub mtu: Option<u32>,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {value:?} {problem}")]
pub struct SettingError {
    setting: &'static str,
    value: String,
    problem: &'static str,
}

fn wrong(setting: &'static str, value: &str, problem: &'static str) -> SettingError {
    SettingError { setting, value: value.to_owned(), problem }
}

const HOUR: Duration = Duration::from_secs(3600);
/// `oom_score_adj` of kube-proxy.
const OOM_SCORE_ADJ: i32 = -999;

impl Settings {
    /// These settings, and those of `other` where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            hostname_override: self.hostname_override.or(other.hostname_override),
            proxy_mode: self.proxy_mode.or(other.proxy_mode),
            healthz_bind_address: self.healthz_bind_address.or(other.healthz_bind_address),
            metrics_bind_address: self.metrics_bind_address.or(other.metrics_bind_address),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            nodeport_addresses: self.nodeport_addresses.or(other.nodeport_addresses),
            detect_local_mode: self.detect_local_mode.or(other.detect_local_mode),
            masquerade_all: self.masquerade_all.or(other.masquerade_all),
            oom_score_adj: self.oom_score_adj.or(other.oom_score_adj),
            sync_period: self.sync_period.or(other.sync_period),
            conntrack_max_per_core: self.conntrack_max_per_core.or(other.conntrack_max_per_core),
            conntrack_min: self.conntrack_min.or(other.conntrack_min),
            conntrack_tcp_established: self.conntrack_tcp_established.or(other.conntrack_tcp_established),
            conntrack_tcp_close_wait: self.conntrack_tcp_close_wait.or(other.conntrack_tcp_close_wait),
            conntrack_tcp_be_liberal: self.conntrack_tcp_be_liberal.or(other.conntrack_tcp_be_liberal),
            conntrack_udp: self.conntrack_udp.or(other.conntrack_udp),
            conntrack_udp_stream: self.conntrack_udp_stream.or(other.conntrack_udp_stream),
        }
    }

    /// The process's `oom_score_adj`.
    pub fn oom_score_adj(&self) -> i32 {
        self.oom_score_adj.unwrap_or(OOM_SCORE_ADJ)
    }

    /// What an agent on this node is told, for the families this machine speaks; and what the user should know.
    pub fn config(
        &self,
        node_name: &str,
        families: &[IpFamily],
        extras: &Extras,
    ) -> Result<(Config, Vec<String>), SettingError> {
        let mut warnings = Vec::new();
        let mut known = self.cluster_ranges()?;
        if let Ipam::Derived(derivation) = extras.ipam {
            add_ranges("--derive-from", derivation.from(), &mut known, families)?;
            add_ranges("--derive-to", derivation.to(), &mut known, families)?;
        }
        let ranges = families.iter().map(|family| {
            let of_family = known.iter().find(|range| IpFamily::from(**range) == *family);
            (*family, of_family.copied().unwrap_or_else(|| family.everything()))
        });
        let pod_ranges = DualStack::from_ordered(ranges)
            .ok_or_else(|| wrong("the machine", "", "speaks neither IPv4 nor IPv6"))?;
        // Where the network is ours, pods have what nodes are given.
        let is_ours = ipam::is_ours(extras.cni.as_ref(), extras.routing);
        let own_pods = self.own_pods(is_ours)?;
        for (family, range) in pod_ranges.iter() {
            if is_ours || *range != family.everything() {
                continue;
            }
            if own_pods == OwnPods::OfCluster {
                warnings.push(format!(
                    "--cluster-cidr has no {family} range: this node's pods are told by its spec.podCIDRs",
                ));
            }
            if extras.masquerade_pods {
                warnings
                    .push(format!("--cluster-cidr has no {family} range: no {family} pod is masqueraded"));
            }
        }
        self.check_mode(&mut warnings)?;
        let conntrack = ConntrackLimits {
            max_per_core: Some(self.conntrack_max_per_core.unwrap_or(32 * 1024)),
            min: self.conntrack_min.unwrap_or(128 * 1024),
            tcp_established: Some(self.conntrack_tcp_established.unwrap_or(24 * HOUR)),
            tcp_close_wait: Some(self.conntrack_tcp_close_wait.unwrap_or(HOUR)),
            tcp_be_liberal: self.conntrack_tcp_be_liberal.unwrap_or_default(),
            udp: self.conntrack_udp,
            udp_stream: self.conntrack_udp_stream,
        };
        let config = Config {
            own_pods,
            routing: extras.routing,
            tunnels: extras.tunnels,
            wireguard_key: extras.wireguard_key.clone().unwrap_or_else(|| WIREGUARD_KEY.into()),
            mtu: extras.mtu,
            services: !extras.no_services,
            // Without Services, there are no ranges of theirs to refuse addresses of.
            service_ranges: extras.no_services.then(Vec::new),
            cni: extras.cni.clone(),
            ipam: extras.ipam,
            ndp_proxy: extras.ndp_proxy,
            run_dir: extras.run_dir.clone(),
            address_links: extras.address_links.clone(),
            address_ranges: extras.address_ranges.clone(),
            masquerade_pods: extras.masquerade_pods,
            egress: extras.egress.clone(),
            masquerade_all: self.masquerade_all.unwrap_or_default(),
            open_pods: extras.open_pods,
            network_policy: !extras.no_network_policy,
            node_ports: self.node_ports(&mut warnings)?,
            // What goes from pod to pod in eBPF is not seen by whoever serves Services.
            dataplane: if extras.no_services { Dataplane::Nftables } else { extras.dataplane },
            cgroup: extras.cgroup.clone(),
            find_cgroup: true,
            healthz: bind_address(
                "--healthz-bind-address",
                self.healthz_bind_address.as_deref(),
                (Ipv4Addr::UNSPECIFIED, HEALTHZ_PORT).into(),
            )?,
            metrics: bind_address(
                "--metrics-bind-address",
                self.metrics_bind_address.as_deref(),
                (Ipv4Addr::LOCALHOST, METRICS_PORT).into(),
            )?,
            health_timeout: 2 * self.sync_period.unwrap_or(Duration::from_secs(30)),
            conntrack,
            ..Config::beside_cni(node_name, pod_ranges)
        };
        Ok((config, warnings))
    }

    fn cluster_ranges(&self) -> Result<Vec<IpNet>, SettingError> {
        let text = self.cluster_cidr.as_deref().unwrap_or_default();
        let setting = "--cluster-cidr";
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parse = |part: &str| match parse_cidr_sloppy(part) {
            Some((_, range)) => Ok(range),
            None => Err(wrong(setting, part, "is no range: use e.g. 10.244.0.0/16,fd00:10:244::/56")),
        };
        let ranges: Vec<IpNet> = parts.map(parse).collect::<Result<_, _>>()?;
        let first: Vec<IpFamily> = ranges.iter().map(|range| IpFamily::from(*range)).collect();
        match first.as_slice() {
            [] | [_] => Ok(ranges),
            [one, other] if one != other => Ok(ranges),
            _ => Err(wrong(setting, text, "must be one range of each family at most")),
        }
    }

    /// Another node's pod that comes to a node port here must be answered through here, though its own node may have
    /// the endpoint: where nodes' ranges are known to be pods', they count rather than the cluster's.
    fn own_pods(&self, is_ours: bool) -> Result<OwnPods, SettingError> {
        match self.detect_local_mode.as_deref() {
            None | Some("") if is_ours => Ok(OwnPods::OfNode),
            None | Some("" | "ClusterCIDR") => Ok(OwnPods::OfCluster),
            Some("NodeCIDR") => Ok(OwnPods::OfNode),
            Some(mode @ ("BridgeInterface" | "InterfaceNamePrefix")) => Err(wrong(
                "--detect-local-mode",
                mode,
                "is not supported, for pods are told by their addresses: use NodeCIDR, or ClusterCIDR with \
                 --cluster-cidr",
            )),
            Some(mode) => Err(wrong("--detect-local-mode", mode, "must be ClusterCIDR or NodeCIDR")),
        }
    }

    fn check_mode(&self, warnings: &mut Vec<String>) -> Result<(), SettingError> {
        match self.proxy_mode.as_deref() {
            None | Some("" | "auto") => Ok(()),
            Some(mode @ ("iptables" | "ipvs" | "nftables" | "ebpf")) => {
                warnings.push(format!(
                    "--proxy-mode {mode} is read, but Dyad has a data plane of its own: --dataplane chooses it"
                ));
                Ok(())
            }
            Some(mode) => Err(wrong("--proxy-mode", mode, "must be iptables, ipvs, nftables, ebpf or auto")),
        }
    }

    fn node_ports(&self, warnings: &mut Vec<String>) -> Result<NodePorts, SettingError> {
        let setting = "--nodeport-addresses";
        let given = self.nodeport_addresses.as_deref().unwrap_or_default();
        let given: Vec<&str> = given.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        match given.as_slice() {
            // kube-proxy's nftables mode serves the primary addresses unless told otherwise, its other modes all.
            [] if self.proxy_mode.as_deref() == Some("nftables") => Ok(NodePorts::Primary),
            [] => Ok(NodePorts::All),
            ["primary"] => Ok(NodePorts::Primary),
            all if all.contains(&"primary") => {
                Err(wrong(setting, &all.join(","), "can't be both \"primary\" and ranges"))
            }
            all => {
                let parse = |text: &&str| match parse_cidr_sloppy(text) {
                    Some((_, range)) => Ok(range),
                    None => Err(wrong(setting, text, "is no range: use e.g. 192.0.2.0/24, or primary")),
                };
                let ranges: Vec<IpNet> = all.iter().map(parse).collect::<Result<_, _>>()?;
                for family in IpFamily::BOTH {
                    if !ranges.iter().any(|range| IpFamily::from(*range) == family) {
                        warnings.push(format!(
                            "{setting} has no {family} range: node ports are open on all {family} addresses, as \
                             kube-proxy has it"
                        ));
                    }
                }
                Ok(NodePorts::Ranges(ranges))
            }
        }
    }
}

/// Adds the range of blocks to those of the cluster, which has to hold it where it has one of the family.
fn add_ranges(
    setting: &'static str,
    blocks: Blocks,
    known: &mut Vec<IpNet>,
    families: &[IpFamily],
) -> Result<(), SettingError> {
    if !families.contains(&blocks.family()) {
        return Err(wrong(setting, &blocks.to_string(), "is of a family that this machine does not speak"));
    }
    match known.iter().find(|range| IpFamily::from(**range) == blocks.family()) {
        Some(range) if range.contains(&blocks.range()) => {}
        Some(_) => {
            let problem = "is not in the range that --cluster-cidr has of its family, and has to be";
            return Err(wrong(setting, &blocks.to_string(), problem));
        }
        None => known.push(blocks.range()),
    }
    Ok(())
}

/// Where to listen: an address with or without port, or nowhere.
fn bind_address(
    setting: &'static str,
    text: Option<&str>,
    default: SocketAddr,
) -> Result<Option<SocketAddr>, SettingError> {
    match text.map(str::trim) {
        None => Ok(Some(default)),
        Some("") => Ok(None),
        Some(text) => {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            let alone = || bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, default.port()));
            let port = || {
                let port = text.strip_prefix(':')?.parse().ok()?;
                Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
            };
            let at = text.parse().ok().or_else(|| alone().ok()).or_else(port);
            let at = at
                .ok_or_else(|| wrong(setting, text, "is no address: use e.g. 0.0.0.0:10256 or [::]:10256"))?;
            // As kube-proxy has it, port 0 is none.
            Ok(Some(at).filter(|at| at.port() != 0))
        }
    }
}

/// A duration as Go writes it: `90s`, `1m30s`, `500ms`, `24h0m0s`, `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is no duration: use e.g. 30s, 5m or 24h0m0s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(problem)?;
        let number: f64 = rest[..digits].parse().map_err(|_| problem())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(problem()),
            };
        rest = &rest[unit..];
    }
    if text.is_empty() {
        return Err(problem());
    }
    Duration::try_from_secs_f64(total).map_err(|_| problem())
}

#[cfg(test)]
mod tests;
