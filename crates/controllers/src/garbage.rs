//! Garbage collection by owner references: background, foreground and orphan (J50).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use futures::{TryStreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::discovery::{Scope, verbs};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Discovery};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::warn;

use crate::Shared;
use crate::queue::{Controller, Error, Key, Next, Queue};

/// Finalizer of an object that goes after its dependents.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object that leaves its dependents behind.
const ORPHAN: &str = "orphan";

/// An object, as far as this controller is concerned. Its [`Key`] in the queue has its UID as name.
#[derive(Clone)]
struct Item {
    kind: Arc<(ApiResource, Scope)>,
    meta: ObjectMeta,
}

/// What is kept of an object: nothing but its kind if it has no owners, no finalizers and no end, as most objects.
struct Known {
    kind: Arc<(ApiResource, Scope)>,
    meta: Option<Box<ObjectMeta>>,
}

/// All objects by UID, and the dependents of each owner.
#[derive(Default)]
struct Graph {
    items: HashMap<String, Known>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Takes note of an object. Returns the UIDs to look at.
    fn set(&mut self, uid: &str, item: Item) -> Vec<String> {
        let mut look = self.unlink(uid);
        for owner in owners(&item.meta) {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        look.extend(owners(&item.meta).iter().map(|owner| owner.uid.clone()));
        let Item { kind, meta } = item;
        let matters = !owners(&meta).is_empty()
            || meta.deletion_timestamp.is_some()
            || meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if matters {
            look.push(uid.to_owned());
        }
        self.items.insert(uid.to_owned(), Known { kind, meta: matters.then(|| Box::new(meta)) });
        look
    }

    /// Forgets an object. Its dependents may be garbage now, and its owners may have waited for it.
    fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut look = self.unlink(uid);
        self.items.remove(uid);
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    fn unlink(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.get(uid) else { return Vec::new() };
        let owners: Vec<String> = owners(&item.meta).iter().map(|owner| owner.uid.clone()).collect();
        for owner in &owners {
            if let Some(list) = self.dependents.get_mut(owner) {
                list.remove(uid);
                if list.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        owners
    }

    fn dependents_of(&self, uid: &str) -> Vec<Item> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.get(uid)).collect()
    }

    /// An object about which there may be something to do.
    fn get(&self, uid: &str) -> Option<Item> {
        let Known { kind, meta } = self.items.get(uid)?;
        Some(Item { kind: kind.clone(), meta: (**meta.as_ref()?).clone() })
    }
}

fn owners(meta: &ObjectMeta) -> &[OwnerReference] {
    meta.owner_references.as_deref().unwrap_or_default()
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

struct Garbage {
    client: Client,
    graph: Arc<Mutex<Graph>>,
}

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let garbage = Garbage { client: world.client.clone(), graph: graph.clone() };
    let client = world.client.clone();
    let queue = Queue::default();
    let worked = queue.clone();
    tasks.spawn(async move { worked.work(garbage).await });
    tasks.spawn(async move {
        // Definitions come and go, and kinds with them. What is dropped ends.
        let mut watches: BTreeMap<String, JoinSet<()>> = BTreeMap::new();
        loop {
            let again = match kinds(&client).await {
                Ok(kinds) => {
                    let known: Vec<String> = kinds.iter().map(|(kind, _)| name_of(kind)).collect();
                    watches.retain(|name, _| known.contains(name));
                    for (name, kind) in known.into_iter().zip(kinds) {
                        watches.entry(name).or_insert_with(|| {
                            let mut watch = JoinSet::new();
                            watch.spawn(follow(client.clone(), Arc::new(kind), graph.clone(), queue.clone()));
                            watch
                        });
                    }
                    KINDS_AGAIN
                }
                Err(error) => {
                    warn!(%error, "can't find out which kinds there are");
                    std::time::Duration::from_secs(1)
                }
            };
            tokio::time::sleep(again).await;
        }
    });
}

/// Pause between two looks at which kinds there are.
const KINDS_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// What a kind is told from others by.
fn name_of(kind: &ApiResource) -> String {
    format!("{}/{}", kind.api_version, kind.plural)
}

/// Every kind that can be watched and deleted. Events own nothing and are owned by nothing, and there are many.
async fn kinds(client: &Client) -> Result<Vec<(ApiResource, Scope)>, Error> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await?;
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let usable = all.filter(|(resource, capabilities)| {
        resource.kind != "Event"
            && capabilities.supports_operation(verbs::WATCH)
            && capabilities.supports_operation(verbs::DELETE)
    });
    Ok(usable.map(|(resource, capabilities)| (resource, capabilities.scope)).collect())
}

