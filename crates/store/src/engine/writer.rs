//! The one thread that writes: drains the queue, compares against the index, commits the whole group at once,
//! publishes in revision order, answers.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use tokio::sync::{oneshot, watch as signal};

use super::Shared;
use crate::api::{Compare, Event, Kv, Op, StoreError, TxnOutcome};
use crate::log::Revision;
use crate::poison;

/// Transactions committed together at most.
const GROUP_TXNS: usize = 1024;
/// Bytes after which a group is closed; one larger transaction still goes through.
const GROUP_BYTES: usize = 4 << 20;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Request {
    Txn { compares: Vec<Compare>, ops: Vec<Op>, reply: Reply<TxnOutcome> },
    Compact { rev: u64, reply: Reply<()> },
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Request>,
    announce: signal::Sender<u64>,
    /// Compactions under way: their revision, and who waits for the end.
    compactions: Vec<(u64, Reply<()>)>,
}

/// Transactions that will be committed together, and how the index will look after them.
#[derive(Default)]
struct Group {
    revisions: Vec<Arc<Revision>>,
    bytes: usize,
    /// Keys written by the group so far; `None` for deleted.
    written: BTreeMap<Bytes, Option<Kv>>,
    replies: Vec<(Reply<TxnOutcome>, TxnOutcome)>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Request>,
        announce: signal::Sender<u64>,
    ) -> Self {
        Self { shared, queue, announce, compactions: Vec::new() }
    }

    pub(super) fn run(mut self) {
        loop {
            // Compaction proceeds in slices whenever the queue is empty, and one slice per group otherwise.
            let first = if self.compactions.is_empty() {
                match self.queue.recv() {
                    Ok(request) => Some(request),
                    Err(mpsc::RecvError) => return,
                }
            } else {
                match self.queue.try_recv() {
                    Ok(request) => Some(request),
                    Err(mpsc::TryRecvError::Empty) => None,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            };
            if let Some(first) = first {
                self.serve(first);
            }
            self.compact_slice();
        }
    }

    /// Serves a request and those that wait behind it.
    fn serve(&mut self, first: Request) {
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Txn { compares, ops, reply } => match self.evaluate(&mut group, &compares, ops) {
                    Ok(outcome) => group.replies.push((reply, outcome)),
                    Err(error) => answer(reply, Err(error)),
                },
                Request::Compact { rev, reply } => {
                    // Not before the group's own revisions exist.
                    self.commit(std::mem::take(&mut group));
                    self.begin_compaction(rev, reply);
                }
            }
            let full = group.replies.len() >= GROUP_TXNS || group.bytes >= GROUP_BYTES;
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        self.commit(group);
    }

    /// Decides a transaction against the index as the group leaves it, and adds its events to the group.
    fn evaluate(
        &self,
        group: &mut Group,
        compares: &[Compare],
        ops: Vec<Op>,
    ) -> Result<TxnOutcome, StoreError> {
        let state = poison::read(&self.shared.state);
        let current = |written: &BTreeMap<Bytes, Option<Kv>>, key: &[u8]| match written.get(key) {
            Some(kv) => kv.clone(),
            None => state.get(key).cloned(),
        };
        for (index, compare) in compares.iter().enumerate() {
            let kv = current(&group.written, &compare.key);
            if kv.as_ref().map_or(0, |kv| kv.mod_rev) != compare.mod_rev {
                return Ok(TxnOutcome::Failed { compare: index, current: kv });
            }
        }
        let mut named = HashSet::with_capacity(ops.len());
        for op in &ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            if !named.insert(key.clone()) {
                return Err(StoreError::Io {
                    what: format!("apply a transaction that writes {:?} twice", key),
                    source: "a transaction names a key at most once".into(),
                });
            }
        }
        let before = group.revisions.last().map_or(state.rev(), |revision| revision.rev);
        let rev = before + 1;
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value)),
                Op::Delete { key } => (key, None),
            };
            let prev = current(&group.written, &key);
            if value.is_none() && prev.is_none() {
                continue;
            }
            let create_rev = prev.as_ref().map_or(rev, |prev| prev.create_rev);
            let value = value.map(|value| Kv { key: key.clone(), value, create_rev, mod_rev: rev });
            events.push(Event { rev, key, value, prev });
        }
        if events.is_empty() {
            return Ok(TxnOutcome::Committed { rev: before });
        }
        group.written.extend(events.iter().map(|event| (event.key.clone(), event.value.clone())));
        let revision = Revision { rev, events };
        group.bytes += revision.weight();
        group.revisions.push(Arc::new(revision));
        Ok(TxnOutcome::Committed { rev })
    }

    fn commit(&self, group: Group) {
        if let Some(last) = group.revisions.last() {
            let newest = last.rev;
            if let Err(error) = self.shared.log.append(&group.revisions) {
                // Also those whose condition failed: it may have failed on a write that is now undone.
                let error = Arc::new(error);
                for (reply, _) in group.replies {
                    answer(reply, Err(shared_error(&error)));
                }
                return;
            }
            let mut state = poison::write(&self.shared.state);
            for revision in group.revisions {
                state.apply(revision);
            }
            drop(state);
            self.announce.send_replace(newest);
        }
        for (reply, outcome) in group.replies {
            answer(reply, Ok(outcome));
        }
    }

    fn begin_compaction(&mut self, rev: u64, reply: Reply<()>) {
        let state = poison::read(&self.shared.state);
        let (current, compacted) = (state.rev(), state.compacted());
        drop(state);
        if rev > current {
            answer(reply, Err(StoreError::Future { rev, current }));
        } else if rev <= compacted {
            answer(reply, Ok(()));
        } else {
            // Readers are refused before anything is taken away beneath them.
            poison::write(&self.shared.state).compact(rev);
            self.compactions.push((rev, reply));
        }
    }

    fn compact_slice(&mut self) {
        let Some(rev) = self.compactions.iter().map(|(rev, _)| *rev).max() else {
            return;
        };
        let current = poison::read(&self.shared.state).rev();
        match self.shared.log.compact(rev, current) {
            Ok(false) => {}
            Ok(true) => {
                for (_, reply) in self.compactions.drain(..) {
                    answer(reply, Ok(()));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for (_, reply) in self.compactions.drain(..) {
                    answer(reply, Err(shared_error(&error)));
                }
            }
        }
    }
}

/// The caller may have gone away meanwhile: its transaction stands nevertheless.
fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
    let _ = reply.send(result);
}

/// One failure told to several.
fn shared_error(error: &Arc<StoreError>) -> StoreError {
    match &**error {
        StoreError::Closed => StoreError::Closed,
        StoreError::Io { what, .. } => {
            StoreError::Io { what: what.clone(), source: Box::new(Cause(Arc::clone(error))) }
        }
        other => StoreError::Io { what: "write".into(), source: other.to_string().into() },
    }
}

/// The cause of an [`StoreError::Io`] that several callers got.
#[derive(Debug)]
struct Cause(Arc<StoreError>);

impl Cause {
    fn inner(&self) -> &(dyn std::error::Error + 'static) {
        match &*self.0 {
            StoreError::Io { source, .. } => &**source,
            other => other,
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.inner())
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner().source()
    }
}
