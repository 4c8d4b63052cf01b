//! What a Job's policies make of its pods. Pure.

use dyad_model::Indexes;
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::pods::phase;

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One failure more.
    Count,
    /// Nothing: it is replaced and not counted.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// All of the Job has, and why.
    FailJob(String),
}

/// What the first rule that fits a failed pod says; without one, it counts.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let rules =
        job.spec.iter().filter_map(|spec| spec.pod_failure_policy.as_ref()).flat_map(|policy| &policy.rules);
    // A pod that is deleted may yet say how it ended.
    if phase(pod) != "Failed" {
        return Verdict::Count;
    }
    for (place, rule) in rules.enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {place}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// How a rule fits a pod.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let namespaced = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let status = pod.status.as_ref()?;
    if let Some(codes) = &rule.on_exit_codes {
        let all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let (container, code) = all.filter_map(|one| Some((one, exit_code(one, codes)?))).next()?;
        return Some(format!(
            "Container {} for pod {namespaced} failed with exit code {code}",
            container.name
        ));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let conditions = status.conditions.iter().flatten();
    let fitting = patterns.flat_map(|pattern| {
        let wanted = pattern.status.clone();
        let kind = pattern.type_.clone();
        conditions
            .clone()
            .filter(move |one| one.type_ == kind && one.status == wanted.as_deref().unwrap_or("True"))
    });
    let condition = fitting.into_iter().next()?;
    Some(format!("Pod {namespaced} has condition {}", condition.type_))
}

/// The exit code of a container, if it is one of those a rule is about.
fn exit_code(container: &ContainerStatus, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<i32> {
    if rule.container_name.as_ref().is_some_and(|name| *name != container.name) {
        return None;
    }
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = rule.values.contains(&code);
    let fits = code != 0 && if rule.operator == "In" { listed } else { !listed };
    fits.then_some(code)
}

/// Why enough indexes have succeeded, by the success policy.
pub(super) fn is_enough(job: &Job, succeeded: &Indexes) -> Option<String> {
    let spec = job.spec.as_ref()?;
    let completions = i64::from(spec.completions?);
    let rules = &spec.success_policy.as_ref()?.rules;
    let place = rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse_lenient(text, completions));
        let done = match &wanted {
            Some(wanted) => {
                i64::try_from(wanted.iter().filter(|one| succeeded.contains(*one)).count()).unwrap_or(0)
            }
            None => succeeded.len(),
        };
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => done >= i64::from(count),
            (None, Some(wanted)) => done >= wanted.len(),
            (None, None) => false,
        }
    })?;
    Some(format!("Matched rules at index {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: Value) -> Job {
        let mut all = json!({"template": {}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": all})).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1], "containerName": "main"}},
        ]}});
        let pod = |code: i32, name: &str, conditions: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "status": {
                "phase": "Failed", "conditions": conditions,
                "containerStatuses": [{"name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
                                       "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let rows = [
            (pod(42, "main", disrupted), Verdict::Ignore),
            (
                pod(42, "main", json!([])),
                Verdict::FailJob(
                    "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1"
                        .into(),
                ),
            ),
            (pod(3, "main", json!([])), Verdict::FailIndex),
            (pod(3, "other", json!([])), Verdict::Count),
            (pod(1, "main", json!([])), Verdict::Count),
        ];
        for (pod, wanted) in rows {
            assert_eq!(judge(&job(policy.clone()), &pod), wanted);
        }
    }

    #[test]
    fn enough_is_what_a_rule_says() {
        let policy = json!({"completions": 9, "successPolicy": {"rules": [
            {"succeededIndexes": "0,2-4", "succeededCount": 2}, {"succeededCount": 5}, {"succeededIndexes": "8"}]}});
        let met = |text: &str| is_enough(&job(policy.clone()), &Indexes::parse(text, 9).unwrap());
        assert_eq!(met("0,5"), None);
        assert_eq!(met("0,3").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(met("0,1,5-7").as_deref(), Some("Matched rules at index 1"));
        assert_eq!(met("8").as_deref(), Some("Matched rules at index 2"));
    }
}
