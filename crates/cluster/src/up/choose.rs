//! What a new cluster leaves to us: its node ranges, and a port of this machine.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use dyad_net::IpFamily;

use crate::config::ClusterConfig;
use crate::fabric;
use crate::paths::ClusterDir;
use crate::spec::{ClusterSpec, choose_node_ranges};

/// The configuration with every free choice made.
pub(super) fn choose(config: ClusterConfig) -> Result<ClusterSpec> {
    let ClusterConfig {
        name,
        pod_ranges,
        service_ranges,
        nodes,
        api_addresses,
        api_port,
        dns_search,
        dataplane,
        shape,
        install,
        audit,
        controllers,
    } = config;
    let api_addresses = available(api_addresses);
    let families: Vec<IpFamily> = service_ranges.iter().map(|range| (*range).into()).collect();
    let mut taken = fabric::host_ranges()?;
    for (_, other) in others(&name)? {
        taken.extend(other.ranges().map(|(_, range)| range));
    }
    taken.extend(pod_ranges.iter().chain(&service_ranges));
    let spec = ClusterSpec {
        node_ranges: choose_node_ranges(&name, &families, &taken)?,
        name,
        pod_ranges,
        service_ranges,
        nodes,
        api_port: free_port(&api_addresses, api_port)?,
        api_port_is_fixed: api_port.is_some(),
        api_addresses,
        dns_search,
        dataplane,
        shape,
        install,
        audit,
        controllers: controllers.to_string(),
        host_is_joined: rustix::process::geteuid().is_root(),
    };
    check_overlaps(&spec)?;
    fabric::check_host(&spec)?;
    Ok(spec)
}

pub(super) fn others(name: &str) -> Result<Vec<(String, ClusterSpec)>> {
    let all = ClusterDir::all()?.into_iter().filter(|(other, _)| other != name);
    // A directory without a readable description belongs to a cluster that never came up.
    Ok(all.filter_map(|(other, dir)| Some((other, ClusterSpec::load(&dir).ok()?))).collect())
}

pub(super) fn check_overlaps(spec: &ClusterSpec) -> Result<()> {
    for (_, other) in others(&spec.name)? {
        if let Some(message) = spec.overlap(&other) {
            bail!(message);
        }
    }
    Ok(())
}

/// Those of the addresses that this machine has: one without one family's loopback still has the other's.
fn available(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let is_missing = |ip: &IpAddr| {
        TcpListener::bind(SocketAddr::new(*ip, 0))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
    };
    let found: Vec<IpAddr> = addresses.iter().copied().filter(|ip| !is_missing(ip)).collect();
    // Without any, what is wrong is told of the first one.
    if found.is_empty() { addresses } else { found }
}

/// The wanted port, or one that is free on every address now.
pub(super) fn free_port(addresses: &[IpAddr], wanted: Option<u16>) -> Result<u16> {
    let first = addresses.first().copied().context("the API server has no address to listen on")?;
    for _ in 0..64 {
        let at = SocketAddr::new(first, wanted.unwrap_or(0));
        let listener = TcpListener::bind(at).with_context(|| match wanted {
            Some(_) => format!("networking.apiServerPort: can't listen on {at}"),
            None => format!("networking.apiServerAddress: can't listen on {first}"),
        })?;
        let port = listener.local_addr()?.port();
        let in_use = |ip: &IpAddr| {
            TcpListener::bind(SocketAddr::new(*ip, port))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        };
        match (addresses[1..].iter().find(|ip| in_use(ip)), wanted) {
            (None, _) => return Ok(port),
            (Some(ip), Some(_)) => bail!("networking.apiServerPort: port {port} of {ip} is in use"),
            (Some(_), None) => {}
        }
    }
    bail!("no port is free on all of {addresses:?}")
}
