//! Routes: to the pod ranges of the other nodes, through their addresses or through tunnels to them; and to the cluster
//! IPs, so that processes of the node itself have a way and a source address for them, whatever else it has a route for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_links::vxlan::{self, Remote};
use dyad_links::{Handle, Link, OURS, Route};
use dyad_net::{IpFamily, IpNet};
use dyad_program::Name;
use dyad_program::policy::Labels;
use tracing::info;

use crate::Config;
use crate::announce::Announcement;
use crate::config::Routing;

pub(crate) mod ndp;
pub(crate) mod pods;
pub(crate) mod tunnels;
mod ways;
pub(crate) mod wireguard;

use tunnels::{Made, Wanted};
use ways::{Neighbourhood, Way};
use wireguard::Encryption;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its internal addresses, the first of a family being the one that counts.
    pub(crate) ips: Vec<IpAddr>,
    /// Those that somebody wants it to have for its own.
    pub(crate) said: Vec<IpAddr>,
    /// Its pod ranges.
    pub(crate) pod_ranges: Vec<IpNet>,
    /// Those that it was given by us, which count where [`Ipam::Pool`](crate::Ipam::Pool) says so.
    pub(crate) granted: Vec<IpNet>,
    /// Its zone.
    pub(crate) zone: Option<String>,
    /// Its labels.
    pub(crate) labels: Labels,
    /// Whether it is about to be taken out of the cluster.
    pub(crate) leaving: bool,
    /// What its annotations say of what runs there.
    pub(crate) announced: Announcement,
}

impl Node {
    /// Its first address of each family.
    pub(crate) fn primary_ips(&self) -> Vec<IpNet> {
        IpFamily::BOTH.into_iter().filter_map(|family| self.ip(family).map(IpNet::from)).collect()
    }

    fn ip(&self, family: IpFamily) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| IpFamily::from(*ip) == family)
    }

    /// What the node is called by pods behind tunnels: the first address of its own range, which no pod has. Answers to
    /// it take the tunnel, too, where answers to others of its addresses would not.
    fn inside(&self, family: IpFamily) -> Option<IpAddr> {
        self.pod_ranges.iter().find(|range| IpFamily::from(**range) == family).map(IpNet::network)
    }
}

/// Where pods of other nodes are, and what carries packets there.
#[derive(Debug, Default)]
struct Plan {
    direct: Vec<Route>,
    /// Ranges behind tunnels, by the family of the packets outside.
    tunnelled: Vec<(IpNet, IpFamily)>,
    tunnels: BTreeMap<IpFamily, Wanted>,
    wireguard: wireguard::Wanted,
    /// The addresses of nodes behind tunnels.
    strangers: BTreeSet<IpAddr>,
}

/// The ways there should be. A range that there is no way to is left out.
fn plan(config: &Config, me: &Name, nodes: &BTreeMap<Name, Node>, neighbourhood: &Neighbourhood) -> Plan {
    let mut plan = Plan::default();
    let nobody = Node::default();
    let mine = nodes.get(me).unwrap_or(&nobody);
    for (name, other) in nodes.iter().filter(|(name, _)| *name != me) {
        for range in &other.pod_ranges {
            if config.routing == Routing::Wireguard {
                plan.wireguard.guarded.insert(*range);
                plan.wireguard.addresses.extend(mine.inside((*range).into()).map(IpNet::from));
            }
            match ways::way(config, (*range).into(), mine, (other, me < name), neighbourhood) {
                None => {}
                Some(Way::Refused(why)) => {
                    let text = format!("nothing is sent to pods of node {}: it {why}", name.name());
                    plan.wireguard.warnings.insert(text);
                }
                Some(Way::Encrypted(from, to, key)) => {
                    plan.strangers.extend(&other.ips);
                    plan.wireguard.locals.insert(from);
                    plan.wireguard.add(name, to, key, *range);
                }
                Some(Way::Direct(via, link)) => plan.direct.push(Route::via(*range, via, link)),
                Some(Way::Tunnel(from, to)) => {
                    let (underlay, mac) = (IpFamily::from(from), vxlan::mac(name.name()));
                    let wanted = plan.tunnels.entry(underlay).or_default();
                    wanted.local = Some(from);
                    plan.strangers.extend(&other.ips);
                    wanted.remotes.insert(Remote { mac, ip: to });
                    wanted.gateways.insert(range.network(), mac);
                    wanted.addresses.extend(mine.inside((*range).into()).map(IpNet::from));
                    plan.tunnelled.push((*range, underlay));
                }
            }
        }
    }
    plan
}

