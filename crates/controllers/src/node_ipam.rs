//! Pod ranges for nodes, one per family, all or nothing (section D of the API specification, K2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use dyad_net::{BlockError, BlockPool, DualStack, IpNet};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::warn;

use crate::queue::{Controller, Error, Key, Next};
use crate::{Config, Shared, pods, spawn};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "cidrAllocator";

/// Which ranges are taken; one pool per family.
struct Ranges {
    pools: DualStack<BlockPool>,
}

impl Ranges {
    fn new(config: &Config) -> Result<Self, BlockError> {
        let make = |family, range: &IpNet| -> Result<BlockPool, BlockError> {
            let mut pool = BlockPool::new(family, (config.node_mask)(family))?;
            pool.add_range(*range)?;
            // What overlaps Services is never given out (D6).
            for (_, services) in config.service_ranges.iter() {
                if dyad_net::overlaps(range, services) {
                    pool.reserve(*services);
                }
            }
            Ok(pool)
        };
        let made = config.pod_ranges.iter().map(|(family, range)| Ok((family, make(family, range)?)));
        let pools = DualStack::from_ordered(made.collect::<Result<Vec<_>, BlockError>>()?);
        Ok(Self { pools: pools.expect("the shape is that of the configured ranges") })
    }

    fn each(&mut self, mut f: impl FnMut(&mut BlockPool)) {
        self.pools.iter_mut().for_each(|(_, pool)| f(pool));
    }

    /// Marks what a node has (D7). Ranges of no pool are somebody else's.
    fn occupy(&mut self, nets: &[IpNet]) {
        self.each(|pool| {
            for net in nets {
                // An error says that it lies in none of this pool's ranges.
                let _ = pool.occupy(*net);
            }
        });
    }

    /// One range per family in the cluster's order, or none at all (K2).
    fn take(&mut self) -> Result<Vec<IpNet>, BlockError> {
        let before = self.pools.clone();
        let mut taken = Vec::new();
        let mut failed = None;
        self.each(|pool| match pool.take() {
            Ok(net) => taken.push(net),
            Err(error) => failed = Some(error),
        });
        match failed {
            None => Ok(taken),
            Some(error) => {
                self.pools = before;
                Err(error)
            }
        }
    }

    fn release(&mut self, nets: &[IpNet]) {
        self.each(|pool| {
            for net in nets {
                pool.release(*net);
            }
        });
    }
}

/// The controller.
pub(crate) struct NodeIpam {
    world: Shared,
    state: Mutex<State>,
}

struct State {
    ranges: Ranges,
    /// What each known node holds.
    nodes: BTreeMap<String, Held>,
}

/// The ranges of one node.
#[derive(Clone, Default)]
struct Held {
    /// Tells a node from a later one of the same name.
    uid: Option<String>,
    ranges: BTreeSet<IpNet>,
}

impl NodeIpam {
    pub(crate) fn new(world: Shared, config: &Config) -> Result<Self, BlockError> {
        Ok(Self { world, state: Mutex::new(State { ranges: Ranges::new(config)?, nodes: BTreeMap::new() }) })
    }

    /// Takes note of what a node has; of everything it had, when it is gone (D11). False if the view of the node is
    /// older than what is known: ranges never go once they are set (B32).
    fn note(&self, name: &str, node: Option<&Node>) -> bool {
        let mut state = self.state.lock().expect("nothing panics here");
        let now = Held {
            uid: node.and_then(|node| node.metadata.uid.clone()),
            ranges: node.map(cidrs).unwrap_or_default().into_iter().collect(),
        };
        let before = state.nodes.get(name).cloned().unwrap_or_default();
        if node.is_some() && before.uid == now.uid && now.ranges.is_empty() && !before.ranges.is_empty() {
            return false;
        }
        let gone: Vec<IpNet> = before.ranges.difference(&now.ranges).copied().collect();
        let new: Vec<IpNet> = now.ranges.difference(&before.ranges).copied().collect();
        state.ranges.release(&gone);
        state.ranges.occupy(&new);
        match node {
            Some(_) => state.nodes.insert(name.to_owned(), now),
            None => state.nodes.remove(name),
        };
        true
    }
}

