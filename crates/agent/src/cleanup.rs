//! Takes back what agents leave behind in a node's kernel on purpose.

use std::collections::BTreeSet;
use std::path::Path;

use dyad_links::{Handle, OURS, Route, pod};
use dyad_nft::Executor;
use tracing::info;

use crate::cni::uninstall;
use crate::gate::notes;
use crate::routes::{tunnels, wireguard};
use crate::switches::Switches;
use crate::{AgentError, Cni, claim, dataplane};

/// Removes our tables, tunnels, routes to nodes and Services, claimed addresses, and programs at the sockets of `cgroup`, and
/// nothing else, from the network namespace of the calling thread. With `cni`, what the container runtime sees goes, too,
/// and links and routes of pods, and the private key; otherwise they are whoever's who has made the pods. Switches noted in
/// `run_dir` are put back.
pub fn cleanup(
    cgroup: Option<&Path>,
    cni: Option<&Cni>,
    run_dir: Option<&Path>,
    wireguard_key: &Path,
) -> Result<(), AgentError> {
    // First of all, so that no pod comes meanwhile.
    if let Some(cni) = cni {
        uninstall(cni).map_err(AgentError::Uninstall)?;
        wireguard::forget(wireguard_key).map_err(AgentError::Uninstall)?;
        info!("CNI configuration, plugin, notes of addresses and key deleted");
    }
    // Sockets first: nftables serves meanwhile.
    let noted = dataplane::noted(run_dir);
    let cgroups = BTreeSet::from_iter(cgroup.into_iter().chain(noted.as_deref()));
    for cgroup in cgroups.into_iter().filter(|cgroup| cgroup.exists()) {
        let detached = dataplane::detach(cgroup);
        info!(cgroup = %cgroup.display(), detached, "eBPF programs");
    }
    dataplane::note(run_dir, None);
    Executor::open()?.cleanup()?;
    info!("tables deleted");
    let mut links = Handle::open()?;
    claim::cleanup(&mut links)?;
    let is_to_others = |route: &Route| route.hops.iter().any(|hop| hop.via.is_some());
    let is_to_services = |route: &Route| route.source.is_some();
    let is_ours = |route: &&Route| is_to_others(route) || is_to_services(route) || wireguard::refuses(route);
    for route in links.routes(OURS)?.iter().filter(is_ours) {
        links.delete_route(route)?;
        info!(destination = %route.destination, "route deleted");
    }
    tunnels::cleanup(&mut links)?;
    wireguard::cleanup(&mut links)?;
    info!("tunnels deleted");
    if cni.is_some() {
        let proxied = links.proxies()?;
        for pod in pod::list(&mut links)? {
            for (link, ip) in proxied.iter().filter(|(_, ip)| pod.addresses.contains(ip)) {
                links.set_proxy(*link, *ip, false)?;
            }
            pod::del(&mut links, &pod.key)?;
        }
        pod::sweep(&mut links)?;
        pod::reap(&mut links)?;
        info!("links of pods deleted");
    }
    run_dir.into_iter().for_each(notes::cleanup);
    Switches::noted_in(run_dir).restore();
    // What is not ours stays, and so does where it is.
    let _ = run_dir.map(std::fs::remove_dir);
    Ok(())
}
