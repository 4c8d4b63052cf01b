//! What a Job's status may say, and how it may go on: what is over is over. Only what changes is checked.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Indexes;
use crate::workloads::counts;
use crate::{FieldError, wire};

fn is(status: &Value, condition: &str, value: &str) -> bool {
    wire::list(status, "conditions")
        .iter()
        .any(|one| wire::text(one, "type") == condition && wire::text(one, "status") == value)
}

fn is_true(status: &Value, condition: &str) -> bool {
    is(status, condition, "True")
}

fn is_finished(status: &Value) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

/// The errors of a changed status.
pub(super) fn validate_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let change = Change {
        spec: wire::at(new, &["spec"]),
        new: wire::at(new, &["status"]),
        old: wire::at(old, &["status"]),
    };
    change.numbers(&mut errors);
    change.ends(&mut errors);
    change.indexes(&mut errors);
    change.success(&mut errors);
    change.steps(&mut errors);
    errors
}

struct Change<'a> {
    spec: &'a Value,
    new: &'a Value,
    old: &'a Value,
}

/// An error of the conditions, which are not shown.
fn conditions(text: &str) -> FieldError {
    FieldError::invalid("status.conditions", Value::Null, text).without_value()
}

impl Change<'_> {
    fn changes(&self, key: &str) -> bool {
        !wire::same(self.new, self.old, key)
    }

    fn flips(&self, test: fn(&Value) -> bool) -> bool {
        test(self.new) != test(self.old)
    }

    fn count(&self, key: &str) -> i64 {
        wire::int(self.new, key).unwrap_or_default()
    }

    fn numbers(&self, errors: &mut Vec<FieldError>) {
        errors.extend(counts(self.new, "status", &["active", "succeeded", "failed", "ready", "terminating"]));
        let mut seen = BTreeSet::new();
        for list in ["succeeded", "failed"] {
            let uncounted = wire::at(self.new, &["uncountedTerminatedPods"]);
            for (index, uid) in wire::texts(uncounted, list).enumerate() {
                let field = format!("status.uncountedTerminatedPods.{list}[{index}]");
                if uid.is_empty() {
                    errors.push(FieldError::invalid(field, uid, "must not be empty"));
                } else if !seen.insert(uid) {
                    errors.push(FieldError::duplicate(field, uid));
                }
            }
        }
    }

    /// How a Job ends, and what is then no longer there.
    fn ends(&self, errors: &mut Vec<FieldError>) {
        let status = self.new;
        let (complete, failed) = (is_true(status, "Complete"), is_true(status, "Failed"));
        let finished = is_finished(status);
        let completes = self.flips(|status| is_true(status, "Complete"));
        let fails = self.flips(|status| is_true(status, "Failed"));
        let finishes = self.flips(is_finished);
        let targets = self.flips(|status| is_true(status, "FailureTarget"));
        let succeeds = self.flips(|status| is_true(status, "SuccessCriteriaMet"));
        let (start, end) = (wire::at(status, &["startTime"]), wire::at(status, &["completionTime"]));
        let timed = completes || self.changes("completionTime");
        if (completes || fails) && complete && failed {
            errors.push(conditions("cannot set Complete=True and Failed=true conditions"));
        }
        if (completes || targets) && complete && is_true(status, "FailureTarget") {
            errors.push(conditions("cannot set Complete=True and FailureTarget=true conditions"));
        }
        if timed && !end.is_null() && !complete {
            let text = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid("status.completionTime", end.clone(), text));
        }
        if timed && end.is_null() && complete {
            let text = "completionTime is required for Complete jobs";
            errors.push(FieldError::required("status.completionTime", text));
        }
        // Times in one form and zone compare as texts.
        if (self.changes("startTime") || self.changes("completionTime"))
            && let (Some(start), Some(end_text)) = (start.as_str(), end.as_str())
            && end_text < start
        {
            let text = "must be equal to or after `startTime`";
            errors.push(FieldError::invalid("status.completionTime", end.clone(), text));
        }
        if (fails || self.changes("failedIndexes")) && failed && !is_true(status, "FailureTarget") {
            errors.push(conditions(
                "cannot set Failed=True condition without the FailureTarget=true condition",
            ));
        }
        if (completes || succeeds) && complete && !is_true(status, "SuccessCriteriaMet") {
            errors.push(conditions(
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ));
        }
        if (finishes || self.changes("active")) && self.count("active") > 0 && finished {
            let text = "active>0 is invalid for finished job";
            errors.push(FieldError::invalid("status.active", self.count("active"), text));
        }
        let never_ran = wire::flag(self.spec, "suspend") && wire::int(self.spec, "completions") == Some(0);
        if (finishes || self.changes("startTime")) && !never_ran && start.is_null() && finished {
            errors.push(FieldError::required("status.startTime", "startTime is required for finished job"));
        }
        let uncounted = wire::at(status, &["uncountedTerminatedPods"]);
        if (finishes || self.changes("uncountedTerminatedPods")) && finished && !wire::is_empty(uncounted) {
            let text = "must be empty for finished job";
            errors.push(
                FieldError::invalid("status.uncountedTerminatedPods", uncounted.clone(), text).shown_as(&[
                    ("Succeeded", wire::at(uncounted, &["succeeded"])),
                    ("Failed", wire::at(uncounted, &["failed"])),
                ]),
            );
        }
    }

    fn indexes(&self, errors: &mut Vec<FieldError>) {
        let completions = wire::int(self.spec, "completions");
        let done = wire::text(self.new, "completedIndexes");
        let failed = wire::at(self.new, &["failedIndexes"]).as_str();
        let (done_changes, failed_changes) =
            (self.changes("completedIndexes"), self.changes("failedIndexes"));
        let limited = wire::has(self.spec, "backoffLimitPerIndex");
        let parse = |text: &str| Indexes::parse(text, completions.unwrap_or_default());
        let mut invalid = |key: &str, text: &str, why: String| {
            errors.push(FieldError::invalid(format!("status.{key}"), text, why))
        };
        if done_changes
            && completions.is_some()
            && let Err(error) = parse(done)
        {
            invalid("completedIndexes", done, format!("error parsing completedIndexes: {error}"));
        }
        if failed_changes
            && completions.is_some()
            && limited
            && let Some(failed) = failed
            && let Err(error) = parse(failed)
        {
            invalid("failedIndexes", failed, format!("error parsing failedIndexes: {error}"));
        }
        if done_changes && !done.is_empty() && wire::text(self.spec, "completionMode") != "Indexed" {
            let text = "cannot set non-empty completedIndexes when non-indexed completion mode";
            invalid("completedIndexes", done, text.to_owned());
        }
        let Some(failed) = failed else { return };
        if failed_changes && !limited {
            let text = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            invalid("failedIndexes", failed, text.to_owned());
        }
        if (done_changes || failed_changes)
            && let Some(completions) = completions
        {
            let read = |text| Indexes::parse_lenient(text, completions);
            if let Some(index) = read(done).overlap(&read(failed)) {
                let text = format!("failedIndexes and completedIndexes overlap at index: {index}");
                invalid("failedIndexes", failed, text);
            }
        }
    }

    fn success(&self, errors: &mut Vec<FieldError>) {
        let status = self.new;
        let terminating = self.count("terminating");
        if (self.flips(is_finished) || self.changes("terminating")) && terminating > 0 && is_finished(status)
        {
            let text = "terminating>0 is invalid for finished job";
            errors.push(FieldError::invalid("status.terminating", terminating, text));
        }
        if (self.changes("ready") || self.changes("active")) && self.count("ready") > self.count("active") {
            let text = "cannot set more ready pods than active";
            errors.push(FieldError::invalid("status.ready", self.count("ready"), text));
        }
        let met = is_true(status, "SuccessCriteriaMet");
        if met && is_true(status, "Failed") {
            errors.push(conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions"));
        }
        if met && is_true(status, "FailureTarget") {
            errors.push(conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"));
        }
        if wire::has(self.spec, "successPolicy") && !met && is_true(status, "Complete") {
            errors.push(conditions(
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ));
        }
    }

    /// What does not go back.
    fn steps(&self, errors: &mut Vec<FieldError>) {
        for condition in ["Failed", "Complete", "FailureTarget"] {
            if is_true(self.old, condition) && !is_true(self.new, condition) {
                errors.push(conditions(&format!("cannot disable the terminal {condition}=True condition")));
            }
        }
        // An Indexed Job may be made smaller.
        let shrinks = wire::text(self.spec, "completionMode") == "Indexed"
            && wire::int(self.spec, "completions") == wire::int(self.spec, "parallelism");
        for (key, may_decrease) in [("failed", false), ("succeeded", shrinks)] {
            let before = wire::int(self.old, key).unwrap_or_default();
            if !may_decrease && self.count(key) < before {
                let text = format!("cannot decrease the {key} counter");
                errors.push(FieldError::invalid(format!("status.{key}"), self.count(key), text));
            }
        }
        let (end, old_end) =
            (wire::at(self.new, &["completionTime"]), wire::at(self.old, &["completionTime"]));
        if !end.is_null() && !old_end.is_null() && end != old_end {
            errors.push(FieldError::invalid("status.completionTime", end.clone(), "field is immutable"));
        }
        let resumes = is_true(self.old, "Suspended") && is(self.new, "Suspended", "False");
        let started = wire::has(self.old, "startTime") && self.changes("startTime");
        if started && !resumes && !wire::flag(self.spec, "suspend") {
            let start = wire::at(self.new, &["startTime"]).clone();
            let text = "field is immutable for unsuspended job once set";
            errors.push(FieldError::invalid("status.startTime", start, text));
        }
        let (met, was_met) =
            (is_true(self.new, "SuccessCriteriaMet"), is_true(self.old, "SuccessCriteriaMet"));
        if was_met && !met {
            errors.push(conditions("cannot disable the SuccessCriteriaMet=True condition"));
        }
        if is_true(self.old, "Complete") && !was_met && met {
            errors.push(conditions(
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
            ));
        }
    }
}
