//! From the Kubernetes API to the names of a cluster: watches that end in a [`Store`].
//!
//! While the API is away the names stay as they are.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{TryStreamExt, pin_mut};
use jiff::Timestamp;
use kube::runtime::watcher::{Config as Selection, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use crate::metrics::{Histogram, PROGRAMMING, Registry, Scale};
use crate::zone::{ObjectName, Pod, Service, Slice, Store};

mod objects;

use objects::{NamespaceObject, Object, PodObject, ServiceObject, SliceObject, name};

/// First and longest wait after a watch was interrupted.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long is waited after a change, so that several that come together are one snapshot (A.1).
const SETTLE: Duration = Duration::from_millis(2);
/// How many changes may wait; the watches wait then.
const QUEUE: usize = 1024;

/// What is asked of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether pods matter: for verified names, and to know who asks.
    pub pods: bool,
    /// Only Services of these namespaces, unless empty.
    pub namespaces: Vec<String>,
    /// Only Services and slices with these labels.
    pub labels: Option<String>,
}

/// A change of one object; `None` when it is gone.
enum Change {
    Service(ObjectName, Option<Service>),
    /// With the time at which what the slice tells of has happened, if it says so.
    Slice(ObjectName, Option<Slice>, Option<Timestamp>),
    Pod(ObjectName, Option<Pod>),
    Namespace(ObjectName, bool),
    /// All objects of a kind have been listed: others than these are gone.
    Listed(Kind, BTreeSet<ObjectName>),
}

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Services,
    Slices,
    Namespaces,
    Pods,
}

/// Keeps names as the API has them, for as long as it is polled. They are published once all objects have been heard;
/// whoever published in the same place before, `old`, has ended then.
pub async fn follow(
    client: Client,
    wanted: Wanted,
    store: Store,
    registry: Arc<Registry>,
    old: Option<JoinHandle<()>>,
) {
    let mut watches = JoinSet::new();
    let (to, mut changes) = mpsc::channel(QUEUE);
    watches.spawn(watch::<ServiceObject>(client.clone(), wanted.clone(), to.clone()));
    watches.spawn(watch::<SliceObject>(client.clone(), wanted.clone(), to.clone()));
    watches.spawn(watch::<NamespaceObject>(client.clone(), wanted.clone(), to.clone()));
    let mut missing = BTreeSet::from([Kind::Services, Kind::Slices, Kind::Namespaces]);
    if wanted.pods {
        watches.spawn(watch::<PodObject>(client, wanted.clone(), to));
        missing.insert(Kind::Pods);
    }
    let latency = Latency::new(&registry);
    let mut writer = Writer { store, wanted, missing, namespaces: BTreeSet::new(), latency };
    while !writer.missing.is_empty() {
        let Some(change) = changes.recv().await else { return };
        writer.hear(change);
    }
    if let Some(old) = old {
        old.abort();
        // That it was ended is what is waited for.
        let _ = old.await;
    }
    writer.store.set_synced();
    writer.publish();
    info!(services = writer.store.service_names().count(), "names are served");
    while let Some(change) = changes.recv().await {
        writer.hear(change);
        tokio::time::sleep(SETTLE).await;
        while let Ok(change) = changes.try_recv() {
            writer.hear(change);
        }
        writer.publish();
    }
}

/// Puts changes into the store.
struct Writer {
    store: Store,
    wanted: Wanted,
    /// Kinds that have not been listed yet.
    missing: BTreeSet<Kind>,
    /// Namespaces there are.
    namespaces: BTreeSet<ObjectName>,
    latency: Latency,
}

