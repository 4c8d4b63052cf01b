//! Which way packets take to another node's pods: pure.

use std::net::{IpAddr, SocketAddr};

use dyad_links::wireguard::PublicKey;
use dyad_links::{OURS, Route, RouteKind};
use dyad_net::IpFamily;

use super::Node;
use super::wireguard::Reachable;
use crate::config::{Config, Routing};

/// How packets come to pods of a family on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through an address of its; the link it is on, or zero if the kernel is to find that.
    Direct(IpAddr, u32),
    /// Inside of packets from this node's address to its.
    Tunnel(IpAddr, IpAddr),
    /// The same, encrypted for whoever has this key.
    Encrypted(IpAddr, SocketAddr, PublicKey),
    /// There is no way that would be safe, and why.
    Refused(&'static str),
}

/// Why nothing goes to a node.
const NO_KEY: &str =
    "says no WireGuard key: its agent does not run with --routing wireguard, or its kernel has no WireGuard";
const NO_ADDRESS: &str = "has no address of a family that this node has, or that --tunnel-underlay asks for";

/// What links of this node lead to without anybody between.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood(Vec<Route>);

impl Neighbourhood {
    /// What all routes say of it; ours lead to pods.
    pub(super) fn of(routes: Vec<Route>) -> Self {
        const MAIN: u32 = 254;
        let counts =
            |route: &Route| route.table == MAIN && route.protocol != OURS && route.kind == RouteKind::Unicast;
        Self(routes.into_iter().filter(counts).collect())
    }

    /// The link that an address is on. A default route without gateway says nothing of who is there.
    fn link_to(&self, ip: IpAddr) -> Option<u32> {
        let leading = self.0.iter().filter(|route| route.destination.contains(&ip));
        let first =
            leading.min_by_key(|route| (std::cmp::Reverse(route.destination.prefix_len()), route.metric))?;
        match first.hops.as_slice() {
            [hop] if hop.via.is_none() && first.destination.prefix_len() > 0 => Some(hop.link),
            _ => None,
        }
    }
}

/// The families of gateways that packets of a family can take: IPv4 through both (RFC 9229), IPv6 through its own.
fn gateways(of: IpFamily) -> impl Iterator<Item = IpFamily> {
    IpFamily::BOTH.into_iter().filter(move |family| *family >= of)
}

/// The way from this node to pods of a family on another one, which comes after this one by name or does not; `None` while
/// there is none.
pub(super) fn way(
    config: &Config,
    of: IpFamily,
    mine: &Node,
    (other, is_later): (&Node, bool),
    neighbourhood: &Neighbourhood,
) -> Option<Way> {
    let vias = || gateways(of).filter_map(|family| other.ip(family));
    let direct = || vias().find_map(|via| Some(Way::Direct(via, neighbourhood.link_to(via)?)));
    match config.routing {
        Routing::None => None,
        // Whether it is on a link is for the kernel to say, which tells what is wrong where it is not.
        Routing::Direct => direct().or_else(|| vias().next().map(|via| Way::Direct(via, 0))),
        Routing::Auto => direct().or_else(|| tunnel(config, mine, other)),
        Routing::Vxlan => tunnel(config, mine, other),
        Routing::Wireguard => Some(encrypted(config, mine, other, is_later)),
    }
}

/// Both ends must come to the same pair of addresses: each follows the other to where its packets are from.
fn encrypted(config: &Config, mine: &Node, other: &Node, is_later: bool) -> Way {
    let Some(Reachable { key, port }) = Reachable::of(other) else { return Way::Refused(NO_KEY) };
    let found = if is_later { ends(config, mine, other) } else { ends(config, other, mine) };
    match found {
        Some((from, to)) if is_later => Way::Encrypted(from, SocketAddr::new(to, port), key),
        Some((to, from)) => Way::Encrypted(from, SocketAddr::new(to, port), key),
        None => Way::Refused(NO_ADDRESS),
    }
}

fn tunnel(config: &Config, mine: &Node, other: &Node) -> Option<Way> {
    ends(config, mine, other).map(|(from, to)| Way::Tunnel(from, to))
}

/// Addresses of both, of the family that is asked for, or the first that both have, in the former's order.
fn ends(config: &Config, one: &Node, other: &Node) -> Option<(IpAddr, IpAddr)> {
    let allowed = |ip: &&IpAddr| config.tunnels.underlay.is_none_or(|family| family == IpFamily::from(**ip));
    // The first of a family is the one that counts.
    let mut of_one = one.ips.iter().filter(allowed).filter_map(|ip| one.ip((*ip).into()));
    of_one.find_map(|ip| Some((ip, other.ip(ip.into())?)))
}

