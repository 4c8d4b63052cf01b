//! StatefulSets: pods with names that last, one after the other.

mod plan;
mod pod;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::history::Subject;
use crate::pods::{
    self, Selector, controller_of, is_available, is_controlled_by, is_finished, is_ready, phase,
};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::{adopt, delete, release};
use crate::{Shared, spawn};
use plan::{Member, Plan, Update, Want, plan};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "statefulset-controller";

struct StatefulSets(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, StatefulSets(world.clone()), |queue| {
        let sets = queue.clone();
        world.stateful_sets.on_change(move |old, new| {
            if let Some(set) = new.or(old) {
                sets.add(Key::of(set));
            }
        });
        let owned = queue.clone();
        world.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                if let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "StatefulSet")
                {
                    owned.add(Key::new(pod.namespace().unwrap_or_default(), &owner.name));
                }
            }
        });
    });
}

/// What a set wants, as of its specification.
fn want(set: &StatefulSet) -> Want {
    let spec = set.spec.clone().unwrap_or_default();
    let count = i64::from(spec.replicas.unwrap_or(1));
    let strategy = spec.update_strategy.unwrap_or_default();
    let update = match strategy.type_.as_deref() {
        Some("OnDelete") => Update::OnDelete,
        _ => {
            let rolling = strategy.rolling_update.unwrap_or_default();
            let unavailable = match rolling.max_unavailable {
                None => 1,
                Some(IntOrString::Int(number)) => i64::from(number),
                // Rounded down, and one at least: otherwise nothing would ever change.
                Some(IntOrString::String(text)) => {
                    text.trim_end_matches('%').parse::<i64>().unwrap_or(0).saturating_mul(count) / 100
                }
            };
            Update::Rolling { partition: rolling.partition.map(i64::from), unavailable: unavailable.max(1) }
        }
    };
    Want {
        first: spec.ordinals.and_then(|ordinals| ordinals.start).map_or(0, i64::from),
        count,
        parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
        update,
        current: set.status.as_ref().and_then(|status| status.current_replicas).map_or(0, i64::from),
    }
}

fn is_running_and_ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

impl Controller for StatefulSets {
    const NAME: &'static str = "stateful-set";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.0.stateful_sets.get(key) else { return Ok(None) };
        let Some(spec) = set.spec.as_ref() else { return Ok(None) };
        let going = set.metadata.deletion_timestamp.is_some();
        let api = Api::<Pod>::namespaced(self.0.client.clone(), &key.namespace);
        let mine = self.mine(&api, &set, going).await?;
        let revision_of = |pod: &Pod| pod.labels().get(pod::REVISION).cloned().unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        let subject = Subject {
            client: &self.0.client,
            owner: &*set,
            template: Some(&spec.template),
            keep: spec.revision_history_limit.unwrap_or(10),
            collisions: status.collision_count.unwrap_or(0),
            label: "controller.kubernetes.io/hash",
        };
        let (update, known) = subject
            .sync(|one| {
                let name = one.name_any();
                status.current_revision.as_ref() == Some(&name)
                    || mine.iter().any(|pod| revision_of(pod) == name)
            })
            .await?;
        let current = status
            .current_revision
            .as_deref()
            .and_then(|name| known.iter().find(|one| one.name_any() == name));
        let current = current.unwrap_or(&update);
        let now = Timestamp::now();
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let available = |pod: &Pod| is_running_and_ready(pod) && is_available(pod, min_ready, now);
        let members: Vec<Member> = mine
            .iter()
            .filter_map(|pod| {
                Some(Member {
                    ordinal: pod::ordinal(&set, pod)?,
                    updated: revision_of(pod) == update.name_any(),
                    available: available(pod),
                    finished: is_finished(pod),
                    leaving: pod.metadata.deletion_timestamp.is_some(),
                })
            })
            .collect();
        if !going {
            let plan = plan(&want(&set), &members);
            self.carry_out(&api, &set, &mine, plan, (current, &update)).await?;
        }
        self.write_status(&set, &mine, (current, &update), now).await?;
        let waiting = mine.iter().any(|pod| is_ready(pod) && !is_available(pod, min_ready, now));
        Ok(waiting.then(|| Duration::from_secs(1)))
    }
}

impl StatefulSets {
    /// The set's pods, read from the API and not from the cache: a pod just created must count.
    async fn mine(&self, api: &Api<Pod>, set: &StatefulSet, going: bool) -> Result<Vec<Pod>, Error> {
        let Some(spec) = set.spec.as_ref() else { return Ok(Vec::new()) };
        let selector = Selector::of(&spec.selector);
        let mut mine = Vec::new();
        for pod in api.list(&ListParams::default()).await?.items {
            let matches = selector.matches(&pod.metadata) && pod::ordinal(set, &pod).is_some();
            if is_controlled_by(&pod.metadata, set) {
                if matches || going {
                    mine.push(pod);
                } else {
                    release(api, &pod).await?;
                }
            } else if matches && !going && controller_of(&pod.metadata).is_none() && pods::is_active(&pod) {
                mine.push(adopt(api, set, &pod).await?);
            }
        }
        Ok(mine)
    }

