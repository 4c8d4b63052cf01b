//! CronJobs: a Job whenever the schedule says so.

mod when;

use std::time::Duration;

use dyad_model::schedule::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job, JobStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::pods::{self, controller_of, is_controlled_by};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::words;
use crate::{Shared, spawn};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "cronjob-controller";

/// Annotation of a Job with the time it was due.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct CronJobs(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, CronJobs(world.clone()), |queue| {
        let all = queue.clone();
        world.cron_jobs.on_change(move |old, new| {
            if let Some(cron_job) = new.or(old) {
                all.add(Key::of(cron_job));
            }
        });
        let owned = queue.clone();
        world.jobs.on_change(move |old, new| {
            for job in [old, new].into_iter().flatten() {
                if let Some(owner) = controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
                    owned.add(Key::new(job.namespace().unwrap_or_default(), &owner.name));
                }
            }
        });
    });
}

/// When a Job ended well, or that it did not, or nothing while it runs.
fn ended(job: &Job) -> Option<Result<Option<Time>, ()>> {
    let status: &JobStatus = job.status.as_ref()?;
    let has =
        |kind: &str| status.conditions.iter().flatten().any(|one| one.type_ == kind && one.status == "True");
    match (has("Complete"), has("Failed")) {
        (true, _) => Some(Ok(status.completion_time.clone())),
        (_, true) => Some(Err(())),
        _ => None,
    }
}

fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

impl Controller for CronJobs {
    const NAME: &'static str = "cron-job";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let api = Api::<CronJob>::namespaced(self.0.client.clone(), &key.namespace);
        let jobs = Api::<Job>::namespaced(self.0.client.clone(), &key.namespace);
        let Some(cron_job) = api.get_opt(&key.name).await? else { return Ok(None) };
        if cron_job.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let spec = &cron_job.spec;
        let mut mine = jobs.list(&kube::api::ListParams::default()).await?.items;
        mine.retain(|job| is_controlled_by(&job.metadata, &cron_job));
        mine.sort_by_key(|job| {
            job.status.as_ref().and_then(|status| status.start_time.clone()).map(|time| time.0)
        });
        let mut status = self.observe(&cron_job, &mine).await;
        self.forget_old(&jobs, &cron_job, &mine).await?;
        let now = Timestamp::now();
        let (Ok(schedule), Some(zone)) = (Schedule::parse(&spec.schedule), zone(&cron_job)) else {
            let message = format!("unparseable schedule or time zone: {:?}", spec.schedule);
            self.tell(&cron_job, true, "UnparseableSchedule", &message).await;
            self.write_status(&api, &cron_job, status).await?;
            return Ok(None);
        };
        if spec.suspend != Some(true)
            && let Some(due) = self.due(&cron_job, &schedule, &zone, now).await
        {
            self.run(&jobs, &cron_job, &mine, due, &mut status).await?;
        }
        self.write_status(&api, &cron_job, status).await?;
        let next = when::next(&schedule, now, &zone).filter(|_| spec.suspend != Some(true));
        let wait = |next: Timestamp| u64::try_from(next.as_millisecond() - now.as_millisecond()).unwrap_or(0);
        // A little later than that, so that it is due.
        Ok(next.map(|next| Duration::from_millis(wait(next) + 100)))
    }
}

/// The time zone of the schedule.
fn zone(cron_job: &CronJob) -> Option<TimeZone> {
    match cron_job.spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(name) => TimeZone::get(name).ok(),
    }
}

impl CronJobs {
    async fn tell(&self, cron_job: &CronJob, warning: bool, reason: &str, message: &str) {
        let kind = if warning { "Warning" } else { "Normal" };
        pods::event(&self.0.client, COMPONENT, cron_job, kind, reason, message).await;
    }

    /// The status as the Jobs have it, and what is to be told of them.
    async fn observe(&self, cron_job: &CronJob, mine: &[Job]) -> CronJobStatus {
        let mut status = cron_job.status.clone().unwrap_or_default();
        let mut active = status.active.take().unwrap_or_default();
        for job in mine {
            let known = active.iter().any(|one| one.uid == job.uid());
            match ended(job) {
                Some(result) if known => {
                    active.retain(|one| one.uid != job.uid());
                    let how = if result.is_ok() { "Complete" } else { "Failed" };
                    let message = format!("Saw completed job: {}, condition: {how}", job.name_any());
                    self.tell(cron_job, false, "SawCompletedJob", &message).await;
                }
                None if !known && job.metadata.deletion_timestamp.is_none() => active.push(reference(job)),
                _ => {}
            }
            if let Some(Ok(Some(time))) = ended(job)
                && status.last_successful_time.as_ref().is_none_or(|last| last.0 < time.0)
            {
                status.last_successful_time = Some(time);
            }
        }
        active.retain(|one| mine.iter().any(|job| job.uid() == one.uid));
        status.active = Some(active).filter(|list| !list.is_empty());
        status
    }

