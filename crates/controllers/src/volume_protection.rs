//! Claims that pods use, and volumes that are bound, stay until that is over.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::is_finished;
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";

struct Claims(Shared);
struct Volumes(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Claims(world.acting("pvc-protection-controller")), |queue| {
        let claims = queue.clone();
        world.claims.on_change(move |_, new| {
            if let Some(claim) = new {
                claims.add(Key::of(claim));
            }
        });
        let used = queue.clone();
        world.pods.on_change(move |old, new| {
            // Only a pod that is over, or has gone, lets a claim go.
            if let Some(pod) = old.filter(|_| new.is_none_or(is_finished)) {
                let namespace = pod.namespace().unwrap_or_default();
                claimed(pod).for_each(|claim| used.add(Key::new(namespace.clone(), claim)));
            }
        });
    });
    spawn(tasks, Volumes(world.acting("pv-protection-controller")), |queue| {
        let volumes = queue.clone();
        world.volumes.on_change(move |_, new| {
            if let Some(volume) = new {
                volumes.add(Key::of(volume));
            }
        });
    });
}

/// The claims of a pod.
fn claimed(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    })
}

impl Controller for Claims {
    const NAME: &'static str = "claim-protection";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(claim) = self.0.claims.get(key) else { return Ok(None) };
        let in_use = |pod: &Arc<Pod>| !is_finished(pod) && claimed(pod).any(|name| name == key.name);
        if self.0.pods.in_namespace(&key.namespace).iter().any(in_use) {
            return Ok(None);
        }
        let api = Api::<PersistentVolumeClaim>::namespaced(self.0.client.clone(), &key.namespace);
        unprotect(&api, &*claim, OF_CLAIMS).await
    }
}

impl Controller for Volumes {
    const NAME: &'static str = "volume-protection";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(volume) = self.0.volumes.get(key) else { return Ok(None) };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Bound") {
            return Ok(None);
        }
        unprotect(&Api::<PersistentVolume>::all(self.0.client.clone()), &*volume, OF_VOLUMES).await
    }
}

/// Takes the finalizer from what is being deleted.
async fn unprotect<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<Next, Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let going = object.meta().deletion_timestamp.is_some();
    if !going || object.finalizers().iter().all(|one| one != finalizer) {
        return Ok(None);
    }
    let rest: Vec<&String> = object.finalizers().iter().filter(|one| *one != finalizer).collect();
    let meta = json!({"uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": rest});
    let patch = Patch::Merge(json!({ "metadata": meta }));
    match api.patch(&object.name_any(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        result => Ok(result.map(|_| None)?),
    }
}
