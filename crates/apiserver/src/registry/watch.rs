//! Watches: a cursor into the ring of changes, seen through a selection (J26 to J34).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::{Change, Cursor, TooOld};
use super::options::ListOptions;
use super::resource::Resource;
use super::stored::{Selection, Stored};
use super::{Registry, closed};
use crate::status::ApiError;

/// Events handed out at once at most: a page of the response.
const BATCH: usize = 128;
/// Pause between bookmarks (J28).
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Without `timeoutSeconds` a watch ends after this long, or up to twice as long (J31).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// What a watcher is told.
#[derive(Debug)]
pub(crate) enum WatchEvent {
    Added(Arc<Stored>),
    Modified(Arc<Stored>),
    /// With the revision of the deletion, or of the change that took it out of the selection (J27).
    Deleted(Arc<Stored>, u64),
    Bookmark {
        rev: u64,
        /// All that was there when the watch began has been sent (J29).
        initial_events_end: bool,
    },
    /// The last event.
    Error(ApiError),
}

/// A running watch.
pub(crate) struct Watch {
    registry: Arc<Registry>,
    resource: Arc<Resource>,
    selection: Selection,
    /// Objects that were there when it began and have not been sent yet.
    initial: VecDeque<Arc<Stored>>,
    /// Revision to say in the bookmark behind them.
    initial_end: Option<u64>,
    cursor: Cursor,
    /// Nothing up to here is sent: a watch from the future waits for it (J26).
    after: u64,
    changed: watch::Receiver<u64>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    closing: watch::Receiver<bool>,
    over: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.resource.cache.close_watch();
    }
}

impl Watch {
    /// Begins a watch.
    pub(crate) async fn start(
        registry: Arc<Registry>,
        resource: Arc<Resource>,
        options: ListOptions,
        random: f64,
    ) -> Result<Self, ApiError> {
        let changed = resource.cache.subscribe();
        let from = options.resource_version;
        let mut initial = VecDeque::new();
        let mut initial_end = None;
        let (cursor, after) = match (options.initial_events, from) {
            (Some(true), _) | (None, None | Some(0)) => {
                // A list first of all is as fresh as a list would be; "0" takes what is there.
                registry.until_as_new_as(from).await?;
                let applied = registry.applied();
                let snapshot = resource.cache.snapshot(&options.selection.namespace);
                let rev = applied.max(snapshot.rev);
                initial.extend(
                    snapshot.items.into_iter().filter(|stored| options.selection.matches(&stored.meta)),
                );
                if options.initial_events == Some(true) && options.bookmarks {
                    initial_end = Some(rev);
                }
                (snapshot.cursor, 0)
            }
            (Some(false), None | Some(0)) => {
                registry.until_as_new_as(from).await?;
                (resource.cache.snapshot(&options.selection.namespace).cursor, 0)
            }
            (_, Some(rev)) => {
                let cursor =
                    resource.cache.after(rev).map_err(|TooOld { oldest }| ApiError::too_old(rev, oldest))?;
                (cursor, rev)
            }
        };
        resource.cache.open_watch();
        let now = Instant::now();
        let timeout = match options.timeout_secs {
            Some(secs) if secs > 0 => Duration::from_secs(secs.min(u64::from(u32::MAX))),
            _ => DEFAULT_TIMEOUT.mul_f64(1.0 + random.clamp(0.0, 1.0)),
        };
        Ok(Self {
            closing: registry.closing.subscribe(),
            registry,
            resource,
            selection: options.selection,
            initial,
            initial_end,
            cursor,
            after,
            changed,
            bookmarks: options.bookmarks,
            next_bookmark: now + BOOKMARK_EVERY,
            deadline: now + timeout,
            over: false,
        })
    }

    /// The next events, never none; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Vec<WatchEvent>> {
        if self.over {
            return None;
        }
        if !self.initial.is_empty() {
            let batch = self.initial.len().min(BATCH);
            return Some(self.initial.drain(..batch).map(WatchEvent::Added).collect());
        }
        if let Some(rev) = self.initial_end.take() {
            return Some(vec![WatchEvent::Bookmark { rev, initial_events_end: true }]);
        }
        loop {
            // Both before looking: what comes after the look wakes us, and what came before `applied` is seen.
            self.changed.borrow_and_update();
            let applied = self.registry.applied();
            let changes = match self.resource.cache.changes(&mut self.cursor, BATCH) {
                Ok(changes) => changes,
                Err(TooOld { oldest }) => {
                    self.over = true;
                    return Some(vec![WatchEvent::Error(ApiError::too_old(self.after, oldest))]);
                }
            };
            if let Some(last) = changes.last() {
                let events: Vec<_> = changes
                    .iter()
                    .filter(|change| change.rev > self.after)
                    .filter_map(|change| self.event(change))
                    .collect();
                self.after = self.after.max(last.rev);
                if !events.is_empty() {
                    return Some(events);
                }
                continue;
            }
            if self.resource.cache.is_retired() {
                self.over = true;
                return None;
            }
            let bookmark = |this: &Self| {
                vec![WatchEvent::Bookmark { rev: applied.max(this.after), initial_events_end: false }]
            };
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() {
                    return None;
                },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark += BOOKMARK_EVERY;
                    return Some(bookmark(self));
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    self.over = true;
                    return self.bookmarks.then(|| bookmark(self));
                }
                () = closed(&mut self.closing) => {
                    self.over = true;
                    return None;
                }
            }
        }
    }

    fn event(&self, change: &Change) -> Option<WatchEvent> {
        let matching = |stored: &Option<Arc<Stored>>| {
            stored.clone().filter(|stored| self.selection.matches(&stored.meta))
        };
        match (matching(&change.before), matching(&change.now)) {
            (None, None) => None,
            (None, Some(now)) => Some(WatchEvent::Added(now)),
            (Some(_), Some(now)) => Some(WatchEvent::Modified(now)),
            (Some(before), None) => Some(WatchEvent::Deleted(before, change.rev)),
        }
    }
}
