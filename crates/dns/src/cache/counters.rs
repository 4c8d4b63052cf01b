//! What the cache counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Hit, Kind};

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers found.
    pub hits_success: AtomicU64,
    /// Denials found.
    pub hits_denial: AtomicU64,
    /// Nothing found.
    pub misses: AtomicU64,
    /// Answers found whose time was over.
    pub served_stale: AtomicU64,
    /// Answers to be renewed before their time was over.
    pub prefetches: AtomicU64,
    /// Answers that made room for others.
    pub evictions: AtomicU64,
}

impl Counters {
    pub(super) fn hit(&self, hit: Hit, kind: Kind) {
        let kind = if kind == Kind::Success { &self.hits_success } else { &self.hits_denial };
        kind.fetch_add(1, Relaxed);
        if hit.stale {
            self.served_stale.fetch_add(1, Relaxed);
        } else if hit.renew {
            self.prefetches.fetch_add(1, Relaxed);
        }
    }

    /// A second look, for what is stale, is no second miss.
    pub(super) fn miss(&self, second: bool) {
        if !second {
            self.misses.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn evicted(&self, count: u64) {
        if count > 0 {
            self.evictions.fetch_add(count, Relaxed);
        }
    }
}
