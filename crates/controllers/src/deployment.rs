//! Deployments: ReplicaSets of old and new templates, moved from one to the other within what is promised.

mod rollout;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::pods::{self, controller_of, is_controlled_by, matches};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::FAILURE;
use crate::{Shared, spawn};
use rollout::{Limits, Set, scale};

/// Label that keeps the pods of different templates apart.
const HASH: &str = "pod-template-hash";
/// Annotation with the number of a template, counting up.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations that say for which size of the Deployment a ReplicaSet was scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that don't go from a Deployment to its ReplicaSets.
const OWN: [&str; 4] = ["kubectl.kubernetes.io/last-applied-configuration", REVISION, DESIRED, MAX];

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "deployment-controller";

struct Deployments(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Deployments(world.clone()), |queue| {
        let deployments = queue.clone();
        world.deployments.on_change(move |old, new| {
            if let Some(deployment) = new.or(old) {
                deployments.add(Key::of(deployment));
            }
        });
        let sets = queue.clone();
        world.replica_sets.on_change(move |old, new| {
            for set in [old, new].into_iter().flatten() {
                if let Some(owner) = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                    sets.add(Key::new(set.namespace().unwrap_or_default(), &owner.name));
                }
            }
        });
    });
}

/// A template without the label that tells templates apart.
fn bare(template: Option<&PodTemplateSpec>) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    value
}

/// A short name for a template; collisions are told apart by the Deployment's count of them.
fn hash(template: &Value, collisions: i32) -> String {
    let hash = pods::stable_hash(&format!("{template}{collisions}"));
    // Kubernetes' alphabet for generated names: no vowels, so no words.
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = hash;
    let mut name = String::new();
    for _ in 0..9 {
        name.push(char::from(alphabet[(rest % 27) as usize]));
        rest = (rest / 27) ^ hash.rotate_left(name.len() as u32 * 3);
    }
    name
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(deployment) = self.0.deployments.get(key) else { return Ok(None) };
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let Some(spec) = deployment.spec.as_ref() else { return Ok(None) };
        let api = Api::<ReplicaSet>::namespaced(self.0.client.clone(), &key.namespace);
        let mut sets = Vec::new();
        for set in api.list(&ListParams::default()).await?.items {
            if is_controlled_by(&set.metadata, &*deployment) {
                sets.push(set);
            } else if controller_of(&set.metadata).is_none() && matches(&spec.selector, &set.metadata) {
                let patch = json!({"metadata": {"uid": set.uid(), "ownerReferences": [deployment.controller_owner_ref(&())]}});
                sets.push(
                    api.patch(&set.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await?,
                );
            }
        }
        let template = bare(Some(&spec.template));
        sets.sort_by_key(|set| set.metadata.creation_timestamp.clone());
        let (mut new, old): (Vec<_>, Vec<_>) = sets
            .into_iter()
            .partition(|set| bare(set.spec.as_ref().and_then(|spec| spec.template.as_ref())) == template);
        // The oldest of several with the same template is the one; the others count as old.
        let mut old: Vec<ReplicaSet> = old.into_iter().chain(new.drain(new.len().min(1)..)).collect();
        let new = match new.pop() {
            Some(set) => Some(set),
            None if spec.paused == Some(true) => None,
            None => Some(self.create(&deployment, &template, &old).await?),
        };
        let new = match new {
            Some(set) => Some(self.number(&api, &deployment, set, &old).await?),
            None => None,
        };
        self.scale(&api, &deployment, new.as_ref(), &mut old).await?;
        self.forget_old(&api, &deployment, &old).await?;
        self.write_status(&deployment, new.as_ref(), &old).await
    }
}

fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn revision(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// One more than any old template has.
fn next_revision(old: &[ReplicaSet]) -> i64 {
    old.iter().map(revision).max().unwrap_or(0) + 1
}

/// The annotations a ReplicaSet has of its Deployment, such as the cause of a change.
fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|key, _| !OWN.contains(&key.as_str()));
    annotations
}