/// The routes of a plan, where its tunnels are these links. Each gateway has one, too, and before: IPv6 takes no gateway that
/// is elsewhere by another route, such as the one to all private addresses that many networks have.
fn to_nodes(plan: &Plan, mine: Option<&Node>, made: &Made) -> Vec<Route> {
    let through = plan.tunnelled.iter().filter_map(|(range, underlay)| {
        let source = mine.and_then(|mine| mine.inside((*range).into()));
        let (gateway, link) = (range.network(), *made.index.get(underlay)?);
        let routes = [Route::on_link(IpNet::from(gateway), link), Route::via(*range, gateway, link).onlink()];
        Some(routes.map(|route| route.from_source(source)))
    });
    plan.direct.iter().cloned().chain(through.flatten()).collect()
}

/// The routes to cluster IPs there should be. The link matters for its MTU only: nothing is sent to a cluster IP itself.
fn to_services(mine: Option<&Node>, service_ranges: &[IpNet], link_of: &BTreeMap<IpAddr, u32>) -> Vec<Route> {
    let route = |range: &IpNet| {
        let ip = mine?.ip((*range).into())?;
        Some(Route::on_link(*range, *link_of.get(&ip)?).from_source(Some(ip)))
    };
    service_ranges.iter().filter_map(route).collect()
}

/// Whether a route that is there does what one that should be there does.
fn same(present: &Route, wanted: &Route) -> bool {
    let hops = |route: &Route| -> Vec<_> { route.hops.iter().map(|hop| (hop.via, hop.link)).collect() };
    let agrees = |((via, link), (wanted_via, wanted_link)): (&(_, _), &(_, u32))| {
        via == wanted_via && (*wanted_link == 0 || link == wanted_link)
    };
    let (present_hops, wanted_hops) = (hops(present), hops(wanted));
    let what = |route: &Route| (route.destination, route.kind, route.source, route.metric);
    what(present) == what(wanted)
        && present_hops.len() == wanted_hops.len()
        && present_hops.iter().zip(&wanted_hops).all(agrees)
}

/// What routes and tunnels mean for others.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    /// The size of the largest packet that pods may send: that of the links between nodes, without what tunnels add where
    /// there are some; `None` while this node has no address.
    pub(crate) mtu: Option<u32>,
    /// The addresses of nodes behind tunnels: what is between may know nothing of pods.
    pub(crate) strangers: BTreeSet<IpAddr>,
    /// This node's key, for those who encrypt what they send to it.
    pub(crate) wireguard_key: Option<String>,
    /// Where there is no way, and why.
    pub(crate) warnings: BTreeSet<String>,
}