impl Writer {
    fn hear(&mut self, change: Change) {
        match change {
            Change::Service(name, service) if self.is_wanted(&name) => self.store.set_service(&name, service),
            Change::Slice(name, slice, changed) if self.is_wanted(&name) => {
                self.latency.note(changed);
                self.store.set_slice(&name, slice);
            }
            Change::Service(..) | Change::Slice(..) => {}
            Change::Pod(name, pod) => self.store.set_pod(&name, pod),
            Change::Namespace(name, exists) => {
                self.store.set_namespace(&name.name, exists);
                match exists {
                    true => self.namespaces.insert(name),
                    false => self.namespaces.remove(&name),
                };
            }
            Change::Listed(kind, listed) => {
                self.forget(kind, &listed);
                self.missing.remove(&kind);
            }
        }
    }

    /// Removes what was not among the objects of a listing: it went while nobody watched.
    fn forget(&mut self, kind: Kind, listed: &BTreeSet<ObjectName>) {
        let gone = |known: Vec<ObjectName>| known.into_iter().filter(|name| !listed.contains(name));
        match kind {
            Kind::Services => {
                gone(self.store.service_names().collect())
                    .for_each(|name| self.store.set_service(&name, None));
            }
            Kind::Slices => {
                gone(self.store.slice_names().cloned().collect())
                    .for_each(|name| self.store.set_slice(&name, None));
            }
            Kind::Pods => {
                gone(self.store.pod_names().cloned().collect())
                    .for_each(|name| self.store.set_pod(&name, None));
            }
            Kind::Namespaces => {
                for name in gone(self.namespaces.iter().cloned().collect()) {
                    self.store.set_namespace(&name.name, false);
                    self.namespaces.remove(&name);
                }
            }
        }
    }

    fn is_wanted(&self, name: &ObjectName) -> bool {
        let mut namespaces = self.wanted.namespaces.iter();
        self.wanted.namespaces.is_empty() || namespaces.any(|wanted| **wanted == *name.namespace)
    }

    fn publish(&mut self) {
        self.store.publish(seconds());
        self.latency.observe();
    }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// How long changes of endpoints take to become names.
struct Latency {
    histogram: Histogram,
    waiting: Vec<Timestamp>,
}

impl Latency {
    fn new(registry: &Registry) -> Self {
        let help = "Histogram of the time (in seconds) it took to program a dns instance.";
        let histogram = registry.histogram(
            "coredns_kubernetes_dns_programming_duration_seconds",
            help,
            &[("service_kind", "headless_with_selector")],
            Scale::Nanoseconds,
            &PROGRAMMING,
        );
        Self { histogram, waiting: Vec::new() }
    }

    fn note(&mut self, changed: Option<Timestamp>) {
        self.waiting.extend(changed);
    }

    fn observe(&mut self) {
        let now = Timestamp::now();
        for changed in self.waiting.drain(..) {
            let took = u64::try_from(now.duration_since(changed).as_nanos()).unwrap_or(0);
            self.histogram.observe(took);
        }
    }
}

async fn watch<K>(client: Client, wanted: Wanted, to: mpsc::Sender<Change>)
where
    K: Object + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let chosen = wanted.labels.filter(|_| matches!(K::KIND, Kind::Services | Kind::Slices));
    let labels: Vec<_> = K::LABELS.map(str::to_owned).into_iter().chain(chosen).collect();
    let selection =
        Selection { label_selector: (!labels.is_empty()).then(|| labels.join(",")), ..Selection::default() };
    let stream = watcher(Api::<K>::all(client), selection);
    pin_mut!(stream);
    let (mut listed, mut wait) = (BTreeSet::new(), WAITS.0);
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                warn!(kind = ?K::KIND, %error, "watch interrupted; names stay as they are");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAITS.1);
                continue;
            }
        };
        wait = WAITS.0;
        let heard = match event {
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(object) => {
                let name = name(object.meta());
                listed.insert(name.clone());
                object.heard(name)
            }
            Event::InitDone => Change::Listed(K::KIND, std::mem::take(&mut listed)),
            Event::Apply(object) => {
                let name = name(object.meta());
                object.heard(name)
            }
            Event::Delete(object) => K::gone(name(object.meta())),
        };
        if to.send(heard).await.is_err() {
            return;
        }
    }
}
