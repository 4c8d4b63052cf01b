//! Watches: cursors into the recent events, falling back to the log. They hold no queue of their own beyond the
//! piece that they are handing out.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::watch as signal;

use super::Shared;
use crate::api::{Event, StoreError, WatchStream};
use crate::log::Revision;
use crate::poison;

/// Revisions looked at in one go.
const PIECE_REVISIONS: usize = 64;

struct Cursor {
    shared: Arc<Shared>,
    newest: signal::Receiver<u64>,
    prefix: Bytes,
    /// Everything up to here has been handed out or lies in `piece`.
    seen: u64,
    piece: VecDeque<Arc<Revision>>,
}

/// The watch stream after `seen`.
pub(super) fn stream(
    shared: Arc<Shared>,
    newest: signal::Receiver<u64>,
    prefix: Bytes,
    seen: u64,
) -> WatchStream {
    let cursor = Cursor { shared, newest, prefix, seen, piece: VecDeque::new() };
    stream::unfold(Some(cursor), async |cursor| {
        let mut cursor = cursor?;
        match cursor.next().await {
            Ok(events) => Some((Ok(events), Some(cursor))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl Cursor {
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        loop {
            while let Some(revision) = self.piece.pop_front() {
                let wanted = |event: &&Event| event.key.starts_with(&self.prefix);
                let events: Vec<Event> = revision.events.iter().filter(wanted).cloned().collect();
                if !events.is_empty() {
                    return Ok(events);
                }
            }
            // Marked as seen before looking: a revision that comes after the look wakes us again.
            self.newest.borrow_and_update();
            if !self.take_piece()? && self.newest.changed().await.is_err() && !self.take_piece()? {
                return Err(StoreError::Closed);
            }
        }
    }

    /// Takes the next revisions, if there are any.
    fn take_piece(&mut self) -> Result<bool, StoreError> {
        let state = poison::read(&self.shared.state);
        state.check_kept(self.seen)?;
        let newest = state.rev();
        if newest == self.seen {
            return Ok(false);
        }
        if let Some(recent) = state.recent_after(self.seen) {
            self.piece.extend(recent.take(PIECE_REVISIONS).cloned());
        } else {
            drop(state);
            let revisions = self.shared.log.read(self.seen, newest);
            // Compaction may have come in between: then what was read has holes.
            poison::read(&self.shared.state).check_kept(self.seen)?;
            self.piece.extend(revisions?);
        }
        let Some(last) = self.piece.back() else {
            return Ok(false);
        };
        self.seen = last.rev;
        Ok(true)
    }
}
