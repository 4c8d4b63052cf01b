//! The pods of the node as their workers last saw them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// Pods by uid, each with the status that was last reported.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<BTreeMap<String, Arc<Pod>>>);

impl Seen {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Pod>>> {
        // A map whose entries are whole: whoever panicked left it so.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has seen its pod.
    pub(crate) fn set(&self, pod: &Pod, status: &PodStatus) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let known = Pod { status: Some(status.clone()), ..pod.clone() };
        self.pods().insert(uid, Arc::new(known));
    }

    /// A pod is gone.
    pub(crate) fn remove(&self, uid: &str) {
        self.pods().remove(uid);
    }

    /// All.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.pods().values().cloned().collect()
    }

    /// The pod of that name; one that is not on its way out, if there are two.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is_it = |pod: &&Arc<Pod>| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        let pods = self.pods();
        let found = pods.values().filter(is_it).min_by_key(|pod| pod.metadata.deletion_timestamp.is_some());
        found.cloned()
    }

    /// The pod with that uid.
    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods().get(uid).cloned()
    }
}

/// What is known of a container, of whatever sort.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// Whether a container runs.
pub(crate) fn is_running(pod: &Pod, name: &str) -> bool {
    container(pod, name).and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some())
}
