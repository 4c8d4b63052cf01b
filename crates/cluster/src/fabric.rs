//! The cluster's own network: a bridge in a namespace of its own, and a link from it to each place.
//!
//! ```text
//!   host ──┐            ┌── api       the API server's addresses
//!          │   fabric   ├── node1
//!          └── (bridge) ├── node2 ...
//!                       └── outside   the rest of the world: a router, an IPv4 host, an IPv6 host, their names
//! ```
//!
//! The host is on it only when the cluster runs as root.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use dyad_dns::serve::{self, Settings, Source};
use dyad_links::{Handle, LinkChange, NewLink, NextHop, Route, netns, sysctl};
use dyad_net::{IpFamily, IpNet};
use sha2::{Digest, Sha256};

use crate::paths::ClusterDir;
use crate::spec::{ClusterSpec, Place, Shape};

/// Name of the namespace the API server listens in.
pub(crate) const API_NAMESPACE: &str = "@api";
/// Name of the namespace that plays the rest of the world.
pub const OUTSIDE: &str = "outside";
/// Name of the namespace with the bridge; `@` keeps it apart from nodes.
const FABRIC_NAMESPACE: &str = "@fabric";
const BRIDGE: &str = "br0";
/// Name of the link to the fabric in each place but the host.
const LINK: &str = "eth0";

/// The protocol number of routes that an administrator has made (`RTPROT_STATIC`).
const STATIC: u8 = 4;

/// The hosts of the rest of the world (RFC 5737 and RFC 3849 documentation addresses) and the port they answer on.
pub const OUTSIDE_HOSTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x80)),
];
/// Port of the outside hosts' HTTP server.
pub const OUTSIDE_PORT: u16 = 80;
/// Names that the outside hosts' name server knows, with the families they have addresses of.
pub const OUTSIDE_NAMES: [(&str, &[IpFamily]); 4] = [
    ("v4.outside.example", &[IpFamily::V4]),
    ("v6.outside.example", &[IpFamily::V6]),
    ("dual.outside.example", &IpFamily::BOTH),
    ("www.outside.example", &IpFamily::BOTH),
];
/// The zone of these names.
const OUTSIDE_ZONE: &str = "outside.example";
/// Seconds that the outside's answers hold.
const OUTSIDE_TTL: u32 = 60;

/// Builds everything; runs in the supervisor, before it has a second thread.
pub(crate) fn build(dir: &ClusterDir, spec: &ClusterSpec) -> Result<()> {
    let fabric = netns::create_at(&dir.netns(FABRIC_NAMESPACE))?;
    netns::within(fabric.as_fd(), || -> Result<()> {
        // A bridge that hands packets to iptables would apply one node's rules to another's traffic.
        for family in ["iptables", "ip6tables"] {
            let key = format!("net/bridge/bridge-nf-call-{family}");
            if Path::new("/proc/sys").join(&key).exists() {
                sysctl::write(&key, "0")?;
            }
        }
        sysctl::write("net/ipv6/conf/default/disable_ipv6", "1")?;
        let mut handle = Handle::open()?;
        handle.add_bridge(&NewLink::named(BRIDGE))?;
        Ok(handle.set_up(BRIDGE)?)
    })??;
    let mut switch = Handle::open_in(fabric.as_fd())?;
    let bridge = switch.index(BRIDGE)?;
    let mut join = |port: &str, place: Place, name: &str, target: BorrowedFd<'_>| -> Result<()> {
        let far = NewLink { netns: Some(target), ..NewLink::named(name) };
        switch.add_veth(&NewLink::named(port), &far)?;
        let index = switch.index(port)?;
        switch.change_link(
            index,
            &LinkChange { up: Some(true), master: Some(bridge), ..LinkChange::default() },
        )?;
        let mut handle = Handle::open_in(target)?;
        let link = handle.index(name)?;
        for address in spec.addresses(place) {
            handle.replace_address(link, address)?;
        }
        // The addresses are ours alone: to look for others that have them takes a second in which nothing flows.
        netns::within(target, || sysctl::write(&format!("net/ipv6/conf/{name}/accept_dad"), "0"))??;
        Ok(handle.set_up(name)?)
    };
    let inside =
        |name: &str| netns::create_at(&dir.netns(name)).with_context(|| format!("network namespace {name}"));

    let api = inside(API_NAMESPACE)?;
    join("api", Place::Api, LINK, api.as_fd())?;
    route_to_cluster(&mut Handle::open_in(api.as_fd())?, LINK, spec, |_| true)?;

    let outside = inside(OUTSIDE)?;
    join("outside", Place::Outside, LINK, outside.as_fd())?;
    furnish_outside(outside.as_fd(), spec)?;

    for (index, node) in spec.nodes.iter().enumerate() {
        let namespace = inside(&node.name)?;
        join(&format!("n{index}"), Place::Node(index), LINK, namespace.as_fd())
            .with_context(|| node.name.clone())?;
        netns::within(namespace.as_fd(), sysctl::forward)??;
        route_to_outside(&mut Handle::open_in(namespace.as_fd())?, spec)?;
    }
    if spec.host_is_joined {
        let host = netns::current()?;
        let name = host_link(&spec.name);
        join("host", Place::Host, &name, host.as_fd())
            .with_context(|| format!("link {name} of this machine"))?;
        let mut handle = Handle::open()?;
        let index = handle.index(&name)?;
        let alias = alias(dir);
        handle.change_link(index, &LinkChange { alias: Some(&alias), ..LinkChange::default() })?;
        route_to_cluster(&mut handle, &name, spec, |_| true)?;
    }
    Ok(())
}

