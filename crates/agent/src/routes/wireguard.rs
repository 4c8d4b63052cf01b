//! The WireGuard link: one for both families, to all nodes that have said a key.
//!
//! A node that has not is not sent anything, rather than in the clear: beside every way that leads into the link is an
//! unreachable one that comes to be used should the link go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dyad_links::wireguard::{KEY_BYTES, Peer, PrivateKey, PublicKey, Settings, Wireguard, overhead};
use dyad_links::{Handle, Link, Result, Route, RouteKind};
use dyad_net::{IpFamily, IpNet};
use dyad_program::Name;
use tracing::info;

use super::Node;
use crate::AgentError;
use crate::config::Config;

mod key;

pub use key::KeyError;

/// The name of the link.
pub(crate) const LINK: &str = "dyad-wg";
/// The metric of ways that refuse: used when there is no other.
const LAST: u32 = 1 << 30;

/// What encrypts, and this node's key.
#[derive(Debug)]
pub(crate) struct Encryption {
    control: Wireguard,
    key: PrivateKey,
    file: PathBuf,
}

impl Encryption {
    /// That of the calling thread's namespace. A key is made if the file is not there.
    pub(crate) fn open(file: &Path) -> std::result::Result<Self, AgentError> {
        // Before a key is made that nobody could use.
        let control = Wireguard::open()?.ok_or(AgentError::NoWireguard)?;
        Ok(Self { control, key: key::load_or_make(file)?, file: file.to_owned() })
    }
}

/// Takes the link away.
pub(crate) fn cleanup(kernel: &mut Handle) -> Result<()> {
    kernel.delete_link(LINK)
}

/// Deletes the key, and its directory if nothing else is in there.
pub(crate) fn forget(file: &Path) -> std::io::Result<()> {
    key::forget(file)
}

/// What a Node says of how to reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reachable {
    pub(super) key: PublicKey,
    pub(super) port: u16,
}

impl Reachable {
    pub(super) fn of(node: &Node) -> Option<Self> {
        let bytes = STANDARD.decode(node.announced.wireguard_key.as_deref()?).ok()?;
        let key = PublicKey(<[u8; KEY_BYTES]>::try_from(bytes).ok()?);
        let port = node.announced.wireguard_port.as_deref()?.parse().ok().filter(|port| *port != 0)?;
        Some(Self { key, port })
    }
}

/// A public key as it is said.
pub(crate) fn text(key: &PublicKey) -> String {
    STANDARD.encode(key.0)
}

/// What the link should be told.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) peers: BTreeMap<PublicKey, Peer>,
    /// Whose keys these are.
    names: BTreeMap<PublicKey, Name>,
    /// What this node is called by those behind it.
    pub(super) addresses: BTreeSet<IpNet>,
    /// This node's addresses that packets leave from.
    pub(super) locals: BTreeSet<IpAddr>,
    /// Ranges that lead into it.
    pub(super) ranges: BTreeSet<IpNet>,
    /// Ranges of all other nodes: nothing goes there in the clear.
    pub(super) guarded: BTreeSet<IpNet>,
    /// What is wrong, for people.
    pub(super) warnings: BTreeSet<String>,
}

impl Wanted {
    /// A range of a node that goes into the link, unless somebody else has it or its key.
    pub(super) fn add(&mut self, name: &Name, to: SocketAddr, key: PublicKey, range: IpNet) {
        let owner = self.names.entry(key).or_insert_with(|| name.clone());
        if owner != name {
            self.warnings.insert(format!(
                "nodes {} and {} have the same WireGuard key, so the latter's pods are not reached: delete the file of its \
                 key there, and restart its agent",
                owner.name(),
                name.name()
            ));
        } else if self.ranges.insert(range) {
            let peer = self.peers.entry(key).or_default();
            peer.endpoint = Some(to);
            peer.allowed.insert(range);
        }
    }

    /// The routes, where the link has this index, if it is there.
    pub(super) fn routes(&self, mine: Option<&Node>, link: Option<u32>) -> Vec<Route> {
        let into = |range: &IpNet| {
            let source = mine.and_then(|mine| mine.inside((*range).into()));
            Some(Route::on_link(*range, link?).from_source(source))
        };
        let refusing =
            |range: &IpNet| Route { metric: LAST, ..Route::refusing(*range, RouteKind::Unreachable) };
        self.ranges.iter().filter_map(into).chain(self.guarded.iter().map(refusing)).collect()
    }
}

/// Whether a route is one of those that refuse.
pub(crate) fn refuses(route: &Route) -> bool {
    (route.kind, route.metric) == (RouteKind::Unreachable, LAST)
}

/// The link.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) index: u32,
    pub(super) mtu: u32,
    pub(super) public: Option<PublicKey>,
}

/// Makes the link, and tells it what it is not told yet. `None` while this node has no address.
pub(super) fn make(
    kernel: &mut Handle,
    config: &Config,
    encryption: &mut Encryption,
    mine: Option<&Node>,
    wanted: &mut Wanted,
    (link_of, links): (&BTreeMap<IpAddr, u32>, &[Link]),
) -> Result<Option<Made>> {
    // Before anybody is known, the way to them is that of the node's first address.
    let allowed = |ip: &&IpAddr| config.tunnels.underlay.is_none_or(|family| family == IpFamily::from(**ip));
    let first = mine.and_then(|node| node.ips.iter().find(allowed));
    let locals =
        if wanted.locals.is_empty() { first.into_iter().collect() } else { wanted.locals.iter().collect() };
    let fits = |ip: &&IpAddr| {
        let index = link_of.get(*ip)?;
        let link = links.iter().find(|link| link.index == *index)?;
        Some(link.mtu.saturating_sub(overhead(IpFamily::from(**ip))))
    };
    let locals: Vec<&IpAddr> = locals;
    let Some(mtu) = locals.iter().filter_map(fits).min() else { return Ok(None) };
    let is_new = !links.iter().any(|link| link.name == LINK);
    let index = kernel.replace_wireguard(LINK, mtu)?;
    let own = encryption.control.device(index)?.public;
    if let Some(name) = own.and_then(|own| wanted.names.get(&own)) {
        wanted.warnings.insert(format!(
            "node {} has the WireGuard key of this node, so its pods are not reached: delete {} on one of them, and \
             restart its agent",
            name.name(),
            encryption.file.display()
        ));
    }
    // The kernel knows no peer with its own key.
    if let Some(twin) = own.and_then(|own| wanted.peers.remove(&own)) {
        wanted.ranges.retain(|range| !twin.allowed.contains(range));
    }
    let port = config.tunnels.wireguard_port;
    let settings = Settings { private: &encryption.key, port, peers: &wanted.peers };
    let device = encryption.control.apply(index, &settings)?;
    kernel.set_up(LINK)?;
    if is_new {
        info!(link = LINK, port, mtu, "packets between nodes are encrypted");
    }
    let present = kernel.addresses()?;
    let is_there = |net: &IpNet| present.iter().any(|of| of.link == index && of.net == *net);
    for address in wanted.addresses.iter().filter(|net| !is_there(net)) {
        kernel.replace_address(index, *address)?;
    }
    for of in present.iter().filter(|of| of.link == index && !wanted.addresses.contains(&of.net)) {
        kernel.delete_address(index, of.net)?;
    }
    Ok(Some(Made { index, mtu, public: device.public }))
}

#[cfg(test)]
mod tests;
