//! Time and dice of a thread.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock seconds by way of the monotonic clock, which is read anyway; and random numbers.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    started: Instant,
    seconds: u64,
    dice: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), seconds: since.as_secs(), dice: RandomState::new().hash_one(0) | 1 }
    }

    /// Seconds since 1970 at an instant.
    pub(super) fn seconds(&self, at: Instant) -> u32 {
        (self.seconds + at.saturating_duration_since(self.started).as_secs()) as u32
    }

    /// Milliseconds since the clock was made.
    pub(super) fn milliseconds(&self, at: Instant) -> u32 {
        at.saturating_duration_since(self.started).as_millis() as u32
    }

    /// A number that clients need not be able to guess; it only spreads load (xorshift).
    pub(super) const fn roll(&mut self) -> u32 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 32) as u32
    }
}
