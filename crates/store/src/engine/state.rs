//! The newest values and the most recent events.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::{Kv, StoreError};
use crate::log::Revision;

/// Recent revisions kept in memory, so that a watcher that keeps up never causes a read of the log. Few in tests,
/// for the other paths to be walked too.
const RING_REVISIONS: usize = if cfg!(test) { 8 } else { 1024 };
/// Bytes of keys and values those may hold on to.
const RING_BYTES: usize = 4 << 20;

#[derive(Default)]
pub(crate) struct State {
    newest: BTreeMap<Bytes, Kv>,
    rev: u64,
    /// The oldest revision that can still be read.
    compacted: u64,
    /// Consecutive revisions, the last one being `rev`.
    ring: VecDeque<Arc<Revision>>,
    ring_bytes: usize,
}

impl State {
    /// What a log held when it was opened.
    pub(crate) fn restored(newest: BTreeMap<Bytes, Kv>, rev: u64, compacted: u64) -> Self {
        Self { newest, rev, compacted, ..Self::default() }
    }

    pub(crate) fn rev(&self) -> u64 {
        self.rev
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Kv> {
        self.newest.get(key)
    }

    /// Newest values with `prefix` from `start` on.
    pub(crate) fn scan<'a>(&'a self, prefix: &'a [u8], start: &[u8]) -> impl Iterator<Item = &'a Kv> {
        self.newest
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .map(|(_, kv)| kv)
            .take_while(move |kv| kv.key.starts_with(prefix))
    }

    /// Whether reads at `rev` and watches after it can be answered.
    pub(crate) fn check_kept(&self, rev: u64) -> Result<(), StoreError> {
        if rev > self.rev {
            Err(StoreError::Future { rev, current: self.rev })
        } else if rev < self.compacted {
            Err(StoreError::Compacted { rev, oldest: self.compacted })
        } else {
            Ok(())
        }
    }

    /// Every revision after `rev`, if all of them are in memory.
    pub(crate) fn recent_after(&self, rev: u64) -> Option<impl Iterator<Item = &Arc<Revision>>> {
        let missing = self.rev.checked_sub(rev)?;
        let skip = (self.ring.len() as u64).checked_sub(missing)?;
        Some(self.ring.range(usize::try_from(skip).ok()?..))
    }

    /// Makes a committed revision visible.
    pub(crate) fn apply(&mut self, revision: Arc<Revision>) {
        for event in &revision.events {
            match &event.value {
                Some(kv) => self.newest.insert(kv.key.clone(), kv.clone()),
                None => self.newest.remove(&event.key),
            };
        }
        self.rev = revision.rev;
        self.ring_bytes += revision.weight();
        self.ring.push_back(revision);
        while self.ring.len() > RING_REVISIONS || self.ring_bytes > RING_BYTES {
            self.forget_oldest_recent();
        }
    }

    /// Refuses what is older than `rev` from now on.
    pub(crate) fn compact(&mut self, rev: u64) {
        self.compacted = self.compacted.max(rev);
        while self.ring.front().is_some_and(|revision| revision.rev <= rev) {
            self.forget_oldest_recent();
        }
    }

    fn forget_oldest_recent(&mut self) {
        if let Some(revision) = self.ring.pop_front() {
            self.ring_bytes -= revision.weight();
        }
    }
}
