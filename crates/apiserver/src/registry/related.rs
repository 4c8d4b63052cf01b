//! Which node has to do with which object: the graph of the node authorizer, kept up with the caches.
//!
//! It follows pods and volumes by itself, so that a request finds little to catch up with, if anything.

use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use super::cache::{Cache, Change, Cursor};
use super::{Registry, Stored, closed};
use crate::auth::{Graph, Surroundings, Thing, of_pod, of_volume, settled};

/// Changes taken in at once.
const STEP: usize = 256;
/// Between two looks: many changes cost little more than one.
const EVERY: Duration = Duration::from_millis(100);

/// The graph, as far as the caches have been read.
#[derive(Debug, Default)]
pub(super) struct Relations(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    graph: Graph,
    /// Where the next changes of pods and of volumes are; `None` before the first look.
    read: Option<[Cursor; 2]>,
}

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
        let sources = self.sources();
        let current =
            |read: &[Cursor; 2]| sources.iter().zip(read).all(|(cache, cursor)| !cache.has_after(*cursor));
        {
            let state = self.relations.0.read().unwrap_or_else(PoisonError::into_inner);
            if state.read.as_ref().is_some_and(current) {
                return with(&state.graph);
            }
        }
        let mut state = self.relations.0.write().unwrap_or_else(PoisonError::into_inner);
        state.catch_up(sources);
        with(&state.graph)
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

impl State {
    /// Takes in what has changed since the last time, or everything if that is too long ago.
    fn catch_up(&mut self, sources: [&Cache; 2]) {
        let kept = self.read.take().and_then(|mut cursors| {
            let mut steps = sources.iter().zip(&mut cursors).enumerate();
            steps.all(|(source, (cache, cursor))| self.follow(source, cache, cursor)).then_some(cursors)
        });
        let cursors = kept.unwrap_or_else(|| {
            self.graph = Graph::default();
            let mut source = 0..;
            sources.map(|cache| {
                let (source, snapshot) = (source.next().unwrap_or_default(), cache.snapshot(""));
                snapshot.items.iter().for_each(|stored| self.set(source, stored, true));
                snapshot.cursor
            })
        });
        self.read = Some(cursors);
    }

    /// False if the changes are no longer there.
    fn follow(&mut self, source: usize, cache: &Cache, cursor: &mut Cursor) -> bool {
        loop {
            let Ok(changes) = cache.changes(cursor, STEP) else { return false };
            if changes.is_empty() {
                return true;
            }
            for change in changes.iter().filter(|change| source != 0 || !stays(change)) {
                for (stored, there) in [(&change.before, false), (&change.now, true)] {
                    if let Some(stored) = stored {
                        self.set(source, stored, there);
                    }
                }
            }
        }
    }

    fn set(&mut self, source: usize, stored: &Arc<Stored>, there: bool) {
        if source == 1 {
            return of_volume(&stored.bare()).iter().for_each(|volume| self.graph.volume(volume, there));
        }
        let node = stored.meta.field("spec.nodeName");
        if !node.is_empty() {
            self.graph.pod(node, &stored.meta.namespace, of_pod(&stored.bare()), there);
        }
    }
}

/// Whether a pod refers to what it referred to before: most changes are of its status.
fn stays(change: &Change) -> bool {
    let (Some(before), Some(now)) = (&change.before, &change.now) else { return false };
    before.meta.uid == now.meta.uid
        && before.meta.field("spec.nodeName") == now.meta.field("spec.nodeName")
        && settled(now.json())
        && settled(before.json())
}

#[cfg(test)]
mod tests;
