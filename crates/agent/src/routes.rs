//! Routes: to the pod ranges of the other nodes, through their addresses of the same family; and to the cluster IPs,
//! so that processes of the node itself have a way and a source address for them, whatever else it has a route for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_links::{Handle, OURS, Route};
use dyad_net::{IpFamily, IpNet};
use dyad_program::Name;
use dyad_program::policy::Labels;
use tracing::info;

use crate::Config;
use crate::announce::Announcement;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its internal addresses, the first of a family being the one that counts.
    pub(crate) ips: Vec<IpAddr>,
    /// Its pod ranges.
    pub(crate) pod_ranges: Vec<IpNet>,
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
}

/// The routes there should be. A range whose family a node has no address of is left out.
fn wanted(
    me: &Name,
    nodes: &BTreeMap<Name, Node>,
    service_ranges: &[IpNet],
    link_of: &BTreeMap<IpAddr, u32>,
) -> Vec<Route> {
    let others = nodes.iter().filter(|(name, _)| *name != me);
    let to_nodes = others.flat_map(|(_, node)| {
        node.pod_ranges.iter().filter_map(|range| {
            // The kernel finds the link of the gateway.
            Some(Route::via(*range, node.ip((*range).into())?, 0))
        })
    });
    let to_services = service_ranges.iter().filter_map(|range| {
        let ip = nodes.get(me)?.ip((*range).into())?;
        // The link matters for its MTU only: nothing is sent to a cluster IP itself.
        Some(Route::on_link(*range, *link_of.get(&ip)?).from_source(Some(ip)))
    });
    to_nodes.chain(to_services).collect()
}

/// Whether a route that is there does what one that should be there does.
fn same(present: &Route, wanted: &Route) -> bool {
    let hops = |route: &Route| -> Vec<_> { route.hops.iter().map(|hop| (hop.via, hop.link)).collect() };
    let agrees = |((via, link), (wanted_via, wanted_link)): (&(_, _), &(_, u32))| {
        via == wanted_via && (*wanted_link == 0 || link == wanted_link)
    };
    let (present_hops, wanted_hops) = (hops(present), hops(wanted));
    (present.destination, present.kind, present.source) == (wanted.destination, wanted.kind, wanted.source)
        && present_hops.len() == wanted_hops.len()
        && present_hops.iter().zip(&wanted_hops).all(agrees)
}

/// Makes our routes what they should be.
pub(crate) fn apply(
    kernel: &mut Handle,
    config: &Config,
    me: &Name,
    nodes: &BTreeMap<Name, Node>,
    service_ranges: &[IpNet],
) -> dyad_links::Result<()> {
    let link_of = kernel.addresses()?.into_iter().map(|address| (address.net.addr(), address.link)).collect();
    let wanted = wanted(me, nodes, service_ranges, &link_of);
    // The routes of this node's own pods, and the way out, are others' to keep.
    let is_ours = |route: &Route| {
        let through_a_node = || route.hops.iter().any(|hop| hop.via.is_some());
        service_ranges.contains(&route.destination)
            || config.pod_ranges.iter().any(|(_, range)| range.contains(&route.destination))
                && through_a_node()
    };
    let present: Vec<Route> = kernel.routes(OURS)?.into_iter().filter(is_ours).collect();
    let destinations: BTreeSet<IpNet> = wanted.iter().map(|route| route.destination).collect();
    for route in present.iter().filter(|route| !destinations.contains(&route.destination)) {
        kernel.delete_route(route)?;
        info!(destination = %route.destination, "route removed");
    }
    for route in wanted {
        if !present.iter().any(|present| same(present, &route)) {
            kernel.replace_route(&route)?;
            let via = route.hops.iter().find_map(|hop| hop.via).map(tracing::field::display);
            info!(destination = %route.destination, via, "route set");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let service_ranges = ["10.96.0.0/16", "fd02::/112"].map(|range| range.parse().unwrap());
        let links = [("172.30.1.11".parse().unwrap(), 7)].into();
        let text = |route: Route| {
            let hop = &route.hops[0];
            let via = hop.via.map_or(format!("link {}", hop.link), |via| via.to_string());
            let source = route.source.map(|source| format!(" from {source}")).unwrap_or_default();
            format!("{} {via}{source}", route.destination)
        };
        let ways: Vec<String> =
            wanted(&named("me"), &nodes, &service_ranges, &links).into_iter().map(text).collect();
        let expected = [
            "10.244.2.0/24 172.30.1.13",
            "10.244.1.0/24 172.30.1.12",
            "fd01:1::/64 fd00::c",
            // The other family's address is not on any link yet.
            "10.96.0.0/16 link 7 from 172.30.1.11",
        ];
        assert_eq!(ways, expected);
        assert!(wanted(&named("unknown"), &BTreeMap::new(), &service_ranges, &links).is_empty());
    }
}
