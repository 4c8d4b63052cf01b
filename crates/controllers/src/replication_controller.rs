//! ReplicationControllers: as many pods as asked for, as ReplicaSets had them before there were any.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::pods::{
    self, Selector, controller_of, is_active, is_available, is_controlled_by, is_finished, is_ready,
};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::{Plan, adopt, delete, plan, release, words};
use crate::{Shared, spawn};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "replication-controller";

struct Controllers(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Controllers(world.clone()), |queue| {
        let all = queue.clone();
        world.replication_controllers.on_change(move |old, new| {
            if let Some(one) = new.or(old) {
                all.add(Key::of(one));
            }
        });
        let owned = queue.clone();
        world.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                let owner = controller_of(&pod.metadata);
                if let Some(owner) = owner.filter(|owner| owner.kind == "ReplicationController") {
                    owned.add(Key::new(pod.namespace().unwrap_or_default(), &owner.name));
                }
            }
        });
    });
}

fn pod_of(one: &ReplicationController) -> Option<Pod> {
    let template = one.spec.as_ref()?.template.clone()?;
    let meta = template.metadata.unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", one.name_any())),
            namespace: one.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![one.controller_owner_ref(&())?]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    })
}

impl Controller for Controllers {
    const NAME: &'static str = "replication-controller";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let client = &self.0.client;
        let Some(one) = self.0.replication_controllers.get(key) else { return Ok(None) };
        let Some(spec) = one.spec.as_ref() else { return Ok(None) };
        if one.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let labels = LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() };
        let selector = Selector::of(&labels);
        let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
        let mut mine = Vec::new();
        // Read from the API and not from the cache: a pod just created must count.
        for pod in api.list(&ListParams::default()).await?.items {
            let matches = selector.matches(&pod.metadata);
            if is_controlled_by(&pod.metadata, &*one) {
                if matches {
                    mine.push(Arc::new(pod));
                } else {
                    release(&api, &pod).await?;
                }
            } else if matches && controller_of(&pod.metadata).is_none() && is_active(&pod) {
                mine.push(Arc::new(adopt(&api, &*one, &pod).await?));
            }
        }
        mine.retain(|pod| !is_finished(pod) && is_active(pod));
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        let mut failed = None;
        match plan(wanted, &mine) {
            Plan::Nothing => {}
            Plan::Create(count) => {
                for pod in (0..count).map_while(|_| pod_of(&one)) {
                    match api.create(&PostParams::default(), &pod).await {
                        Ok(made) => {
                            let message = format!("Created pod: {}", made.name_any());
                            pods::event(client, COMPONENT, &*one, "Normal", "SuccessfulCreate", &message)
                                .await;
                            mine.push(Arc::new(made));
                        }
                        Err(error) => {
                            let message = format!("Error creating: {}", words(&error));
                            pods::event(client, COMPONENT, &*one, "Warning", "FailedCreate", &message).await;
                            failed = Some(error);
                            break;
                        }
                    }
                }
            }
            Plan::Delete(surplus) => {
                for pod in surplus {
                    delete(&api, pod).await?;
                    let message = format!("Deleted pod: {}", pod.name_any());
                    pods::event(client, COMPONENT, &*one, "Normal", "SuccessfulDelete", &message).await;
                }
            }
        }
        self.write_status(&one, &mine).await?;
        match failed {
            Some(error) => Err(error.into()),
            None => {
                let min_ready = spec.min_ready_seconds.unwrap_or(0);
                let now = Timestamp::now();
                let waiting = mine.iter().any(|pod| is_ready(pod) && !is_available(pod, min_ready, now));
                Ok(waiting.then(|| std::time::Duration::from_secs(1)))
            }
        }
    }
}

impl Controllers {
    async fn write_status(&self, one: &ReplicationController, mine: &[Arc<Pod>]) -> Result<(), Error> {
        let spec = one.spec.as_ref();
        let template = spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone());
        let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let now = Timestamp::now();
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(mine.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        let labelled =
            |pod: &Pod| template.iter().flatten().all(|(key, value)| pod.labels().get(key) == Some(value));
        let status = ReplicationControllerStatus {
            replicas: count(&|_| true),
            fully_labeled_replicas: some(count(&labelled)),
            ready_replicas: some(count(&is_ready)),
            available_replicas: some(count(&|pod| is_available(pod, min_ready, now))),
            observed_generation: one.metadata.generation,
            conditions: one.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        if one.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut value = serde_json::to_value(&status)?;
        for count in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
            value.as_object_mut().map(|fields| fields.entry(count).or_insert(Value::Null));
        }
        let patch = json!({"metadata": {"uid": one.uid()}, "status": value});
        let api = Api::<ReplicationController>::namespaced(
            self.0.client.clone(),
            &one.namespace().unwrap_or_default(),
        );
        api.patch_status(&one.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}
