//! Keeps the caches, and what is allocated, up with the store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use dyad_store::{Event, Kv, StoreError, WatchStream};
use futures::StreamExt;

use super::Registry;
use super::allocations::PORTS_PREFIX;
use super::stored::Stored;
use crate::status::ApiError;

/// Everything the registry stores.
const EVERYTHING: &[u8] = b"/registry/";

type Changes = BTreeMap<usize, Vec<(Box<str>, Option<Arc<Stored>>)>>;

impl Registry {
    /// The newest revision that every cache has.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until every cache has `rev`.
    pub(crate) async fn until_applied(&self, rev: u64) -> Result<(), ApiError> {
        let mut applied = self.applied.subscribe();
        let result = applied.wait_for(|applied| *applied >= rev).await.map(|_| ());
        result.map_err(|_| ApiError::unavailable("the server is shutting down"))
    }

    /// Fills the caches and starts to follow the store. Once, before anything is served.
    pub(crate) fn start_feed(self: &Arc<Self>) -> Result<tokio::task::JoinHandle<()>, StoreError> {
        let (kvs, rev) = self.store.range(EVERYTHING, None, None, 0)?;
        let mut items: HashMap<usize, Vec<_>> = HashMap::new();
        for kv in &kvs {
            if let Some((index, key, stored)) = self.load(kv) {
                items.entry(index).or_default().push((key, stored));
            } else {
                self.observe_port(&kv.key, true);
            }
        }
        for (index, resource) in self.resources.iter().enumerate() {
            resource.cache.load(items.remove(&index).unwrap_or_default(), rev);
        }
        self.allocations.load(self);
        self.applied.send_replace(rev);
        let stream = self.store.watch(EVERYTHING, rev)?;
        Ok(tokio::spawn(follow(Arc::downgrade(self), stream)))
    }

    fn load(&self, kv: &Kv) -> Option<(usize, Box<str>, Arc<Stored>)> {
        let (index, key) = self.resource_of(&kv.key)?;
        match Stored::load(&self.resources[index], &kv.key, &kv.value, kv.mod_rev, &self.cluster) {
            Ok(stored) => Some((index, key.into(), Arc::new(stored))),
            Err(error) => {
                // It stays in the store as it is; an update or a delete of it answers that it is not there.
                tracing::error!(%error, "left out");
                None
            }
        }
    }

    /// Which resource a key belongs to, and the object's key in its cache.
    fn resource_of<'a>(&self, key: &'a [u8]) -> Option<(usize, &'a str)> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix("/registry/")?;
        let (group, rest) = rest.split_once('/')?;
        let (plural, object) = rest.split_once('/')?;
        let group = if group == "core" { "" } else { group };
        let index = *self.by_name.get(&(group.to_owned(), plural.to_owned()))?;
        Some((index, object))
    }

    fn observe_port(&self, key: &[u8], reserved: bool) {
        let port = key.strip_prefix(PORTS_PREFIX.as_bytes()).and_then(|port| std::str::from_utf8(port).ok());
        if let Some(port) = port.and_then(|port| port.parse().ok()) {
            self.allocations.observe_port(port, reserved);
        }
    }

    /// Applies the events of one revision.
    fn apply(&self, events: &[Event]) {
        let Some(rev) = events.first().map(|event| event.rev) else { return };
        let mut changes = Changes::new();
        for event in events {
            let Some((index, key)) = self.resource_of(&event.key) else {
                self.observe_port(&event.key, event.value.is_some());
                continue;
            };
            let now = event.value.as_ref().and_then(|kv| self.load(kv)).map(|(_, _, stored)| stored);
            changes.entry(index).or_default().push((key.into(), now));
        }
        self.apply_changes(rev, changes);
    }

    fn apply_changes(&self, rev: u64, changes: Changes) {
        let follows = |index: &usize| self.allocations.follows(&self.resources[*index]);
        let observed: Changes = changes
            .iter()
            .filter(|(index, _)| follows(index))
            .map(|(index, changes)| (*index, changes.clone()))
            .collect();
        for (index, changes) in changes {
            self.resources[index].cache.apply(rev, changes);
        }
        // After all caches: what is allocated is computed from several of them.
        for (index, changes) in observed {
            self.allocations.observe(self, &self.resources[index], &changes);
        }
        self.applied.send_replace(rev);
    }

    /// Catches up by comparing, after events have been missed.
    fn resync(&self) -> Result<u64, StoreError> {
        let (kvs, rev) = self.store.range(EVERYTHING, None, None, 0)?;
        let mut changes = Changes::new();
        let mut seen: HashSet<(usize, Box<str>)> = HashSet::new();
        let mut ports = HashSet::new();
        for kv in &kvs {
            if let Some((index, key, stored)) = self.load(kv) {
                if self.resources[index].cache.get(&key).is_none_or(|cached| cached.rev != stored.rev) {
                    changes.entry(index).or_default().push((key.clone(), Some(stored)));
                }
                seen.insert((index, key));
            } else {
                self.observe_port(&kv.key, true);
                ports.insert(kv.key.clone());
            }
        }
        for (index, resource) in self.resources.iter().enumerate() {
            for stored in resource.cache.snapshot("").items {
                let key = stored.key(resource).into_boxed_str();
                if !seen.contains(&(index, key.clone())) {
                    changes.entry(index).or_default().push((key, None));
                }
            }
        }
        self.allocations.retain_ports(|port| ports.contains(format!("{PORTS_PREFIX}{port}").as_bytes()));
        self.apply_changes(rev, changes);
        Ok(rev)
    }
}

/// Follows the store until the registry, and with it the store, is gone.
async fn follow(registry: Weak<Registry>, mut stream: WatchStream) {
    loop {
        match stream.next().await {
            Some(Ok(events)) => {
                let Some(registry) = registry.upgrade() else { return };
                registry.apply(&events);
            }
            Some(Err(StoreError::Closed)) | None => return,
            Some(Err(error)) => {
                tracing::warn!(%error, "fell behind the store, catching up");
                let Some(registry) = registry.upgrade() else { return };
                match registry.resync().and_then(|rev| registry.store.watch(EVERYTHING, rev)) {
                    Ok(again) => stream = again,
                    Err(error) => {
                        tracing::error!(%error, "the store can't be followed; nothing new will be seen");
                        return;
                    }
                }
            }
        }
    }
}
