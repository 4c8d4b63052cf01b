//! Jobs: defaults, the labels their pods are known by, and what of them may change.

mod indexes;
mod policies;
mod spec;
mod status;

use serde_json::{Value, json};

use crate::workloads::{default_template, name_warnings, start};
use crate::{Context, FieldError, Strategy, lifecycle, names, selector::LabelSelector, wire};

pub use indexes::{Indexes, IndexesError};
use spec::validate_job_spec;
pub(crate) use spec::{validate_cron_job_template, warnings as spec_warnings};

/// The strategy of Jobs.
pub static JOB: Job = Job;

/// Labels of a Job's pods: its name and its uid, in a new and an old form each.
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// See [`JOB`].
#[derive(Clone, Copy, Debug)]
pub struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        default_job(object);
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        if !wire::flag(wire::at(new, &["spec"]), "manualSelector") {
            generate_selector(new);
        }
        inherit_labels(new);
        start(new, &[]);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            inherit_labels(new);
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        validate_job(new, true)
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            return status::validate_change(new, old);
        }
        let labels = wire::at(old, &["spec", "template", "metadata", "labels"]);
        let mut errors =
            validate_job(new, wire::has(labels, NAME_LABELS[1]) && wire::has(labels, UID_LABELS[1]));
        errors.extend(spec::validate_change(new, old));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if lifecycle::writes_status(cx) {
            return Vec::new();
        }
        let mut warnings = name_warnings(new, old);
        if old.is_none_or(|old| !wire::same(new, old, "spec")) {
            warnings.extend(spec_warnings(wire::at(new, &["spec"]), "spec"));
        }
        warnings
    }

    fn orphans_dependents(&self) -> bool {
        true
    }

    fn meta_checks(&self, cx: &Context<'_>) -> crate::meta::Checks {
        if cx.subresource.is_empty() {
            crate::meta::Checks::WHOLE_AND_CHANGE
        } else {
            crate::meta::Checks::CHANGE
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn default_job(object: &mut Value) {
    let spec = wire::child(object, "spec");
    if !wire::has(spec, "completions") && !wire::has(spec, "parallelism") {
        wire::set(spec, "completions", 1);
    }
    wire::default(spec, "parallelism", 1);
    let most = if wire::has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    wire::default(spec, "backoffLimit", most);
    wire::default(spec, "completionMode", "NonIndexed");
    wire::default(spec, "suspend", false);
    let replaced = if wire::has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    wire::default(spec, "podReplacementPolicy", replaced);
    wire::default(spec, "manualSelector", false);
    default_templates(spec);
}

/// A Job without labels has those of its template, the generated ones among them.
fn inherit_labels(job: &mut Value) {
    let labels = wire::at(job, &["spec", "template", "metadata", "labels"]).clone();
    let meta = wire::child(job, "metadata");
    if !wire::is_empty(&labels) && wire::is_empty(wire::at(meta, &["labels"])) {
        wire::set(meta, "labels", labels);
    }
}

/// Defaults of a Job's specification that also hold in a CronJob.
pub(crate) fn default_templates(spec: &mut Value) {
    default_template(spec);
    if wire::has(spec, "podFailurePolicy") {
        for rule in wire::items_mut(wire::child(spec, "podFailurePolicy"), "rules") {
            for pattern in wire::items_mut(rule, "onPodConditions") {
                wire::default_zero(pattern, "status", "True");
            }
        }
    }
}

/// Labels and a selector that only the pods of this Job have.
fn generate_selector(job: &mut Value) {
    let text = |key: &str| Value::from(wire::text(wire::at(job, &["metadata"]), key));
    let (name, uid) = (text("name"), text("uid"));
    let spec = wire::child(job, "spec");
    let labels = wire::child(wire::child(wire::child(spec, "template"), "metadata"), "labels");
    NAME_LABELS.iter().for_each(|key| wire::default(labels, key, name.clone()));
    UID_LABELS.iter().for_each(|key| wire::default(labels, key, uid.clone()));
    let selected = wire::child(wire::child(spec, "selector"), "matchLabels");
    wire::default(selected, UID_LABELS[1], uid);
}

fn validate_job(job: &Value, prefixed: bool) -> Vec<FieldError> {
    let spec = wire::at(job, &["spec"]);
    let mut errors = validate_generated(job, prefixed);
    errors.extend(validate_job_spec(spec, "spec"));
    let name = wire::text(wire::at(job, &["metadata"]), "name");
    if wire::text(spec, "completionMode") == "Indexed"
        && let Some(completions) = wire::int(spec, "completions").filter(|count| *count > 0)
    {
        let host = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&host).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(FieldError::invalid("metadata.name", name, text));
        }
    }
    errors
}

/// The errors of labels and a selector that were to be generated.
fn validate_generated(job: &Value, prefixed: bool) -> Vec<FieldError> {
    let spec = wire::at(job, &["spec"]);
    if wire::flag(spec, "manualSelector") || !wire::has(spec, "selector") {
        return Vec::new();
    }
    let meta = wire::at(job, &["metadata"]);
    let (name, uid) = (wire::text(meta, "name"), wire::text(meta, "uid"));
    let labels = wire::at(spec, &["template", "metadata", "labels"]);
    let mut errors = Vec::new();
    let forms: &[usize] = if prefixed { &[0, 1] } else { &[0] };
    let mut expected = serde_json::Map::new();
    for form in forms {
        for (key, value) in [(UID_LABELS[*form], uid), (NAME_LABELS[*form], name)] {
            errors.extend(has_label(labels, key, value));
            expected.insert(key.to_owned(), value.into());
        }
    }
    let object = wire::at(spec, &["selector"]);
    let expected = Value::Object(expected);
    if LabelSelector::from_object(object).is_ok_and(|selector| !selector.matches(&expected)) {
        errors.push(FieldError::invalid("spec.selector", object.clone(), "`selector` not auto-generated"));
    }
    errors
}

fn has_label(labels: &Value, key: &str, value: &str) -> Option<FieldError> {
    const FIELD: &str = "spec.template.metadata.labels";
    if !wire::has(labels, key) {
        return Some(FieldError::required(format!("{FIELD}[{key}]"), format!("must be '{value}'")));
    }
    let wrong = wire::text(labels, key) != value;
    let shown = if labels.is_object() { labels.clone() } else { json!({}) };
    wrong.then(|| FieldError::invalid(format!("{FIELD}[{key}]"), shown, format!("must be '{value}'")))
}

#[cfg(test)]
mod tests;
