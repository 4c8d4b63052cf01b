//! The templates a workload had, as ControllerRevisions: what `kubectl rollout history` and `undo` read.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::pods::{is_controlled_by, stable_hash};
use crate::queue::Error;

/// Annotations that are not part of a template's history.
const OWN: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whose history it is.
pub(crate) struct Subject<'a, K> {
    pub(crate) client: &'a Client,
    pub(crate) owner: &'a K,
    pub(crate) template: Option<&'a PodTemplateSpec>,
    /// How many revisions nobody uses any more are kept.
    pub(crate) keep: i32,
    pub(crate) collisions: i32,
    /// The label of a revision that has its hash.
    pub(crate) label: &'static str,
}

impl<K> Subject<'_, K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    /// What a revision keeps: a patch that brings the template back.
    fn data(&self) -> Result<Value, Error> {
        let mut template = serde_json::to_value(self.template)?;
        if let Some(fields) = template.as_object_mut() {
            fields.insert("$patch".into(), "replace".into());
        }
        Ok(json!({"spec": {"template": template}}))
    }

    fn api<T>(&self) -> Api<T>
    where
        T: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.owner.namespace().unwrap_or_default())
    }

    /// The revision of the present template, after it has the highest number and surplus ones are gone; and all
    /// there were.
    pub(crate) async fn sync(
        &self,
        is_used: impl Fn(&ControllerRevision) -> bool,
    ) -> Result<(ControllerRevision, Vec<ControllerRevision>), Error> {
        let api = self.api::<ControllerRevision>();
        let mut all = api.list(&ListParams::default()).await?.items;
        all.retain(|revision| is_controlled_by(&revision.metadata, self.owner));
        all.sort_by_key(|revision| revision.revision);
        let data = self.data()?;
        let highest = all.last().map_or(0, |revision| revision.revision);
        let known = all.iter().rev().find(|one| one.data.as_ref().is_some_and(|known| known.0 == data));
        let current = match known {
            Some(known) if known.revision != highest => {
                let patch = json!({"metadata": {"uid": known.uid()}, "revision": highest + 1});
                api.patch(&known.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?
            }
            Some(known) => known.clone(),
            None => self.create(&api, data, highest + 1).await?,
        };
        let unused: Vec<&ControllerRevision> =
            all.iter().filter(|one| one.uid() != current.uid() && !is_used(one)).collect();
        for surplus in
            &unused[..unused.len().saturating_sub(usize::try_from(self.keep).unwrap_or(usize::MAX))]
        {
            api.delete(&surplus.name_any(), &DeleteParams::background()).await?;
        }
        Ok((current, all))
    }

    async fn create(
        &self,
        api: &Api<ControllerRevision>,
        data: Value,
        number: i64,
    ) -> Result<ControllerRevision, Error> {
        let hash = format!("{:08x}", stable_hash(&format!("{data}{}", self.collisions)));
        let template = self.template.and_then(|template| template.metadata.clone()).unwrap_or_default();
        let mut labels = template.labels.unwrap_or_default();
        labels.insert(self.label.into(), hash.clone());
        let mut annotations = self.owner.annotations().clone();
        annotations.remove(OWN);
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.owner.name_any())),
                namespace: self.owner.namespace(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: self.owner.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: number,
        };
        match api.create(&PostParams::default(), &revision).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Another template with the same hash: count it, and the next name differs.
                let patch = json!({"status": {"collisionCount": self.collisions + 1}});
                let owners = self.api::<K>();
                let name = self.owner.name_any();
                owners.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                Err(kube::Error::Api(status).into())
            }
            result => Ok(result?),
        }
    }
}
