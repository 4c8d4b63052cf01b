//! Jobs: pods that run to their end, so many of them, and each counted once.

mod plan;
mod pod;
mod policy;

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::{self, Selector, controller_of, is_active, is_controlled_by};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::{adopt, delete, release, words};
use crate::{Shared, spawn};
use plan::{Plan, is_over, plan};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "job-controller";

/// Whose Jobs are ours to carry out.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Jobs(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Jobs(world.clone()), |queue| {
        let jobs = queue.clone();
        world.jobs.on_change(move |old, new| {
            if let Some(job) = new.or(old) {
                jobs.add(Key::of(job));
            }
        });
        let owned = queue.clone();
        world.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                if let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job") {
                    owned.add(Key::new(pod.namespace().unwrap_or_default(), &owner.name));
                }
            }
        });
    });
}

impl Controller for Jobs {
    const NAME: &'static str = "job";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let api = Api::<Pod>::namespaced(self.0.client.clone(), &key.namespace);
        let jobs = Api::<Job>::namespaced(self.0.client.clone(), &key.namespace);
        // Both are read from the API and not from the cache: what was just counted or made must count.
        let Some(job) = jobs.get_opt(&key.name).await? else {
            self.let_go(&api, key, None).await?;
            return Ok(None);
        };
        let Some(spec) = job.spec.as_ref() else { return Ok(None) };
        if spec.managed_by.as_deref().is_some_and(|name| name != MANAGER) {
            return Ok(None);
        }
        if is_over(&job) {
            self.let_go(&api, key, job.uid().as_deref()).await?;
            return self.forget(&jobs, &job).await;
        }
        if job.metadata.deletion_timestamp.is_some() {
            self.let_go(&api, key, job.uid().as_deref()).await?;
            return Ok(None);
        }
        let pods = self.mine(&api, &job).await?;
        let plan = plan(&job, &pods, Timestamp::now());
        self.carry_out(&api, &jobs, &job, &pods, plan).await
    }
}

impl Jobs {
    async fn mine(&self, api: &Api<Pod>, job: &Job) -> Result<Vec<Pod>, Error> {
        let selector = Selector::of_optional(job.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let mut mine = Vec::new();
        for pod in api.list(&ListParams::default()).await?.items {
            let matches = selector.matches(&pod.metadata);
            if is_controlled_by(&pod.metadata, job) {
                if matches {
                    mine.push(pod);
                } else {
                    untrack(api, &pod).await?;
                    release(api, &pod).await?;
                }
            } else if matches && controller_of(&pod.metadata).is_none() && is_active(&pod) {
                mine.push(adopt(api, job, &pod).await?);
            }
        }
        Ok(mine)
    }

    /// Notes first what has ended, then lets it go, then makes and deletes: so that nothing is counted twice or never.
    async fn carry_out(
        &self,
        api: &Api<Pod>,
        jobs: &Api<Job>,
        job: &Job,
        pods: &[Pod],
        plan: Plan,
    ) -> Result<Next, Error> {
        for pod in pods.iter().filter(|pod| plan.release.contains(&pod.name_any())) {
            untrack(api, pod).await?;
        }
        let mut failed = None;
        for pod in pods.iter().filter(|pod| plan.delete.contains(&pod.name_any())) {
            if plan.uncounted {
                untrack(api, pod).await?;
            }
            delete(api, pod).await?;
            self.tell(job, false, "SuccessfulDelete", &format!("Deleted pod: {}", pod.name_any())).await;
        }
        let mut made = 0;
        for index in &plan.create {
            let Some(pod) = pod::of(job, *index) else { break };
            match api.create(&PostParams::default(), &pod).await {
                Ok(pod) => {
                    made += 1;
                    self.tell(job, false, "SuccessfulCreate", &format!("Created pod: {}", pod.name_any()))
                        .await;
                }
                Err(error) => {
                    self.tell(job, true, "FailedCreate", &format!("Error creating: {}", words(&error))).await;
                    failed = Some(error);
                    break;
                }
            }
        }
        let mut status = plan.status;
        let active = status.active.unwrap_or(0).saturating_add(made);
        status.active = Some(active).filter(|count| *count != 0);
        let before = job.status.clone().unwrap_or_default();
        if before != status {
            let mut changed = job.clone();
            changed.status = Some(status);
            jobs.replace_status(&job.name_any(), &PostParams::default(), &changed).await?;
            for (warning, reason, message) in &plan.events {
                self.tell(job, *warning, reason, message).await;
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(plan.next.map(|next| Duration::from_secs(next.unsigned_abs()))),
        }
    }

    async fn tell(&self, job: &Job, warning: bool, reason: &str, message: &str) {
        let kind = if warning { "Warning" } else { "Normal" };
        pods::event(&self.0.client, COMPONENT, job, kind, reason, message).await;
    }

    /// Nobody counts any more: the Job's pods are held no longer.
    async fn let_go(&self, api: &Api<Pod>, key: &Key, uid: Option<&str>) -> Result<(), Error> {
        for pod in self.0.pods.in_namespace(&key.namespace) {
            let owner =
                controller_of(&pod.metadata).filter(|owner| owner.kind == "Job" && owner.name == key.name);
            if owner.is_some_and(|owner| uid.is_none_or(|uid| owner.uid == uid)) && pod::is_tracked(&pod) {
                untrack(api, &pod).await?;
            }
        }
        Ok(())
    }

    /// Deletes a Job that has ended when its time to live is over; when that will be.
    async fn forget(&self, jobs: &Api<Job>, job: &Job) -> Result<Next, Error> {
        let Some(lives) = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished) else {
            return Ok(None);
        };
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ended = conditions
            .filter(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")
            .filter_map(|one| one.last_transition_time.as_ref())
            .map(|time| time.0.as_second())
            .max();
        let left = ended.unwrap_or(0) + i64::from(lives) - Timestamp::now().as_second();
        if left > 0 || job.metadata.deletion_timestamp.is_some() {
            return Ok(Some(Duration::from_secs(left.max(1).unsigned_abs())));
        }
        let preconditions = Preconditions { uid: job.uid(), resource_version: job.resource_version() };
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match jobs.delete(&job.name_any(), &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            result => Ok(result.map(|_| None)?),
        }
    }
}

/// Takes the finalizer from a pod.
async fn untrack(api: &Api<Pod>, pod: &Pod) -> Result<(), Error> {
    let rest: Vec<&String> = pod.finalizers().iter().filter(|one| *one != pod::TRACKING).collect();
    // The version guards the finalizers of others.
    let meta = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": rest});
    let patch = Patch::Merge(json!({ "metadata": meta }));
    match api.patch(&pod.name_any(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => Ok(result.map(drop)?),
    }
}