async fn follow(client: Client, kind: Arc<(ApiResource, Scope)>, graph: Arc<Mutex<Graph>>, queue: Queue) {
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &kind.0);
    let stream = watcher(api, watcher::Config::default());
    pin_mut!(stream);
    let mut listed: Option<BTreeSet<String>> = None;
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                warn!(kind = kind.0.kind, %error, "watch interrupted");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
        };
        let mut graph = graph.lock().expect("nothing panics here");
        let mut set = |object: PartialObjectMeta<DynamicObject>| {
            let mut meta = object.metadata;
            let uid = meta.uid.clone().unwrap_or_default();
            (meta.managed_fields, meta.annotations, meta.labels) = (None, None, None);
            (meta.creation_timestamp, meta.generate_name) = (None, None);
            let look = graph.set(&uid, Item { kind: kind.clone(), meta });
            (uid, look)
        };
        let look = match event {
            Event::Init => {
                listed = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let (uid, look) = set(object);
                listed.get_or_insert_default().insert(uid);
                look
            }
            Event::Apply(object) => set(object).1,
            Event::Delete(object) => graph.remove(object.metadata.uid.as_deref().unwrap_or_default()),
            Event::InitDone => {
                let listed = listed.take().unwrap_or_default();
                let mine = graph.items.iter().filter(|(_, item)| Arc::ptr_eq(&item.kind, &kind));
                let gone: Vec<String> =
                    mine.map(|(uid, _)| uid.clone()).filter(|uid| !listed.contains(uid)).collect();
                gone.iter().flat_map(|uid| graph.remove(uid)).collect()
            }
        };
        drop(graph);
        look.into_iter().for_each(|uid| queue.add(Key::named(uid)));
    }
}

/// What is to be done about an object. Pure: `exists` knows owners by UID.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// All its owners are gone.
    Delete,
    /// Some are gone; these UIDs stay.
    Forget(Vec<String>),
}

fn judge(meta: &ObjectMeta, exists: impl Fn(&OwnerReference) -> bool) -> Verdict {
    let all = owners(meta);
    if all.is_empty() || meta.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    let alive: Vec<String> =
        all.iter().filter(|owner| exists(owner)).map(|owner| owner.uid.clone()).collect();
    match alive.len() {
        0 => Verdict::Delete,
        count if count == all.len() => Verdict::Keep,
        _ => Verdict::Forget(alive),
    }
}

impl Controller for Garbage {
    const NAME: &'static str = "garbage";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let (item, dependents) = {
            let graph = self.graph.lock().expect("nothing panics here");
            let Some(item) = graph.get(&key.name) else { return Ok(None) };
            (item, graph.dependents_of(&key.name))
        };
        if item.meta.deletion_timestamp.is_some() {
            if has_finalizer(&item.meta, ORPHAN) {
                for dependent in &dependents {
                    let stay = owners(&dependent.meta)
                        .iter()
                        .filter(|owner| owner.uid != key.name)
                        .map(|owner| owner.uid.clone())
                        .collect();
                    self.keep_owners(dependent, stay).await?;
                }
                return self.drop_finalizer(&item, ORPHAN).await;
            }
            if has_finalizer(&item.meta, FOREGROUND) {
                return self.foreground(&item, &key.name, &dependents).await;
            }
            return Ok(None);
        }
        let mut missing = BTreeSet::new();
        for owner in owners(&item.meta) {
            let known = self.graph.lock().expect("nothing panics here").items.contains_key(&owner.uid);
            if !known && self.is_gone(&item, owner).await? {
                missing.insert(owner.uid.clone());
            }
        }
        match judge(&item.meta, |owner| !missing.contains(&owner.uid)) {
            Verdict::Keep => {}
            Verdict::Delete => self.delete(&item, &DeleteParams::background()).await?,
            Verdict::Forget(stay) => self.keep_owners(&item, stay).await?,
        }
        Ok(None)
    }
}

