//! The watch cache of one resource: an ordered map of objects and a bounded ring of changes.
//!
//! Watchers are cursors into the ring: nothing is queued for them, and one that falls behind the ring is told so. A
//! snapshot and the cursor behind it are taken under one lock, so that no change is missed or seen twice between them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::stored::Stored;

/// Changes kept per resource (J33), and how many bytes they may hold on to.
const RING_CHANGES: usize = 8192;
const RING_BYTES: usize = 8 << 20;

/// A change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    /// What it is now; `None` once it is gone.
    pub(crate) now: Option<Arc<Stored>>,
    /// What it was; `None` if it is new.
    pub(crate) before: Option<Arc<Stored>>,
    /// Revision of the change.
    pub(crate) rev: u64,
}

impl Change {
    fn weight(&self) -> usize {
        [&self.now, &self.before].into_iter().flatten().map(|stored| stored.weight()).sum()
    }
}

/// A place in the ring: the next change to read. Places count up from 0 for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor(u64);

/// The changes after the one asked for are no longer kept; the oldest revision that can be watched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOld {
    pub(crate) oldest: u64,
}

/// Objects at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) items: Vec<Arc<Stored>>,
    /// Revision of the newest change that is in it.
    pub(crate) rev: u64,
    /// Where the changes after it begin.
    pub(crate) cursor: Cursor,
}

/// The cache of one resource.
#[derive(Debug)]
pub(crate) struct Cache {
    inner: RwLock<Inner>,
    /// The place behind the newest change.
    end: watch::Sender<u64>,
    /// Watches of clients that are open.
    watches: AtomicUsize,
    /// Whether nothing comes any more: the kind is gone, or is served anew.
    retired: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    items: BTreeMap<Box<str>, Arc<Stored>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Place of the first change in the ring.
    first: u64,
    /// Revision of the newest change that has left the ring, or of the initial load.
    oldest: u64,
    /// Revision of the newest change.
    rev: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            inner: RwLock::default(),
            end: watch::Sender::new(0),
            watches: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
        }
    }
}

impl Cache {
    /// Fills the cache with what there was at `rev`. Once, before anything else.
    pub(crate) fn load(&self, items: impl IntoIterator<Item = (Box<str>, Arc<Stored>)>, rev: u64) {
        let mut inner = self.write();
        inner.items = items.into_iter().collect();
        inner.rev = rev;
        inner.oldest = rev;
    }

    /// Applies the changes of one revision.
    pub(crate) fn apply(&self, rev: u64, changes: Vec<(Box<str>, Option<Arc<Stored>>)>) {
        let mut inner = self.write();
        for (key, now) in changes {
            let before = match &now {
                Some(stored) => inner.items.insert(key, Arc::clone(stored)),
                None => inner.items.remove(&key),
            };
            if now.is_none() && before.is_none() {
                continue;
            }
            inner.push(Change { now, before, rev });
        }
        inner.rev = rev;
        let end = inner.end();
        drop(inner);
        self.end.send_replace(end);
    }

    /// Whether there are changes after `cursor`.
    pub(crate) fn has_after(&self, cursor: Cursor) -> bool {
        cursor.0 < *self.end.borrow()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Stored>> {
        self.read().items.get(key).cloned()
    }

    /// The objects of a namespace, or all, and where the changes after them begin.
    pub(crate) fn snapshot(&self, namespace: &str) -> Snapshot {
        let inner = self.read();
        let items = match namespace {
            "" => inner.items.values().cloned().collect(),
            // '0' follows '/', so these bounds hold every key that begins with "namespace/".
            _ => inner
                .items
                .range::<str, _>((
                    Bound::Included(&*format!("{namespace}/")),
                    Bound::Excluded(&*format!("{namespace}0")),
                ))
                .map(|(_, stored)| Arc::clone(stored))
                .collect(),
        };
        Snapshot { items, rev: inner.rev, cursor: Cursor(inner.end()) }
    }

    /// Where the changes to come begin.
    pub(crate) fn end(&self) -> Cursor {
        Cursor(self.read().end())
    }

    /// Where the changes after `rev` begin.
    pub(crate) fn after(&self, rev: u64) -> Result<Cursor, TooOld> {
        let inner = self.read();
        if rev < inner.oldest {
            return Err(TooOld { oldest: inner.oldest });
        }
        let seen = inner.ring.partition_point(|change| change.rev <= rev);
        Ok(Cursor(inner.first + seen as u64))
    }

    /// About `limit` changes from `cursor` on, which moves behind them. Those of one revision stay together, lest a
    /// watcher that comes back with that revision miss the second half.
    pub(crate) fn changes(&self, cursor: &mut Cursor, limit: usize) -> Result<Vec<Arc<Change>>, TooOld> {
        let inner = self.read();
        let skip = cursor.0.checked_sub(inner.first).ok_or(TooOld { oldest: inner.oldest })?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut changes: Vec<Arc<Change>> = Vec::new();
        for change in inner.ring.iter().skip(skip) {
            if changes.len() >= limit && changes.last().is_some_and(|last| last.rev != change.rev) {
                break;
            }
            changes.push(Arc::clone(change));
        }
        cursor.0 += changes.len() as u64;
        Ok(changes)
    }

    /// Is told whenever there are new changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Ends all watches.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.end.send_modify(|_| {});
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.read().items.len()
    }

    /// How many watches of clients are open.
    pub(crate) fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    /// A client's watch begins.
    pub(crate) fn open_watch(&self) {
        self.watches.fetch_add(1, Ordering::Relaxed);
    }

    /// A client's watch has ended.
    pub(crate) fn close_watch(&self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn push(&mut self, change: Change) {
        self.ring_bytes += change.weight();
        self.ring.push_back(Arc::new(change));
        while self.ring.len() > RING_CHANGES || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            let Some(rev) = self.ring.front().map(|change| change.rev) else { break };
            self.oldest = rev;
            // Whole revisions: half of one would look like all of it.
            while let Some(gone) = self.ring.pop_front_if(|change| change.rev == rev) {
                self.ring_bytes -= gone.weight();
                self.first += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