/// Routes to the pod and service ranges, spread over all nodes: any of them takes what it gets where it belongs.
fn route_to_cluster(
    handle: &mut Handle,
    link: &str,
    spec: &ClusterSpec,
    wanted: impl Fn(&IpNet) -> bool,
) -> Result<()> {
    let link = handle.index(link)?;
    for range in spec.pod_ranges.iter().chain(&spec.service_ranges).filter(|range| wanted(range)) {
        let family = IpFamily::from(*range);
        let nodes = (0..spec.nodes.len()).flat_map(|index| spec.addresses(Place::Node(index)));
        let hops: Vec<NextHop> = nodes
            .filter(|node| IpFamily::from(*node) == family)
            .map(|node| NextHop { via: Some(node.addr()), link, onlink: false, weight: 1 })
            .collect();
        if !hops.is_empty() {
            handle.replace_route(&Route { hops, ..Route::on_link(*range, link) })?;
        }
    }
    Ok(())
}

/// A node's way to everything that is not the cluster.
fn route_to_outside(handle: &mut Handle, spec: &ClusterSpec) -> Result<()> {
    let link = handle.index(LINK)?;
    for router in spec.addresses(Place::Outside) {
        let everywhere = IpNet::new(router.addr(), 0)?;
        let route = Route::via(everywhere, router.addr(), link);
        // A bare node has it from its administrator, and agents that are taken away leave it there.
        let protocol = if spec.shape == Shape::Whole { route.protocol } else { STATIC };
        handle.replace_route(&Route { protocol, ..route })?;
    }
    Ok(())
}

/// Gives the outside its hosts, and the way back to pods whose addresses are public.
fn furnish_outside(namespace: BorrowedFd<'_>, spec: &ClusterSpec) -> Result<()> {
    let mut handle = Handle::open_in(namespace)?;
    let loopback = handle.index("lo")?;
    for host in OUTSIDE_HOSTS {
        handle.replace_address(loopback, host.into())?;
    }
    route_to_cluster(&mut handle, LINK, spec, is_global)
}

