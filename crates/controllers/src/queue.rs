//! The one shape of work: keys become dirty, one at a time is brought to what it should be, and failures wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use tokio::sync::Notify;
use tracing::{debug, warn};

/// First and longest wait after a failure.
const WAITS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(30));

/// An object's namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of a cluster-scoped kind.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    pub(crate) fn of<K: ResourceExt>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What can go wrong in a reconcile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API refused or failed a request.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// An object that a pure function made does not have the shape of its kind.
    #[error("an object does not fit its kind: {0}")]
    Shape(#[from] serde_json::Error),
    /// Told as it is.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Somebody else was faster; the next look will show what they did.
    fn is_race(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// When to look again although nothing changes; `None` for never.
pub(crate) type Next = Option<Duration>;

/// Brings one key to what it should be. Level-triggered: it looks at the state, not at what changed.
pub(crate) trait Controller: Send + Sync + 'static {
    /// For logs.
    const NAME: &'static str;

    /// One pass over one key.
    fn reconcile(&self, key: &Key) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// Dirty keys, each once, in the order they became dirty; and keys that will be, each with one time.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    keys: Mutex<Keys>,
    wake: Notify,
}

#[derive(Default)]
struct Keys {
    dirty: VecDeque<Key>,
    queued: HashSet<Key>,
    later: HashMap<Key, Instant>,
}

impl Keys {
    fn add(&mut self, key: Key) -> bool {
        let new = self.queued.insert(key.clone());
        if new {
            self.dirty.push_back(key);
        }
        new
    }

    /// The first dirty key, or when there will be one.
    fn next(&mut self, now: Instant) -> Result<Key, Option<Instant>> {
        let due: Vec<Key> =
            self.later.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.later.remove(&key);
            self.add(key);
        }
        match self.dirty.pop_front() {
            Some(key) => {
                self.queued.remove(&key);
                // It is looked at now, which says anew when to look again.
                self.later.remove(&key);
                Ok(key)
            }
            None => Err(self.later.values().min().copied()),
        }
    }
}

impl Queue {
    /// Marks a key.
    pub(crate) fn add(&self, key: Key) {
        if self.0.keys.lock().expect("nothing panics here").add(key) {
            self.0.wake.notify_one();
        }
    }

    /// Marks a key after a while. A later wish does not put off an earlier one.
    fn add_after(&self, key: Key, wait: Duration) {
        let at = Instant::now() + wait;
        let mut keys = self.0.keys.lock().expect("nothing panics here");
        keys.later.entry(key).and_modify(|known| *known = at.min(*known)).or_insert(at);
    }

    async fn next(&self) -> Key {
        loop {
            let next = self.0.keys.lock().expect("nothing panics here").next(Instant::now());
            match next {
                Ok(key) => return key,
                Err(None) => self.0.wake.notified().await,
                Err(Some(at)) => {
                    // Whichever comes first; what is due is found by looking again.
                    let _ = tokio::time::timeout_at(at.into(), self.0.wake.notified()).await;
                }
            }
        }
    }

    /// Works the queue until dropped.
    pub(crate) async fn work<C: Controller>(&self, controller: C) {
        let mut waits: HashMap<Key, Duration> = HashMap::new();
        loop {
            let key = self.next().await;
            match controller.reconcile(&key).await {
                Ok(next) => {
                    waits.remove(&key);
                    if let Some(wait) = next {
                        self.add_after(key, wait);
                    }
                }
                Err(error) => {
                    let wait = waits.get(&key).map_or(WAITS.0, |wait| (*wait * 2).min(WAITS.1));
                    if error.is_race() {
                        debug!(controller = C::NAME, %key, %error, "overtaken");
                    } else {
                        warn!(controller = C::NAME, %key, %error, "will be tried again");
                    }
                    waits.insert(key.clone(), wait);
                    self.add_after(key, wait);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_once_in_order_and_when_their_time_has_come() {
        let queue = Queue::default();
        let key = |name: &str| Key::named(name);
        for name in ["b", "a", "b"] {
            queue.add(key(name));
        }
        for wait in [60, 30, 90] {
            queue.add_after(key("later"), Duration::from_secs(wait));
        }
        let mut keys = queue.0.keys.lock().unwrap();
        let now = Instant::now();
        assert_eq!((keys.next(now), keys.next(now)), (Ok(key("b")), Ok(key("a"))));
        let due = keys.next(now).unwrap_err().unwrap();
        assert!(due <= now + Duration::from_secs(30), "the earliest of several wishes");
        assert_eq!(keys.next(due), Ok(key("later")));
        assert_eq!(keys.next(due + Duration::from_secs(600)), Err(None), "one time only");
    }

    #[test]
    fn a_look_makes_an_announced_one_needless() {
        let queue = Queue::default();
        queue.add_after(Key::named("a"), Duration::from_secs(600));
        queue.add(Key::named("a"));
        let mut keys = queue.0.keys.lock().unwrap();
        assert_eq!(keys.next(Instant::now()), Ok(Key::named("a")));
        assert_eq!(keys.next(Instant::now() + Duration::from_secs(601)), Err(None));
    }
}