#[cfg(test)]
mod tests {
    use dyad_net::DualStack;

    use super::*;
    use crate::config::Tunnels;

    #[test]
    fn each_pair_of_nodes_has_the_shortest_way_that_there_is() {
        let node = |ips: &str| Node {
            ips: ips.split_whitespace().map(|ip| ip.parse().unwrap()).collect(),
            ..Node::default()
        };
        let on = |destination: &str, link| Route {
            protocol: 2,
            ..Route::on_link(destination.parse().unwrap(), link)
        };
        let via = |destination: &str, gateway: &str, link| Route {
            protocol: 2,
            ..Route::via(destination.parse().unwrap(), gateway.parse().unwrap(), link)
        };
        let neighbourhood = Neighbourhood::of(vec![
            via("0.0.0.0/0", "192.0.2.254", 2),
            on("192.0.2.0/24", 2),
            via("192.0.2.128/25", "192.0.2.254", 2),
            on("2001:db8::/64", 2),
            via("::/0", "fe80::1", 2),
            Route::on_link("198.51.100.7/32".parse().unwrap(), 9),
        ]);
        let both = "192.0.2.1 2001:db8::1";
        let (direct, tunnel) = (
            |via: &str| Some(Way::Direct(via.parse().unwrap(), 2)),
            |from: &str, to: &str| Some(Way::Tunnel(from.parse().unwrap(), to.parse().unwrap())),
        );
        let (v4, v6) = (IpFamily::V4, IpFamily::V6);
        use Routing::{Auto, Direct, None as Nothing, Vxlan};
        for (what, routing, underlay, of, mine, other, expected) in [
            ("on the link", Auto, None, v4, both, "192.0.2.2 2001:db8::2", direct("192.0.2.2")),
            ("on the link, v6", Auto, None, v6, both, "192.0.2.2 2001:db8::2", direct("2001:db8::2")),
            ("v4 through v6", Auto, None, v4, "2001:db8::1", "2001:db8::2", direct("2001:db8::2")),
            (
                "v6 can't go through v4",
                Auto,
                None,
                v6,
                "192.0.2.1",
                "192.0.2.2",
                tunnel("192.0.2.1", "192.0.2.2"),
            ),
            ("behind a router", Auto, None, v4, both, "192.0.2.129", tunnel("192.0.2.1", "192.0.2.129")),
            (
                "far away",
                Auto,
                None,
                v6,
                both,
                "203.0.113.2 2001:db8:1::2",
                tunnel("192.0.2.1", "203.0.113.2"),
            ),
            (
                "the node's order",
                Auto,
                None,
                v6,
                "2001:db8::1 192.0.2.1",
                "203.0.113.2 2001:db8:1::2",
                tunnel("2001:db8::1", "2001:db8:1::2"),
            ),
            ("what both have", Auto, None, v4, both, "2001:db8:1::2", tunnel("2001:db8::1", "2001:db8:1::2")),
            (
                "the family asked for",
                Vxlan,
                Some(v6),
                v4,
                both,
                "192.0.2.2 2001:db8::2",
                tunnel("2001:db8::1", "2001:db8::2"),
            ),
            ("not the family asked for", Vxlan, Some(v6), v4, both, "192.0.2.2", None),
            ("ours do not count", Auto, None, v4, both, "198.51.100.7", tunnel("192.0.2.1", "198.51.100.7")),
            (
                "a way is asked for",
                Direct,
                None,
                v4,
                both,
                "203.0.113.2",
                Some(Way::Direct("203.0.113.2".parse().unwrap(), 0)),
            ),
            ("none is asked for", Nothing, None, v4, both, "192.0.2.2", None),
            ("no address in common", Auto, None, v4, "192.0.2.1", "2001:db8:1::2", None),
        ] {
            let pods = DualStack::dual(v4, v4.everything(), v6.everything());
            let tunnels = Tunnels { underlay, ..Tunnels::default() };
            let config = Config { routing, tunnels, ..Config::beside_cni("me", pods) };
            assert_eq!(
                way(&config, of, &node(mine), (&node(other), true), &neighbourhood),
                expected,
                "{what}"
            );
        }
    }
}
