//! What differs between the back ends: where history is kept.

use std::sync::Arc;

use crate::api::{Event, StoreError};

/// The events of one transaction; never empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Revision {
    /// Its revision.
    pub(crate) rev: u64,
    /// In the order of the transaction's writes.
    pub(crate) events: Vec<Event>,
}

impl Revision {
    /// Bytes of keys and values it keeps alive, for bounding buffers.
    pub(crate) fn weight(&self) -> usize {
        let value = |kv: &Option<crate::Kv>| kv.as_ref().map_or(0, |kv| kv.value.len());
        self.events.iter().map(|event| event.key.len() + value(&event.value) + value(&event.prev)).sum()
    }
}

/// The history behind the in-memory index. One thread writes; any thread reads.
pub(crate) trait Log: Send + Sync + 'static {
    /// Appends consecutive revisions: all of them, durably, or none.
    fn append(&self, group: &[Arc<Revision>]) -> Result<(), StoreError>;

    /// The kept revisions in `after+1 ..= upto` in order: the first ones, as many as the log finds handy, and at
    /// least one if there is any. The caller has made sure that none of them has been compacted.
    fn read(&self, after: u64, upto: u64) -> Result<Vec<Arc<Revision>>, StoreError>;

    /// Records that history up to `rev` is forgotten and removes a bounded part of it; `true` when nothing is left
    /// to remove. `current` is the newest revision.
    fn compact(&self, rev: u64, current: u64) -> Result<bool, StoreError>;

    /// Lets go of files; later calls answer [`StoreError::Closed`].
    fn close(&self);
}
