//! Pods that nobody ends any more: those of nodes that are gone, and those that are to go before they were bound.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::task::JoinSet;

use crate::pods::node_name;
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

/// How long a node must have been gone before its pods go, too: it may only be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);

struct PodGarbage {
    world: Shared,
    /// Since when each node that pods name has not been there.
    missing: Mutex<HashMap<String, Instant>>,
}

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    let garbage = PodGarbage { world: world.clone(), missing: Mutex::default() };
    spawn(tasks, garbage, |queue| {
        let pods = queue.clone();
        world.pods.on_change(move |_, new| {
            if let Some(pod) =
                new.filter(|pod| !node_name(pod).is_empty() || pod.metadata.deletion_timestamp.is_some())
            {
                pods.add(Key::of(pod));
            }
        });
        let (gone, weak) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.nodes.on_change(move |old, new| {
            let (Some(node), None, Some(world)) = (old, new, weak.upgrade()) else { return };
            let name = node.name_any();
            world
                .pods
                .all()
                .iter()
                .filter(|pod| node_name(pod) == name)
                .for_each(|pod| gone.add(Key::of(&**pod)));
        });
    });
}

impl PodGarbage {
    /// When to look at a pod again; `None` if its node has been gone for long enough, and for the pod, too, which may
    /// be here before its node is registered.
    fn quarantine(&self, node: &str, pod: &Pod) -> Option<Next> {
        let mut missing = self.missing.lock().expect("nothing panics here");
        if self.world.nodes.named(node).is_some() {
            missing.remove(node);
            return Some(None);
        }
        let since = missing.entry(node.to_owned()).or_insert_with(Instant::now).elapsed();
        let age = pod.creation_timestamp().map_or(QUARANTINE, |created| {
            Timestamp::now().duration_since(created.0).try_into().unwrap_or_default()
        });
        let since = since.min(age);
        (since < QUARANTINE).then(|| Some(QUARANTINE - since))
    }
}

impl Controller for PodGarbage {
    const NAME: &'static str = "pod-garbage";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.world.pods.get(key) else { return Ok(None) };
        let node = node_name(&pod);
        if node.is_empty() && pod.metadata.deletion_timestamp.is_none() {
            return Ok(None);
        }
        if !node.is_empty() {
            if let Some(wait) = self.quarantine(node, &pod) {
                return Ok(wait);
            }
            // The cache of nodes may be behind that of pods, so the API has the last word.
            if Api::<Node>::all(self.world.client.clone()).get_opt(node).await?.is_some() {
                return Ok(Some(QUARANTINE));
            }
        }
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match Api::<Pod>::namespaced(self.world.client.clone(), &key.namespace)
            .delete(&key.name, &params)
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            result => Ok(result.map(|_| None)?),
        }
    }
}
