//! What is computed from several caches, and kept up with them by whoever asks for it.

use std::sync::{Arc, PoisonError, RwLock};

use super::cache::{Cache, Cursor};
use super::stored::Stored;

/// Changes taken in at once.
const STEP: usize = 256;

/// Something that changes of objects add up to.
pub(super) trait Sum: Default {
    /// Takes in a change of an object in one of the caches, which count from 0.
    fn change(&mut self, source: usize, before: Option<&Arc<Stored>>, now: Option<&Arc<Stored>>);
}

/// The sum of `N` caches, as far as they have been read.
#[derive(Debug, Default)]
pub(super) struct Kept<S, const N: usize>(RwLock<State<S, N>>);

#[derive(Debug)]
struct State<S, const N: usize> {
    sum: S,
    /// Where the next change in each cache is; `None` before the first look.
    read: Option<[Cursor; N]>,
}

impl<S: Default, const N: usize> Default for State<S, N> {
    fn default() -> Self {
        Self { sum: S::default(), read: None }
    }
}

impl<S: Sum, const N: usize> Kept<S, N> {
    /// Calls `with` with the sum of this moment; always of the same caches.
    pub(super) fn with<T>(&self, caches: [&Cache; N], with: impl FnOnce(&S) -> T) -> T {
        {
            let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let current = |cursors: &[Cursor; N]| {
                caches.iter().zip(cursors).all(|(cache, cursor)| !cache.has_after(*cursor))
            };
            if state.read.as_ref().is_some_and(current) {
                return with(&state.sum);
            }
        }
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.catch_up(caches);
        with(&state.sum)
    }
}

impl<S: Sum, const N: usize> State<S, N> {
    /// Takes in what has changed since the last time, or everything if that is too long ago.
    fn catch_up(&mut self, caches: [&Cache; N]) {
        let kept = self.read.take().and_then(|mut cursors| {
            let mut steps = caches.iter().zip(&mut cursors).enumerate();
            steps.all(|(source, (cache, cursor))| self.follow(source, cache, cursor)).then_some(cursors)
        });
        let cursors = kept.unwrap_or_else(|| {
            self.sum = S::default();
            let mut sources = 0..;
            caches.map(|cache| {
                let (source, snapshot) = (sources.next().unwrap_or_default(), cache.snapshot(""));
                snapshot.items.iter().for_each(|stored| self.sum.change(source, None, Some(stored)));
                snapshot.cursor
            })
        });
        self.read = Some(cursors);
    }

    /// False if the changes are no longer there.
    fn follow(&mut self, source: usize, cache: &Cache, cursor: &mut Cursor) -> bool {
        loop {
            let Ok(changes) = cache.changes(cursor, STEP) else { return false };
            if changes.is_empty() {
                return true;
            }
            for change in changes {
                self.sum.change(source, change.before.as_ref(), change.now.as_ref());
            }
        }
    }
}
