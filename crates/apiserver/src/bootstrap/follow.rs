//! Which part of what a cluster begins with a change is about. A busy server changes all the time, and hardly ever these.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::watch;

use super::{CLIENT_AUTHORITY, accounts, kubernetes};
use crate::registry::{Change, Cursor, Registry, Resource, Stored, legacy_tokens};

/// What is looked at, and whose changes make us look again.
const FOLLOWED: [(&str, &str); 11] = [
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ipaddresses"),
    ("networking.k8s.io", "servicecidrs"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("scheduling.k8s.io", "priorityclasses"),
];
/// Changes read at once.
const BATCH: usize = 256;

/// What has to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// The first namespaces, priority classes and the ServiceCIDR.
    pub(super) objects: bool,
    /// What addresses Services hold.
    pub(super) addresses: bool,
    /// The Service `kubernetes` and its endpoints.
    pub(super) kubernetes: bool,
    /// Roles that gather others.
    pub(super) roles: bool,
    /// Secrets that ask for tokens of ServiceAccounts.
    pub(super) tokens: bool,
    /// All namespaces.
    pub(super) all_namespaces: bool,
    /// These at least.
    pub(super) namespaces: BTreeSet<Box<str>>,
}

impl Parts {
    /// Everything.
    pub(super) fn all() -> Self {
        Self {
            objects: true,
            addresses: true,
            kubernetes: true,
            roles: true,
            tokens: true,
            all_namespaces: true,
            namespaces: BTreeSet::new(),
        }
    }

    /// Adds what an object that was changed is part of.
    fn add(&mut self, plural: &str, object: &Stored) {
        let meta = &object.meta;
        self.tokens |= plural == "serviceaccounts";
        match plural {
            "namespaces" => {
                self.objects = true;
                self.namespaces.insert(meta.name.clone());
            }
            "servicecidrs" | "priorityclasses" => self.objects = true,
            "clusterroles" => self.roles = true,
            "ipaddresses" => self.addresses = true,
            "secrets" => self.tokens |= meta.field("type") == legacy_tokens::KIND,
            "services" => {
                self.addresses = true;
                self.kubernetes |= kubernetes::concerns(meta);
            }
            "endpoints" | "endpointslices" => self.kubernetes |= kubernetes::concerns(meta),
            "configmaps" if &*meta.name == CLIENT_AUTHORITY && &*meta.namespace == "kube-system" => {
                self.objects = true;
            }
            _ if accounts::concerns(meta) => _ = self.namespaces.insert(meta.namespace.clone()),
            _ => {}
        }
    }
}

/// Follows the caches of everything that matters here.
pub(super) struct Follower(Vec<Followed>);

struct Followed {
    plural: &'static str,
    resource: Arc<Resource>,
    cursor: Cursor,
    changed: watch::Receiver<u64>,
}

impl Follower {
    /// From now on: what was there before is to be looked at first.
    pub(super) fn new(registry: &Registry) -> Self {
        let follow = |(group, plural)| {
            let resource = Arc::clone(&registry.builtin_served(group, plural).resource);
            let changed = resource.cache.subscribe();
            Followed { plural, cursor: resource.cache.end(), resource, changed }
        };
        Self(FOLLOWED.map(follow).into())
    }

    /// Waits until something has changed, whether it matters or not.
    pub(super) async fn changed(&mut self) {
        let all = self.0.iter_mut().map(|followed| Box::pin(followed.changed.changed()));
        // Their senders live as long as the caches.
        let _ = select_all(all).await;
    }

    /// What the changes since the last call are about.
    pub(super) fn parts(&mut self) -> Parts {
        let mut parts = Parts::default();
        for Followed { plural, resource, cursor, changed } in &mut self.0 {
            changed.borrow_and_update();
            loop {
                let Ok(changes) = resource.cache.changes(cursor, BATCH) else {
                    *cursor = resource.cache.end();
                    return Parts::all();
                };
                if changes.is_empty() {
                    break;
                }
                let objects = changes.iter().flat_map(|change| both(change));
                objects.for_each(|object| parts.add(plural, object));
            }
        }
        parts
    }
}

fn both(change: &Change) -> impl Iterator<Item = &Arc<Stored>> {
    change.before.iter().chain(&change.now)
}
