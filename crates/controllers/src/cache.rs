//! What the API holds, kept current by watches: one [`Cache`] per kind, shared by all controllers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, RwLock};

use futures::{TryStreamExt, pin_mut};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::leader::Said;
use crate::queue::Key;

/// Called with what was and what is; one of them is missing at creation and deletion.
type Hook<K> = Box<dyn Fn(Option<&K>, Option<&K>) + Send + Sync>;

/// All objects of one kind.
pub(crate) struct Cache<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    hooks: Mutex<Vec<Hook<K>>>,
    synced: watch::Sender<bool>,
    /// The highest resourceVersion seen; told with every change.
    newest: watch::Sender<u64>,
    /// Leaves out what no controller reads.
    trim: fn(&mut K),
}

/// How long to wait for the cache to show what was just written, before going on without.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(5);

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            hooks: Mutex::default(),
            synced: watch::channel(false).0,
            newest: watch::channel(0).0,
            trim: |_| {},
        }
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Keeps objects only after `trim` has left out what no controller reads.
    pub(crate) fn trimmed(trim: fn(&mut K)) -> Self {
        Self { trim, ..Self::default() }
    }

    /// Has `hook` called for each change from now on, and for what is there.
    pub(crate) fn on_change(&self, hook: impl Fn(Option<&K>, Option<&K>) + Send + Sync + 'static) {
        for object in self.all() {
            hook(None, Some(&object));
        }
        self.hooks.lock().expect("no hook panics").push(Box::new(hook));
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects.read().expect("no writer panics").get(key).cloned()
    }

    /// One object without namespace.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<K>> {
        self.get(&Key::named(name))
    }

    /// All objects, by namespace and name.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().expect("no writer panics").values().cloned().collect()
    }

    /// The objects of one namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.objects.read().expect("no writer panics");
        let from = Key::new(namespace, "");
        objects
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Resolves when the first complete list has arrived.
    pub(crate) async fn wait(&self) {
        // The sender lives as long as this cache.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Resolves when an object just written is seen, so that the next look counts it.
    pub(crate) async fn sees(&self, written: &K) {
        let (key, version, uid) = (Key::of(written), version(written), written.uid());
        self.until(|newest| {
            version.is_some_and(|version| newest >= version)
                || self.get(&key).is_some_and(|seen| seen.uid() == uid)
        })
        .await;
    }

    /// Resolves when an object just written, or something newer, has gone through all hooks.
    pub(crate) async fn reaches(&self, written: &K) {
        let version = version(written);
        self.until(|newest| version.is_none_or(|version| newest >= version)).await;
    }

    /// Resolves when an object just deleted is seen as gone or as going.
    pub(crate) async fn sees_deleted(&self, deleted: &K) {
        let (key, uid) = (Key::of(deleted), deleted.uid());
        self.until(|_| {
            self.get(&key).is_none_or(|seen| seen.uid() != uid || seen.meta().deletion_timestamp.is_some())
        })
        .await;
    }

    async fn until(&self, test: impl Fn(u64) -> bool) {
        // The sender lives as long as this cache.
        let mut newest = self.newest.subscribe();
        let seen = newest.wait_for(|newest| test(*newest));
        if tokio::time::timeout(CATCH_UP, seen).await.is_err() {
            warn!(kind = %K::kind(&()), "the watch is behind what was written");
        }
    }

    /// Follows the API until dropped; errors are retried by the watcher.
    pub(crate) async fn follow(&self, api: Api<K>) {
        let stream = watcher(api, watcher::Config::default());
        pin_mut!(stream);
        let mut listing = BTreeMap::new();
        let (mut wait, mut said) = (std::time::Duration::from_millis(20), Said::default());
        loop {
            let event = match stream.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    if said.is_new(&error.to_string()) {
                        warn!(kind = %K::kind(&()), %error, "watch interrupted");
                    } else {
                        debug!(kind = %K::kind(&()), %error, "watch still interrupted");
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(std::time::Duration::from_secs(5));
                    continue;
                }
            };
            wait = std::time::Duration::from_millis(20);
            if !matches!(event, Event::Init) {
                said.forget();
            }
            match event {
                Event::Init => listing.clear(),
                Event::InitApply(object) => {
                    let object = self.slim(object);
                    listing.insert(Key::of(&object), object);
                }
                Event::InitDone => {
                    self.replace(std::mem::take(&mut listing));
                    self.synced.send_replace(true);
                }
                Event::Apply(object) => self.set(Key::of(&object), Some(self.slim(object))),
                Event::Delete(object) => self.set(Key::of(&object), None),
            }
        }
    }

    fn replace(&self, listed: BTreeMap<Key, K>) {
        let gone: Vec<Key> = {
            let objects = self.objects.read().expect("no writer panics");
            objects.keys().filter(|key| !listed.contains_key(*key)).cloned().collect()
        };
        for key in gone {
            self.set(key, None);
        }
        for (key, object) in listed {
            self.set(key, Some(object));
        }
    }

    /// Leaves out what no controller reads, and first of all what takes most room.
    fn slim(&self, mut object: K) -> K {
        object.managed_fields_mut().clear();
        (self.trim)(&mut object);
        object
    }

    fn set(&self, key: Key, new: Option<K>) {
        let new = new.map(Arc::new);
        let seen = new.as_deref().and_then(version).unwrap_or(0);
        let old = {
            let mut objects = self.objects.write().expect("no writer panics");
            match &new {
                Some(object) => objects.insert(key, object.clone()),
                None => objects.remove(&key),
            }
        };
        let same = matches!((&old, &new), (Some(old), Some(new)) if old.resource_version() == new.resource_version());
        if !same {
            for hook in self.hooks.lock().expect("no hook panics").iter() {
                hook(old.as_deref(), new.as_deref());
            }
        }
        self.newest.send_modify(|newest| *newest = seen.max(*newest));
    }
}

/// Versions of one kind count up, so that they can be compared (KEP-5504).
fn version<K: ResourceExt>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}
