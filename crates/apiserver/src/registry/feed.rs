//! Keeps the caches, and what is allocated, up with the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use dyad_store::{Event, Kv, StoreError, WatchStream};
use futures::StreamExt;

use super::Registry;
use super::allocations::PORTS_PREFIX;
use super::resource::Resource;
use super::stored::Stored;
use crate::status::ApiError;

/// Everything the registry stores.
const EVERYTHING: &[u8] = b"/registry/";

/// What became of the objects of some resources.
#[derive(Default)]
struct Changes(Vec<(Arc<Resource>, Changed)>);

type Changed = Vec<(Box<str>, Option<Arc<Stored>>)>;

impl Changes {
    fn of(&mut self, resource: &Arc<Resource>) -> &mut Changed {
        let known = self.0.iter().position(|(known, _)| Arc::ptr_eq(known, resource));
        let index = known.unwrap_or_else(|| {
            self.0.push((Arc::clone(resource), Changed::new()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }
}

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
        let mut items: HashMap<*const Resource, Vec<_>> = HashMap::new();
        for kv in &kvs {
            if let Some((resource, key, stored)) = self.load(kv) {
                items.entry(Arc::as_ptr(&resource)).or_default().push((key, stored));
            } else {
                self.observe_port(&kv.key, true);
            }
        }
        for resource in &self.resources {
            resource.cache.load(items.remove(&Arc::as_ptr(resource)).unwrap_or_default(), rev);
        }
        self.redefine(rev);
        self.allocations.load(self);
        self.applied.send_replace(rev);
        let stream = self.store.watch(EVERYTHING, rev)?;
        Ok(tokio::spawn(follow(Arc::downgrade(self), stream)))
    }

    pub(super) fn load(&self, kv: &Kv) -> Option<(Arc<Resource>, Box<str>, Arc<Stored>)> {
        let (resource, key) = self.resource_of(&kv.key)?;
        let stored = self.load_as(&resource, kv)?;
        Some((resource, key.into(), stored))
    }

    /// An object of a resource, if it can be read.
    pub(super) fn load_as(&self, resource: &Resource, kv: &Kv) -> Option<Arc<Stored>> {
        match Stored::load(resource, &kv.key, &kv.value, kv.mod_rev, &self.cluster) {
            Ok(stored) => Some(Arc::new(stored)),
            Err(error) => {
                // It stays in the store as it is; an update or a delete of it answers that it is not there.
                tracing::error!(%error, "left out");
                None
            }
        }
    }

    /// Which resource a key belongs to, and the object's key in its cache.
    fn resource_of<'a>(&self, key: &'a [u8]) -> Option<(Arc<Resource>, &'a str)> {
        let key = std::str::from_utf8(key).ok()?;
        let rest = key.strip_prefix("/registry/")?;
        let (group, rest) = rest.split_once('/')?;
        let (plural, object) = rest.split_once('/')?;
        let group = if group == "core" { "" } else { group };
        let resource = match self.by_name.get(&(group.to_owned(), plural.to_owned())) {
            Some(index) => Arc::clone(&self.resources[*index]),
            None => self.custom.now().resource(group, plural)?,
        };
        Some((resource, object))
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
        let mut changes = Changes::default();
        for event in events {
            let Some((resource, key)) = self.resource_of(&event.key) else {
                self.observe_port(&event.key, event.value.is_some());
                continue;
            };
            let now = event.value.as_ref().and_then(|kv| self.load_as(&resource, kv));
            changes.of(&resource).push((key.into(), now));
        }
        self.apply_changes(rev, changes);
    }

    fn apply_changes(&self, rev: u64, Changes(changes): Changes) {
        let follows = |(resource, _): &&(Arc<Resource>, Changed)| self.allocations.follows(resource);
        let observed: Vec<(Arc<Resource>, Changed)> = changes.iter().filter(follows).cloned().collect();
        let mut defined = false;
        for (resource, changed) in changes {
            defined |= resource.is(dyad_custom::GROUP, dyad_custom::PLURAL);
            resource.cache.apply(rev, changed);
        }
        // After all caches: what is allocated is computed from several of them.
        for (resource, changed) in observed {
            self.allocations.observe(self, &resource, &changed);
        }
        if defined {
            self.redefine(rev);
        }
        self.applied.send_replace(rev);
    }

    /// Catches up by comparing, after events have been missed.
    fn resync(&self) -> Result<u64, StoreError> {
        let (kvs, rev) = self.store.range(EVERYTHING, None, None, 0)?;
        let mut changes = Changes::default();
        let mut seen: HashSet<(*const Resource, Box<str>)> = HashSet::new();
        let mut ports = HashSet::new();
        for kv in &kvs {
            if let Some((resource, key, stored)) = self.load(kv) {
                if resource.cache.get(&key).is_none_or(|cached| cached.rev != stored.rev) {
                    changes.of(&resource).push((key.clone(), Some(stored)));
                }
                seen.insert((Arc::as_ptr(&resource), key));
            } else {
                self.observe_port(&kv.key, true);
                ports.insert(kv.key.clone());
            }
        }
        for resource in self.resources() {
            for stored in resource.cache.snapshot("").items {
                let key = stored.key(&resource).into_boxed_str();
                if !seen.contains(&(Arc::as_ptr(&resource), key.clone())) {
                    changes.of(&resource).push((key, None));
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