fn view(set: &ReplicaSet) -> Set {
    let status = set.status.clone().unwrap_or_default();
    Set {
        wanted: replicas(set),
        // Pods that are ending are there until they have ended.
        present: status.replicas + status.terminating_replicas.unwrap_or(0),
        available: status.available_replicas.unwrap_or(0),
        was_for: set.annotations().get(DESIRED).and_then(|text| text.parse().ok()),
    }
}

impl Deployments {
    async fn create(
        &self,
        deployment: &Deployment,
        template: &Value,
        old: &[ReplicaSet],
    ) -> Result<ReplicaSet, Error> {
        let spec =
            deployment.spec.as_ref().ok_or_else(|| Error::Other("a Deployment without spec".into()))?;
        let namespace = deployment.namespace().unwrap_or_default();
        let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let hash = hash(template, collisions);
        let label = |labels: Option<BTreeMap<String, String>>| {
            let mut labels = labels.unwrap_or_default();
            labels.insert(HASH.into(), hash.clone());
            Some(labels)
        };
        let mut pods = spec.template.clone();
        let meta = pods.metadata.get_or_insert_default();
        meta.labels = label(meta.labels.take());
        let selector = LabelSelector {
            match_labels: label(spec.selector.match_labels.clone()),
            ..spec.selector.clone()
        };
        let limits = Limits::of(deployment);
        let mut annotations = inherited(deployment);
        annotations.insert(REVISION.into(), next_revision(old).to_string());
        annotations.insert(DESIRED.into(), limits.wanted.to_string());
        annotations.insert(MAX.into(), limits.most().to_string());
        let count = scale(&limits, Some(&Set::default()), &old.iter().map(view).collect::<Vec<_>>());
        let count = count.new.unwrap_or(0);
        let set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", deployment.name_any())),
                namespace: Some(namespace.clone()),
                labels: pods.metadata.as_ref().and_then(|meta| meta.labels.clone()),
                annotations: Some(annotations),
                owner_references: deployment.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(count),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(pods),
            }),
            status: None,
        };
        let api = Api::<ReplicaSet>::namespaced(self.0.client.clone(), &namespace);
        match api.create(&PostParams::default(), &set).await {
            Ok(made) => {
                let message = format!("Scaled up replica set {} from 0 to {count}", made.name_any());
                if count > 0 {
                    pods::event(
                        &self.0.client,
                        COMPONENT,
                        deployment,
                        "Normal",
                        "ScalingReplicaSet",
                        &message,
                    )
                    .await;
                }
                Ok(made)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let name = set.name_any();
                if let Some(there) = api.get_opt(&name).await?
                    && is_controlled_by(&there.metadata, deployment)
                    && bare(there.spec.as_ref().and_then(|spec| spec.template.as_ref())) == *template
                {
                    return Ok(there);
                }
                // Another template with the same hash: count it, and the next name differs.
                let patch = json!({"status": {"collisionCount": collisions + 1}});
                let deployments = Api::<Deployment>::namespaced(self.0.client.clone(), &namespace);
                deployments
                    .patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                    .await?;
                Err(kube::Error::Api(status).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the present template the highest number, there and on the Deployment, and what else it has of that.
    async fn number(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: ReplicaSet,
        old: &[ReplicaSet],
    ) -> Result<ReplicaSet, Error> {
        let wanted = revision(&set).max(next_revision(old));
        let mut annotations = inherited(deployment);
        annotations.insert(REVISION.into(), wanted.to_string());
        annotations.retain(|key, value| set.annotations().get(key) != Some(value));
        let min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let same = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0) == min_ready;
        let set = if annotations.is_empty() && same {
            set
        } else {
            let patch = json!({"metadata": {"uid": set.uid(), "annotations": annotations}, "spec": {"minReadySeconds": min_ready}});
            api.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?
        };
        if deployment.annotations().get(REVISION) != Some(&wanted.to_string()) {
            let patch = json!({"metadata": {"annotations": {REVISION: wanted.to_string()}}});
            let deployments = Api::<Deployment>::namespaced(
                self.0.client.clone(),
                &deployment.namespace().unwrap_or_default(),
            );
            deployments.patch(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(set)
    }

    async fn scale(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        new: Option<&ReplicaSet>,
        old: &mut [ReplicaSet],
    ) -> Result<(), Error> {
        let limits = Limits::of(deployment);
        let steps = scale(&limits, new.map(view).as_ref(), &old.iter().map(view).collect::<Vec<_>>());
        for (step, set) in steps.old.iter().zip(old.iter()).chain(steps.new.iter().zip(new)) {
            let now = replicas(set);
            let is = |key, value: i32| set.annotations().get(key) == Some(&value.to_string());
            // A set without pods has no part in a change of the size.
            let noted = *step == 0 || (is(DESIRED, limits.wanted) && is(MAX, limits.most()));
            if now == *step && noted {
                continue;
            }
            let annotations = json!({DESIRED: limits.wanted.to_string(), MAX: limits.most().to_string()});
            let patch = json!({"metadata": {"uid": set.uid(), "annotations": annotations}, "spec": {"replicas": step}});
            api.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
            if now != *step {
                let direction = if *step > now { "up" } else { "down" };
                let message =
                    format!("Scaled {direction} replica set {} from {now} to {step}", set.name_any());
                pods::event(&self.0.client, COMPONENT, deployment, "Normal", "ScalingReplicaSet", &message)
                    .await;
            }
        }
        Ok(())
    }

    /// Removes empty ReplicaSets beyond the history that is to be kept, oldest first.
    async fn forget_old(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        old: &[ReplicaSet],
    ) -> Result<(), Error> {
        let keep = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let empty = |set: &&ReplicaSet| {
            replicas(set) == 0 && set.status.as_ref().is_none_or(|status| status.replicas == 0)
        };
        let mut done: Vec<&ReplicaSet> = old.iter().filter(empty).collect();
        done.sort_by_key(|set| revision(set));
        let surplus = done.len().saturating_sub(usize::try_from(keep).unwrap_or(0));
        for set in &done[..surplus] {
            api.delete(&set.name_any(), &DeleteParams::background()).await?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        new: Option<&ReplicaSet>,
        old: &[ReplicaSet],
    ) -> Result<Next, Error> {
        let (status, next) = status(deployment, new, old, Timestamp::now());
        let mut before = deployment.status.clone().unwrap_or_default();
        before.collision_count = None;
        if serde_json::to_value(&before)? != serde_json::to_value(&status)? {
            let api = Api::<Deployment>::namespaced(
                self.0.client.clone(),
                &deployment.namespace().unwrap_or_default(),
            );
            let mut status = serde_json::to_value(&status)?;
            // A merge patch keeps what it does not name, so that zero has to be said.
            for count in
                ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"]
            {
                status.as_object_mut().map(|fields| fields.entry(count).or_insert(Value::Null));
            }
            let patch = json!({"metadata": {"uid": deployment.uid()}, "status": status});
            api.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(next)
    }
}

/// The status that follows from the ReplicaSets, and when to look again for the progress deadline.
fn status(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[ReplicaSet],
    now: Timestamp,
) -> (DeploymentStatus, Next) {
    let limits = Limits::of(deployment);
    let of = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let all = || old.iter().chain(new);
    let total: i32 = all().map(|set| of(set).replicas).sum();
    let ready: i32 = all().map(|set| of(set).ready_replicas.unwrap_or(0)).sum();
    let available: i32 = all().map(|set| of(set).available_replicas.unwrap_or(0)).sum();
    let updated = new.map_or(0, |set| of(set).replicas);
    let unavailable = (all().map(replicas).sum::<i32>() - available).max(0);
    let before = deployment.status.clone().unwrap_or_default();
    let complete = updated == limits.wanted && total == limits.wanted && available == limits.wanted;
    let progressed = updated > before.updated_replicas.unwrap_or(0)
        || (total - updated) < before.replicas.unwrap_or(0) - before.updated_replicas.unwrap_or(0)
        || ready > before.ready_replicas.unwrap_or(0)
        || available > before.available_replicas.unwrap_or(0);
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let enough = available >= limits.wanted - limits.unavailable;
    let (text, reason, message) = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set_condition(&mut conditions, "Available", text, reason, message, false, now);
    match failure(new.into_iter().chain(old)) {
        Some((reason, message)) => {
            set_condition(&mut conditions, FAILURE, "True", &reason, &message, false, now);
        }
        None => conditions.retain(|one| one.type_ != FAILURE),
    }
    let next = progress(deployment, new, &mut conditions, complete, progressed, now);
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(ready),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        terminating_replicas: Some(all().map(|set| of(set).terminating_replicas.unwrap_or(0)).sum()),
        conditions: Some(conditions),
        ..DeploymentStatus::default()
    };
    (status, next)
}

/// Why pods of a set can't be created; the newest set's word comes first.
fn failure<'a>(mut sets: impl Iterator<Item = &'a ReplicaSet>) -> Option<(String, String)> {
    sets.find_map(|set| {
        let condition = set.status.as_ref()?.conditions.as_ref()?.iter().find(|one| one.type_ == FAILURE)?;
        Some((condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()))
    })
}

fn progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    conditions: &mut Vec<DeploymentCondition>,
    complete: bool,
    progressed: bool,
    now: Timestamp,
) -> Next {
    let name = new.map_or_else(String::new, ResourceExt::name_any);
    let deadline = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).unwrap_or(600);
    if deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true) {
        set_condition(
            conditions,
            "Progressing",
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused",
            false,
            now,
        );
        return None;
    }
    let present = conditions.iter().find(|one| one.type_ == "Progressing").cloned();
    if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set_condition(conditions, "Progressing", "True", "NewReplicaSetAvailable", &message, false, now);
        return None;
    }
    let done_before =
        present.as_ref().is_some_and(|one| one.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if progressed || present.is_none() || done_before {
        let message = format!("ReplicaSet \"{name}\" is progressing.");
        set_condition(conditions, "Progressing", "True", "ReplicaSetUpdated", &message, true, now);
        return Some(Duration::from_secs(u64::try_from(deadline).unwrap_or(600)));
    }
    let since = present.and_then(|one| one.last_update_time).map_or(now, |time| time.0);
    let left = i64::from(deadline) - (now.as_second() - since.as_second());
    if left <= 0 {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        set_condition(conditions, "Progressing", "False", "ProgressDeadlineExceeded", &message, false, now);
        return None;
    }
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(1)))
}

