//! How many responses a source prefix gets: who is flooded with answers it did not ask for, is of a prefix.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefixes that are told apart, roughly: those of one slot share it.
const SLOTS: usize = 1 << 14;
/// One of so many responses beyond the limit is sent with TC, so that whoever really asks comes back over TCP.
const SLIP: u32 = 2;
/// Units of a response: what grows in a millisecond may be less than a response.
const UNIT: u64 = 1000;
/// Bits of the credit; above them are the 32 of the time.
const CREDIT_BITS: u32 = 32;

/// A bucket for each prefix (/32 of IPv4, /56 of IPv6), which fills at the given rate, up to a second's worth.
#[derive(Debug)]
pub struct RateLimit {
    per_second: u64,
    /// When it was last looked at, in milliseconds, and the credit then.
    slots: Box<[AtomicU64]>,
}

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// Send an empty one with TC.
    Slip,
    /// Send nothing.
    Drop,
}

impl RateLimit {
    /// A limit of responses per second.
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second.max(1)).min(u64::from(u32::MAX) / UNIT);
        // Full, as of the beginning.
        let slots = (0..SLOTS).map(|_| AtomicU64::new(per_second * UNIT)).collect();
        Self { per_second, slots }
    }

    /// Takes a response from the bucket of `ip`, if there is one left. `now` is in milliseconds since any moment.
    pub fn take(&self, ip: IpAddr, now: u32, random: u32) -> Verdict {
        let slot = &self.slots[slot_of(ip)];
        let update = |held: u64| {
            let (then, credit) = ((held >> CREDIT_BITS) as u32, held & u64::from(u32::MAX));
            // Threads are a little apart: time does not go back.
            let passed = now.wrapping_sub(then).cast_signed().max(0).cast_unsigned();
            let credit = (credit + u64::from(passed) * self.per_second).min(self.per_second * UNIT);
            let left = credit.checked_sub(UNIT)?;
            Some(u64::from(then.wrapping_add(passed)) << CREDIT_BITS | left)
        };
        if slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).is_ok() {
            Verdict::Send
        } else if random.is_multiple_of(SLIP) {
            Verdict::Slip
        } else {
            Verdict::Drop
        }
    }
}

fn slot_of(ip: IpAddr) -> usize {
    let prefix = match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 72) as u64 | 1 << 63,
    };
    (prefix.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SLOTS
}
