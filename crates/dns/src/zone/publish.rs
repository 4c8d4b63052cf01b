//! From the writer to readers that never wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Snapshot;

/// The current snapshot.
#[derive(Debug)]
pub struct Published {
    generation: AtomicU64,
    current: Mutex<Arc<Snapshot>>,
}

impl Published {
    pub(super) const fn new(first: Arc<Snapshot>) -> Self {
        Self { generation: AtomicU64::new(0), current: Mutex::new(first) }
    }

    pub(super) fn set(&self, snapshot: Arc<Snapshot>) {
        let old = std::mem::replace(&mut *self.lock(), snapshot);
        self.generation.fetch_add(1, Ordering::Release);
        // What it does not share with the new one goes now, without the lock.
        drop(old);
    }

    /// The current snapshot. For whoever asks often there are [`SnapshotReader`]s.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.lock().clone()
    }

    /// A reader of its own for each thread.
    pub fn reader(self: &Arc<Self>) -> SnapshotReader {
        SnapshotReader {
            generation: self.generation.load(Ordering::Acquire),
            held: self.snapshot(),
            of: self.clone(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Snapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the current snapshot at the cost of reading a counter; only after a change there is a lock to take, for as
/// long as a pointer is copied.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    of: Arc<Published>,
    generation: u64,
    held: Arc<Snapshot>,
}

impl SnapshotReader {
    /// The current snapshot.
    pub fn snapshot(&mut self) -> &Snapshot {
        let generation = self.of.generation.load(Ordering::Acquire);
        if generation != self.generation {
            // What is there now is at least as new as the counter.
            self.generation = generation;
            self.held = self.of.snapshot();
        }
        &self.held
    }
}
