//! VXLAN links: one per family of the packets outside, with all that they are told ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_links::vxlan::{self, Remote, Vxlan};
use dyad_links::{Handle, Link, Mac, Neighbour, Result};
use dyad_net::{IpFamily, IpNet};
use tracing::info;

use crate::config::Tunnels;

/// The name of the link whose packets outside are of this family.
pub(crate) const fn name(underlay: IpFamily) -> &'static str {
    match underlay {
        IpFamily::V4 => "dyad-vxlan4",
        IpFamily::V6 => "dyad-vxlan6",
    }
}

/// What one link should be told.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// This node's address.
    pub(super) local: Option<IpAddr>,
    /// Where the other nodes are.
    pub(super) remotes: BTreeSet<Remote>,
    /// Who has the gateway of each range, which is its first address: nobody else ever has that.
    pub(super) gateways: BTreeMap<IpAddr, Mac>,
    /// What this node is called by those behind it.
    pub(super) addresses: BTreeSet<IpNet>,
}

/// The links there are.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) index: BTreeMap<IpFamily, u32>,
    pub(super) mtu: Option<u32>,
}

/// Makes the links, and tells them what they are not told yet. Before routes lead to them.
pub(super) fn make(
    kernel: &mut Handle,
    tunnels: &Tunnels,
    me: &str,
    wanted: &BTreeMap<IpFamily, Wanted>,
    link_of: &BTreeMap<IpAddr, u32>,
    links: &[Link],
) -> Result<Made> {
    let mut made = Made::default();
    for (family, wanted) in wanted {
        let Some(local) = wanted.local else { continue };
        // An address that no link has yet is one that comes later, and there is a look then.
        let Some(link) = link_of.get(&local).and_then(|index| links.iter().find(|link| link.index == *index))
        else {
            continue;
        };
        let vxlan = Vxlan {
            name: name(*family).into(),
            id: tunnels.id,
            port: tunnels.port,
            local,
            mac: vxlan::mac(me),
            mtu: link.mtu.saturating_sub(vxlan::overhead(*family)),
        };
        if kernel.vxlan(&vxlan.name)?.as_ref() != Some(&vxlan) {
            info!(link = vxlan.name, %local, port = vxlan.port, mtu = vxlan.mtu, "tunnels are set up");
        }
        let index = kernel.replace_vxlan(&vxlan)?;
        for address in &wanted.addresses {
            kernel.replace_address(index, *address)?;
        }
        let known = kernel.remotes(index)?;
        for remote in wanted.remotes.iter().filter(|remote| !known.contains(remote)) {
            kernel.replace_remote(index, remote)?;
        }
        let known = kernel.neighbours()?;
        for (ip, mac) in &wanted.gateways {
            let neighbour = Neighbour { link: index, ip: *ip, mac: *mac };
            if !known.contains(&neighbour) {
                kernel.replace_neighbour(&neighbour)?;
            }
        }
        made.index.insert(*family, index);
        made.mtu = Some(made.mtu.map_or(vxlan.mtu, |mtu| mtu.min(vxlan.mtu)));
    }
    Ok(made)
}

/// Takes back what they were told and is true no more, and links that nobody needs. After routes lead elsewhere.
pub(super) fn prune(
    kernel: &mut Handle,
    wanted: &BTreeMap<IpFamily, Wanted>,
    made: &Made,
    links: &[Link],
) -> Result<()> {
    for family in IpFamily::BOTH {
        let (Some(wanted), Some(index)) = (wanted.get(&family), made.index.get(&family)) else {
            if !wanted.contains_key(&family) && links.iter().any(|link| link.name == name(family)) {
                kernel.delete_link(name(family))?;
                info!(link = name(family), "no tunnel is needed");
            }
            continue;
        };
        for remote in kernel.remotes(*index)?.iter().filter(|remote| !wanted.remotes.contains(remote)) {
            kernel.delete_remote(*index, remote)?;
        }
        let is_stale = |of: &Neighbour| of.link == *index && wanted.gateways.get(&of.ip) != Some(&of.mac);
        for neighbour in kernel.neighbours()?.into_iter().filter(is_stale) {
            kernel.delete_neighbour(&neighbour)?;
        }
    }
    Ok(())
}

/// Deletes all of them.
pub(crate) fn cleanup(kernel: &mut Handle) -> Result<()> {
    IpFamily::BOTH.into_iter().try_for_each(|family| kernel.delete_link(name(family)))
}
