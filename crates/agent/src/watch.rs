//! Watches of the API, as one stream of changes.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use dyad_program::{EndpointSlice, Name, Service};
use futures::{TryStreamExt, pin_mut};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::objects::{NodeObject, Object, ServiceObject, SliceObject, name};
use crate::routes::Node;

/// First and longest wait after a watch was interrupted.
const WAITS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A change of one object; `None` when it is gone, or means nothing to us any more.
pub(crate) enum Change {
    Service(Name, Option<Service>),
    Slice(Name, Option<EndpointSlice>),
    Node(Name, Option<Node>),
    /// All objects of a kind have been listed: others than these are gone.
    Listed(Kind, BTreeSet<Name>),
}

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Services,
    Slices,
    Nodes,
}

impl Kind {
    /// How many kinds there are.
    pub(crate) const COUNT: usize = 3;
}

/// Starts watching everything, for ever.
pub(crate) fn start(client: &Client, to: &mpsc::Sender<Change>, tasks: &mut JoinSet<()>) {
    tasks.spawn(follow::<ServiceObject>(client.clone(), Kind::Services, Change::Service, to.clone()));
    tasks.spawn(follow::<SliceObject>(client.clone(), Kind::Slices, Change::Slice, to.clone()));
    tasks.spawn(follow::<NodeObject>(client.clone(), Kind::Nodes, Change::Node, to.clone()));
}

async fn follow<K>(
    client: Client,
    kind: Kind,
    change: fn(Name, Option<K::Meaning>) -> Change,
    to: mpsc::Sender<Change>,
) where
    K: Object + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    // What is a moment old will do: changes follow.
    let config = Config { label_selector: K::LABELS.map(str::to_owned), ..Config::default().any_semantic() };
    let stream = watcher(Api::<K>::all(client), config);
    pin_mut!(stream);
    let (mut listed, mut wait) = (BTreeSet::new(), WAITS.0);
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(?kind, %error, "watch interrupted; the kernel goes on with what it has");
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
                change(name, object.meaning())
            }
            Event::InitDone => Change::Listed(kind, std::mem::take(&mut listed)),
            Event::Apply(object) => change(name(object.meta()), object.meaning()),
            Event::Delete(object) => change(name(object.meta()), None),
        };
        if to.send(heard).await.is_err() {
            return;
        }
    }
}
