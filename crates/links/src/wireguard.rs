//! WireGuard: links whose packets travel encrypted, in UDP between hosts that know each other's public keys.
//!
//! One link carries both families, to peers of both. The cryptography is all the kernel's, down to the public key that
//! follows from a private one. Peers that do not change are not mentioned to it, so that their sessions go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use dyad_net::{IpFamily, IpNet};
use zeroize::{Zeroize, Zeroizing};

use crate::wire::{self, Message};
use crate::{Handle, LinkChange, NewLink, Result};

mod codec;

const KIND: &str = "wireguard";
/// The family of generic netlink by which others are found, and what it is asked.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_VERSION: u8 = 2;
/// Length of `genlmsghdr`.
const GENERIC_FIXED: usize = 4;

/// The length of keys of either kind.
pub const KEY_BYTES: usize = 32;

/// What a packet grows by: the headers of IP, UDP (8) and WireGuard (16), and the tag of its cipher (16).
pub const fn overhead(underlay: IpFamily) -> u32 {
    let ip = match underlay {
        IpFamily::V4 => 20,
        IpFamily::V6 => 40,
    };
    ip + 8 + 16 + 16
}

/// A private key: shown nowhere, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; KEY_BYTES]>);

impl PrivateKey {
    /// Of these random bytes, with those bits set that X25519 does not leave to chance (RFC 7748 §5).
    pub fn new(mut bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[31] = bytes[31] & 0b0111_1111 | 0b0100_0000;
        Self(bytes)
    }

    /// For where it is kept.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A public key, by which a peer is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(
    /// Its bytes.
    pub [u8; KEY_BYTES],
);

/// A host at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it is; the kernel follows it should packets come from elsewhere.
    pub endpoint: Option<SocketAddr>,
    /// What is sent to it, and what may come from it.
    pub allowed: BTreeSet<IpNet>,
}

/// What has passed between this host and a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// When the two have agreed on keys for the last time, since the Unix epoch; zero for never.
    pub handshake: Duration,
    /// Bytes that have come.
    pub received: u64,
    /// Bytes that were sent.
    pub sent: u64,
}

/// A link as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its private key, if it has one.
    pub private: Option<PrivateKey>,
    /// The public one that follows from it.
    pub public: Option<PublicKey>,
    /// The UDP port.
    pub port: u16,
    /// Who is at the other ends.
    pub peers: BTreeMap<PublicKey, Peer>,
    /// What has passed, for each of them.
    pub traffic: BTreeMap<PublicKey, Traffic>,
}

/// What a link should be.
#[derive(Debug)]
pub struct Settings<'a> {
    /// This host's key.
    pub private: &'a PrivateKey,
    /// The UDP port.
    pub port: u16,
    /// Who is at the other ends. No two of them have a range in common.
    pub peers: &'a BTreeMap<PublicKey, Peer>,
}

/// A change of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    key: PublicKey,
    is_removed: bool,
    endpoint: Option<SocketAddr>,
    /// Ranges, taken from whoever has them.
    allowed: Vec<IpNet>,
    /// Whether it loses all others.
    replaces: bool,
}

/// What leads from what is there to what should be. What peers gain comes first: nothing is in between that nobody has.
fn changes(
    present: &BTreeMap<PublicKey, Peer>,
    wanted: &BTreeMap<PublicKey, Peer>,
    told: &BTreeMap<PublicKey, SocketAddr>,
) -> Vec<Change> {
    let nobody = Peer::default();
    let (mut gains, mut losses) = (Vec::new(), Vec::new());
    for (key, peer) in wanted {
        let known = present.get(key).unwrap_or(&nobody);
        // The kernel may have followed the peer to another address: that is no reason to call it back again and again.
        let moves = known.endpoint != peer.endpoint && told.get(key) != peer.endpoint.as_ref();
        let endpoint = peer.endpoint.filter(|_| moves);
        let missing: Vec<IpNet> = peer.allowed.difference(&known.allowed).copied().collect();
        // What goes to another peer is taken by its gain.
        let goes_over = |range: &&IpNet| wanted.values().any(|other| other.allowed.contains(range));
        let is_less = known.allowed.difference(&peer.allowed).any(|range| !goes_over(&range));
        let change = Change { key: *key, is_removed: false, endpoint, allowed: missing, replaces: false };
        if change.endpoint.is_some() || !change.allowed.is_empty() || !present.contains_key(key) {
            gains.push(change.clone());
        }
        if is_less {
            let allowed = peer.allowed.iter().copied().collect();
            losses.push(Change { endpoint: None, allowed, replaces: true, ..change });
        }
    }
    let gone = present.keys().filter(|key| !wanted.contains_key(key)).map(|key| Change {
        key: *key,
        is_removed: true,
        endpoint: None,
        allowed: Vec::new(),
        replaces: false,
    });
    losses.extend(gone);
    gains.extend(losses);
    gains
}

