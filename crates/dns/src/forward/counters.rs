//! What is counted of upstreams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::wire::Rcode;

/// Upper bounds of the buckets of times, in microseconds: 0.25 ms and twice as much each, as CoreDNS has them.
pub const BUCKETS: [u64; 16] = {
    let mut bounds = [250; 16];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = 2 * bounds[at - 1];
        at += 1;
    }
    bounds
};

/// Of all upstreams together.
#[derive(Debug, Default)]
pub struct Counters {
    /// Queries that were refused, as too many were under way.
    pub rejected: AtomicU64,
    /// Queries that got the answer to another one.
    pub coalesced: AtomicU64,
}

/// Of one upstream.
#[derive(Debug, Default)]
pub struct UpstreamCounters {
    /// Queries sent.
    pub requests: AtomicU64,
    /// Queries that failed, or were not answered in time.
    pub failures: AtomicU64,
    /// Probes that failed.
    pub health_failures: AtomicU64,
    /// Answers that were not believed.
    pub bogus: AtomicU64,
    /// Truncated answers.
    pub truncated: AtomicU64,
    /// Queries over a connection that was there.
    pub reused: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Answers by code, the last of all others.
    pub rcodes: [AtomicU64; 7],
    /// Answers by time, the last of those beyond all [`BUCKETS`].
    pub times: [AtomicU64; BUCKETS.len() + 1],
    /// Microseconds of all answers.
    pub time: AtomicU64,
}

impl UpstreamCounters {
    pub(super) fn answered(&self, after: Duration, rcode: Rcode) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        self.times[bucket].fetch_add(1, Relaxed);
        self.time.fetch_add(micros, Relaxed);
        let code = usize::from(rcode.0).min(self.rcodes.len() - 1);
        self.rcodes[code].fetch_add(1, Relaxed);
    }
}
