//! The back end without a disk: for tests and for clusters that need not outlive their process.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::api::StoreError;
use crate::engine::{Engine, State};
use crate::log::{Log, Revision};
use crate::poison;

/// A store in memory. History is kept until it is compacted.
pub struct MemoryStore(Engine);

impl MemoryStore {
    /// An empty store at revision 0.
    pub fn new() -> Self {
        Self(Engine::start(State::default(), Arc::new(MemoryLog::default()), "memory"))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

crate::engine::delegate_store!(MemoryStore);

/// Revisions a reader takes at once, so that a slow one does not hold them all.
const READ_REVISIONS: usize = if cfg!(test) { 4 } else { 256 };

#[derive(Default)]
struct MemoryLog(RwLock<BTreeMap<u64, Arc<Revision>>>);

impl Log for MemoryLog {
    fn append(&self, group: &[Arc<Revision>]) -> Result<(), StoreError> {
        poison::write(&self.0).extend(group.iter().map(|revision| (revision.rev, Arc::clone(revision))));
        Ok(())
    }

    fn read(&self, after: u64, upto: u64) -> Result<Vec<Arc<Revision>>, StoreError> {
        let revisions = poison::read(&self.0);
        Ok(revisions
            .range(after + 1..=upto)
            .take(READ_REVISIONS)
            .map(|(_, revision)| Arc::clone(revision))
            .collect())
    }

    fn compact(&self, rev: u64, _current: u64) -> Result<bool, StoreError> {
        let mut revisions = poison::write(&self.0);
        *revisions = revisions.split_off(&(rev + 1));
        Ok(true)
    }

    fn close(&self) {}
}