/// Whether addresses of the range are routed in the Internet, and so are not masqueraded.
fn is_global(range: &IpNet) -> bool {
    match range.addr() {
        // Every IPv4 pod range is taken for private: clusters with public ones are rarer than mistakes.
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

/// Name of the host's link to a cluster; the kernel allows 15 bytes.
fn host_link(cluster: &str) -> String {
    let plain = format!("dyad-{cluster}");
    if plain.len() <= 15 {
        return plain;
    }
    let digest = Sha256::digest(cluster.as_bytes());
    let hash: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("dyad-{hash}")
}

/// What the host's link says of itself: which cluster it leads to, down to the directory.
fn alias(dir: &ClusterDir) -> String {
    // The kernel takes 255 bytes.
    let text = format!("dyad {} {}", dir.tag(), dir.path().display());
    text.chars().take(200).collect()
}

/// Takes the host's link away, if the kernel has not done so already; its routes go with it.
pub(crate) fn remove_from_host(dir: &ClusterDir, cluster: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (mut handle, name) = (Handle::open()?, host_link(cluster));
    // A cluster of the same name in another data directory keeps its link.
    if handle.link(&name)?.is_some_and(|link| link.alias == Some(alias(dir))) {
        match handle.delete_link(&name) {
            Err(error) if error.is_not_found() => {}
            result => result.with_context(|| format!("can't delete link {name}"))?,
        }
    }
    Ok(())
}

/// Checks that joining this machine to the cluster takes nothing away from what it has.
pub(crate) fn check_host(spec: &ClusterSpec) -> Result<()> {
    if !spec.host_is_joined {
        return Ok(());
    }
    let mut handle = Handle::open()?;
    let name = host_link(&spec.name);
    if let Some(link) = handle.link(&name)? {
        bail!(
            "this machine has a link {name} already{}: a cluster of this name runs from another data directory \
             (XDG_DATA_HOME); choose another --name",
            link.alias.map(|alias| format!(" ({alias})")).unwrap_or_default()
        );
    }
    let links = handle.links()?;
    for route in handle.all_routes().context("can't list this machine's routes")? {
        // A wider route of the machine goes on for the rest of its addresses.
        let Some((what, range)) = spec.ranges().find(|(_, range)| range.contains(&route.destination)) else {
            continue;
        };
        let link = route.hops.first().and_then(|hop| links.iter().find(|link| link.index == hop.link));
        let over = link.map(|link| match &link.alias {
            Some(alias) => format!(" over {} ({alias})", link.name),
            None => format!(" over {}", link.name),
        });
        bail!(
            "the {what} {range} of cluster {:?} overlaps this machine's route to {}{}: choose other ranges \
             (networking.podSubnet and networking.serviceSubnet in --config)",
            spec.name,
            route.destination,
            over.unwrap_or_default()
        );
    }
    Ok(())
}

/// Ranges this machine has routes for, the default route excepted.
pub(crate) fn host_ranges() -> Result<Vec<IpNet>> {
    let routes = Handle::open()?.all_routes().context("can't list this machine's routes")?;
    Ok(routes.into_iter().map(|route| route.destination).filter(|range| range.prefix_len() > 0).collect())
}

/// `dyad internal outside DIR`: the servers of the rest of the world.
pub(crate) fn outside_main(dir: &Path) -> Result<()> {
    crate::control_plane::log_to_stderr();
    let namespace = netns::open(&ClusterDir::at(dir).netns(OUTSIDE))?;
    netns::enter_for_good(namespace.as_fd())?;
    // Threads begin in the namespace of the one that starts them.
    std::thread::Builder::new().name("names".into()).spawn(|| {
        // The supervisor starts both servers anew, rather than to go on with half of the world.
        let Err(error) = serve_names() else { return };
        tracing::error!("the outside's name server: {error:#}");
        std::process::exit(1);
    })?;
    println!("ready");
    dyad_kubelet::echo::serve(OUTSIDE_PORT).context("the outside's server")
}

fn serve_names() -> Result<()> {
    let settings = Settings {
        source: Source::Text(OUTSIDE.into(), outside_names()),
        variables: BTreeMap::new(),
        client: None,
        listen: OUTSIDE_HOSTS.to_vec(),
        service: None,
        workers: 1,
        rate: None,
        listening: Box::new(|_| {}),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(serve::run(settings, std::future::pending()))?)
}

/// The Corefile of the rest of the world: what is not in it does not exist.
fn outside_names() -> String {
    let hosts = OUTSIDE_HOSTS.map(IpNet::from);
    let zones = hosts.iter().fold(OUTSIDE_ZONE.to_owned(), |zones, host| format!("{zones} {host}"));
    let mut text = format!("{zones} {{\n    errors\n    hosts /dev/null {zones} {{\n");
    for host in OUTSIDE_HOSTS {
        let family = IpFamily::from(host);
        let names = OUTSIDE_NAMES.iter().filter(|(_, families)| families.contains(&family));
        let names = names.map(|(name, _)| *name).collect::<Vec<_>>().join(" ");
        let _ = writeln!(text, "        {host} {names}");
    }
    let _ = write!(text, "        ttl {OUTSIDE_TTL}\n        reload 0\n    }}\n}}\n");
    text + ". {\n    errors\n    template ANY ANY {\n        rcode NXDOMAIN\n    }\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        assert_eq!(host_link("local"), "dyad-local");
        let (a, b) = (host_link("a-rather-long-name-1"), host_link("a-rather-long-name-2"));
        assert!(a.len() <= 15 && b.len() <= 15 && a != b, "{a} {b}");
    }

    #[test]
    fn the_outsides_corefile_can_be_read() {
        use dyad_dns::corefile::{Corefile, Disk};
        let read = Corefile::parse(OUTSIDE, &outside_names(), &Disk::default()).unwrap();
        let zones: Vec<_> =
            read.servers.iter().flat_map(|server| &server.zones).map(|key| &key.zone).collect();
        assert_eq!(zones[..2], ["outside.example.", "80.113.0.203.in-addr.arpa."], "{zones:?}");
        assert_eq!(zones.len(), 4, "{zones:?}");
        assert_eq!(read.servers[0].hosts.as_ref().map(|hosts| hosts.inline.len()), Some(2));
    }

    #[test]
    fn only_global_ipv6_is_reached_from_outside() {
        for (range, global) in
            [("10.244.0.0/16", false), ("fd00:10:244::/56", false), ("2001:db8:1::/56", true)]
        {
            assert_eq!(is_global(&range.parse().unwrap()), global, "{range}");
        }
    }
}
