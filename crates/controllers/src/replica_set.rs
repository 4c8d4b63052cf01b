//! ReplicaSets: as many pods as asked for.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::{
    self, controller_of, is_active, is_available, is_controlled_by, is_ready, matches, node_name, phase,
};
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

struct ReplicaSets(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, ReplicaSets(world.clone()), |queue| {
        let sets = queue.clone();
        world.replica_sets.on_change(move |old, new| {
            if let Some(set) = new.or(old) {
                sets.add(Key::of(set));
            }
        });
        let (owned, world_of_pods) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                let namespace = pod.namespace().unwrap_or_default();
                match controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "ReplicaSet" => owned.add(Key::new(namespace, &owner.name)),
                    Some(_) => {}
                    // An orphan may be somebody's to adopt.
                    None => {
                        let Some(world) = world_of_pods.upgrade() else { return };
                        for set in world.replica_sets.in_namespace(&namespace) {
                            if selects(&set, pod) {
                                owned.add(Key::of(&*set));
                            }
                        }
                    }
                }
            }
        });
    });
}

fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    set.spec.as_ref().is_some_and(|spec| matches(&spec.selector, &pod.metadata))
}

/// What to do about a set's pods.
#[derive(Debug, PartialEq)]
enum Plan<'a> {
    Nothing,
    Create(usize),
    Delete(Vec<&'a Pod>),
}

/// As many as wanted; those that are missed least go first: not bound, not running, not ready, youngest.
fn plan(wanted: usize, active: &[Pod]) -> Plan<'_> {
    if active.len() <= wanted {
        return match wanted - active.len() {
            0 => Plan::Nothing,
            missing => Plan::Create(missing),
        };
    }
    let cost = |pod: &Pod| -> i32 {
        let annotation = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
        annotation.and_then(|cost| cost.parse().ok()).unwrap_or(0)
    };
    let on_node = |pod: &Pod| active.iter().filter(|other| node_name(other) == node_name(pod)).count();
    let mut ranked: Vec<&Pod> = active.iter().collect();
    ranked.sort_by_key(|pod| {
        (
            !node_name(pod).is_empty(),
            phase(pod) == "Running",
            is_ready(pod),
            cost(pod),
            Reverse(on_node(pod)),
            Reverse(pod.metadata.creation_timestamp.clone()),
        )
    });
    ranked.truncate(active.len() - wanted);
    Plan::Delete(ranked)
}

/// The status that follows from the pods.
fn status(set: &ReplicaSet, active: &[Pod], now: Timestamp) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let template =
        spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|pod| {
            template.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        })),
        ready_replicas: Some(count(&is_ready)),
        available_replicas: Some(count(&|pod| is_available(pod, min_ready, now))),
        observed_generation: set.metadata.generation,
        ..ReplicaSetStatus::default()
    }
}