fn cidrs(node: &Node) -> Vec<IpNet> {
    let cidrs = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
    cidrs.into_iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}

pub(crate) fn start(world: &Shared, config: &Config, tasks: &mut JoinSet<()>) {
    let Ok(ipam) = NodeIpam::new(world.clone(), config) else { return };
    // Every node is counted before the first one is served.
    for node in world.nodes.all() {
        ipam.note(&node.name_any(), Some(&node));
    }
    spawn(tasks, ipam, |queue| {
        let queue = queue.clone();
        world.nodes.on_change(move |old, new| {
            if let Some(node) = new.or(old) {
                queue.add(Key::of(node));
            }
        });
    });
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let node = self.world.nodes.named(&key.name);
        if !self.note(&key.name, node.as_deref()) {
            return Ok(None);
        }
        let Some(node) =
            node.filter(|node| node.metadata.deletion_timestamp.is_none() && cidrs(node).is_empty())
        else {
            return Ok(None);
        };
        let taken = self.state.lock().expect("nothing panics here").ranges.take();
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                pods::event(
                    &self.world.client,
                    COMPONENT,
                    &*node,
                    "Warning",
                    "CIDRNotAvailable",
                    &error.to_string(),
                )
                .await;
                return Err(Error::Other(error.to_string()));
            }
        };
        let texts: Vec<String> = taken.iter().map(ToString::to_string).collect();
        let patch = json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        let nodes = Api::<Node>::all(self.world.client.clone());
        match nodes.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(node) => {
                // Held by this node from now on; the watch tells the same a moment later.
                self.note(&key.name, Some(&node));
                Ok(None)
            }
            Err(error) => {
                warn!(node = key.name, %error, "can't write the node's ranges");
                self.state.lock().expect("nothing panics here").ranges.release(&taken);
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dyad_net::IpFamily;

    fn ranges(v4: &str, v6: &str) -> Ranges {
        let pods = DualStack::dual(IpFamily::V6, v6.parse().unwrap(), v4.parse().unwrap());
        let services =
            DualStack::dual(IpFamily::V6, "fd00:96::/112".parse().unwrap(), "10.0.1.0/24".parse().unwrap());
        Ranges::new(&Config::new(pods, services)).unwrap()
    }

    fn texts(nets: Vec<IpNet>) -> Vec<String> {
        nets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_come_in_the_clusters_order_and_avoid_services() {
        let mut ranges = ranges("10.0.0.0/22", "fd01::/56");
        assert_eq!(texts(ranges.take().unwrap()), ["fd01::/64", "10.0.0.0/24"], "D8");
        assert_eq!(
            texts(ranges.take().unwrap()),
            ["fd01:0:0:1::/64", "10.0.2.0/24"],
            "D6: 10.0.1.0/24 is for Services"
        );
    }

    #[test]
    fn an_exhausted_family_takes_nothing_of_the_other() {
        let mut ranges = ranges("10.0.2.0/24", "fd01::/56");
        ranges.take().unwrap();
        for _ in 0..3 {
            assert!(ranges.take().is_err(), "K2");
        }
        ranges.release(&["10.0.2.0/24".parse().unwrap()]);
        assert_eq!(
            texts(ranges.take().unwrap()),
            ["fd01:0:0:1::/64", "10.0.2.0/24"],
            "K2: no IPv6 range was lost"
        );
    }

    #[test]
    fn what_nodes_hold_is_not_given_again() {
        let mut ranges = ranges("10.0.2.0/23", "fd01::/56");
        ranges.occupy(&["10.0.2.0/24".parse().unwrap(), "192.168.0.0/24".parse().unwrap()]);
        assert_eq!(texts(ranges.take().unwrap()), ["fd01::/64", "10.0.3.0/24"], "D7");
    }
}
