//! Which ranges a node's pods have their addresses from: pure.

use dyad_net::{DeriveError, IpFamily, IpNet};

use crate::config::{Ipam, OwnPods, Routing};
use crate::routes::Node;
use crate::{Cni, Config};

mod wanted;

pub(crate) use wanted::wanted;

impl Ipam {
    /// The ranges of a node, and what is wrong with them. Those of the family that others follow from come first.
    pub(crate) fn ranges(&self, node: &Node) -> (Vec<IpNet>, Option<DeriveError>) {
        match self {
            Self::Kubernetes => (node.pod_ranges.clone(), None),
            Self::Pool => (node.granted.clone(), None),
            Self::Derived(derivation) => {
                let of_family = |range: &&IpNet| IpFamily::from(**range) == derivation.from().family();
                // Who gives it ranges of ours has chosen them.
                let granted = node.granted.iter().any(|range| of_family(&range));
                let source = if granted { &node.granted } else { &node.pod_ranges };
                let source: Vec<IpNet> = source.iter().filter(of_family).copied().collect();
                let (mut derived, mut problem) = (Vec::new(), None);
                for range in &source {
                    match derivation.derive(*range) {
                        Ok(range) => derived.push(range),
                        Err(error) => problem = problem.or(Some(error)),
                    }
                }
                (source.into_iter().chain(derived).collect(), problem)
            }
        }
    }
}

/// Whether the network goes by the ranges of nodes. Beside another one, what nodes are given may not be what their pods have.
pub(crate) fn is_ours(cni: Option<&Cni>, routing: Routing) -> bool {
    cni.is_some() || routing != Routing::None
}

/// What counts as a pod of a node that has the ranges `of_node`.
pub(crate) fn own_pods(config: &Config, of_node: &[IpNet]) -> Vec<IpNet> {
    match config.own_pods {
        // Nobody's source is kept then, as if they came from outside.
        _ if config.masquerade_all => Vec::new(),
        OwnPods::OfNode => of_node.to_vec(),
        OwnPods::OfCluster => {
            let is_known = |(family, range): &(IpFamily, &IpNet)| **range != family.everything();
            let of_cluster = config.pod_ranges.iter().filter(is_known).map(|(_, range)| *range);
            let known: Vec<IpNet> = of_cluster.collect();
            // Those of pools elsewhere are its pods', too: out of them nobody else would masquerade what leaves.
            let counts =
                |range: &&IpNet| match known.iter().find(|known| IpFamily::from(**known) == (**range).into())
                {
                    Some(known) => is_ours(config.cni.as_ref(), config.routing) && !known.contains(*range),
                    None => config.pod_ranges.get((**range).into()).is_some(),
                };
            known.iter().chain(of_node.iter().filter(counts)).copied().collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use dyad_net::{Derivation, DualStack};

    use super::*;

    #[test]
    fn all_ranges_of_a_node_have_its_pods() {
        let nets =
            |text: &str| text.split_whitespace().map(|one| one.parse().unwrap()).collect::<Vec<IpNet>>();
        let unknown = || IpFamily::V6.everything();
        let pods = DualStack::dual(IpFamily::V4, "10.244.0.0/16".parse().unwrap(), unknown());
        let ours = Config { own_pods: OwnPods::OfCluster, ..Config::new("a", pods.clone(), pods.clone()) };
        let beside = Config { own_pods: OwnPods::OfCluster, ..Config::beside_cni("a", pods.clone()) };
        let v4 = DualStack::single(IpFamily::V4, IpFamily::V4.everything());
        #[rustfmt::skip]
        let cases = [
            ("of the cluster", &ours, "10.244.3.0/24", "10.244.0.0/16"),
            ("not known of the cluster", &ours, "10.244.3.0/24 fd00:1::/64 fd00:2::/80", "10.244.0.0/16 fd00:1::/64 fd00:2::/80"),
            ("out of a pool elsewhere", &ours, "10.244.3.0/24 10.9.0.0/26 10.9.0.64/26", "10.244.0.0/16 10.9.0.0/26 10.9.0.64/26"),
            ("somebody else's network", &beside, "10.9.0.0/26 fd00:1::/64", "10.244.0.0/16 fd00:1::/64"),
            ("a family nobody speaks", &Config { pod_ranges: v4, ..ours.clone() }, "fd00:1::/64 10.9.0.0/26", "10.9.0.0/26"),
            ("by nodes", &Config { own_pods: OwnPods::OfNode, ..ours.clone() }, "10.9.0.0/26", "10.9.0.0/26"),
            ("none", &Config { masquerade_all: true, ..ours.clone() }, "10.9.0.0/26", ""),
        ];
        for (what, config, of_node, expected) in cases {
            assert_eq!(own_pods(config, &nets(of_node)), nets(expected), "{what}");
        }
    }

    #[test]
    fn one_family_follows_from_the_other_in_either_direction() {
        let derived = |from: &str, to: &str| {
            Ipam::Derived(Derivation::new(from.parse().unwrap(), to.parse().unwrap()).unwrap())
        };
        let (v4, v6) = ("10.244.0.0/16:24", "fd00:10:244::/48:64");
        #[rustfmt::skip]
        let cases = [
            ("the Node's", Ipam::Kubernetes, "10.244.3.0/24", "10.9.0.0/26", "10.244.3.0/24"),
            ("ours", Ipam::Pool, "10.244.3.0/24", "10.9.0.0/26", "10.9.0.0/26"),
            ("IPv6 from IPv4", derived(v4, v6), "10.244.3.0/24", "", "10.244.3.0/24 fd00:10:244:3::/64"),
            ("IPv4 from IPv6", derived(v6, v4), "fd00:10:244:3::/64", "", "fd00:10:244:3::/64 10.244.3.0/24"),
            // All nodes do alike, whatever else some of them have.
            ("both there", derived(v4, v6), "fd00:7::/64 10.244.3.0/24", "", "10.244.3.0/24 fd00:10:244:3::/64"),
            ("ours first", derived(v4, v6), "10.244.3.0/24", "10.244.4.0/24 10.244.6.0/23",
             "10.244.4.0/24 10.244.6.0/23 fd00:10:244:4::/64 fd00:10:244:6::/63"),
            ("none yet", derived(v4, v6), "", "", ""),
            ("of the other alone", derived(v4, v6), "fd00:7::/64", "", ""),
        ];
        let nets =
            |text: &str| text.split_whitespace().map(|one| one.parse().unwrap()).collect::<Vec<IpNet>>();
        for (what, ipam, of_node, granted, expected) in cases {
            let node = Node { pod_ranges: nets(of_node), granted: nets(granted), ..Node::default() };
            assert_eq!(ipam.ranges(&node), (nets(expected), None), "{what}");
        }
        let node = Node { pod_ranges: nets("10.244.3.0/24 10.96.0.0/24"), ..Node::default() };
        let (ranges, problem) = derived(v4, v6).ranges(&node);
        assert_eq!(ranges, nets("10.244.3.0/24 10.96.0.0/24 fd00:10:244:3::/64"));
        assert!(problem.unwrap().to_string().contains("10.96.0.0/24 is not in 10.244.0.0/16"));
    }
}