/// A pod of the set, not yet created.
fn pod_of(set: &ReplicaSet) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.clone()?;
    let labels = template.metadata.clone().unwrap_or_default();
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: labels.labels,
            annotations: labels.annotations,
            finalizers: labels.finalizers,
            owner_references: Some(vec![set.controller_owner_ref(&())?]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    })
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replica-set";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let client = &self.0.client;
        let Some(set) = self.0.replica_sets.get(key) else { return Ok(None) };
        let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
        // Read from the API and not from the cache: a pod just created must count.
        let mut active = Vec::new();
        for pod in api.list(&ListParams::default()).await?.items {
            let mine = is_controlled_by(&pod.metadata, &*set);
            if mine && !selects(&set, &pod) {
                release(&api, &pod).await?;
            } else if mine && is_active(&pod) {
                active.push(pod);
            } else if controller_of(&pod.metadata).is_none()
                && selects(&set, &pod)
                && is_active(&pod)
                && set.metadata.deletion_timestamp.is_none()
            {
                active.push(adopt(&api, &*set, &pod).await?);
            }
        }
        if set.metadata.deletion_timestamp.is_none() {
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            match plan(usize::try_from(wanted).unwrap_or(0), &active) {
                Plan::Nothing => {}
                Plan::Create(count) => {
                    let Some(pod) = pod_of(&set) else { return Ok(None) };
                    for _ in 0..count {
                        match api.create(&PostParams::default(), &pod).await {
                            Ok(made) => {
                                let message = format!("Created pod: {}", made.name_any());
                                pods::event(client, &*set, "Normal", "SuccessfulCreate", &message).await;
                                active.push(made);
                            }
                            Err(error) => {
                                pods::event(
                                    client,
                                    &*set,
                                    "Warning",
                                    "FailedCreate",
                                    &format!("Error creating: {error}"),
                                )
                                .await;
                                write_status(&self.0, &set, &active).await?;
                                return Err(error.into());
                            }
                        }
                    }
                }
                Plan::Delete(surplus) => {
                    let gone: Vec<Option<String>> = surplus.iter().map(|pod| pod.uid()).collect();
                    for pod in surplus {
                        delete(&api, pod).await?;
                        let message = format!("Deleted pod: {}", pod.name_any());
                        pods::event(client, &*set, "Normal", "SuccessfulDelete", &message).await;
                    }
                    active.retain(|pod| !gone.contains(&pod.uid()));
                }
            }
        }
        write_status(&self.0, &set, &active).await?;
        Ok(next_look(&set, &active))
    }
}

/// When the next ready pod comes to be available.
fn next_look(set: &ReplicaSet, active: &[Pod]) -> Next {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let waiting = active.iter().any(|pod| is_ready(pod) && !is_available(pod, min_ready, Timestamp::now()));
    waiting.then(|| std::time::Duration::from_secs(1))
}

async fn write_status(world: &Shared, set: &ReplicaSet, active: &[Pod]) -> Result<(), Error> {
    let wanted = status(set, active, Timestamp::now());
    let mut now = set.status.clone().unwrap_or_default();
    // Zero and absent are one thing on the wire.
    for count in [&mut now.fully_labeled_replicas, &mut now.ready_replicas, &mut now.available_replicas] {
        count.get_or_insert(0);
    }
    let now = ReplicaSetStatus { conditions: None, terminating_replicas: None, ..now };
    if now != wanted {
        let api = Api::<ReplicaSet>::namespaced(world.client.clone(), &set.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": set.uid()}, "status": wanted});
        api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

/// Deletes a pod, but only the very one that was looked at.
pub(crate) async fn delete(api: &Api<Pod>, pod: &Pod) -> Result<(), Error> {
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&pod.name_any(), &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// Makes an owner the controller of a pod that has none.
pub(crate) async fn adopt<K>(api: &Api<Pod>, owner: &K, pod: &Pod) -> Result<Pod, Error>
where
    K: Resource<DynamicType = ()>,
{
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": [owner.controller_owner_ref(&())]}});
    Ok(api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await?)
}

/// Lets go of a pod that no longer matches.
async fn release(api: &Api<Pod>, pod: &Pod) -> Result<(), Error> {
    let others: Vec<_> =
        pod.owner_references().iter().filter(|owner| owner.controller != Some(true)).collect();
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": others}});
    api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, ready: bool, second: i64) -> Pod {
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": Timestamp::from_second(second).unwrap().to_string()},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_least_missed_pods_go_first() {
        let pods = [
            pod("old", "a", true, 1),
            pod("young", "b", true, 9),
            pod("unready", "a", false, 1),
            pod("unbound", "", true, 1),
        ];
        let names = |plan: Plan<'_>| match plan {
            Plan::Delete(pods) => pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(names(plan(3, &pods)), ["unbound"]);
        assert_eq!(names(plan(2, &pods)), ["unbound", "unready"]);
        assert_eq!(
            names(plan(0, &pods)).last().map(String::as_str),
            Some("young"),
            "\"old\" shares its node"
        );
        assert_eq!(plan(4, &pods), Plan::Nothing);
        assert_eq!(plan(6, &pods), Plan::Create(2));
    }
}
