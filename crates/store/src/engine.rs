//! What all back ends share: the index of newest values, the writer thread, reads and watches.
//!
//! The newest value of every key is in memory, so that comparing and reading never wait for a disk. Values are
//! reference counted: a cache above the store that keeps what it was handed shares the bytes.

mod state;
mod watch;
mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch as signal};

use crate::api::{Compare, Kv, Op, StoreError, TxnOutcome, WatchStream};
use crate::log::{Log, Revision};
use crate::poison;

pub(crate) use state::State;
use writer::{Request, Writer};

/// What readers, watchers and the writer share.
struct Shared {
    state: RwLock<State>,
    log: Arc<dyn Log>,
}

/// A running store: the handle of its writer thread and the shared state.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    requests: Option<mpsc::Sender<Request>>,
    /// Tells watchers the newest revision; the writer holds the sender, so its end is the watchers' end.
    newest: signal::Receiver<u64>,
    writer: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the writer thread over what the log holds.
    pub(crate) fn start(state: State, log: Arc<dyn Log>, name: &str) -> Self {
        let (announce, newest) = signal::channel(state.rev());
        let shared = Arc::new(Shared { state: RwLock::new(state), log });
        let (requests, queue) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&shared), queue, announce);
        let writer = std::thread::Builder::new()
            .name(format!("store-{name}"))
            .spawn(move || writer.run())
            .expect("a process that cannot start one thread cannot serve anything");
        Self { shared, requests: Some(requests), newest, writer: Some(writer) }
    }

    fn send(&self, request: Request) {
        // A writer that is gone drops the request, and with it the reply's sender: the caller sees `Closed`.
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }

    pub(crate) fn txn(
        &self,
        compares: Vec<Compare>,
        ops: Vec<Op>,
    ) -> BoxFuture<'_, Result<TxnOutcome, StoreError>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Txn { compares, ops, reply });
        Box::pin(async { answer.await.unwrap_or(Err(StoreError::Closed)) })
    }

    pub(crate) fn compact(&self, rev: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Compact { rev, reply });
        Box::pin(async { answer.await.unwrap_or(Err(StoreError::Closed)) })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Kv> {
        poison::read(&self.shared.state).get(key).cloned()
    }

    pub(crate) fn current_rev(&self) -> u64 {
        poison::read(&self.shared.state).rev()
    }

    pub(crate) fn range(
        &self,
        prefix: &[u8],
        start: Option<&[u8]>,
        at_rev: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Kv>, u64), StoreError> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let start = start.map_or(prefix, |start| start.max(prefix));
        loop {
            let state = poison::read(&self.shared.state);
            let newest = state.rev();
            let at_rev = match at_rev {
                None => return Ok((state.scan(prefix, start).take(limit).cloned().collect(), newest)),
                Some(rev) if rev == newest => {
                    return Ok((state.scan(prefix, start).take(limit).cloned().collect(), newest));
                }
                Some(rev) => rev,
            };
            state.check_kept(at_rev)?;
            if let Some(recent) = state.recent_after(at_rev) {
                let undo = Undo::default().with(recent, prefix, start);
                return Ok((undo.apply(state.scan(prefix, start), limit), at_rev));
            }
            drop(state);
            // The revisions between are on disk: read them without holding up the writer, then look at what has
            // come since. What was read may have been compacted meanwhile, so the check is made again.
            let mut undo = Undo::default();
            let mut after = at_rev;
            while after < newest {
                let revisions = match self.shared.log.read(after, newest) {
                    Ok(revisions) => revisions,
                    Err(error) => {
                        poison::read(&self.shared.state).check_kept(at_rev)?;
                        return Err(error);
                    }
                };
                let Some(last) = revisions.last() else { break };
                after = last.rev;
                undo = undo.with(revisions.iter(), prefix, start);
            }
            let state = poison::read(&self.shared.state);
            state.check_kept(at_rev)?;
            // Only a burst of writes larger than the ring makes this start over.
            if after == newest
                && let Some(since) = state.recent_after(newest)
            {
                let undo = undo.with(since, prefix, start);
                return Ok((undo.apply(state.scan(prefix, start), limit), at_rev));
            }
        }
    }

    pub(crate) fn watch(&self, prefix: &[u8], after_rev: u64) -> Result<WatchStream, StoreError> {
        poison::read(&self.shared.state).check_kept(after_rev)?;
        Ok(watch::stream(
            Arc::clone(&self.shared),
            self.newest.clone(),
            Bytes::copy_from_slice(prefix),
            after_rev,
        ))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread had panicked");
        }
        // Streams may live on; the file must not stay locked because of them.
        self.shared.log.close();
    }
}

/// What stood under each key before the first of a run of events: takes newest values back to the past.
#[derive(Default)]
struct Undo(BTreeMap<Bytes, Option<Kv>>);

impl Undo {
    fn with<'a>(
        mut self,
        revisions: impl Iterator<Item = &'a Arc<Revision>>,
        prefix: &[u8],
        start: &[u8],
    ) -> Self {
        for event in revisions.flat_map(|revision| &revision.events) {
            if event.key.starts_with(prefix) && &event.key[..] >= start {
                self.0.entry(event.key.clone()).or_insert_with(|| event.prev.clone());
            }
        }
        self
    }

    /// Merges the newest values (in key order) with what stood before.
    fn apply<'a>(self, newest: impl Iterator<Item = &'a Kv>, limit: usize) -> Vec<Kv> {
        let mut past = self.0.into_iter().peekable();
        let mut newest = newest.peekable();
        let merged = std::iter::from_fn(|| {
            loop {
                let old_first = match (past.peek(), newest.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (Some((old, _)), Some(new)) => *old <= new.key,
                };
                if !old_first {
                    return newest.next().cloned();
                }
                let (key, value) = past.next()?;
                newest.next_if(|new| new.key == key);
                if value.is_some() {
                    return value;
                }
            }
        });
        merged.take(limit).collect()
    }
}

/// Implements [`crate::Store`] for a tuple struct whose first field is an [`Engine`].
macro_rules! delegate_store {
    ($name:ty) => {
        impl $crate::Store for $name {
            fn txn(
                &self,
                compares: Vec<$crate::Compare>,
                ops: Vec<$crate::Op>,
            ) -> futures::future::BoxFuture<'_, Result<$crate::TxnOutcome, $crate::StoreError>> {
                self.0.txn(compares, ops)
            }

            fn get(&self, key: &[u8]) -> Result<Option<$crate::Kv>, $crate::StoreError> {
                Ok(self.0.get(key))
            }

            fn range(
                &self,
                prefix: &[u8],
                start: Option<&[u8]>,
                at_rev: Option<u64>,
                limit: usize,
            ) -> Result<(Vec<$crate::Kv>, u64), $crate::StoreError> {
                self.0.range(prefix, start, at_rev, limit)
            }

            fn watch(
                &self,
                prefix: &[u8],
                after_rev: u64,
            ) -> Result<$crate::WatchStream, $crate::StoreError> {
                self.0.watch(prefix, after_rev)
            }

            fn compact(&self, rev: u64) -> futures::future::BoxFuture<'_, Result<(), $crate::StoreError>> {
                self.0.compact(rev)
            }

            fn current_rev(&self) -> u64 {
                self.0.current_rev()
            }
        }
    };
}
pub(crate) use delegate_store;
