//! The one shape of work: keys become dirty, one at a time is brought to what it should be, and failures wait.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// Dirty keys, each once.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    dirty: Mutex<BTreeSet<Key>>,
    wake: Notify,
}

impl Queue {
    /// Marks a key.
    pub(crate) fn add(&self, key: Key) {
        if self.0.dirty.lock().expect("nothing panics here").insert(key) {
            self.0.wake.notify_one();
        }
    }

    fn add_after(&self, key: Key, wait: Duration) {
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            queue.add(key);
        });
    }

    async fn next(&self) -> Key {
        loop {
            if let Some(key) = self.0.dirty.lock().expect("nothing panics here").pop_first() {
                return key;
            }
            self.0.wake.notified().await;
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
