//! Routes to the pod ranges of the other nodes, through their addresses of the same family.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dyad_links::{Handle, OURS, Route};
use dyad_net::{IpFamily, IpNet};
use tracing::{info, warn};

use crate::view::{Name, Node, View};
use crate::{AgentError, Config, settle};

/// How often the kernel is compared with what should be, although nothing has changed.
const LOOK: Duration = Duration::from_secs(30);

pub(crate) struct Routes {
    config: Config,
    kernel: Handle,
}

/// Where each range of another node is reached. A range whose family the node has no address of is left out.
fn wanted(me: &str, nodes: &BTreeMap<Name, Node>) -> BTreeMap<IpNet, IpAddr> {
    let others = nodes.iter().filter(|((_, name), _)| name != me);
    let ways = others.flat_map(|(_, node)| {
        node.pod_ranges.iter().filter_map(|range| {
            let via = node.ips.iter().find(|ip| IpFamily::from(**ip) == IpFamily::from(*range))?;
            Some((*range, *via))
        })
    });
    ways.collect()
}

impl Routes {
    pub(crate) fn open(config: Config) -> Result<Self, AgentError> {
        Ok(Self { config, kernel: Handle::open()? })
    }

    /// Keeps the routes current for ever.
    pub(crate) async fn keep(mut self, view: Arc<View>) -> Result<(), AgentError> {
        let mut changes = view.changes();
        loop {
            if view.nodes.lock().expect("nothing panics here").complete {
                let wanted =
                    wanted(&self.config.node_name, &view.nodes.lock().expect("nothing panics here").rows);
                // Few messages of microseconds each: not worth a thread.
                if let Err(error) = self.apply(&wanted) {
                    warn!(%error, "can't set all routes; will be tried again");
                }
            }
            tokio::select! {
                // The sender lives in the view that this task holds.
                _ = changes.changed() => settle().await,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Our routes through other nodes that are there now. Those to single pods have no gateway.
    fn present(&mut self) -> Result<Vec<Route>, AgentError> {
        let ranges: Vec<IpNet> = self.config.pod_ranges.iter().map(|(_, range)| *range).collect();
        let mine = |route: &Route| {
            ranges.iter().any(|range| range.contains(&route.destination))
                && route.hops.iter().all(|hop| hop.via.is_some())
        };
        Ok(self.kernel.routes(OURS)?.into_iter().filter(mine).collect())
    }

    fn apply(&mut self, wanted: &BTreeMap<IpNet, IpAddr>) -> Result<(), AgentError> {
        let present = self.present()?;
        let via = |route: &Route| match route.hops.as_slice() {
            [hop] => hop.via,
            _ => None,
        };
        for route in &present {
            if !wanted.contains_key(&route.destination) {
                self.kernel.delete_route(route)?;
                info!(destination = %route.destination, "route removed");
            }
        }
        for (destination, gateway) in wanted {
            if present.iter().any(|route| route.destination == *destination && via(route) == Some(*gateway)) {
                continue;
            }
            self.kernel.replace_route(&Route::via(*destination, *gateway, 0))?;
            info!(%destination, %gateway, "route set");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_goes_through_an_address_of_its_family() {
        let node = |ips: &[&str], ranges: &[&str]| Node {
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        };
        let named = |name: &str| (String::new(), name.to_owned());
        let nodes = BTreeMap::from([
            (named("me"), node(&["172.30.1.11"], &["10.244.0.0/24"])),
            (named("other"), node(&["fd00::c", "172.30.1.12"], &["10.244.1.0/24", "fd01:1::/64"])),
            (named("half"), node(&["172.30.1.13"], &["10.244.2.0/24", "fd01:2::/64"])),
        ]);
        let ways: Vec<String> =
            wanted("me", &nodes).iter().map(|(range, via)| format!("{range} {via}")).collect();
        assert_eq!(ways, ["10.244.1.0/24 172.30.1.12", "10.244.2.0/24 172.30.1.13", "fd01:1::/64 fd00::c"]);
    }
}
