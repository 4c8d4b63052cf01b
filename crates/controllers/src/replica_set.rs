//! ReplicaSets: as many pods as asked for.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::pods::{
    self, Selector, controller_of, is_active, is_available, is_controlled_by, is_finished, is_ready, matches,
    node_name, phase,
};
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "replicaset-controller";

/// Condition of a set whose pods can't be created.
pub(crate) const FAILURE: &str = "ReplicaFailure";

struct ReplicaSets(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, ReplicaSets(world.clone()), |queue| {
        let sets = queue.clone();
        world.replica_sets.on_change(move |old, new| {
            if let Some(set) = new.or(old) {
                sets.add(Key::of(set));
            }
        });
        let (owned, world_of_pods) = (queue.clone(), Arc::downgrade(world));
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
pub(crate) enum Plan<'a> {
    Nothing,
    Create(usize),
    Delete(Vec<&'a Pod>),
}

/// As many as wanted; those that are missed least go first: not bound, not running, not ready, cheap to delete, one
/// of many on its node, often restarted, youngest.
pub(crate) fn plan(wanted: usize, active: &[Arc<Pod>]) -> Plan<'_> {
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
    let restarts = |pod: &Pod| -> i32 {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        containers.map(|container| container.restart_count).max().unwrap_or(0)
    };
    let mut ranked: Vec<&Pod> = active.iter().map(|pod| &**pod).collect();
    ranked.sort_by_key(|pod| (Reverse(restarts(pod)), Reverse(pod.metadata.creation_timestamp.clone())));
    // How many of a node's pods are left when it is this one's turn, so that all nodes give in equal parts.
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    let left: HashMap<Option<&String>, usize> = ranked
        .iter()
        .rev()
        .map(|pod| {
            let count = on_node.entry(node_name(pod)).or_default();
            *count += 1;
            (pod.metadata.uid.as_ref(), *count)
        })
        .collect();
    ranked.sort_by_key(|pod| {
        (
            !node_name(pod).is_empty(),
            phase(pod) == "Running",
            is_ready(pod),
            cost(pod),
            Reverse(left.get(&pod.metadata.uid.as_ref()).copied().unwrap_or(0)),
        )
    });
    ranked.truncate(active.len() - wanted);
    Plan::Delete(ranked)
}

/// The status that follows from the pods, and from what failed.
fn status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: i32,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let template =
        spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let known = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<_> = known.iter().filter(|one| one.type_ != FAILURE).cloned().collect();
    if let Some(message) = failure {
        let known = known.iter().find(|one| one.type_ == FAILURE && one.message.as_deref() == Some(message));
        conditions.push(known.cloned().unwrap_or_else(|| ReplicaSetCondition {
            type_: FAILURE.into(),
            status: "True".into(),
            reason: Some("FailedCreate".into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        }));
    }
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|pod| {
            template.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        })),
        ready_replicas: Some(count(&is_ready)),
        available_replicas: Some(count(&|pod| is_available(pod, min_ready, now))),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|list| !list.is_empty()),
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
        let Some(spec) = set.spec.as_ref() else { return Ok(None) };
        let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
        let selector = Selector::of(&spec.selector);
        let going = set.metadata.deletion_timestamp.is_some();
        let (mut active, mut terminating, mut orphans) = (Vec::new(), 0, Vec::new());
        // The cache has what this controller wrote: each pass waits for that before it ends.
        for pod in self.0.pods.in_namespace(&key.namespace) {
            let matches = selector.matches(&pod.metadata);
            if is_controlled_by(&pod.metadata, &*set) {
                if !matches && !going {
                    self.0.pods.sees(&release(&api, &pod).await?).await;
                } else if is_active(&pod) {
                    active.push(pod);
                } else if !is_finished(&pod) {
                    terminating += 1;
                }
            } else if matches && controller_of(&pod.metadata).is_none() && is_active(&pod) && !going {
                orphans.push(pod);
            }
        }
        if !orphans.is_empty() && self.may_adopt(&set, key).await? {
            for pod in orphans {
                let adopted = adopt(&api, &*set, &pod).await?;
                self.0.pods.sees(&adopted).await;
                active.push(Arc::new(adopted));
            }
        }
        let mut failed = None;
        if !going {
            let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
            match plan(wanted, &active) {
                Plan::Nothing => {}
                Plan::Create(count) => failed = self.create(&set, &api, count, &mut active).await.err(),
                Plan::Delete(surplus) => {
                    let gone: Vec<Option<String>> = surplus.iter().map(|pod| pod.uid()).collect();
                    for pod in &surplus {
                        delete(&api, pod).await?;
                        let message = format!("Deleted pod: {}", pod.name_any());
                        pods::event(client, COMPONENT, &*set, "Normal", "SuccessfulDelete", &message).await;
                    }
                    for pod in surplus {
                        self.0.pods.sees_deleted(pod).await;
                    }
                    active.retain(|pod| !gone.contains(&pod.uid()));
                    terminating += i32::try_from(gone.len()).unwrap_or(i32::MAX);
                }
            }
        }
        let message = failed.as_ref().map(words);
        write_status(&self.0, &set, &active, terminating, message.as_deref()).await?;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(next_look(&set, &active)),
        }
    }
}

