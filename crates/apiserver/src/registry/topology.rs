//! What a cluster's default admission tells a pod of where it runs: the zone and the region of its node.

use serde_json::Value;

use super::Registry;
use super::write::meta_mut;

/// Labels of nodes that their pods have as well.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

impl Registry {
    /// Labels a pod that comes to its node, whatever it says itself. Nodes that nobody knows have no labels.
    pub(crate) fn label_with_topology(&self, pod: &mut Value) {
        let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let Some(node) = self.builtin("", "nodes").cache.get(name) else { return };
        let node = node.value();
        let known =
            LABELS.into_iter().filter_map(|label| Some((label, node["metadata"]["labels"].get(label)?)));
        for (label, value) in known {
            let labels = meta_mut(pod).entry("labels").or_insert(Value::Null);
            labels[label] = value.clone();
        }
    }
}
