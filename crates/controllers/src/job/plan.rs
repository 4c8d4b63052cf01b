//! What becomes of a Job next: which pods come and go, which are counted, and what its status says. Pure.

use std::collections::BTreeMap;

use dyad_model::Indexes;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::pod::{ended, failures_before, has_failed, has_succeeded, index, is_tracked};
use super::policy::{Verdict, is_enough, judge};
use crate::pods::{is_active, is_finished, is_ready};

/// First and longest wait, in seconds, before a pod that failed is replaced.
const BACKOFF: (i64, i64) = (10, 600);

/// Most pods that one pass makes.
const CREATED_AT_ONCE: i64 = 500;

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Pods to make: the index and how often it has failed, or none.
    pub(super) create: Vec<Option<(i64, i64)>>,
    /// Pods to delete, by name.
    pub(super) delete: Vec<String>,
    /// Whether those are let go first, so that they do not count as failed.
    pub(super) uncounted: bool,
    /// Pods that have been counted and may go, by name.
    pub(super) release: Vec<String>,
    pub(super) status: JobStatus,
    /// Something to tell: whether it is a warning, the reason and the message.
    pub(super) events: Vec<(bool, String, String)>,
    /// When to look again, in seconds.
    pub(super) next: Option<i64>,
}

/// Whether a condition of a Job is true.
pub(super) fn is_true(status: &JobStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|one| one.type_ == kind && one.status == "True")
}

/// Whether a Job has ended.
pub(super) fn is_over(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| is_true(status, "Complete") || is_true(status, "Failed"))
}

/// A Job as it is looked at.
struct Look<'a> {
    job: &'a Job,
    pods: &'a [Pod],
    now: Timestamp,
    completions: Option<i64>,
    parallelism: i64,
    indexed: bool,
    only_ended: bool,
    succeeded: i64,
    failed: i64,
    done: Indexes,
    lost: Option<Indexes>,
}

/// The next steps. Every pod that ends is counted exactly once: it is noted in the status first, then its finalizer
/// goes, then the note becomes part of the counts.
pub(super) fn plan(job: &Job, pods: &[Pod], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut plan = Plan { status: job.status.clone().unwrap_or_default(), ..Plan::default() };
    let mut look = Look {
        job,
        pods,
        now,
        completions: spec.completions.map(i64::from),
        parallelism: i64::from(spec.parallelism.unwrap_or(1)),
        indexed: spec.completion_mode.as_deref() == Some("Indexed"),
        only_ended: spec.pod_replacement_policy.as_deref() == Some("Failed"),
        succeeded: 0,
        failed: 0,
        done: Indexes::default(),
        lost: None,
    };
    let suspended = spec.suspend == Some(true);
    if plan.status.start_time.is_none() && !suspended {
        plan.status.start_time = Some(seconds(now));
    }
    look.count(&mut plan);
    let finish = look.finish(&plan.status);
    let mut active: Vec<&Pod> = pods.iter().filter(|pod| is_active(pod)).collect();
    let leaving = |pod: &&Pod| pod.metadata.deletion_timestamp.is_some() && !is_finished(pod);
    let mut terminating = pods.iter().filter(leaving).count();
    let mut ending = finish;
    plan.uncounted = ending.is_none();
    if ending.is_some() || job.metadata.deletion_timestamp.is_some() || suspended {
        if job.metadata.deletion_timestamp.is_none() {
            plan.delete = active.iter().map(|pod| pod.name_any()).collect();
            terminating += active.len();
            active.clear();
        }
    } else {
        look.manage(&mut active, &mut terminating, &mut plan);
    }
    let none_left = active.is_empty() && plan.create.is_empty();
    if ending.is_none() && none_left && look.is_complete() {
        ending = Some((
            "SuccessCriteriaMet",
            "CompletionsReached".into(),
            "Reached expected number of succeeded pods".into(),
        ));
    }
    match ending {
        Some((kind, reason, message)) => {
            set(&mut plan.status, kind, "True", &reason, &message, now);
            // Every pod has been counted and let go.
            if none_left && terminating == 0 && pods.iter().all(|pod| !is_tracked(pod)) {
                look.end(&mut plan, kind, &reason, &message);
            }
        }
        None => look.suspend(&mut plan, suspended),
    }
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let ready = active.iter().filter(|pod| is_ready(pod)).count();
    plan.status.active = Some(count(active.len())).filter(|count| *count != 0);
    plan.status.ready = Some(count(ready));
    plan.status.terminating = Some(count(terminating));
    if let (Some(limit), Some(start), false) =
        (spec.active_deadline_seconds, &plan.status.start_time, suspended)
    {
        let left = limit - (now.as_second() - start.0.as_second());
        plan.next = Some(plan.next.map_or(left, |next| next.min(left)).max(1));
    }
    plan
}

fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// Sets a condition; its time moves only with its status. True if that changed.
fn set(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|one| one.type_ == kind && one.status == value) {
        return false;
    }
    let condition = JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(seconds(now)),
        last_transition_time: Some(seconds(now)),
    };
    match conditions.iter_mut().find(|one| one.type_ == kind) {
        Some(one) => *one = condition,
        None => conditions.push(condition),
    }
    true
}

/// A condition to end with, its reason and message.
type Finish = Option<(&'static str, String, String)>;

impl Look<'_> {
    /// Counts pods that have ended, in the status and in here.
    fn count(&mut self, plan: &mut Plan) {
        let status = &mut plan.status;
        let noted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let (mut good, mut bad) = (noted.succeeded.unwrap_or_default(), noted.failed.unwrap_or_default());
        let tracked: BTreeMap<String, &Pod> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| Some((pod.uid()?, pod)))
            .collect();
        // Noted, and let go since: part of the counts now.
        let mut settle = |list: &mut Vec<String>| {
            let all = list.len();
            list.retain(|uid| tracked.contains_key(uid));
            plan.release.extend(list.iter().filter_map(|uid| tracked.get(uid)).map(|pod| pod.name_any()));
            i32::try_from(all - list.len()).unwrap_or(i32::MAX)
        };
        let (settled_good, settled_bad) = (settle(&mut good), settle(&mut bad));
        let add = |count: &mut Option<i32>, more: i32| {
            *count = Some(count.unwrap_or(0).saturating_add(more)).filter(|count| *count != 0);
        };
        add(&mut status.failed, settled_bad);
        if !self.indexed {
            add(&mut status.succeeded, settled_good);
        }
        let limit = self.completions.unwrap_or(i64::MAX);
        let known = Indexes::parse_lenient(status.completed_indexes.as_deref().unwrap_or_default(), limit);
        self.done = known.clone();
        let per_index = self.job.spec.as_ref().and_then(|spec| spec.backoff_limit_per_index).map(i64::from);
        let mut lost = per_index
            .map(|_| Indexes::parse_lenient(status.failed_indexes.as_deref().unwrap_or_default(), limit));
        for (uid, pod) in &tracked {
            if good.contains(uid) || bad.contains(uid) {
                continue;
            }
            if has_succeeded(pod) && self.indexed {
                match index(pod).filter(|index| *index < limit) {
                    // An index is noted once, and its pod may go when that is written.
                    Some(index) if known.contains(index) => plan.release.push(pod.name_any()),
                    Some(index) => self.done.insert(index),
                    None => plan.release.push(pod.name_any()),
                }
            } else if has_succeeded(pod) {
                good.push(uid.clone());
            } else if has_failed(pod, self.only_ended) {
                match judge(self.job, pod) {
                    Verdict::Ignore => plan.release.push(pod.name_any()),
                    verdict => {
                        bad.push(uid.clone());
                        let spent = per_index.is_some_and(|most| failures_before(pod) >= most);
                        if let (Some(lost), Some(index)) = (&mut lost, index(pod))
                            && (verdict == Verdict::FailIndex || spent)
                            && index < limit
                        {
                            lost.insert(index);
                        }
                    }
                }
            }
        }
        if self.indexed {
            status.completed_indexes = Some(self.done.to_string()).filter(|text| !text.is_empty());
            add(&mut status.succeeded, 0);
            status.succeeded = i32::try_from(self.done.len()).ok().filter(|count| *count != 0);
            self.succeeded = self.done.len();
        } else {
            self.succeeded = i64::from(status.succeeded.unwrap_or(0)) + good.len() as i64;
        }
        status.failed_indexes = lost.as_ref().map(ToString::to_string);
        self.lost = lost;
        self.failed = i64::from(status.failed.unwrap_or(0)) + bad.len() as i64;
        let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
        status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { failed: some(bad), succeeded: some(good) });
    }

    /// Whether the Job is to end, other than by having all its completions.
    fn finish(&self, status: &JobStatus) -> Finish {
        let spec = self.job.spec.as_ref()?;
        for kind in ["SuccessCriteriaMet", "FailureTarget"] {
            let known =
                status.conditions.iter().flatten().find(|one| one.type_ == kind && one.status == "True");
            if let Some(known) = known {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                return Some((kind, text(&known.reason), text(&known.message)));
            }
        }
        let fail = |reason: &str, message: &str| Some(("FailureTarget", reason.into(), message.into()));
        let judged =
            self.pods.iter().filter(|pod| is_finished(pod)).find_map(|pod| match judge(self.job, pod) {
                Verdict::FailJob(why) => Some(why),
                _ => None,
            });
        if let Some(why) = judged {
            return fail("PodFailurePolicy", &why);
        }
        let limit = i64::from(spec.backoff_limit.unwrap_or(6));
        let restarts = if self.restarts_count() { self.restarts() } else { 0 };
        if self.failed > limit || (restarts > 0 && restarts >= limit) {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let started = status.start_time.as_ref().map(|time| time.0.as_second());
        if let (Some(deadline), Some(started), false) =
            (spec.active_deadline_seconds, started, spec.suspend == Some(true))
            && self.now.as_second() - started >= deadline
        {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        if let Some(lost) = &self.lost {
            if spec.max_failed_indexes.is_some_and(|most| lost.len() > i64::from(most)) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return fail("MaxFailedIndexesExceeded", message);
            }
            if !lost.is_empty() && lost.len() + self.done.len() >= self.completions.unwrap_or(0) {
                return fail("FailedIndexes", "Job has failed indexes");
            }
        }
        let why = is_enough(self.job, &self.done)?;
        Some(("SuccessCriteriaMet", "SuccessPolicy".into(), why))
    }

    /// Whether restarts within a pod are failures of the Job.
    fn restarts_count(&self) -> bool {
        let template = self.job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        template.is_some_and(|pod| pod.restart_policy.as_deref() == Some("OnFailure"))
    }

    /// Restarts of containers in pods that run or may yet.
    fn restarts(&self) -> i64 {
        let pods = self.pods.iter().filter(|pod| is_active(pod)).filter_map(|pod| pod.status.as_ref());
        let containers = pods.flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        containers.map(|one| i64::from(one.restart_count)).sum()
    }

    fn is_complete(&self) -> bool {
        match self.completions {
            None => self.succeeded > 0,
            Some(wanted) => self.succeeded >= wanted,
        }
    }

    /// As many pods as should run: surplus ones go, missing ones come, not too soon after a failure.
    fn manage(&self, active: &mut Vec<&Pod>, terminating: &mut usize, plan: &mut Plan) {
        let there = active.len() as i64;
        let wanted = match self.completions {
            None if self.succeeded > 0 => there,
            None => self.parallelism,
            Some(wanted) => {
                self.parallelism.min(wanted - self.succeeded - self.lost.as_ref().map_or(0, Indexes::len))
            }
        }
        .max(0);
        let mut seen = Indexes::default();
        let stale = |pod: &Pod, seen: &mut Indexes| {
            if !self.indexed {
                return false;
            }
            let Some(index) = index(pod) else { return true };
            let doubled = seen.contains(index);
            seen.insert(index);
            doubled || index >= self.completions.unwrap_or(0) || self.done.contains(index)
        };
        let mut remove: Vec<String> =
            active.iter().filter(|pod| stale(pod, &mut seen)).map(|pod| pod.name_any()).collect();
        let mut rest: Vec<&&Pod> = active.iter().filter(|pod| !remove.contains(&pod.name_any())).collect();
        // Those that are missed least go first.
        rest.sort_by_key(|pod| {
            (is_ready(pod), pod.metadata.creation_timestamp.clone().map(|time| std::cmp::Reverse(time.0)))
        });
        let surplus = usize::try_from(rest.len() as i64 - wanted).unwrap_or(0);
        remove.extend(rest.iter().take(surplus).map(|pod| pod.name_any()));
        *terminating += remove.len();
        active.retain(|pod| !remove.contains(&pod.name_any()));
        plan.delete = remove;
        let held = if self.only_ended { *terminating as i64 } else { 0 };
        let missing = (wanted - held - active.len() as i64).min(CREATED_AT_ONCE);
        if missing <= 0 {
            return;
        }
        if self.indexed {
            self.create_indexes(active, missing, plan);
        } else if let Some(wait) = self.backoff(self.pods.iter()) {
            plan.next = Some(wait);
        } else {
            plan.create = (0..missing).map(|_| None).collect();
        }
    }

    fn create_indexes(&self, active: &[&Pod], missing: i64, plan: &mut Plan) {
        let mut running: Indexes = active.iter().filter_map(|pod| index(pod)).collect();
        if self.only_ended {
            let leaving =
                self.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && !is_finished(pod));
            leaving.filter_map(index).for_each(|index| running.insert(index));
        }
        let per_index = self.lost.is_some();
        let shared = if per_index { None } else { self.backoff(self.pods.iter()) };
        if shared.is_some() {
            plan.next = shared;
            return;
        }
        let free = |index: &i64| {
            !self.done.contains(*index)
                && !running.contains(*index)
                && self.lost.as_ref().is_none_or(|lost| !lost.contains(*index))
        };
        let mut left = missing;
        for index in (0..self.completions.unwrap_or(0)).filter(free) {
            if left == 0 {
                break;
            }
            let mut failures = 0;
            if per_index {
                let own: Vec<&Pod> = self.pods.iter().filter(|pod| self::index(pod) == Some(index)).collect();
                if let Some(wait) = self.backoff(own.iter().copied()) {
                    plan.next = Some(plan.next.map_or(wait, |next| next.min(wait)));
                    continue;
                }
                let failed = own.iter().filter(|pod| {
                    has_failed(pod, self.only_ended) && judge(self.job, pod) != Verdict::Ignore
                });
                failures = failed.map(|pod| failures_before(pod) + 1).max().unwrap_or(0);
            }
            plan.create.push(Some((index, failures)));
            left -= 1;
        }
    }

    /// How long to wait after the failures since the last success, if at all.
    fn backoff<'p>(&self, pods: impl Iterator<Item = &'p Pod>) -> Option<i64> {
        let mut ends: Vec<(Timestamp, bool)> = pods
            .filter(|pod| is_finished(pod))
            .filter_map(|pod| Some((ended(pod)?, has_succeeded(pod))))
            .collect();
        ends.sort_unstable();
        let failures = ends.iter().rev().take_while(|(_, succeeded)| !succeeded).count();
        let (last, _) = ends.last().filter(|_| failures > 0)?;
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(20);
        let wait = (BACKOFF.0 << doublings).min(BACKOFF.1);
        let left = wait - (self.now.as_second() - last.as_second());
        (left > 0).then_some(left)
    }

    /// Nothing is left to wait for.
    fn end(&self, plan: &mut Plan, kind: &str, reason: &str, message: &str) {
        let over = if kind == "FailureTarget" { "Failed" } else { "Complete" };
        if set(&mut plan.status, over, "True", reason, message, self.now) {
            plan.events.push(match over {
                "Failed" => (true, reason.into(), message.into()),
                _ => (false, "Completed".into(), "Job completed".into()),
            });
        }
        if over == "Complete" {
            plan.status.completion_time = Some(seconds(self.now));
        }
    }

    fn suspend(&self, plan: &mut Plan, suspended: bool) {
        if suspended && set(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", self.now)
        {
            plan.events.push((false, "Suspended".into(), "Job suspended".into()));
            plan.status.start_time = None;
        } else if !suspended
            && is_true(&plan.status, "Suspended")
            && set(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", self.now)
        {
            plan.events.push((false, "Resumed".into(), "Job resumed".into()));
            plan.status.start_time = Some(seconds(self.now));
        }
    }
}

#[cfg(test)]
mod tests;