/// What the API said, without the shell around it.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

impl ReplicaSets {
    /// Whether the set is still the one of the cache and to stay: it must not take pods from its successor.
    async fn may_adopt(&self, set: &ReplicaSet, key: &Key) -> Result<bool, Error> {
        let api = Api::<ReplicaSet>::namespaced(self.0.client.clone(), &key.namespace);
        let fresh = api.get_opt(&key.name).await?;
        Ok(fresh.is_some_and(|fresh| fresh.uid() == set.uid() && fresh.metadata.deletion_timestamp.is_none()))
    }

    /// Creates pods until one can't be.
    async fn create(
        &self,
        set: &ReplicaSet,
        api: &Api<Pod>,
        count: usize,
        active: &mut Vec<Arc<Pod>>,
    ) -> Result<(), kube::Error> {
        let Some(pod) = pod_of(set) else { return Ok(()) };
        let mut last = None;
        let mut result = Ok(());
        for _ in 0..count {
            match api.create(&PostParams::default(), &pod).await {
                Ok(made) => {
                    let message = format!("Created pod: {}", made.name_any());
                    pods::event(&self.0.client, COMPONENT, set, "Normal", "SuccessfulCreate", &message).await;
                    let made = Arc::new(made);
                    active.push(made.clone());
                    last = Some(made);
                }
                Err(error) => {
                    let message = format!("Error creating: {}", words(&error));
                    pods::event(&self.0.client, COMPONENT, set, "Warning", "FailedCreate", &message).await;
                    result = Err(error);
                    break;
                }
            }
        }
        if let Some(last) = last {
            self.0.pods.sees(&last).await;
        }
        result
    }
}

/// When the next ready pod comes to be available.
fn next_look(set: &ReplicaSet, active: &[Arc<Pod>]) -> Next {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let waiting = active.iter().any(|pod| is_ready(pod) && !is_available(pod, min_ready, Timestamp::now()));
    waiting.then(|| std::time::Duration::from_secs(1))
}

async fn write_status(
    world: &Shared,
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: i32,
    failure: Option<&str>,
) -> Result<(), Error> {
    let wanted = status(set, active, terminating, failure, Timestamp::now());
    let mut now = set.status.clone().unwrap_or_default();
    // Zero and absent are one thing on the wire.
    for count in [
        &mut now.fully_labeled_replicas,
        &mut now.ready_replicas,
        &mut now.available_replicas,
        &mut now.terminating_replicas,
    ] {
        count.get_or_insert(0);
    }
    if now != wanted {
        let api = Api::<ReplicaSet>::namespaced(world.client.clone(), &set.namespace().unwrap_or_default());
        let mut status = serde_json::to_value(&wanted)?;
        if wanted.conditions.is_none() && now.conditions.is_some() {
            status["conditions"] = Value::Null;
        }
        let patch = json!({"metadata": {"uid": set.uid()}, "status": status});
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
pub(crate) async fn release(api: &Api<Pod>, pod: &Pod) -> Result<Pod, Error> {
    let others: Vec<_> =
        pod.owner_references().iter().filter(|owner| owner.controller != Some(true)).collect();
    let patch = json!({"metadata": {"uid": pod.uid(), "ownerReferences": others}});
    Ok(api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, ready: bool, second: i64) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": Timestamp::from_second(second).unwrap().to_string()},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
        }));
        Arc::new(pod.unwrap())
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
        let spread = [
            pod("a1", "a", true, 1),
            pod("a2", "a", true, 2),
            pod("a3", "a", true, 3),
            pod("b1", "b", true, 4),
        ];
        assert_eq!(names(plan(2, &spread)), ["a3", "a2"], "one is left on each node");
        assert_eq!(plan(4, &pods), Plan::Nothing);
        assert_eq!(plan(6, &pods), Plan::Create(2));
    }
}
