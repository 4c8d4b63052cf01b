//! WireGuard's messages (`linux/wireguard.h`).
//!
//! What does not fit into one message is several: a peer that is named again gets more ranges, or is told of further ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dyad_net::{IpFamily, IpNet};
use zeroize::Zeroizing;

use super::{Change, Device, GENERIC_FIXED, KEY_BYTES, Peer, PrivateKey, PublicKey, Traffic};
use crate::wire::{self, Message};

const CMD_GET_DEVICE: u8 = 0;
const CMD_SET_DEVICE: u8 = 1;
const VERSION: u8 = 1;

const DEVICE_IFINDEX: u16 = 1;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;

const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_LAST_HANDSHAKE: u16 = 6;
const PEER_RX_BYTES: u16 = 7;
const PEER_TX_BYTES: u16 = 8;
const PEER_ALLOWED_IPS: u16 = 9;
const PEER_REMOVE_ME: u32 = 1;
const PEER_REPLACE_ALLOWED_IPS: u32 = 2;

const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_IP: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;

/// Ranges of one peer in one message at most, some 44 bytes each: a list is at most 64 KiB.
const RANGES: usize = 256;
/// Ranges in one message at most, where a peer counts as [`PEER_WEIGHT`] of them.
const WEIGHT: usize = 384;
const PEER_WEIGHT: usize = 3;

/// A part of a change that fits into a message.
#[derive(Debug)]
struct Part<'a> {
    change: &'a Change,
    ranges: &'a [IpNet],
    is_first: bool,
}

/// What one message says.
#[derive(Debug, Default)]
pub(super) struct Content<'a> {
    own: Option<(&'a PrivateKey, u16)>,
    parts: Vec<Part<'a>>,
}

/// The messages that say all of this: this host's key and port, if they are to be set, and changes of peers. The key is in
/// one of its own, which is never moved in memory and so leaves no copies.
pub(super) fn split<'a>(own: Option<(&'a PrivateKey, u16)>, changes: &'a [Change]) -> Vec<Content<'a>> {
    let mut contents: Vec<_> =
        own.map(|own| Content { own: Some(own), parts: Vec::new() }).into_iter().collect();
    // As if there was no room left.
    let mut weight = WEIGHT;
    for change in changes {
        let none: &[IpNet] = &[];
        let chunks = change.allowed.chunks(RANGES).chain(change.allowed.is_empty().then_some(none));
        for (number, ranges) in chunks.enumerate() {
            let more = ranges.len() + PEER_WEIGHT;
            if weight + more > WEIGHT {
                contents.push(Content::default());
                weight = 0;
            }
            weight += more;
            let part = Part { change, ranges, is_first: number == 0 };
            if let Some(last) = contents.last_mut() {
                last.parts.push(part);
            }
        }
    }
    contents
}

impl Part<'_> {
    fn write(&self, peer: &mut Message) {
        peer.put(PEER_PUBLIC_KEY, &self.change.key.0);
        let flags = match (self.change.is_removed, self.change.replaces && self.is_first) {
            (true, _) => PEER_REMOVE_ME,
            (false, true) => PEER_REPLACE_ALLOWED_IPS,
            (false, false) => 0,
        };
        peer.put_u32(PEER_FLAGS, flags);
        if let Some(endpoint) = self.change.endpoint.filter(|_| self.is_first) {
            peer.put(PEER_ENDPOINT, &socket_address(endpoint));
        }
        if !self.ranges.is_empty() {
            peer.nest(PEER_ALLOWED_IPS, |list| {
                self.ranges.iter().for_each(|range| list.nest(0, |allowed| write_range(allowed, *range)));
            });
        }
    }
}

impl Content<'_> {
    pub(super) fn message(&self, family: u16, flags: u16, link: u32) -> Message {
        let mut message = Message::new(family, flags, &[CMD_SET_DEVICE, VERSION, 0, 0]);
        message.put_u32(DEVICE_IFINDEX, link);
        if let Some((private, port)) = self.own {
            message.put(DEVICE_PRIVATE_KEY, private.bytes());
            message.put(DEVICE_LISTEN_PORT, &port.to_ne_bytes());
        }
        if !self.parts.is_empty() {
            message.nest(DEVICE_PEERS, |list| {
                self.parts.iter().for_each(|part| list.nest(0, |peer| part.write(peer)));
            });
        }
        message
    }
}

