//! Deletion of namespaces: everything in them goes first, then they are finalized (J52).

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::discovery::{Scope, verbs};
use kube::{Api, Discovery, ResourceExt};
use tokio::task::JoinSet;

use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

/// Between two looks while something in the namespace takes its time.
const AGAIN: Duration = Duration::from_millis(250);

struct Namespaces(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Namespaces(world.clone()), |queue| {
        let queue = queue.clone();
        world.namespaces.on_change(move |_, new| {
            if let Some(namespace) = new.filter(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
                queue.add(Key::of(namespace));
            }
        });
    });
}

/// The namespaced kinds that can be listed and deleted.
async fn kinds(world: &Shared) -> Result<Vec<ApiResource>, Error> {
    let discovery = Discovery::new(world.client.clone()).run_aggregated().await?;
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let usable = all.filter(|(_, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && capabilities.supports_operation(verbs::LIST)
            && capabilities.supports_operation(verbs::DELETE)
    });
    Ok(usable.map(|(resource, _)| resource).collect())
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespaces";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(namespace) = self.0.namespaces.named(&key.name) else { return Ok(None) };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(None);
        }
        let mut left = 0;
        for kind in kinds(&self.0).await? {
            let api = Api::<DynamicObject>::namespaced_with(self.0.client.clone(), &key.name, &kind);
            if api.list_metadata(&ListParams::default()).await?.items.is_empty() {
                continue;
            }
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
            left += api.list_metadata(&ListParams::default()).await?.items.len();
        }
        if left > 0 {
            return Ok(Some(AGAIN));
        }
        self.finalize(&namespace).await?;
        Ok(None)
    }
}

impl Namespaces {
    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut wanted = namespace.clone();
        let finalizers = wanted.spec.get_or_insert_default().finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != "kubernetes");
        let api = Api::<Namespace>::all(self.0.client.clone());
        let done: Result<Namespace, _> =
            api.replace_subresource("finalize", &namespace.name_any(), &PostParams::default(), &wanted).await;
        match done {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}
