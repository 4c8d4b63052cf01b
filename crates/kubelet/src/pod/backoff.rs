//! How long a container that keeps ending waits until it is started again.

use jiff::{SignedDuration, Timestamp};

/// The first wait.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest.
const LONGEST: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long starts over.
const FORGIVEN: SignedDuration = SignedDuration::from_secs(600);

/// The waits of one container: none before the first restart, then 10 s doubling to 5 minutes, none again after it
/// has run for 10 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    wait: Option<SignedDuration>,
}

impl Backoff {
    /// When a container that ended at `ended` may be started again.
    pub(crate) fn due(self, ended: Timestamp) -> Timestamp {
        ended.saturating_add(self.wait.unwrap_or(SignedDuration::ZERO)).unwrap_or(Timestamp::MAX)
    }

    /// The wait, for people; none if there is none.
    pub(crate) fn wait(self) -> Option<SignedDuration> {
        self.wait
    }

    /// Takes note of a start after a run from `started` to `ended`.
    pub(crate) fn restarted(&mut self, started: Timestamp, ended: Timestamp) {
        self.wait = Some(match self.wait {
            Some(wait) if ended.duration_since(started) < FORGIVEN => (wait * 2).min(LONGEST),
            Some(_) | None => FIRST,
        });
    }
}
