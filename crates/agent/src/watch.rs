//! Watches of the API, as one stream of changes.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use dyad_net::IpNet;
use dyad_program::policy::{ClusterNetworkPolicy, Labels, NetworkPolicy};
use dyad_program::{EndpointSlice, Name, Service};
use futures::{TryStreamExt, pin_mut};
use jiff::Timestamp;
use kube::runtime::watcher::{self, Config as Selection, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::Config;
use crate::objects::{
    ClusterPolicyObject, NamespaceObject, NodeObject, Object, Pod, PodObject, PolicyObject, ServiceObject,
    ServiceRangeObject, SliceObject, name,
};
use crate::routes::Node;

/// First and longest wait after a watch was interrupted.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How soon is looked again for a kind that the API does not have.
const MISSING: Duration = Duration::from_secs(60);

/// A change of one object; `None` when it is gone, or means nothing to us any more.
pub(crate) enum Change {
    Service(Name, Option<Service>),
    /// With the time at which what the slice tells of has happened, if it says so.
    Slice(Name, Option<EndpointSlice>, Option<Timestamp>),
    Node(Name, Option<Node>),
    Pod(Name, Pod),
    Namespace(Name, Option<Labels>),
    NetworkPolicy(Name, Option<NetworkPolicy>),
    ClusterPolicy(Name, Option<ClusterNetworkPolicy>),
    ServiceRange(Name, Option<Vec<IpNet>>),
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
    ServiceRanges,
}

impl Kind {
    /// The kinds an agent watches.
    pub(crate) fn of(config: &Config) -> BTreeSet<Self> {
        let mut kinds = BTreeSet::from([Self::Nodes, Self::Pods]);
        if config.services {
            kinds.extend([Self::Services, Self::Slices]);
        }
        if config.network_policy {
            kinds.extend([Self::Namespaces, Self::NetworkPolicies, Self::ClusterPolicies]);
        }
        if config.service_ranges.is_none() {
            kinds.insert(Self::ServiceRanges);
        }
        kinds
    }

    /// Whether an API that does not know the kind, or does not let us see it, is one that has no objects of it.
    ///
    /// Never so for policy that can't be seen: what it forbids must not be let through.
    fn may_be_missing(self, config: &Config, error: &watcher::Error) -> bool {
        use watcher::Error::{InitialListFailed, WatchStartFailed};
        let (InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status))) =
            error
        else {
            return false;
        };
        match self {
            Self::ClusterPolicies => status.code == 404,
            Self::ServiceRanges => matches!(status.code, 403 | 404),
            // Only for host ports then.
            Self::Pods => status.code == 403 && !config.network_policy,
            Self::Services | Self::Slices | Self::Nodes | Self::Namespaces | Self::NetworkPolicies => false,
        }
    }
}

/// Starts watching everything, for ever.
pub(crate) fn start(client: &Client, config: &Config, to: &mpsc::Sender<Change>, tasks: &mut JoinSet<()>) {
    for kind in Kind::of(config) {
        let (client, config, to) = (client.clone(), config.clone(), to.clone());
        match kind {
            Kind::Services => tasks.spawn(follow::<ServiceObject>(client, config, to)),
            Kind::Slices => tasks.spawn(follow::<SliceObject>(client, config, to)),
            Kind::Nodes => tasks.spawn(follow::<NodeObject>(client, config, to)),
            Kind::Pods => tasks.spawn(follow::<PodObject>(client, config, to)),
            Kind::Namespaces => tasks.spawn(follow::<NamespaceObject>(client, config, to)),
            Kind::NetworkPolicies => tasks.spawn(follow::<PolicyObject>(client, config, to)),
            Kind::ClusterPolicies => tasks.spawn(follow::<ClusterPolicyObject>(client, config, to)),
            Kind::ServiceRanges => tasks.spawn(follow::<ServiceRangeObject>(client, config, to)),
        };
    }
}

async fn follow<K>(client: Client, config: Config, to: mpsc::Sender<Change>)
where
    K: Object + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::KIND;
    // Lists come in pages: that of a large cluster is never in memory as a whole.
    let is_own_only = kind == Kind::Pods && !config.network_policy;
    let selection = Selection {
        label_selector: K::LABELS.map(str::to_owned),
        field_selector: is_own_only.then(|| format!("spec.nodeName={}", config.node_name)),
        ..Selection::default()
    };
    let stream = watcher(Api::<K>::all(client), selection);
    pin_mut!(stream);
    let (mut listed, mut wait, mut is_missing) = (BTreeSet::new(), WAITS.0, false);
    // Said once: a right that is missing is for hours.
    let mut said = None;
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) if kind.may_be_missing(&config, &error) => {
                if !std::mem::replace(&mut is_missing, true) {
                    info!(?kind, %error, "the API has none of these for us; will look again every minute");
                }
                if to.send(Change::Listed(kind, BTreeSet::new())).await.is_err() {
                    return;
                }
                tokio::time::sleep(MISSING).await;
                continue;
            }
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() == Some(&text) {
                    debug!(?kind, error = %text, "watch still interrupted");
                } else {
                    warn!(?kind, error = %text, "watch interrupted; the kernel goes on with what it has");
                    said = Some(text);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAITS.1);
                continue;
            }
        };
        let heard = match event {
            // No answer yet.
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(object) => {
                let name = name(object.meta());
                listed.insert(name.clone());
                object.heard(name)
            }
            Event::InitDone => Change::Listed(kind, std::mem::take(&mut listed)),
            Event::Apply(object) => {
                let name = name(object.meta());
                object.heard(name)
            }
            Event::Delete(object) => {
                let name = name(object.meta());
                object.gone(name)
            }
        };
        (wait, is_missing, said) = (WAITS.0, false, None);
        if to.send(heard).await.is_err() {
            return;
        }
    }
}
