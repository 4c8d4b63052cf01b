//! The sets of ranges of a table.

use std::collections::BTreeSet;

use dyad_net::{IpFamily, IpNet};

use crate::{NodeView, RangeSet};

/// The range sets of a node's table of `family`.
pub(crate) fn of_node(node: &NodeView, family: IpFamily) -> BTreeSet<(RangeSet, IpNet)> {
    let own = node.own_pods.clone();
    let global: Vec<_> = own.iter().copied().filter(is_global).collect();
    let is_masqueraded = |range: &IpNet| {
        let said = node.egress.families.get(&IpFamily::from(*range)).copied();
        node.masquerade_pods && said.unwrap_or(!is_global(range))
    };
    let masqueraded = own.iter().copied().filter(is_masqueraded).collect();
    let closed = if node.open_pods { Vec::new() } else { global };
    let of_nodes = || node.node_pods.iter().filter(|range| IpFamily::from(**range) == family).copied();
    let is_told = |range: &IpNet| *range != family.everything() || of_nodes().next().is_none();
    let of_cluster = node.cluster_pods.get(family).copied().filter(is_told);
    let pods: Vec<IpNet> = of_cluster.into_iter().chain(of_nodes()).chain(own.iter().copied()).collect();
    let nodes = || node.nodes.iter().copied();
    let cluster = nodes().map(IpNet::from).chain(pods.iter().copied());
    let friends = nodes().filter(|ip| !node.egress.strangers.contains(ip)).map(IpNet::from);
    let known = friends.chain(pods.iter().copied()).chain(node.egress.known.iter().copied());
    let sets = [
        (RangeSet::Masqueraded, masqueraded),
        (RangeSet::Cluster, cluster.collect()),
        (RangeSet::Known, known.collect()),
        (RangeSet::Services, node.services.clone()),
        (RangeSet::NodePorts, node.node_ports.clone()),
        (RangeSet::Closed, closed),
        (RangeSet::OwnPods, own),
    ];
    let fewest = |(set, ranges): (RangeSet, Vec<IpNet>)| {
        let ranges: Vec<_> = ranges.into_iter().filter(|range| IpFamily::from(*range) == family).collect();
        IpNet::aggregate(&ranges).into_iter().map(move |range| (set, range))
    };
    sets.into_iter().flat_map(fewest).collect()
}

/// Whether pods with addresses of the range are known outside the cluster, and so need no masquerade.
///
/// Only global unicast IPv6 (2000::/3): an IPv4 pod range is taken for private whatever it is, as clusters with
/// public ones that are also routed to the nodes are rarer than mistakes.
fn is_global(range: &IpNet) -> bool {
    match range {
        IpNet::V4(_) => false,
        IpNet::V6(range) => range.addr().segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    #[test]
    fn only_global_ipv6_needs_no_masquerade() {
        for (range, global) in [
            ("10.244.0.0/16", false),
            ("203.0.113.0/24", false),
            ("fd00:10:244::/56", false),
            ("2001:db8:1::/56", true),
            ("3fff::/20", true),
            ("64:ff9b::/96", false),
        ] {
            assert_eq!(is_global(&range.parse().unwrap()), global, "{range}");
        }
    }

    #[test]
    fn what_leaves_masked_and_what_is_closed() {
        use RangeSet::{Closed, Cluster, Known, Masqueraded, NodePorts, OwnPods};
        let texts = |node: &NodeView, set| -> Vec<String> {
            let all = IpFamily::BOTH.into_iter().flat_map(|family| of_node(node, family));
            all.filter(|(of, _)| *of == set).map(|(_, range)| range.to_string()).collect()
        };
        let mut view = node();
        let pods = ["10.244.1.0/24", "10.244.0.0/24", "fd00:10:244:1::/64", "2001:db8:1::/64"];
        view.own_pods = pods.map(|range| range.parse().unwrap()).to_vec();
        view.node_ports = ["192.0.2.1/32", "192.0.2.0/24"].map(|range| range.parse().unwrap()).to_vec();
        assert_eq!(texts(&view, OwnPods), ["10.244.0.0/23", "2001:db8:1::/64", "fd00:10:244:1::/64"]);
        assert_eq!(texts(&view, Masqueraded), ["10.244.0.0/23", "fd00:10:244:1::/64"]);
        assert_eq!(texts(&view, Closed), ["2001:db8:1::/64"], "private addresses need not be closed");
        assert_eq!(texts(&view, NodePorts), ["192.0.2.0/24"], "and none of the other family");
        view.egress.families = [(IpFamily::V4, false), (IpFamily::V6, true)].into();
        assert_eq!(texts(&view, Masqueraded), ["2001:db8:1::/64", "fd00:10:244:1::/64"], "as it is said");
        let with = |text: &str| texts(&view, Known).contains(&text.to_owned());
        assert!(with("192.0.2.2/32") && !with("198.51.100.0/24"));
        let mut other = view.clone();
        other.egress.strangers = ["192.0.2.2".parse().unwrap()].into();
        other.egress.known = vec!["198.51.100.0/24".parse().unwrap()];
        let with = |text: &str| texts(&other, Known).contains(&text.to_owned());
        assert!(!with("192.0.2.2/32") && with("198.51.100.0/24"));
        assert!(texts(&other, Cluster).contains(&"192.0.2.2/32".to_owned()), "it is no outside for that");
        view.cluster_pods = view.cluster_pods.map(|family, _| family.everything());
        assert_eq!(texts(&view, Known), ["0.0.0.0/0", "::/0"], "nobody is a stranger while nothing is known");
        view.node_pods = ["10.1.0.0/24", "10.1.1.0/24"].map(|range| range.parse().unwrap()).into();
        let known = texts(&view, Known);
        assert!(known.contains(&"10.1.0.0/23".to_owned()) && known.contains(&"10.244.0.0/23".to_owned()));
        assert!(!known.contains(&"0.0.0.0/0".to_owned()), "{known:?}");
        assert!(known.contains(&"::/0".to_owned()), "nodes say nothing of IPv6");
        view.open_pods = true;
        view.masquerade_pods = false;
        assert_eq!(texts(&view, Closed), [""; 0]);
        assert_eq!(texts(&view, Masqueraded), [""; 0]);
    }
}
