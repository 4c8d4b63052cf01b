//! From objects to snapshots, step by step.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::apex::Apex;
use super::entry::{Entry, Part};
use super::input::{ObjectName, Options, Pod, Service, Slice, label};
use super::publish::Published;
use super::snapshot::{Namespace, Pointer, Snapshot};

/// What is known of the cluster, and the snapshot of it.
///
/// The snapshot depends on what was set only, not on the order; a step costs what it changes.
#[derive(Debug)]
pub struct Store {
    services: HashMap<Arc<[u8]>, State>,
    /// The Service of each slice.
    slices: HashMap<ObjectName, Arc<[u8]>>,
    pods: HashMap<ObjectName, Box<[IpAddr]>>,
    /// Services to compile anew.
    changed: BTreeSet<Arc<[u8]>>,
    /// Whether anything else has changed.
    is_changed: bool,
    next: Snapshot,
    published: Arc<Published>,
}

/// A Service and its slices, by name. The Service may be missing while its slices are there.
#[derive(Debug, Default)]
struct State {
    service: Option<Box<Service>>,
    /// Sorted by name. There are few: a map of its own would take more room than they do.
    slices: Vec<(Box<str>, Part)>,
}

impl State {
    /// Sets or removes a slice; `false` if that changes nothing.
    fn set(&mut self, name: &str, part: Option<Part>) -> bool {
        let at = self.slices.binary_search_by(|(other, _)| (**other).cmp(name));
        match (at, part) {
            (Ok(at), Some(part)) => std::mem::replace(&mut self.slices[at].1, part.clone()) != part,
            (Ok(at), None) => {
                self.slices.remove(at);
                true
            }
            (Err(at), Some(part)) => {
                self.slices.reserve_exact(1);
                self.slices.insert(at, (name.into(), part));
                true
            }
            (Err(_), None) => false,
        }
    }
}

impl Store {
    /// A store without objects. Its snapshot is not synced.
    pub fn new(options: Options) -> Self {
        let empty = Snapshot::new(Arc::new(Apex::new(options.clone())));
        let store = Self::replacing(options, Arc::new(Published::new(Arc::new(empty))));
        Self { is_changed: false, ..store }
    }

    /// A store without objects whose snapshots replace those of another, from its first [`publish`](Self::publish)
    /// on: other options, and not a query is lost.
    pub fn replacing(options: Options, published: Arc<Published>) -> Self {
        let next = Snapshot::new(Arc::new(Apex::new(options)));
        Self {
            services: HashMap::new(),
            slices: HashMap::new(),
            pods: HashMap::new(),
            changed: BTreeSet::new(),
            is_changed: true,
            next,
            published,
        }
    }

    /// Where readers find what is published.
    pub const fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Sets or removes a Service. One whose name is no label has no name here.
    pub fn set_service(&mut self, name: &ObjectName, service: Option<Service>) {
        let Some(key) = self.key(name) else { return };
        let state = self.services.entry(key.clone()).or_default();
        let before = state.service.is_some();
        if state.service.as_deref() != service.as_ref() {
            state.service = service.map(Box::new);
            self.changed.insert(key.clone());
        }
        let after = state.service.is_some();
        if before != after
            && let Some(namespace) = label(&name.namespace)
        {
            self.set_namespace_by(namespace, |namespace| {
                namespace.services =
                    if after { namespace.services + 1 } else { namespace.services.saturating_sub(1) };
            });
        }
        self.forget_if_empty(&key);
    }

    /// Sets or removes an EndpointSlice.
    pub fn set_slice(&mut self, name: &ObjectName, slice: Option<Slice>) {
        let after = slice.and_then(|slice| {
            let part = Part::new(&slice, self.next.apex.options());
            Some((self.key(&slice.service)?, part))
        });
        let before = self.slices.get(name).cloned();
        let moved = before.as_ref() != after.as_ref().map(|(key, _)| key);
        if let Some(before) = before.filter(|_| moved) {
            if let Some(state) = self.services.get_mut(&before)
                && state.set(&name.name, None)
            {
                self.changed.insert(before.clone());
            }
            self.slices.remove(name);
            self.forget_if_empty(&before);
        }
        if let Some((key, part)) = after {
            if self.services.entry(key.clone()).or_default().set(&name.name, Some(part)) {
                self.changed.insert(key.clone());
            }
            if moved {
                self.slices.insert(name.clone(), key);
            }
        }
    }

    /// Says whether a namespace exists.
    pub fn set_namespace(&mut self, name: &str, exists: bool) {
        if let Some(label) = label(name) {
            self.set_namespace_by(label, |namespace| namespace.is_known = exists);
        }
    }