/// Makes our routes and tunnels what they should be.
pub(crate) fn apply(
    kernel: &mut Handle,
    config: &Config,
    encryption: Option<&mut Encryption>,
    me: &Name,
    nodes: &BTreeMap<Name, Node>,
    service_ranges: &[IpNet],
) -> dyad_links::Result<Ways> {
    let link_of = kernel.addresses()?.into_iter().map(|address| (address.net.addr(), address.link)).collect();
    let links = kernel.links()?;
    let mut plan = plan(config, me, nodes, &Neighbourhood::of(kernel.all_routes()?));
    let made = tunnels::make(kernel, &config.tunnels, me.name(), &plan.tunnels, &link_of, &links)?;
    let mine = nodes.get(me);
    let encrypted = match encryption {
        Some(with) => wireguard::make(kernel, config, with, mine, &mut plan.wireguard, (&link_of, &links))?,
        None => None,
    };
    let mut wanted = to_nodes(&plan, mine, &made);
    wanted.extend(plan.wireguard.routes(mine, encrypted.as_ref().map(|link| link.index)));
    wanted.extend(to_services(mine, service_ranges, &link_of));
    // Those of another way, too, that are there still.
    let is_tunnel = |link: &&Link| {
        link.name == wireguard::LINK
            || IpFamily::BOTH.iter().any(|family| link.name == tunnels::name(*family))
    };
    let before = links.iter().filter(is_tunnel).map(|link| link.index);
    let now = made.index.values().copied().chain(encrypted.as_ref().map(|link| link.index));
    let of_tunnels: BTreeSet<u32> = before.chain(now).collect();
    // The routes of this node's own pods, and the way out, are others' to keep.
    let is_ours = |route: &Route| {
        let through_a_node = || route.hops.iter().any(|hop| hop.via.is_some());
        let through_a_tunnel = || route.hops.iter().any(|hop| of_tunnels.contains(&hop.link));
        let is_of_pods = || config.pod_ranges.iter().any(|(_, range)| range.contains(&route.destination));
        service_ranges.contains(&route.destination)
            || route.destination.prefix_len() > 0 && is_of_pods() && through_a_node()
            || through_a_tunnel()
            || wireguard::refuses(route)
    };
    let present: Vec<Route> = kernel.routes(OURS)?.into_iter().filter(is_ours).collect();
    let of = |route: &Route| (route.destination, route.metric);
    let stay: BTreeSet<(IpNet, u32)> = wanted.iter().map(of).collect();
    for route in present.iter().filter(|route| !stay.contains(&of(route))) {
        kernel.delete_route(route)?;
        info!(destination = %route.destination, "route removed");
    }
    for route in wanted {
        if !present.iter().any(|present| same(present, &route)) {
            kernel.replace_route(&route)?;
            let via = route.hops.iter().find_map(|hop| hop.via).map(tracing::field::display);
            let link = route.hops.first().and_then(|hop| links.iter().find(|link| link.index == hop.link));
            info!(destination = %route.destination, via, link = link.map(|link| &*link.name), "route set");
        }
    }
    tunnels::prune(kernel, &plan.tunnels, &made, &links)?;
    if config.routing != Routing::Wireguard && links.iter().any(|link| link.name == wireguard::LINK) {
        wireguard::cleanup(kernel)?;
        info!(link = wireguard::LINK, "nothing is encrypted any more");
    }
    let mtu_of = |ip: &IpAddr| {
        let index = link_of.get(ip)?;
        links.iter().find(|link| link.index == *index).map(|link| link.mtu)
    };
    let underlay = mine.into_iter().flat_map(|node| &node.ips).filter_map(mtu_of).min();
    let inside = made.mtu.or(encrypted.as_ref().map(|link| link.mtu));
    Ok(Ways {
        mtu: config.mtu.or(inside).or(underlay),
        strangers: plan.strangers,
        wireguard_key: encrypted.and_then(|link| link.public).as_ref().map(wireguard::text),
        warnings: plan.wireguard.warnings,
    })
}

#[cfg(test)]
mod tests {
    use dyad_net::DualStack;

    use super::*;
    use crate::config::Routing;

    #[test]
    fn each_range_goes_through_an_address_of_its_family() {
        let node = |ips: &[&str], ranges: &[&str]| Node {
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            ..Node::default()
        };
        let named = |name: &str| Name::new("", name);
        let nodes = BTreeMap::from([
            (named("me"), node(&["172.30.1.11", "fd00::b"], &["10.244.0.0/24"])),
            (named("other"), node(&["fd00::c", "172.30.1.12"], &["10.244.1.0/24", "fd01:1::/64"])),
            (named("half"), node(&["172.30.1.13"], &["10.244.2.0/24", "fd01:2::/64"])),
            (named("new"), node(&["172.30.1.14"], &[])),
        ]);
        let links = [("172.30.1.11".parse().unwrap(), 7)].into();
        let service_ranges = ["10.96.0.0/16", "fd02::/112"].map(|range| range.parse().unwrap());
        let text = |route: Route| {
            let hop = &route.hops[0];
            let via = hop.via.map_or(format!("link {}", hop.link), |via| via.to_string());
            let source = route.source.map(|source| format!(" from {source}")).unwrap_or_default();
            format!("{} {via}{source}", route.destination)
        };
        let pods = DualStack::single(IpFamily::V4, IpFamily::V4.everything());
        let config = Config { routing: Routing::Direct, ..Config::beside_cni("me", pods) };
        let ways = |me: &str, nodes: &BTreeMap<Name, Node>| -> Vec<String> {
            let me = named(me);
            let plan = plan(&config, &me, nodes, &Neighbourhood::default());
            let mut routes = to_nodes(&plan, nodes.get(&me), &Made::default());
            routes.extend(to_services(nodes.get(&me), &service_ranges, &links));
            routes.into_iter().map(text).collect()
        };
        let expected = [
            "10.244.2.0/24 172.30.1.13",
            "10.244.1.0/24 172.30.1.12",
            "fd01:1::/64 fd00::c",
            // The other family's address is not on any link yet.
            "10.96.0.0/16 link 7 from 172.30.1.11",
        ];
        assert_eq!(ways("me", &nodes), expected);
        assert!(ways("unknown", &BTreeMap::new()).is_empty());
    }
}
