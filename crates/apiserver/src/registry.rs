//! Generic REST over the store, for every kind of the table: there is no handler per kind.

mod account;
mod allocations;
mod authority;
mod binding;
mod body;
mod bootstrap_tokens;
mod cache;
mod create;
mod custom;
mod definitions;
mod delete;
mod eviction;
mod expiry;
mod feed;
mod kept;
pub(crate) mod legacy_tokens;
mod list;
mod node_tokens;
mod options;
mod ownership;
mod quota;
mod related;
mod requests;
mod resource;
mod scale;
mod selectable;
mod stored;
mod tokens;
mod topology;
mod unstored;
mod update;
mod values;
mod watch;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use dyad_model::{ClusterNet, Objects};
use dyad_schema::kinds;
use dyad_store::{Store, StoreError};
use serde_json::Value;
use tokio::sync::watch as signal;

use crate::auth::token::TokenKey;
use crate::pki;
pub(crate) use allocations::Allocations;
pub(crate) use binding::{deleted as binding_deleted, success as binding_success};
pub(crate) use body::{Body, Media};
pub(crate) use cache::{Change, Cursor};
pub(crate) use custom::Custom as CustomKinds;
pub(crate) use list::Listed;
pub(crate) use options::{DeleteOptions, ListOptions, Write, WriteOptions};
pub(crate) use resource::{Fields, Resource, Served};
pub(crate) use scale::of as scale_of;
pub(crate) use stored::{Meta, Stored};
pub(crate) use update::Compute;
pub(crate) use values::{now, uid};
pub(crate) use watch::{Watch, WatchEvent};
pub(crate) use write::{Scope, Written};

/// Everything that is served.
pub(crate) struct Registry {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cluster: ClusterNet,
    resources: Vec<Arc<Resource>>,
    /// Places in `resources` by group and plural.
    by_name: HashMap<(String, String), usize>,
    /// As clients see them: by group, version and plural. Several may show one resource.
    served: HashMap<(&'static str, &'static str, &'static str), Arc<Served>>,
    /// Kinds that were defined while the server runs.
    custom: custom::Kinds,
    allocations: Allocations,
    authority: authority::Authority,
    relations: related::Relations,
    /// What tokens of service accounts are signed with; without it there are none.
    pub(crate) token_key: Option<Arc<TokenKey>>,
    /// The newest revision that every cache has.
    applied: signal::Sender<u64>,
    /// Whether the server shuts down: watches end.
    pub(crate) closing: signal::Sender<bool>,
}

impl Registry {
    /// A registry of all kinds of the table, its caches filled, following the store.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        cluster: ClusterNet,
        token_key: Option<Arc<TokenKey>>,
    ) -> Result<Arc<Self>, StoreError> {
        let mut resources = Vec::new();
        let mut by_name = HashMap::new();
        let mut served = HashMap::new();
        for row in kinds::all().iter().filter(|row| row.view.is_none()) {
            let resource = Arc::new(Resource::new(row));
            by_name.insert((row.group.to_owned(), row.plural.to_owned()), resources.len());
            resources.push(resource);
        }
        for row in kinds::all() {
            let stored = row.stored();
            let index = by_name[&(stored.group.to_owned(), stored.plural.to_owned())];
            let view = Served::new(row, Arc::clone(&resources[index]));
            served.insert((row.group, row.version, row.plural), Arc::new(view));
        }
        let registry = Arc::new(Self {
            store,
            custom: custom::Kinds::default(),
            allocations: Allocations::new(&cluster),
            authority: authority::Authority::default(),
            relations: related::Relations::default(),
            token_key,
            cluster,
            resources,
            by_name,
            served,
            applied: signal::Sender::new(0),
            closing: signal::Sender::new(false),
        });
        registry.start_feed()?;
        tokio::spawn(related::keep(Arc::downgrade(&registry)));
        Ok(registry)
    }

    /// What is served under a group, version and plural.
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        match kinds::by_resource(group, version, plural) {
            Some(row) => self.served.get(&(row.group, row.version, row.plural)).cloned(),
            None => self.custom.now().served(group, version, plural),
        }
    }

    /// Every resource.
    pub(crate) fn resources(&self) -> Vec<Arc<Resource>> {
        self.resources.iter().cloned().chain(self.custom.now().resources().cloned()).collect()
    }

    /// A resource of the table.
    fn builtin(&self, group: &str, plural: &str) -> &Resource {
        &self.resources[self.by_name[&(group.to_owned(), plural.to_owned())]]
    }

    /// What a resource of the table is served as.
    pub(crate) fn builtin_served(&self, group: &str, plural: &str) -> &Arc<Served> {
        let row = kinds::by_resource(group, "v1", plural);
        let served = row.and_then(|row| self.served.get(&(row.group, row.version, row.plural)));
        served.expect("asked for only by names that are in the table of kinds")
    }

    /// The objects of a kind in a namespace, or all.
    pub(crate) fn objects(&self, group: &str, kind: &str, namespace: &str) -> Vec<Value> {
        let resources = self.resources();
        let resource =
            resources.iter().find(|resource| resource.row.group == group && resource.row.kind == kind);
        let items = resource.map(|resource| resource.cache.snapshot(namespace).items).unwrap_or_default();
        items.iter().map(|stored| stored.value()).collect()
    }

    pub(crate) fn namespaces(&self) -> &Resource {
        self.builtin("", "namespaces")
    }

    fn services(&self) -> &Resource {
        self.builtin("", "services")
    }

    fn ip_addresses(&self) -> &Resource {
        self.builtin("networking.k8s.io", "ipaddresses")
    }

    fn service_cidrs(&self) -> &Resource {
        self.builtin("networking.k8s.io", "servicecidrs")
    }

    /// Ends every watch and every loop of the server.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// What kinds see of each other, as of the newest revision that is known here.
impl Objects for Registry {
    fn list(&self, group: &str, kind: &str, namespace: &str) -> Vec<Value> {
        self.objects(group, kind, namespace)
    }

    fn request_fault(&self, base64: &str) -> Option<String> {
        pki::Request::parse(base64).err()
    }

    fn certificate_fault(&self, base64: &str) -> Option<String> {
        pki::certificate_fault(base64)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// Resolves when the server shuts down.
pub(crate) async fn closed(closing: &mut signal::Receiver<bool>) {
    // The sender being gone means the same.
    let _ = closing.wait_for(|closing| *closing).await;
}
