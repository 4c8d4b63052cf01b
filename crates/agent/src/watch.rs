//! Watches of the API, as one stream of changes.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use dyad_program::policy::{ClusterNetworkPolicy, Labels, NetworkPolicy, Pod};
use dyad_program::{EndpointSlice, Name, Service};
use futures::{Stream, TryStreamExt, pin_mut};
use kube::api::ObjectMeta;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::objects::{
    ClusterPolicyObject, NamespaceObject, NetworkPolicyObject, NodeObject, Object, PodObject, ServiceObject,
    SliceObject, name,
};
use crate::routes::Node;

/// First and longest wait after a watch was interrupted.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How often is looked whether a kind that the API does not have has come.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A change of one object; `None` when it is gone, or means nothing to us any more.
pub(crate) enum Change {
    Service(Name, Option<Service>),
    Slice(Name, Option<EndpointSlice>),
    Node(Name, Option<Node>),
    /// With the identity of the object.
    Pod(Name, String, Option<Pod>),
    Namespace(Name, Option<Labels>),
    NetworkPolicy(Name, Option<NetworkPolicy>),
    ClusterPolicy(Name, Option<ClusterNetworkPolicy>),
    /// All objects of a kind have been listed: others than these are gone.
    Listed(Kind, BTreeSet<Name>),
}

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Services,
    Slices,
    Nodes,
    Pods,
    Namespaces,
    NetworkPolicies,
    ClusterPolicies,
}

impl Kind {
    /// What has to be listed before anything is done.
    pub(crate) const fn needed(policy: bool) -> &'static [Self] {
        const ALL: [Kind; 7] = [
            Kind::Services,
            Kind::Slices,
            Kind::Nodes,
            Kind::Pods,
            Kind::Namespaces,
            Kind::NetworkPolicies,
            Kind::ClusterPolicies,
        ];
        if policy { &ALL } else { ALL.first_chunk::<4>().expect("there are seven") }
    }
}

/// Starts watching everything, for ever.
pub(crate) fn start(
    client: &Client,
    config: &crate::Config,
    to: &mpsc::Sender<Change>,
    tasks: &mut JoinSet<()>,
) {
    // Without policy only pods of this node matter, for their ports.
    let own = (!config.policy).then(|| format!("spec.nodeName={}", config.node_name));
    tasks.spawn(follow::<ServiceObject>(client, Kind::Services, None, to, |meta, service| {
        Change::Service(name(meta), service)
    }));
    tasks.spawn(follow::<SliceObject>(client, Kind::Slices, None, to, |meta, slice| {
        Change::Slice(name(meta), slice)
    }));
    tasks.spawn(follow::<NodeObject>(client, Kind::Nodes, None, to, |meta, node| {
        Change::Node(name(meta), node)
    }));
    tasks.spawn(follow::<PodObject>(client, Kind::Pods, own, to, |meta, pod| {
        Change::Pod(name(meta), meta.uid.clone().unwrap_or_default(), pod)
    }));
    if config.policy {
        tasks.spawn(follow::<NamespaceObject>(client, Kind::Namespaces, None, to, |meta, labels| {
            Change::Namespace(name(meta), labels)
        }));
        tasks.spawn(follow::<NetworkPolicyObject>(
            client,
            Kind::NetworkPolicies,
            None,
            to,
            |meta, policy| Change::NetworkPolicy(name(meta), policy),
        ));
        tasks.spawn(follow::<ClusterPolicyObject>(
            client,
            Kind::ClusterPolicies,
            None,
            to,
            |meta, policy| Change::ClusterPolicy(name(meta), policy),
        ));
    }
}

fn follow<K>(
    client: &Client,
    kind: Kind,
    fields: Option<String>,
    to: &mpsc::Sender<Change>,
    change: fn(&ObjectMeta, Option<K::Meaning>) -> Change,
) -> impl Future<Output = ()> + Send + use<K>
where
    K: Object + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let labels = K::LABELS.map(str::to_owned);
    // What is a moment old will do: changes follow.
    let config =
        Config { label_selector: labels, field_selector: fields, ..Config::default().any_semantic() };
    let stream = watcher(Api::<K>::all(client.clone()), config);
    tell(stream, kind, to.clone(), change)
}

async fn tell<K: Object + Resource<DynamicType = ()>>(
    stream: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    kind: Kind,
    to: mpsc::Sender<Change>,
    change: fn(&ObjectMeta, Option<K::Meaning>) -> Change,
) {
    pin_mut!(stream);
    let (mut listed, mut wait) = (BTreeSet::new(), WAITS.0);
    loop {
        let heard = match stream.try_next().await {
            Ok(Some(Event::Init)) => {
                listed.clear();
                continue;
            }
            Ok(Some(Event::InitApply(object))) => {
                listed.insert(name(object.meta()));
                change(object.meta(), object.meaning())
            }
            Ok(Some(Event::InitDone)) => Change::Listed(kind, std::mem::take(&mut listed)),
            Ok(Some(Event::Apply(object))) => change(object.meta(), object.meaning()),
            Ok(Some(Event::Delete(object))) => change(object.meta(), None),
            Ok(None) => return,
            Err(error) if is_unknown_kind(&error) => {
                tracing::info!(?kind, "the API does not have this kind");
                if to.send(Change::Listed(kind, BTreeSet::new())).await.is_err() {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(?kind, %error, "watch interrupted; the kernel goes on with what it has");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAITS.1);
                continue;
            }
        };
        wait = WAITS.0;
        if to.send(heard).await.is_err() {
            return;
        }
    }
}

/// Whether the API server does not serve the kind at all.
fn is_unknown_kind(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if status.code == 404)
        }
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::NoResourceVersion => false,
    }
}
