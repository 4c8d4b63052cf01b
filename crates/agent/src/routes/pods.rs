//! Routes to this node's own pods, as they were made with their links: with an address of the node the kernel takes away
//! every route that had it for its source.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_links::{Handle, OURS, Result, Route, pod};
use dyad_net::{IpFamily, IpNet};
use tracing::info;

use super::Node;

/// Sets routes that are missing or have another source. The pods' static neighbours tell which there should be.
pub(crate) fn mend(kernel: &mut Handle, mine: Option<&Node>, present: &BTreeSet<IpAddr>) -> Result<()> {
    let links: BTreeSet<u32> =
        kernel.links()?.iter().filter(|link| link.group == pod::GROUP).map(|link| link.index).collect();
    if links.is_empty() {
        return Ok(());
    }
    let routes = kernel.routes(OURS)?;
    for neighbour in kernel.neighbours()?.iter().filter(|neighbour| links.contains(&neighbour.link)) {
        let mine = mine.and_then(|node| node.ip(IpFamily::from(neighbour.ip)));
        let source = mine.filter(|ip| present.contains(ip));
        let wanted = Route::on_link(IpNet::from(neighbour.ip), neighbour.link).from_source(source);
        if !routes.contains(&wanted) {
            kernel.replace_route(&wanted)?;
            info!(pod = %neighbour.ip, source = source.map(tracing::field::display), "route to a pod set");
        }
    }
    Ok(())
}
