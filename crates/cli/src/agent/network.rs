//! Flags for nodes whose whole network is Dyad's.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ArgAction;
use dyad_agent::settings::Extras;
use dyad_agent::{Cni, Egress, Ipam, Routing, Tunnels, VXLAN_ID, VXLAN_PORT, WIREGUARD_KEY, WIREGUARD_PORT};
use dyad_net::{Blocks, Derivation, IpFamily, IpNet};

/// Routes and tunnels between nodes.
#[derive(Debug, clap::Args)]
pub(super) struct NetworkArgs {
    /// How packets come to pods of other nodes: auto (routes to nodes on a link of this one, VXLAN to others), direct,
    /// vxlan, wireguard (encrypted), or none where the CNI sees to it [default: auto with --cni, else none]
    #[arg(long, value_name = "MODE", value_parser = routing)]
    routing: Option<Routing>,
    /// The same as --routing direct
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, conflicts_with = "routing")]
    routes: bool,
    /// The family of the packets that carry others between nodes: auto, ipv4 or ipv6
    #[arg(long, value_name = "FAMILY", default_value = "auto", value_parser = underlay)]
    tunnel_underlay: Underlay,
    /// The UDP port of VXLAN, the same on all nodes
    #[arg(long, value_name = "PORT", default_value_t = VXLAN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    vxlan_port: u16,
    /// The network number (VNI) of VXLAN, the same on all nodes
    #[arg(long, value_name = "NUMBER", default_value_t = VXLAN_ID, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    vxlan_id: u32,
    /// The UDP port of WireGuard on this node
    #[arg(long, value_name = "PORT", default_value_t = WIREGUARD_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    wireguard_port: u16,
    /// Where this node's private key of WireGuard is kept, and made if it is missing
    #[arg(long, value_name = "FILE", default_value = WIREGUARD_KEY)]
    pub(super) wireguard_key: PathBuf,
    /// Where nodes have their pod ranges from: kubernetes (spec.podCIDRs), pool (those that `dyad controllers` gives
    /// them; also called dyad), or derived (those of one family from the other's); the same on all nodes
    #[arg(long, value_name = "MODE", default_value = "kubernetes", value_parser = ipam)]
    ipam: Mode,
    /// With --ipam derived: the range of the family that nodes are given ranges of, and how long those are, as in
    /// 10.244.0.0/16:24
    #[arg(long, value_name = "RANGE:LENGTH", required_if_eq("ipam", "derived"))]
    derive_from: Option<Blocks>,
    /// With --ipam derived: the range of the other family, of which a node gets the block with the number of its own, as
    /// in fd00:10:244::/48:64
    #[arg(long, value_name = "RANGE:LENGTH", required_if_eq("ipam", "derived"))]
    derive_to: Option<Blocks>,
    /// Connect pods for the CNI plugin `dyad`: the node's whole network is Dyad's then
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    cni: bool,
    /// Where the container runtime looks for CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Where it looks for CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    /// Where the plugin asks this agent
    #[arg(long, value_name = "FILE", default_value = "/run/dyad/cni.sock")]
    cni_socket: PathBuf,
    /// Where addresses of pods are noted
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/networks")]
    cni_data_dir: PathBuf,
    /// The plugin's executable, which is installed [default: dyad-cni beside this one]
    #[arg(long, value_name = "FILE")]
    cni_plugin: Option<PathBuf>,
    /// Answer for the IPv6 addresses of this node's pods on its own link, where they are of that link's prefix
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    ndp_proxy: bool,
    /// Links that this node's addresses are on, by name or how it begins: eth0,ens* [default: those that lead out]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    node_address_interfaces: Vec<String>,
    /// Ranges that this node's addresses are in
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    node_address_cidrs: Vec<IpNet>,
    /// Ranges outside of the cluster where pods are known by their own addresses, so that they keep them
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    non_masquerade_cidrs: Vec<IpNet>,
    /// Masquerade IPv4 pods that leave the cluster [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_ipv4: Option<bool>,
    /// Masquerade IPv6 pods that leave the cluster [default: true for addresses that are not global]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_ipv6: Option<bool>,
    /// The largest packet of pods in bytes [default: that of the links between nodes, without what tunnels add]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    mtu: Option<u32>,
}

