//! Which node has to do with which object: the graph of the node authorizer, kept up with the caches.
//!
//! It follows pods and volumes by itself, so that a request finds little to catch up with, if anything.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cache::Cache;
use super::kept::{Kept, Sum};
use super::{Registry, Stored, closed};
use crate::auth::{Graph, Surroundings, Thing, of_pod, of_volume, settled};

/// Between two looks: many changes cost little more than one.
const EVERY: Duration = Duration::from_millis(100);

/// The graph of pods and of volumes, as far as they have been read.
pub(super) type Relations = Kept<Graph, 2>;

/// Keeps the graph current until the server shuts down.
pub(super) async fn keep(registry: Weak<Registry>) {
    let Some((mut pods, mut volumes, mut closing)) = registry.upgrade().map(|registry| {
        let [pods, volumes] = registry.sources();
        (pods.subscribe(), volumes.subscribe(), registry.closing.subscribe())
    }) else {
        return;
    };
    loop {
        let Some(there) = registry.upgrade() else { return };
        there.with_graph(|_| ());
        drop(there);
        let changed = async {
            tokio::select! {
                changed = pods.changed() => changed,
                changed = volumes.changed() => changed,
            }
        };
        tokio::select! {
            changed = changed => if changed.is_err() { return },
            () = closed(&mut closing) => return,
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Registry {
    fn sources(&self) -> [&Cache; 2] {
        ["pods", "persistentvolumes"].map(|plural| &self.builtin("", plural).cache)
    }

    fn with_graph<T>(&self, with: impl FnOnce(&Graph) -> T) -> T {
        self.relations.with(self.sources(), with)
    }
}

impl Surroundings for Registry {
    fn related(&self, node: &str, thing: Thing, namespace: &str, name: &str) -> bool {
        let stored = |group: &str, plural: &str| {
            let resource = self.builtin(group, plural);
            resource.cache.get(&resource.cache_key(namespace, name))
        };
        match thing {
            Thing::Pod => stored("", "pods").is_some_and(|pod| pod.meta.field("spec.nodeName") == node),
            Thing::Attachment => stored("storage.k8s.io", "volumeattachments")
                .is_some_and(|attachment| attachment.bare()["spec"]["nodeName"] == node),
            Thing::Slice => stored("resource.k8s.io", "resourceslices")
                .is_some_and(|slice| slice.bare()["spec"]["nodeName"] == node),
            // A volume is in no namespace, whatever the request says.
            Thing::Volume => self.with_graph(|graph| graph.related(node, thing, "", name)),
            _ => self.with_graph(|graph| graph.related(node, thing, namespace, name)),
        }
    }

    fn node_uid(&self, name: &str) -> Option<String> {
        self.builtin("", "nodes").cache.get(name).map(|node| node.meta.uid.to_string())
    }
}

impl Sum for Graph {
    fn change(&mut self, source: usize, before: Option<&Arc<Stored>>, now: Option<&Arc<Stored>>) {
        if source == 0 && stays(before, now) {
            return;
        }
        for (stored, there) in [(before, false), (now, true)] {
            let Some(stored) = stored else { continue };
            let node = stored.meta.field("spec.nodeName");
            if source == 1 {
                of_volume(&stored.bare()).iter().for_each(|volume| self.volume(volume, there));
            } else if !node.is_empty() {
                self.pod(node, &stored.meta.namespace, of_pod(&stored.bare()), there);
            }
        }
    }
}

/// Whether a pod refers to what it referred to before: most changes are of its status.
fn stays(before: Option<&Arc<Stored>>, now: Option<&Arc<Stored>>) -> bool {
    let (Some(before), Some(now)) = (before, now) else { return false };
    before.meta.uid == now.meta.uid
        && before.meta.field("spec.nodeName") == now.meta.field("spec.nodeName")
        && settled(now.json())
        && settled(before.json())
}

#[cfg(test)]
mod tests;