/// The kernel's WireGuard, in one network namespace.
#[derive(Debug)]
pub struct Wireguard {
    handle: Handle,
    /// The number that the kernel knows its messages by.
    family: u16,
    /// Where peers were said to be, which is not where they are if they have moved since.
    told: BTreeMap<PublicKey, SocketAddr>,
}

impl Wireguard {
    /// That of the calling thread's namespace; `None` if this kernel has none. Its module is loaded, if it is one.
    pub fn open() -> Result<Option<Self>> {
        let mut handle = Handle::open_generic()?;
        let build = |flags| {
            let mut message = Message::new(GENL_ID_CTRL, flags, &[CTRL_CMD_GETFAMILY, CTRL_VERSION, 0, 0]);
            message.put_text(CTRL_ATTR_FAMILY_NAME, KIND);
            message
        };
        let family = handle.get("looking for WireGuard", GENL_ID_CTRL, build, |body| {
            let mut found = wire::attributes(body.get(GENERIC_FIXED..)?);
            found.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID).and_then(|(_, value)| wire::u16_at(value, 0))
        })?;
        Ok(family.map(|family| Self { handle, family, told: BTreeMap::new() }))
    }

    /// The link with this index, as the kernel has it.
    pub fn device(&mut self, link: u32) -> Result<Device> {
        let family = self.family;
        let pieces = self.handle.dump(
            "listing WireGuard's peers",
            family,
            |flags| codec::question(family, flags, link),
            codec::Piece::read,
        );
        // There was a key in it.
        self.handle.wipe();
        Ok(codec::join(pieces?))
    }

    /// Makes the link with this index what it should be, as it is then.
    pub fn apply(&mut self, link: u32, settings: &Settings<'_>) -> Result<Device> {
        let present = self.device(link)?;
        let is_set = present.private.as_ref() == Some(settings.private) && present.port == settings.port;
        let own = (!is_set).then_some((settings.private, settings.port));
        let changes = changes(&present.peers, settings.peers, &self.told);
        let endpoint = |(key, peer): (&PublicKey, &Peer)| Some((*key, peer.endpoint?));
        if own.is_none() && changes.is_empty() {
            self.told = settings.peers.iter().filter_map(endpoint).collect();
            return Ok(present);
        }
        for content in codec::split(own, &changes) {
            let what = || format!("setting key, UDP port {} and peers of WireGuard", settings.port);
            self.handle.request_secretly(what, |flags| content.message(self.family, flags, link))?;
        }
        self.told = settings.peers.iter().filter_map(endpoint).collect();
        self.device(link)
    }
}

impl Handle {
    /// Makes a WireGuard link called `name`, without an address of the kernel's choosing, if there is none; its index. It
    /// is up only once somebody sets it up: its port is that of its settings then.
    pub fn replace_wireguard(&mut self, name: &str, mtu: u32) -> Result<u32> {
        let present = self.link(name)?;
        if present.as_ref().is_none_or(|link| link.kind.as_deref() != Some(KIND)) {
            self.delete_link(name)?;
            self.add_link(&NewLink { mtu: Some(mtu), ..NewLink::named(name) }, KIND, |_| {})?;
            let index = self.index(name)?;
            let quiet = LinkChange { no_link_local: true, ..LinkChange::default() };
            // A kernel without IPv6 knows no such mode.
            let _ = self.change_link(index, &quiet);
            return Ok(index);
        }
        let index = self.index(name)?;
        if present.is_some_and(|link| link.mtu != mtu) {
            self.change_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })?;
        }
        Ok(index)
    }

    /// Overwrites what was received last.
    fn wipe(&mut self) {
        self.buffer.as_mut_slice().zeroize();
    }
}

#[cfg(test)]
mod tests;
