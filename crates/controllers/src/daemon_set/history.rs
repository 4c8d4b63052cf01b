//! The templates a DaemonSet had, as ControllerRevisions: what `kubectl rollout history` and `undo` read.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use super::HASH;
use crate::pods::{is_controlled_by, stable_hash};
use crate::queue::Error;

/// Annotations that are not part of a template's history.
const OWN: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a revision keeps: a patch that brings the template back.
fn data(set: &DaemonSet) -> Result<Value, Error> {
    let mut template = serde_json::to_value(set.spec.as_ref().map(|spec| &spec.template))?;
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".into(), "replace".into());
    }
    Ok(json!({"spec": {"template": template}}))
}

/// The hash of the present template, after its revision has the highest number, and surplus ones are gone.
pub(super) async fn sync(client: &Client, set: &DaemonSet, pods: &[Pod]) -> Result<String, Error> {
    let namespace = set.namespace().unwrap_or_default();
    let api = Api::<ControllerRevision>::namespaced(client.clone(), &namespace);
    let mut all = api.list(&ListParams::default()).await?.items;
    all.retain(|revision| is_controlled_by(&revision.metadata, set));
    all.sort_by_key(|revision| revision.revision);
    let data = data(set)?;
    let highest = all.last().map_or(0, |revision| revision.revision);
    let known = all.iter().rev().find(|one| one.data.as_ref().is_some_and(|known| known.0 == data));
    let current = match known {
        Some(known) if known.revision != highest => {
            let patch = json!({"metadata": {"uid": known.uid()}, "revision": highest + 1});
            api.patch(&known.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?
        }
        Some(known) => known.clone(),
        None => create(client, &api, set, data, highest + 1).await?,
    };
    let hash = current.labels().get(HASH).cloned().unwrap_or_default();
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let used = |one: &ControllerRevision| {
        let of_pod = one.labels().get(HASH);
        one.uid() == current.uid() || pods.iter().any(|pod| pod.labels().get(HASH) == of_pod)
    };
    let unused: Vec<&ControllerRevision> = all.iter().filter(|one| !used(one)).collect();
    for surplus in &unused[..unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0))] {
        api.delete(&surplus.name_any(), &DeleteParams::background()).await?;
    }
    Ok(hash)
}

async fn create(
    client: &Client,
    api: &Api<ControllerRevision>,
    set: &DaemonSet,
    data: Value,
    number: i64,
) -> Result<ControllerRevision, Error> {
    let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = format!("{:08x}", stable_hash(&format!("{data}{collisions}")));
    let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.clone()).unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    let mut annotations = set.annotations().clone();
    annotations.remove(OWN);
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: set.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    };
    match api.create(&PostParams::default(), &revision).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            // Another template with the same hash: count it, and the next name differs.
            let patch = json!({"status": {"collisionCount": collisions + 1}});
            let sets = Api::<DaemonSet>::namespaced(client.clone(), &set.namespace().unwrap_or_default());
            sets.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
            Err(kube::Error::Api(status).into())
        }
        result => Ok(result?),
    }
}