    /// Sets or removes a pod; only verified names of pods need them.
    pub fn set_pod(&mut self, name: &ObjectName, pod: Option<Pod>) {
        let Some(namespace) = label(&name.namespace) else { return };
        let namespace = self.next.namespaces.key(&*namespace).cloned().unwrap_or_else(|| namespace.into());
        let after: Box<[IpAddr]> = pod.map(|pod| pod.ips).unwrap_or_default().into();
        let before = self.pods.get(name).cloned().unwrap_or_default();
        if before == after {
            return;
        }
        for ip in before {
            let mut left = self.next.pods.get(&ip).map(|namespaces| namespaces.to_vec()).unwrap_or_default();
            if let Some(at) = left.iter().position(|one| *one == namespace) {
                left.swap_remove(at);
            }
            self.next.pods.set(ip, (!left.is_empty()).then(|| left.into()));
        }
        for ip in &after {
            let mut namespaces =
                self.next.pods.get(ip).map(|namespaces| namespaces.to_vec()).unwrap_or_default();
            namespaces.push(namespace.clone());
            self.next.pods.set(*ip, Some(namespaces.into()));
        }
        if after.is_empty() {
            self.pods.remove(name);
        } else {
            self.pods.insert(name.clone(), after);
        }
        self.is_changed = true;
    }

    /// Says that all objects have been set once: from now on, what is not there does not exist.
    pub const fn set_synced(&mut self) {
        self.is_changed |= !self.next.synced;
        self.next.synced = true;
    }

    /// Makes what was set visible to readers; `false` if it was before. `now` is in seconds.
    pub fn publish(&mut self, now: u32) -> bool {
        for key in std::mem::take(&mut self.changed) {
            self.compile(&key);
        }
        let changed = std::mem::take(&mut self.is_changed);
        if changed {
            // A clock may be set back, a serial must not go back (RFC 1982).
            self.next.serial = self.next.serial.max(now);
            self.published.set(Arc::new(self.next.clone()));
        }
        changed
    }

    /// The names of all Services, for comparison with a new listing.
    pub fn service_names(&self) -> impl Iterator<Item = ObjectName> {
        let known = self.services.iter().filter(|(_, state)| state.service.is_some());
        known.map(|(key, _)| ObjectName::of_key(key))
    }

    /// The names of all slices, likewise.
    pub fn slice_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.slices.keys()
    }

    /// The names of all pods with addresses, likewise.
    pub fn pod_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.pods.keys()
    }

    /// The key of a Service; all that name one share it.
    fn key(&self, name: &ObjectName) -> Option<Arc<[u8]>> {
        let key = name.key()?;
        Some(self.services.get_key_value(&*key).map_or_else(|| key.into(), |(known, _)| known.clone()))
    }

    fn set_namespace_by(&mut self, label: Vec<u8>, change: impl FnOnce(&mut Namespace)) {
        let before = self.next.namespaces.get(&*label).copied().unwrap_or_default();
        let mut after = before;
        change(&mut after);
        if before != after {
            let exists = after != Namespace::default();
            self.next.namespaces.set(label.into(), exists.then_some(after));
            self.is_changed = true;
        }
    }

    fn forget_if_empty(&mut self, key: &Arc<[u8]>) {
        let empty = |state: &State| state.service.is_none() && state.slices.is_empty();
        if self.services.get(key).is_some_and(empty) {
            self.services.remove(key);
        }
    }

    /// Puts what has become of a Service into the next snapshot.
    fn compile(&mut self, key: &Arc<[u8]>) {
        let state = self.services.get(key);
        let compiled = state.and_then(|state| {
            let service = state.service.as_ref()?;
            Some(Arc::new(Entry::new(service, state.slices.iter().map(|(_, part)| part))))
        });
        let before = self.next.services.get(&**key).cloned();
        if before == compiled {
            return;
        }
        let pointers = |entry: &Option<Arc<Entry>>| -> BTreeSet<(IpAddr, Option<Box<str>>)> {
            let pointers = entry.iter().flat_map(|entry| entry.pointers());
            pointers.map(|(ip, host)| (ip, host.map(Box::from))).collect()
        };
        let (old, new) = (pointers(&before), pointers(&compiled));
        for (ip, host) in old.difference(&new) {
            self.change_pointers(*ip, |pointers| {
                pointers.retain(|pointer| pointer.service != *key || pointer.host != *host);
            });
        }
        for (ip, host) in new.difference(&old) {
            let pointer = Pointer { service: key.clone(), host: host.clone() };
            self.change_pointers(*ip, |pointers| pointers.push(pointer));
        }
        self.next.services.set(key.clone(), compiled);
        self.is_changed = true;
    }

    fn change_pointers(&mut self, ip: IpAddr, change: impl FnOnce(&mut Vec<Pointer>)) {
        let mut pointers = self.next.pointers.get(&ip).map(|pointers| pointers.to_vec()).unwrap_or_default();
        change(&mut pointers);
        pointers.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        self.next.pointers.set(ip, (!pointers.is_empty()).then(|| pointers.into()));
    }
}

impl Pointer {
    /// Names that were given come before those made of the address: many clients take the first.
    fn order(&self) -> impl Ord {
        (self.host.as_deref() == Some(""), self.service.clone(), self.host.clone())
    }
}
