//! Which node has to do with which object, by the object: what pods bound to nodes refer to, the volumes of their claims,
//! and the secrets of those volumes. Kept up change by change, so that a question costs two look-ups.

use std::collections::HashMap;
use std::sync::Arc;

use super::references::Volume;

/// The sorts of objects that nodes ask for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    /// A ServiceAccount.
    Account,
    /// A VolumeAttachment.
    Attachment,
    /// A PersistentVolumeClaim.
    Claim,
    /// A ConfigMap.
    ConfigMap,
    /// A pod.
    Pod,
    /// A ResourceClaim.
    ResourceClaim,
    /// A Secret.
    Secret,
    /// A ResourceSlice.
    Slice,
    /// A PersistentVolume.
    Volume,
}

/// An object: what, its namespace, its name.
type Key = (Thing, Box<str>, Box<str>);

/// A claim: its namespace, its name.
type Claim = (Box<str>, Box<str>);

/// How often nodes have to do with objects.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<Key, HashMap<Arc<str>, u32>>,
    /// Volumes by their claim.
    volumes: HashMap<Claim, HashMap<Box<str>, Volume>>,
}

impl Graph {
    /// Whether the node has to do with the object.
    pub(crate) fn related(&self, node: &str, thing: Thing, namespace: &str, name: &str) -> bool {
        let key = (thing, namespace.into(), name.into());
        self.nodes.get(&key).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// A pod on a node refers to these now, or no longer does.
    pub(crate) fn pod(
        &mut self,
        node: &str,
        namespace: &str,
        references: impl IntoIterator<Item = (Thing, String)>,
        there: bool,
    ) {
        let node: Arc<str> = node.into();
        for (thing, name) in references {
            let changed = self.count(&node, (thing, namespace.into(), name.as_str().into()), there);
            if thing == Thing::Claim && changed {
                let claim = (Box::from(namespace), Box::from(name));
                let volumes: Vec<Volume> =
                    self.volumes.get(&claim).into_iter().flat_map(HashMap::values).cloned().collect();
                volumes.iter().for_each(|volume| self.volume_on(&node, volume, there));
            }
        }
    }

    /// A volume that is bound to a claim is there now, or gone.
    pub(crate) fn volume(&mut self, volume: &Volume, there: bool) {
        let claim = (volume.namespace.as_str().into(), volume.claim.as_str().into());
        let key = (Thing::Claim, Box::clone(&claim.0), Box::clone(&claim.1));
        let nodes: Vec<Arc<str>> =
            self.nodes.get(&key).into_iter().flat_map(HashMap::keys).cloned().collect();
        nodes.iter().for_each(|node| self.volume_on(node, volume, there));
        let of = self.volumes.entry(claim);
        match there {
            true => _ = of.or_default().insert(volume.name.as_str().into(), volume.clone()),
            false => {
                if let std::collections::hash_map::Entry::Occupied(mut of) = of {
                    of.get_mut().remove(volume.name.as_str());
                    if of.get().is_empty() {
                        of.remove();
                    }
                }
            }
        }
    }

    fn volume_on(&mut self, node: &Arc<str>, volume: &Volume, there: bool) {
        self.count(node, (Thing::Volume, "".into(), volume.name.as_str().into()), there);
        for (namespace, name) in &volume.secrets {
            self.count(node, (Thing::Secret, namespace.as_str().into(), name.as_str().into()), there);
        }
    }

    /// One more, or one less. True if the first has come or the last has gone.
    fn count(&mut self, node: &Arc<str>, key: Key, there: bool) -> bool {
        use std::collections::hash_map::Entry;
        match (self.nodes.entry(key), there) {
            (nodes, true) => {
                let count = nodes.or_default().entry(Arc::clone(node)).or_default();
                *count += 1;
                *count == 1
            }
            (Entry::Vacant(_), false) => false,
            (Entry::Occupied(mut nodes), false) => {
                let Some(count) = nodes.get_mut().get_mut(node) else { return false };
                *count -= 1;
                let last = *count == 0;
                if last {
                    nodes.get_mut().remove(node);
                    if nodes.get().is_empty() {
                        nodes.remove();
                    }
                }
                last
            }
        }
    }
}