    async fn carry_out(
        &self,
        api: &Api<Pod>,
        set: &StatefulSet,
        mine: &[Pod],
        plan: Plan,
        (current, update): (&ControllerRevision, &ControllerRevision),
    ) -> Result<(), Error> {
        let range = want(set);
        for one in
            mine.iter().filter(|pod| pod::ordinal(set, pod).is_some_and(|one| plan.delete.contains(&one)))
        {
            let ordinal = pod::ordinal(set, one).unwrap_or_default();
            if !(range.first..range.first.saturating_add(range.count)).contains(&ordinal) {
                self.condemn_claims(set, one, ordinal).await?;
            }
            delete(api, one).await?;
            self.tell(set, "SuccessfulDelete", "delete", &one.name_any()).await;
        }
        for (ordinal, updated) in plan.create {
            let revision = if updated { update } else { current };
            let Some(template) = template_of(revision, set) else { continue };
            let Some(pod) = pod::of(set, &template, &revision.name_any(), ordinal) else { continue };
            self.ensure_claims(set, ordinal).await?;
            match api.create(&PostParams::default(), &pod).await {
                // The one before has not quite gone.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    return Err(kube::Error::Api(status).into());
                }
                Err(error) => {
                    let message = format!(
                        "create Pod {} in StatefulSet {} failed error: {}",
                        pod.name_any(),
                        set.name_any(),
                        crate::replica_set::words(&error)
                    );
                    pods::event(&self.0.client, COMPONENT, set, "Warning", "FailedCreate", &message).await;
                    return Err(error.into());
                }
                Ok(made) => self.tell(set, "SuccessfulCreate", "create", &made.name_any()).await,
            }
        }
        Ok(())
    }

    async fn tell(&self, set: &StatefulSet, reason: &str, verb: &str, pod: &str) {
        let message = format!("{verb} Pod {pod} in StatefulSet {} successful", set.name_any());
        pods::event(&self.0.client, COMPONENT, set, "Normal", reason, &message).await;
    }

    /// Makes the claims of a pod that are not there.
    async fn ensure_claims(&self, set: &StatefulSet, ordinal: i64) -> Result<(), Error> {
        let api = Api::<PersistentVolumeClaim>::namespaced(
            self.0.client.clone(),
            &set.namespace().unwrap_or_default(),
        );
        for claim in pod::claims(set, ordinal) {
            match api.create(&PostParams::default(), &claim).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    /// Lets the claims of a pod beyond the set's size go with it, where the set says so.
    async fn condemn_claims(&self, set: &StatefulSet, pod: &Pod, ordinal: i64) -> Result<(), Error> {
        let retention =
            set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        if retention.is_none_or(|policy| policy.when_scaled.as_deref() != Some("Delete")) {
            return Ok(());
        }
        let namespace = set.namespace().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.0.client.clone(), &namespace);
        for claim in pod::claims(set, ordinal) {
            let patch = json!({"metadata": {"ownerReferences": [pod.owner_ref(&())]}});
            match api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        mine: &[Pod],
        (current, update): (&ControllerRevision, &ControllerRevision),
        now: Timestamp,
    ) -> Result<(), Error> {
        let spec = set.spec.as_ref();
        let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let count = |test: &dyn Fn(&&Pod) -> bool| {
            i32::try_from(mine.iter().filter(test).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &ControllerRevision| {
            let name = revision.name_any();
            count(&|pod| {
                pod.metadata.deletion_timestamp.is_none() && pod.labels().get(pod::REVISION) == Some(&name)
            })
        };
        let ready = count(&|pod| is_running_and_ready(pod));
        let (replicas, updated) = (count(&|_| true), of(update));
        let rolling = !matches!(want(set).update, Update::OnDelete);
        // All are of the present template: it is the one before of the next.
        let complete = rolling && updated == replicas && ready == replicas && replicas == wanted;
        let current = if complete { update } else { current };
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        let status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            current_replicas: some(of(current)),
            updated_replicas: some(updated),
            available_replicas: Some(count(&|pod| {
                is_running_and_ready(pod) && is_available(pod, min_ready, now)
            })),
            current_revision: Some(current.name_any()),
            update_revision: Some(update.name_any()),
            collision_count: Some(set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0)),
            conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut value = serde_json::to_value(&status)?;
        for count in ["readyReplicas", "currentReplicas", "updatedReplicas"] {
            value.as_object_mut().map(|fields| fields.entry(count).or_insert(Value::Null));
        }
        let patch = json!({"metadata": {"uid": set.uid()}, "status": value});
        let api = Api::<StatefulSet>::namespaced(self.0.client.clone(), &set.namespace().unwrap_or_default());
        api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

/// The template that a revision keeps.
fn template_of(revision: &ControllerRevision, set: &StatefulSet) -> Option<PodTemplateSpec> {
    let kept = revision.data.as_ref().map(|data| data.0["spec"]["template"].clone());
    let kept = kept.and_then(|template| serde_json::from_value(template).ok());
    kept.or_else(|| set.spec.as_ref().map(|spec| spec.template.clone()))
}