pub(super) fn question(family: u16, flags: u16, link: u32) -> Message {
    let mut message = Message::new(family, flags, &[CMD_GET_DEVICE, VERSION, 0, 0]);
    message.put_u32(DEVICE_IFINDEX, link);
    message
}

fn write_range(allowed: &mut Message, range: IpNet) {
    allowed.put(ALLOWED_FAMILY, &u16::from(wire::af(IpFamily::from(range))).to_ne_bytes());
    allowed.put_ip(ALLOWED_IP, range.addr());
    allowed.put(ALLOWED_LENGTH, &[range.prefix_len()]);
}

/// `sockaddr_in` or `sockaddr_in6`.
fn socket_address(at: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(wire::af(at.ip().into())).to_ne_bytes().to_vec();
    bytes.extend(at.port().to_be_bytes());
    match at.ip() {
        IpAddr::V4(ip) => {
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([0; 4]);
            bytes.extend(ip.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be(wire::u16_at(bytes, 2)?);
    let ip: IpAddr = match wire::family(u8::try_from(wire::u16_at(bytes, 0)?).ok()?)? {
        IpFamily::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        IpFamily::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
    };
    Some(SocketAddr::new(ip, port))
}

fn read_range(value: &[u8]) -> Option<IpNet> {
    let (mut ip, mut length) = (None, None);
    for (kind, value) in wire::attributes(value) {
        match kind {
            ALLOWED_IP => ip = wire::ip(value),
            ALLOWED_LENGTH => length = value.first().copied(),
            _ => {}
        }
    }
    IpNet::new(ip?, length?).ok()
}

fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?))
}

/// What one message of an answer says of a device.
#[derive(Debug)]
pub(super) struct Piece {
    private: Option<PrivateKey>,
    public: Option<PublicKey>,
    port: Option<u16>,
    peers: Vec<(PublicKey, Peer, Traffic)>,
}

impl Piece {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut piece = Self { private: None, public: None, port: None, peers: Vec::new() };
        for (kind, value) in wire::attributes(body.get(GENERIC_FIXED..)?) {
            match kind {
                DEVICE_PRIVATE_KEY => piece.private = key(value).map(Zeroizing::new).map(PrivateKey),
                DEVICE_PUBLIC_KEY => piece.public = key(value).map(PublicKey),
                DEVICE_LISTEN_PORT => piece.port = wire::u16_at(value, 0),
                DEVICE_PEERS => {
                    piece.peers.extend(wire::attributes(value).filter_map(|(_, value)| read_peer(value)));
                }
                _ => {}
            }
        }
        Some(piece)
    }
}

fn key(value: &[u8]) -> Option<[u8; KEY_BYTES]> {
    value.try_into().ok()
}

fn read_peer(value: &[u8]) -> Option<(PublicKey, Peer, Traffic)> {
    let (mut public, mut peer, mut traffic) = (None, Peer::default(), Traffic::default());
    for (kind, value) in wire::attributes(value) {
        match kind {
            PEER_PUBLIC_KEY => public = key(value).map(PublicKey),
            PEER_ENDPOINT => peer.endpoint = read_socket_address(value),
            PEER_LAST_HANDSHAKE => {
                let nanos =
                    u32::try_from(number(value.get(8..)?)?).ok().filter(|nanos| *nanos < 1_000_000_000);
                traffic.handshake = Duration::new(number(value)?, nanos?);
            }
            PEER_RX_BYTES => traffic.received = number(value)?,
            PEER_TX_BYTES => traffic.sent = number(value)?,
            PEER_ALLOWED_IPS => {
                peer.allowed.extend(wire::attributes(value).filter_map(|(_, value)| read_range(value)));
            }
            _ => {}
        }
    }
    Some((public?, peer, traffic))
}

/// The device that all messages of an answer tell of. A peer goes on in the next message with nothing but its key and
/// further ranges.
pub(super) fn join(pieces: Vec<Piece>) -> Device {
    let mut device = Device::default();
    for piece in pieces {
        device.private = piece.private.or(device.private);
        device.public = piece.public.or(device.public);
        device.port = piece.port.unwrap_or(device.port);
        for (key, peer, traffic) in piece.peers {
            let known = device.peers.entry(key).or_default();
            known.endpoint = peer.endpoint.or(known.endpoint);
            known.allowed.extend(peer.allowed);
            if traffic != Traffic::default() {
                device.traffic.insert(key, traffic);
            }
        }
    }
    device
}
