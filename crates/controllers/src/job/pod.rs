//! A Job's pods: what they are made of, and what can be read from them.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

use crate::pods::phase;

/// Holds a finished pod until it has been counted.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Label and annotation with a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with how often the index has failed before.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The same, of failures that a policy ignores.
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The index of a pod of an Indexed Job.
pub(super) fn index(pod: &Pod) -> Option<i64> {
    pod.annotations().get(INDEX)?.parse().ok()
}

/// How often a pod's index had failed when the pod was made.
pub(super) fn failures_before(pod: &Pod) -> i64 {
    pod.annotations().get(FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether a pod still waits to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|one| one == TRACKING)
}

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    phase(pod) == "Succeeded"
}

/// Whether a pod counts as failed: also one that is deleted, unless only those that have ended are replaced.
pub(super) fn has_failed(pod: &Pod, only_ended: bool) -> bool {
    phase(pod) == "Failed"
        || (!only_ended && pod.metadata.deletion_timestamp.is_some() && phase(pod) != "Succeeded")
}

/// When a pod ended: its last container's end, or else when it was marked.
pub(super) fn ended(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let last = ends.map(|time| time.0).max();
    last.or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
}

/// A new pod of a Job; with its index and how often that has failed, in an Indexed one.
pub(super) fn of(job: &Job, index: Option<(i64, i64)>) -> Option<Pod> {
    let spec = job.spec.as_ref()?;
    let template = &spec.template;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let mut pod = template.spec.clone()?;
    let mut prefix = job.name_any();
    if let Some((index, failures)) = index {
        prefix = format!("{prefix}-{index}");
        labels.insert(INDEX.into(), index.to_string());
        annotations.insert(INDEX.into(), index.to_string());
        if spec.backoff_limit_per_index.is_some() {
            annotations.insert(FAILURES.into(), failures.to_string());
            annotations.entry(IGNORED.into()).or_insert_with(|| "0".into());
        }
        pod.hostname = Some(prefix.clone());
        for container in pod.containers.iter_mut().chain(pod.init_containers.iter_mut().flatten()) {
            let variables = container.env.get_or_insert_default();
            if variables.iter().all(|one| one.name != "JOB_COMPLETION_INDEX") {
                variables.push(variable());
            }
        }
    }
    let mut finalizers = meta.finalizers.unwrap_or_default();
    finalizers.push(TRACKING.into());
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: job.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            finalizers: Some(finalizers),
            owner_references: Some(vec![job.controller_owner_ref(&())?]),
            ..ObjectMeta::default()
        },
        spec: Some(pod),
        status: None,
    })
}

fn variable() -> EnvVar {
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    }
}
