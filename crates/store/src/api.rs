//! The trait every back end implements, and its vocabulary.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A key with its value and revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the transaction that created the key (since it last did not exist).
    pub create_rev: u64,
    /// Revision of the transaction that last wrote it.
    pub mod_rev: u64,
}

/// A condition of a transaction: the key was last written at `mod_rev`; 0 means that it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// Its expected revision, 0 for absent.
    pub mod_rev: u64,
}

/// A write of a transaction. A transaction names a key at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates or replaces.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes; deleting what is absent is no error.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Written as a whole, durably, at this revision.
    Committed {
        /// The revision of all its writes.
        rev: u64,
    },
    /// A condition did not hold; nothing was written.
    Failed {
        /// Index of the first condition that failed.
        compare: usize,
        /// What stands under that key now.
        current: Option<Kv>,
    },
}

/// A change, in revision order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Revision of the change.
    pub rev: u64,
    /// The key.
    pub key: Bytes,
    /// The new value; `None` for a deletion.
    pub value: Option<Kv>,
    /// What stood there before.
    pub prev: Option<Kv>,
}

/// Events of whole transactions: one item holds every event of one revision (within the watched prefix).
pub type WatchStream = BoxStream<'static, Result<Vec<Event>, StoreError>>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The revision asked for is no longer kept.
    #[error("revision {rev} has been compacted; the oldest kept is {oldest}")]
    Compacted {
        /// Asked for.
        rev: u64,
        /// The oldest that can be asked for.
        oldest: u64,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {rev} is in the future; the newest is {current}")]
    Future {
        /// Asked for.
        rev: u64,
        /// The newest.
        current: u64,
    },
    /// The back end could not write or read (disk full, I/O error). Nothing of the transaction was applied.
    #[error("the store can't {what}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is not ours, or damaged. It is never overwritten.
    #[error(
        "{path} is not a usable store: {why}; move it away to start with an empty one, or restore a copy"
    )]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// A store. Cheap to share behind an `Arc`.
pub trait Store: Send + Sync + 'static {
    /// Applies `ops` if every condition holds; resolves when durable. An empty `ops` only compares.
    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome, StoreError>>;

    /// One key at the newest revision.
    fn get(&self, key: &[u8]) -> Result<Option<Kv>, StoreError>;

    /// Keys with `prefix` in order, at `at_rev` (or the newest), and the revision that was read.
    /// `limit` 0 means all; `start` (inclusive) is where to begin, if not at the prefix.
    fn range(
        &self,
        prefix: &[u8],
        start: Option<&[u8]>,
        at_rev: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Kv>, u64), StoreError>;

    /// Changes after `after_rev` of keys with `prefix`, without a gap and in order. A watcher that falls too far
    /// behind gets [`StoreError::Compacted`] and the end of the stream, never a growing queue.
    fn watch(&self, prefix: &[u8], after_rev: u64) -> Result<WatchStream, StoreError>;

    /// Forgets history older than `rev`: older reads and watches answer [`StoreError::Compacted`].
    fn compact(&self, rev: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The newest revision.
    fn current_rev(&self) -> u64;
}
