//! Links that have the way out from router advertisements: a host that forwards no longer listens to those, unless it is
//! told to (`accept_ra` 2), and would lose its default route.

use std::collections::BTreeSet;

use dyad_links::{Handle, sysctl};
use dyad_net::IpFamily;
use tracing::{info, warn};

use crate::switches::Switches;
use crate::with_causes;

/// Who routes are from that the kernel has learnt from routers (`RTPROT_RA`).
const ADVERTISED: u8 = 9;

/// Has those links that have learnt a default route go on listening, and no others. Before forwarding is switched on, and
/// whenever links are looked at. Where something else than the kernel listens (`accept_ra` 0), it goes on anyway.
pub(crate) fn keep_listening(kernel: &mut Handle, switches: &Switches) -> dyad_links::Result<()> {
    let everything = IpFamily::V6.everything();
    let advertised = kernel.all_routes()?.into_iter();
    let of_uplinks = advertised.filter(|of| of.protocol == ADVERTISED && of.destination == everything);
    let uplinks: BTreeSet<u32> = of_uplinks.flat_map(|route| route.hops).map(|hop| hop.link).collect();
    if uplinks.is_empty() {
        return Ok(());
    }
    for link in kernel.links()?.iter().filter(|link| uplinks.contains(&link.index)) {
        let key = format!("net/ipv6/conf/{}/accept_ra", link.name);
        if !sysctl::read(&key).is_ok_and(|now| now == "1") {
            continue;
        }
        match switches.set(&key, "2") {
            Ok(()) => info!(link = link.name, "accept_ra is 2, so that the default route of the link stays"),
            Err(error) => warn!(
                link = link.name,
                error = with_causes(&error),
                "can't set accept_ra to 2; the default route of the link will run out"
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dyad_links::{NewLink, Route, netns};

    use super::*;

    #[test]
    fn only_links_whose_default_route_was_advertised_go_on_listening() {
        let Ok(node) = netns::create() else {
            eprintln!("SKIPPED: no namespaces without root");
            return;
        };
        let found = netns::within(std::os::fd::AsFd::as_fd(&node), || {
            let mut kernel = Handle::open().unwrap();
            kernel.add_veth(&NewLink::named("up0"), &NewLink::named("up1")).unwrap();
            for name in ["up0", "up1"] {
                kernel.set_up(name).unwrap();
                sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "1").unwrap();
            }
            let link = kernel.index("up0").unwrap();
            let everything = IpFamily::V6.everything();
            let route =
                Route { protocol: ADVERTISED, ..Route::via(everything, "fe80::1".parse().unwrap(), link) };
            kernel.replace_route(&route).unwrap();
            keep_listening(&mut kernel, &Switches::default()).unwrap();
            ["up0", "up1"].map(|name| sysctl::read(&format!("net/ipv6/conf/{name}/accept_ra")).unwrap())
        });
        assert_eq!(found.unwrap(), ["2", "1"]);
    }
}