impl Garbage {
    fn api(&self, item: &Item) -> Api<DynamicObject> {
        let (resource, scope) = &*item.kind;
        match (scope, &item.meta.namespace) {
            (Scope::Namespaced, Some(namespace)) => {
                Api::namespaced_with(self.client.clone(), namespace, resource)
            }
            _ => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Whether an owner that no watch has shown is really not there. Kinds that are not served are left alone.
    async fn is_gone(&self, item: &Item, owner: &OwnerReference) -> Result<bool, Error> {
        let kind = {
            let graph = self.graph.lock().expect("nothing panics here");
            let api_version = |resource: &ApiResource| {
                resource.api_version == owner.api_version && resource.kind == owner.kind
            };
            graph.items.values().find(|item| api_version(&item.kind.0)).map(|item| item.kind.clone())
        };
        let kind = match kind {
            Some(kind) => kind,
            // There may be none of that kind left.
            None => match kinds(&self.client)
                .await?
                .into_iter()
                .find(|(one, _)| one.api_version == owner.api_version && one.kind == owner.kind)
            {
                Some(kind) => Arc::new(kind),
                None => return Ok(false),
            },
        };
        // A namespaced owner is in the namespace of what it owns.
        let meta = ObjectMeta { namespace: item.meta.namespace.clone(), ..ObjectMeta::default() };
        let found = self.api(&Item { kind, meta }).get_metadata_opt(&owner.name).await?;
        Ok(found.is_none_or(|found| found.metadata.uid.as_ref() != Some(&owner.uid)))
    }

    async fn foreground(&self, item: &Item, uid: &str, dependents: &[Item]) -> Result<Next, Error> {
        let blocking = |dependent: &&Item| {
            owners(&dependent.meta)
                .iter()
                .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        for dependent in dependents.iter().filter(|dependent| dependent.meta.deletion_timestamp.is_none()) {
            // One with another owner lives on with that.
            let stay: Vec<String> = owners(&dependent.meta)
                .iter()
                .filter(|owner| owner.uid != uid)
                .map(|owner| owner.uid.clone())
                .collect();
            if stay.is_empty() {
                self.delete(dependent, &DeleteParams::foreground()).await?;
            } else {
                self.keep_owners(dependent, stay).await?;
            }
        }
        if dependents.iter().any(|dependent| blocking(&dependent)) {
            // Their going looks at their owner again.
            return Ok(None);
        }
        self.drop_finalizer(item, FOREGROUND).await
    }

    async fn delete(&self, item: &Item, params: &DeleteParams) -> Result<(), Error> {
        let preconditions = Preconditions { uid: item.meta.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..params.clone() };
        ignore_absent(
            self.api(item).delete(item.meta.name.as_deref().unwrap_or_default(), &params).await.map(drop),
        )
    }

    /// Reduces an object's owners to these. The resourceVersion guards against owners added meanwhile.
    async fn keep_owners(&self, item: &Item, uids: Vec<String>) -> Result<(), Error> {
        let stay: Vec<&OwnerReference> =
            owners(&item.meta).iter().filter(|owner| uids.contains(&owner.uid)).collect();
        let patch =
            json!({"metadata": {"resourceVersion": item.meta.resource_version, "ownerReferences": stay}});
        let name = item.meta.name.as_deref().unwrap_or_default();
        ignore_absent(
            self.api(item)
                .patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map(drop),
        )
    }

    async fn drop_finalizer(&self, item: &Item, finalizer: &str) -> Result<Next, Error> {
        let stay: Vec<&String> =
            item.meta.finalizers.iter().flatten().filter(|one| *one != finalizer).collect();
        let patch = json!({"metadata": {"resourceVersion": item.meta.resource_version, "finalizers": stay}});
        let name = item.meta.name.as_deref().unwrap_or_default();
        ignore_absent(
            self.api(item)
                .patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map(drop),
        )?;
        Ok(None)
    }
}

fn ignore_absent(result: Result<(), kube::Error>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn meta(owners: &[&str], deleting: bool) -> ObjectMeta {
        let references: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": uid, "uid": uid}))
            .collect();
        let mut meta: ObjectMeta = serde_json::from_value(json!({"ownerReferences": references})).unwrap();
        meta.deletion_timestamp = deleting.then_some(Time(Timestamp::UNIX_EPOCH));
        meta
    }

    #[test]
    fn an_object_goes_with_the_last_of_its_owners() {
        let alive = |owner: &OwnerReference| owner.uid.starts_with("alive");
        #[rustfmt::skip]
        let cases = [
            (&[][..],                   false, Verdict::Keep),
            (&["alive"],                false, Verdict::Keep),
            (&["gone"],                 false, Verdict::Delete),
            (&["gone", "alive"],        false, Verdict::Forget(vec!["alive".into()])),
            (&["gone", "gone2"],        false, Verdict::Delete),
            (&["gone"],                 true,  Verdict::Keep),
        ];
        for (owners, deleting, verdict) in cases {
            assert_eq!(judge(&meta(owners, deleting), alive), verdict, "{owners:?}");
        }
    }

    #[test]
    fn changes_lead_to_owners_and_dependents() {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "K".into(),
            plural: "ks".into(),
        };
        let kind = Arc::new((resource, Scope::Cluster));
        let item = |owners: &[&str]| Item { kind: kind.clone(), meta: meta(owners, false) };
        let mut graph = Graph::default();
        assert_eq!(graph.set("child", item(&["owner"])), ["owner", "child"]);
        graph.set("owner", item(&[]));
        assert_eq!(graph.dependents_of("owner").len(), 1);
        assert_eq!(graph.remove("owner"), ["child"]);
        assert_eq!(graph.set("child", item(&[])), ["owner"], "the former owner may have waited");
        assert!(graph.get("child").is_none(), "there is nothing to do about it");
        assert!(graph.dependents.is_empty());
    }
}