/// Sets a condition; its times move only with what they tell, or with `touch`.
fn set_condition(
    conditions: &mut Vec<DeploymentCondition>,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    touch: bool,
    now: Timestamp,
) {
    let stamp = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let present = conditions.iter().position(|one| one.type_ == type_);
    let same = present.map(|at| &conditions[at]).filter(|one| one.status == status);
    let unchanged = same
        .is_some_and(|one| one.reason.as_deref() == Some(reason) && one.message.as_deref() == Some(message));
    if unchanged && !touch {
        return;
    }
    let wanted = DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: stamp.clone(),
        last_transition_time: same.map_or(stamp, |one| one.last_transition_time.clone()),
    };
    match present {
        Some(at) => conditions[at] = wanted,
        None => conditions.push(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_names_and_differ_with_collisions() {
        let (a, b) = (hash(&json!({"a": 1}), 0), hash(&json!({"a": 1}), 1));
        assert_ne!(a, b);
        assert_eq!(a, hash(&json!({"a": 1}), 0));
        assert!(
            a.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) && a.len() == 9,
            "{a}"
        );
    }

    #[test]
    fn conditions_move_their_times_only_with_their_meaning() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        set_condition(&mut conditions, "Available", "False", "r", "m", false, at(1));
        set_condition(&mut conditions, "Available", "False", "r", "m", false, at(2));
        assert_eq!(conditions[0].last_update_time, Some(Time(at(1))));
        set_condition(&mut conditions, "Available", "False", "other", "m", false, at(3));
        assert_eq!(
            (conditions[0].last_update_time.clone(), conditions[0].last_transition_time.clone()),
            (Some(Time(at(3))), Some(Time(at(1))))
        );
        set_condition(&mut conditions, "Available", "True", "r", "m", false, at(4));
        assert_eq!(conditions[0].last_transition_time, Some(Time(at(4))));
        assert_eq!(conditions.len(), 1);
    }
}