/// A family, or whichever both ends have.
type Underlay = Option<IpFamily>;

fn routing(text: &str) -> Result<Routing, String> {
    match text {
        "auto" => Ok(Routing::Auto),
        "direct" => Ok(Routing::Direct),
        "vxlan" => Ok(Routing::Vxlan),
        "none" => Ok(Routing::None),
        "wireguard" => Ok(Routing::Wireguard),
        _ => Err("must be auto, direct, vxlan, wireguard or none".into()),
    }
}

/// Where ranges are from, without what belongs to it.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Kubernetes,
    Pool,
    Derived,
}

fn ipam(text: &str) -> Result<Mode, String> {
    match text {
        "kubernetes" => Ok(Mode::Kubernetes),
        "pool" | "dyad" => Ok(Mode::Pool),
        "derived" => Ok(Mode::Derived),
        _ => Err("must be kubernetes, pool or derived".into()),
    }
}

fn underlay(text: &str) -> Result<Underlay, String> {
    match text {
        "auto" => Ok(None),
        "ipv4" => Ok(Some(IpFamily::V4)),
        "ipv6" => Ok(Some(IpFamily::V6)),
        _ => Err("must be auto, ipv4 or ipv6".into()),
    }
}

impl NetworkArgs {
    /// How pods are connected, if they are.
    pub(super) fn cni(&self) -> Option<Cni> {
        let beside = || std::env::current_exe().ok().map(|this| this.with_file_name("dyad-cni"));
        self.cni.then(|| Cni {
            socket: self.cni_socket.clone(),
            conf_dir: self.cni_conf_dir.clone(),
            bin_dir: self.cni_bin_dir.clone(),
            data_dir: self.cni_data_dir.clone(),
            plugin: self.cni_plugin.clone().or_else(beside).unwrap_or_else(|| "/dyad-cni".into()),
        })
    }

    fn ipam(&self) -> Result<Ipam> {
        match (self.ipam, self.derive_from, self.derive_to) {
            (Mode::Kubernetes, None, None) => Ok(Ipam::Kubernetes),
            (Mode::Pool, None, None) => Ok(Ipam::Pool),
            (Mode::Derived, Some(from), Some(to)) => {
                Ok(Ipam::Derived(Derivation::new(from, to).context("--derive-from, --derive-to")?))
            }
            _ => bail!("--derive-from and --derive-to go with --ipam derived, and with nothing else"),
        }
    }

    /// What they say.
    pub(super) fn fill(&self, extras: &mut Extras) -> Result<()> {
        extras.routing = match (self.routing, self.routes, self.cni) {
            (Some(routing), ..) => routing,
            (None, true, _) => Routing::Direct,
            (None, false, true) => Routing::Auto,
            (None, false, false) => Routing::None,
        };
        extras.cni = self.cni();
        extras.ipam = self.ipam()?;
        extras.ndp_proxy = self.ndp_proxy;
        extras.address_links.clone_from(&self.node_address_interfaces);
        extras.address_ranges.clone_from(&self.node_address_cidrs);
        extras.tunnels = Tunnels {
            underlay: self.tunnel_underlay,
            port: self.vxlan_port,
            id: self.vxlan_id,
            wireguard_port: self.wireguard_port,
        };
        extras.wireguard_key = Some(self.wireguard_key.clone());
        let said = [(IpFamily::V4, self.masquerade_ipv4), (IpFamily::V6, self.masquerade_ipv6)];
        extras.egress = Egress {
            families: said.into_iter().filter_map(|(family, said)| Some((family, said?))).collect(),
            known: self.non_masquerade_cidrs.clone(),
            ..Egress::default()
        };
        extras.mtu = self.mtu;
        Ok(())
    }
}
