//! Takes back what agents leave behind in a node's kernel on purpose.

use std::path::Path;

use dyad_links::{Handle, OURS, Route};
use dyad_nft::Executor;
use tracing::info;

use crate::routes::tunnels;
use crate::{AgentError, claim, dataplane};

/// Removes our tables, tunnels, routes to nodes and Services, claimed addresses, and programs at the sockets of `cgroup`, and
/// nothing else, from the network namespace of the calling thread. Links and routes of pods are whoever's who has made
/// the pods.
pub fn cleanup(cgroup: Option<&Path>) -> Result<(), AgentError> {
    // Sockets first: nftables serves meanwhile.
    if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.exists()) {
        let detached = dataplane::detach(cgroup);
        info!(cgroup = %cgroup.display(), detached, "eBPF programs");
    }
    Executor::open()?.cleanup()?;
    info!("tables deleted");
    let mut links = Handle::open()?;
    claim::cleanup(&mut links)?;
    let is_to_others = |route: &Route| route.hops.iter().any(|hop| hop.via.is_some());
    let is_to_services = |route: &Route| route.source.is_some();
    for route in links.routes(OURS)?.iter().filter(|route| is_to_others(route) || is_to_services(route)) {
        links.delete_route(route)?;
        info!(destination = %route.destination, "route deleted");
    }
    tunnels::cleanup(&mut links)?;
    info!("tunnels deleted");
    Ok(())
}
