//! Flags for nodes whose whole network is Dyad's.

use clap::ArgAction;
use dyad_agent::settings::Extras;
use dyad_agent::{Routing, Tunnels, VXLAN_ID, VXLAN_PORT};
use dyad_net::IpFamily;

/// Routes and tunnels between nodes.
#[derive(Debug, clap::Args)]
pub(super) struct NetworkArgs {
    /// How packets come to pods of other nodes: auto (routes to nodes on a link of this one, VXLAN to others), direct,
    /// vxlan, or none where the CNI sees to it [default: none]
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
        "wireguard" => {
            Err("WireGuard is not built in: nothing here makes its links or exchanges its keys; use \
                            auto or vxlan, which do not encrypt, or encrypt below the nodes' own network"
                .into())
        }
        _ => Err("must be auto, direct, vxlan or none".into()),
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
    /// What they say.
    pub(super) fn fill(&self, extras: &mut Extras) {
        extras.routing = self.routing.unwrap_or(if self.routes { Routing::Direct } else { Routing::None });
        extras.tunnels = Tunnels { underlay: self.tunnel_underlay, port: self.vxlan_port, id: self.vxlan_id };
        extras.mtu = self.mtu;
    }
}