    /// Deletes Jobs beyond those that are kept, the oldest first.
    async fn forget_old(&self, jobs: &Api<Job>, cron_job: &CronJob, mine: &[Job]) -> Result<(), Error> {
        let spec = &cron_job.spec;
        for (good, keep) in
            [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)]
        {
            let Some(keep) = keep.and_then(|keep| usize::try_from(keep).ok()) else { continue };
            let over: Vec<&Job> =
                mine.iter().filter(|job| ended(job).is_some_and(|result| result.is_ok() == good)).collect();
            for job in &over[..over.len().saturating_sub(keep)] {
                self.delete(jobs, cron_job, job).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, jobs: &Api<Job>, cron_job: &CronJob, job: &Job) -> Result<(), Error> {
        match jobs.delete(&job.name_any(), &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => {
                let message = format!("Deleted job {}", job.name_any());
                self.tell(cron_job, false, "SuccessfulDelete", &message).await;
                Ok(())
            }
        }
    }

    /// The time for which a Job is to be made now, if any.
    async fn due(
        &self,
        cron_job: &CronJob,
        schedule: &Schedule,
        zone: &TimeZone,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let last =
            cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
        let made = cron_job.metadata.creation_timestamp.as_ref().map(|time| time.0)?;
        let deadline = cron_job.spec.starting_deadline_seconds;
        let due = when::last(schedule, last.unwrap_or(made), now, zone)?;
        if deadline.is_some_and(|seconds| due.as_second() + seconds < now.as_second()) {
            let time = due.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
            let message = format!("Missed scheduled time to start a job: {time}");
            self.tell(cron_job, true, "MissSchedule", &message).await;
            return None;
        }
        Some(due)
    }

    /// Makes the Job of a time, as far as Jobs that still run allow it.
    async fn run(
        &self,
        jobs: &Api<Job>,
        cron_job: &CronJob,
        mine: &[Job],
        due: Timestamp,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        let running = mine.iter().filter(|job| ended(job).is_none());
        let policy = cron_job.spec.concurrency_policy.as_deref();
        match policy {
            Some("Forbid") if status.active.is_some() => {
                let message =
                    "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.tell(cron_job, false, "JobAlreadyActive", message).await;
                return Ok(());
            }
            Some("Replace") => {
                for job in running {
                    self.delete(jobs, cron_job, job).await?;
                }
                status.active = None;
            }
            _ => {}
        }
        let Some(job) = job_of(cron_job, due) else { return Ok(()) };
        let made = match jobs.create(&PostParams::default(), &job).await {
            Ok(made) => {
                let message = format!("Created job {}", made.name_any());
                self.tell(cron_job, false, "SuccessfulCreate", &message).await;
                made
            }
            // It was made before, and the status was not written.
            Err(kube::Error::Api(status)) if status.code == 409 => jobs.get(&job.name_any()).await?,
            Err(error) => {
                let message = format!("Error creating job: {}", words(&error));
                self.tell(cron_job, true, "FailedCreate", &message).await;
                return Err(error.into());
            }
        };
        let active = status.active.get_or_insert_default();
        if is_controlled_by(&made.metadata, cron_job) && active.iter().all(|one| one.uid != made.uid()) {
            active.push(reference(&made));
        }
        status.last_schedule_time = Some(seconds(due));
        Ok(())
    }

    async fn write_status(
        &self,
        api: &Api<CronJob>,
        cron_job: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), Error> {
        if cron_job.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let mut value = serde_json::to_value(&status)?;
        value.as_object_mut().map(|fields| fields.entry("active").or_insert(Value::Null));
        let patch = json!({"metadata": {"uid": cron_job.uid()}, "status": value});
        api.patch_status(&cron_job.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}

fn reference(job: &Job) -> ObjectReference {
    let reference = job.object_ref(&());
    ObjectReference { resource_version: job.resource_version(), ..reference }
}

/// The Job of a time; its name says which, so that there is one of each.
fn job_of(cron_job: &CronJob, due: Timestamp) -> Option<Job> {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = due.to_zoned(zone(cron_job)?);
    let offset =
        local.strftime(if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" });
    annotations.insert(SCHEDULED.into(), offset.to_string());
    Some(Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron_job.name_any(), due.as_second() / 60)),
            namespace: cron_job.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![cron_job.controller_owner_ref(&())?]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_its_time() {
        let cron_job: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"schedule": "* * * * *", "timeZone": "Europe/Berlin", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
        }))
        .unwrap();
        let job = job_of(&cron_job, "2026-07-01T06:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(job.name_any(), "c-29714760");
        assert_eq!(job.annotations()[SCHEDULED], "2026-07-01T08:00:00+02:00");
        assert!(is_controlled_by(&job.metadata, &cron_job));
    }
}
