//! Pods that nobody ends any more: those of nodes that are gone, and those that are to go before they were bound.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::task::JoinSet;

use crate::pods::node_name;
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

struct PodGarbage(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, PodGarbage(world.clone()), |queue| {
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

impl Controller for PodGarbage {
    const NAME: &'static str = "pod-garbage";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.0.pods.get(key) else { return Ok(None) };
        let node = node_name(&pod);
        let lost = match node.is_empty() {
            true => pod.metadata.deletion_timestamp.is_some(),
            // The cache of nodes may be behind that of pods, so the API has the last word.
            false => {
                self.0.nodes.named(node).is_none()
                    && Api::<Node>::all(self.0.client.clone()).get_opt(node).await?.is_none()
            }
        };
        if !lost {
            return Ok(None);
        }
        let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match Api::<Pod>::namespaced(self.0.client.clone(), &key.namespace).delete(&key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            result => Ok(result.map(|_| None)?),
        }
    }
}
