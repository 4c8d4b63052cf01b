//! From an entry to a reply.

use std::time::Instant;

use super::entry::{Entry, Kind};
use super::{Asked, Hit};
use crate::respond::UDP_SIZE;
use crate::wire::{HEADER, Message};

/// Seconds an answer holds whose time was over (RFC 8767 §4).
const STALE_TTL: u32 = 30;
/// Code of the option with an extended error (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;

/// Copies the packet, with identifier, flags, question and TTLs as they should be.
pub(super) fn write(
    entry: &Entry,
    asked: &Asked<'_>,
    now: Instant,
    stale: bool,
    keep_ttl: bool,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(&entry.packet);
    out[..2].copy_from_slice(&asked.id.to_be_bytes());
    // RD and CD are the query's. AD is for those who understand it (RFC 6840 §5.8).
    out[2] = out[2] & !1 | u8::from(asked.recursion_desired);
    let authentic = asked.authentic_data || asked.edns == Some(true);
    out[3] = out[3] & !0x10 | u8::from(asked.checking_disabled) << 4;
    if !authentic {
        out[3] &= !0x20;
    }
    // Letters as they came (0x20); and the type, as that there is no name holds for every type.
    out[HEADER..entry.name_end].copy_from_slice(asked.name);
    out[entry.name_end..entry.name_end + 2].copy_from_slice(&asked.rtype.0.to_be_bytes());
    let passed = now.saturating_duration_since(entry.stored).as_secs();
    let passed = if keep_ttl { 0 } else { u32::try_from(passed).unwrap_or(u32::MAX) };
    for at in &entry.ttls {
        let at = usize::from(*at);
        let Some(field) = out.get_mut(at..at + 4).and_then(|field| <&mut [u8; 4]>::try_from(field).ok())
        else {
            continue;
        };
        let ttl = if stale { STALE_TTL } else { u32::from_be_bytes(*field).saturating_sub(passed) };
        *field = ttl.to_be_bytes();
    }
    // Each client gets another address first.
    if let Some(set) = entry.set {
        let (at, size) = (usize::from(set.at), usize::from(set.size));
        let all = &mut out[at..at + size * usize::from(set.count)];
        all.rotate_left(size * (entry.hits as usize % usize::from(set.count)));
    }
}

/// Adds the OPT record, and makes what is too large fit.
pub(super) fn finish(asked: &Asked<'_>, hit: Hit, kind: Kind, out: &mut Vec<u8>) {
    let opt = asked.edns.map(|dnssec_ok| opt(asked, dnssec_ok, hit.extended_error(kind))).unwrap_or_default();
    if out.len() + opt.len() > asked.limit {
        // Rare: a packet that was made for more room.
        if let Ok(message) = Message::parse(out) {
            message.encode(out, asked.limit.saturating_sub(opt.len()));
        }
    }
    if !opt.is_empty() {
        out.extend_from_slice(&opt);
        let additional = u16::from_be_bytes([out[10], out[11]]).saturating_add(1);
        out[10..12].copy_from_slice(&additional.to_be_bytes());
    }
}

/// The OPT record that was given, or one without options; with an error, if there is one.
fn opt(asked: &Asked<'_>, dnssec_ok: bool, error: Option<u16>) -> Vec<u8> {
    let [high, low] = UDP_SIZE.to_be_bytes();
    let plain = [0, 0, 41, high, low, 0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0];
    let mut opt = if asked.opt.len() < plain.len() { plain.to_vec() } else { asked.opt.to_vec() };
    if let Some(code) = error {
        for number in [EXTENDED_ERROR, 2, code] {
            opt.extend(number.to_be_bytes());
        }
        let length = u16::from_be_bytes([opt[9], opt[10]]).saturating_add(6);
        opt[9..11].copy_from_slice(&length.to_be_bytes());
    }
    opt
}
