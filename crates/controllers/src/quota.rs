//! ResourceQuotas: what is used of them. The API server counts what comes; this counts what has gone.

use std::sync::Arc;
use std::time::Duration;

use dyad_model::usage::{self, Usage};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::discovery::{Scope, verbs};
use kube::{Api, Discovery, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::is_finished;
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

/// When to look again at kinds that nobody follows here.
const AGAIN: Duration = Duration::from_secs(30);

struct Quotas(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Quotas(world.clone()), |queue| {
        let quotas = queue.clone();
        world.quotas.on_change(move |_, new| {
            if let Some(quota) = new {
                quotas.add(Key::of(quota));
            }
        });
        macro_rules! freed {
            ($cache:ident, $kind:ty, $over:expr) => {
                let (all, weak) = (queue.clone(), Arc::downgrade(world));
                world.$cache.on_change(move |old: Option<&$kind>, new: Option<&$kind>| {
                    let over: fn(&$kind) -> bool = $over;
                    let (Some(old), Some(world)) = (old, weak.upgrade()) else { return };
                    if new.is_none_or(|new| over(new) && !over(old)) {
                        let namespace = old.namespace().unwrap_or_default();
                        world
                            .quotas
                            .in_namespace(&namespace)
                            .iter()
                            .for_each(|quota| all.add(Key::of(&**quota)));
                    }
                });
            };
        }
        freed!(pods, Pod, is_finished);
        freed!(services, Service, |_| false);
        freed!(claims, PersistentVolumeClaim, |_| false);
    });
}

/// The namespaced kinds that can be listed.
async fn kinds(world: &Shared) -> Result<Vec<ApiResource>, Error> {
    let discovery = Discovery::new(world.client.clone()).run_aggregated().await?;
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let usable = all.filter(|(_, can)| can.scope == Scope::Namespaced && can.supports_operation(verbs::LIST));
    Ok(usable.map(|(resource, _)| resource).collect())
}

impl Controller for Quotas {
    const NAME: &'static str = "quota";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let api = Api::<ResourceQuota>::namespaced(self.0.client.clone(), &key.namespace);
        // Read first: what is charged after this makes the write fail, and is counted in the next look.
        let Some(quota) = api.get_opt(&key.name).await? else { return Ok(None) };
        let wire = serde_json::to_value(&quota)?;
        let hard = wire["spec"]["hard"].as_object().cloned().unwrap_or_default();
        let names = || hard.keys().map(String::as_str);
        let mut sum = Usage::default();
        for kind in kinds(&self.0).await? {
            let resource = (kind.group.as_str(), kind.plural.as_str());
            if !names().any(|name| usage::concerns(resource, name)) {
                continue;
            }
            let objects = Api::<DynamicObject>::namespaced_with(self.0.client.clone(), &key.namespace, &kind);
            for object in objects.list(&ListParams::default()).await?.items {
                let object = serde_json::to_value(&object)?;
                if usage::counts(&wire, resource, &object) {
                    sum = sum.plus(&Usage::of(resource.0, resource.1, &object).among(names()));
                }
            }
        }
        let status = json!({"hard": hard, "used": sum.to_map(names())});
        if wire["status"] != status && !(hard.is_empty() && wire["status"].is_null()) {
            let mut changed = wire;
            changed["status"] = status;
            let changed: ResourceQuota = serde_json::from_value(changed)?;
            api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        }
        Ok(Some(AGAIN))
    }
}
