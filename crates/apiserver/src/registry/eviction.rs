//! `pods/eviction` (J55): a deletion that a PodDisruptionBudget may put off.

use dyad_model::selector::LabelSelector;
use serde_json::{Value, json};

use super::Registry;
use super::body::Body;
use super::options::{DeleteOptions, WriteOptions};
use super::update::Compute;
use super::values;
use super::write::{Scope, meta_text};
use crate::http::query::Query;
use crate::status::{About, ApiError};

/// Most evictions that a budget's controller may not have seen yet.
const UNSEEN_MAX: usize = 2000;

/// How often an eviction starts over because somebody else wrote the pod or the budget.
const ATTEMPTS: usize = 20;

/// What an eviction has to do with budgets.
enum Budget {
    /// None has a say.
    None,
    /// The pod may go as long as it is what it was: it does no good where it is.
    Unhealthy(String),
    /// The pod was counted.
    Counted,
}

impl Registry {
    /// Deletes a pod as its Eviction says, if its budget allows it.
    pub(crate) async fn evict(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let kind = ("policy", "v1", "Eviction");
        let eviction = body.decode_about(scope.name, kind, options.field_validation, warnings)?;
        let given = match &eviction["deleteOptions"] {
            Value::Null => json!({}),
            given => given.clone(),
        };
        let mut delete = DeleteOptions::parse(&Query::default(), &given)?;
        delete.dry_run |= options.dry_run;
        if scope.user.node().is_some() {
            let pod = self.pod_of_node(scope.namespace, scope.name)?;
            scope.check_node(self, Some(&pod.value()), Some(&eviction))?;
        }
        let scope = Scope { subresource: "", ..scope };
        for _ in 0..ATTEMPTS {
            match self.try_evict(scope, &delete).await {
                // Whoever demands a version is told when it has passed.
                Err(error) if error.reason() == "Conflict" && delete.resource_version.is_none() => {}
                result => return result,
            }
        }
        Err(ApiError::conflict(scope.about(), "too many others write the object at the same time; try again"))
    }

    async fn try_evict(&self, scope: Scope<'_>, options: &DeleteOptions) -> Result<(), ApiError> {
        let stored = self.get(scope, None).await?;
        let pod = stored.value();
        let mut guarded = options.clone();
        let budget = match guards_nothing(&pod) {
            true => Budget::None,
            false => self.ask_budget(scope, &pod, options.dry_run).await?,
        };
        let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let is_going = !pod["metadata"]["deletionTimestamp"].is_null();
        let as_it_was = match budget {
            Budget::None => guards_nothing(&pod) && !is_over && !is_going,
            Budget::Unhealthy(_) => true,
            Budget::Counted => false,
        };
        if as_it_was && guarded.resource_version.is_none() {
            guarded.resource_version = Some(stored.rev.to_string());
        }
        let result = self.mark_and_delete(scope, &guarded).await;
        match (result, budget) {
            (Err(error), Budget::Unhealthy(name))
                if error.reason() == "Conflict" && options.resource_version.is_none() =>
            {
                Err(ApiError::budget_not_known(&name))
            }
            (result, _) => result,
        }
    }

    /// Says on the pod why it goes, and deletes it.
    async fn mark_and_delete(&self, scope: Scope<'_>, options: &DeleteOptions) -> Result<(), ApiError> {
        let mut options = options.clone();
        if !options.dry_run {
            let (wanted_uid, wanted_rev) = (options.uid.clone(), options.resource_version.clone());
            let mark = |pod: &mut Value| {
                let differs = |key: &str, wanted: &Option<String>| {
                    wanted.as_deref().is_some_and(|wanted| wanted != meta_text(pod, key))
                };
                for (key, label, wanted) in
                    [("uid", "UID", &wanted_uid), ("resourceVersion", "ResourceVersion", &wanted_rev)]
                {
                    if differs(key, wanted) {
                        let what = if key == "uid" { "deleted and then recreated" } else { "modified" };
                        return Err(ApiError::not_meant(
                            scope.about(),
                            &format!(
                                "the {label} in the precondition ({}) does not match the {label} in record ({}). The \
                                 object might have been {what}",
                                wanted.as_deref().unwrap_or_default(),
                                meta_text(pod, key)
                            ),
                        ));
                    }
                }
                set_disruption(pod);
                Ok(())
            };
            let status = Scope { subresource: "status", verb: "update", ..scope };
            let unchecked = WriteOptions::default();
            let written = self.update(status, Compute::Owned(&mark), &unchecked, &mut Vec::new()).await?;
            if options.resource_version.is_some() {
                options.resource_version = Some(written.stored.rev.to_string());
            }
        }
        self.delete(scope, &options).await?;
        Ok(())
    }

    /// Counts a pod against the budget that it has.
    async fn ask_budget(&self, scope: Scope<'_>, pod: &Value, dry_run: bool) -> Result<Budget, ApiError> {
        let labels = &pod["metadata"]["labels"];
        let mut budgets = self.objects("policy", "PodDisruptionBudget", scope.namespace);
        budgets.retain(|budget| {
            LabelSelector::from_object(&budget["spec"]["selector"])
                .is_ok_and(|selector| selector.matches(labels))
        });
        if budgets.len() > 1 {
            return Err(ApiError::unknown(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        let Some(budget) = budgets.pop() else { return Ok(Budget::None) };
        let name = meta_text(&budget, "name").to_owned();
        if !is_ready(pod) {
            let count = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
            let (healthy, wanted) = (count("currentHealthy"), count("desiredHealthy"));
            let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
            if always || (healthy >= wanted && wanted > 0) {
                return Ok(Budget::Unhealthy(name));
            }
        }
        let served = self.builtin_served("policy", "poddisruptionbudgets");
        let status = Scope { served, name: &name, subresource: "status", verb: "update", ..scope };
        let now = values::now();
        let count = |budget: &mut Value| count_disruption(budget, scope.name, &now);
        let options = WriteOptions { dry_run, ..WriteOptions::default() };
        self.update(status, Compute::Owned(&count), &options, &mut Vec::new()).await?;
        Ok(Budget::Counted)
    }
}

/// Whether a pod is one that no budget counts: it does not run, or not for much longer.
fn guards_nothing(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || !pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Takes one from what a budget allows, and notes for whom; refuses if nothing is left.
fn count_disruption(budget: &mut Value, pod: &str, now: &str) -> Result<(), ApiError> {
    let name = meta_text(budget, "name").to_owned();
    let status = &budget["status"];
    let count = |key: &str| status[key].as_i64().unwrap_or(0);
    if count("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(ApiError::budget_not_known(&name));
    }
    let about =
        About { group: "policy", resource: "poddisruptionbudget", kind: "PodDisruptionBudget", name: &name };
    if count("disruptionsAllowed") < 0 {
        return Err(ApiError::forbidden(about, "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().map_or(0, serde_json::Map::len) > UNSEEN_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(about, why));
    }
    if count("disruptionsAllowed") == 0 {
        return Err(ApiError::budget_spent(&why_not(&name, status)));
    }
    let left = count("disruptionsAllowed") - 1;
    budget["status"]["disruptionsAllowed"] = left.into();
    budget["status"]["disruptedPods"][pod] = now.into();
    if left == 0 {
        dyad_model::set_disruption_condition(budget, now);
    }
    Ok(())
}

fn why_not(name: &str, status: &Value) -> String {
    let count = |key: &str| status[key].as_i64().unwrap_or(0);
    let (healthy, wanted) = (count("currentHealthy"), count("desiredHealthy"));
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let condition = conditions.into_iter().find(|one| one["type"] == "DisruptionAllowed");
    let text = |key: &str| condition.and_then(|one| one[key].as_str()).unwrap_or_default();
    let told = text("status") == "False" && !text("message").is_empty();
    if told && text("reason") == "SyncFailed" {
        let message = text("message");
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        );
    }
    if healthy <= wanted {
        return format!(
            "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        );
    }
    if told {
        let (reason, message) = (text("reason"), text("message"));
        return format!(
            "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
        );
    }
    format!("The disruption budget {name} does not allow evicting pods currently")
}

/// Says on a pod that it goes because somebody evicted it.
fn set_disruption(pod: &mut Value) {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": values::now(),
        "observedGeneration": pod["metadata"]["generation"],
    });
    let conditions = &mut pod["status"]["conditions"];
    match conditions.as_array_mut() {
        None => *conditions = json!([condition]),
        Some(list) => match list.iter_mut().find(|one| one["type"] == "DisruptionTarget") {
            None => list.push(condition),
            Some(one) if one["status"] == "True" => {
                one["reason"] = condition["reason"].clone();
                one["message"] = condition["message"].clone();
            }
            Some(one) => *one = condition,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": status})
    }

    #[test]
    fn a_budget_says_what_it_lacks() {
        let spent = |extra: Value| {
            let mut status = json!({"observedGeneration": 2, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2});
            status.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            status
        };
        let told = |reason: &str| {
            json!({"currentHealthy": 3, "conditions": [
                {"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": "m"}]})
        };
        #[rustfmt::skip]
        let rows = [
            (json!({"observedGeneration": 1}), 429, "The disruption budget b is still being processed by the server."),
            (spent(json!({})), 429, "The disruption budget b needs 2 healthy pods and has 2 currently"),
            (spent(told("SyncFailed")), 429, "The disruption budget b does not allow evicting pods currently because it failed sync: m"),
            (spent(told("Other")), 429, "The disruption budget b does not allow evicting pods currently (Other): m"),
            (spent(json!({"currentHealthy": 3})), 429, "The disruption budget b does not allow evicting pods currently"),
            (spent(json!({"disruptionsAllowed": -1})), 403, ""),
        ];
        for (status, code, cause) in rows {
            let error = count_disruption(&mut budget(status), "p", "now").unwrap_err();
            let answer: Value = serde_json::from_slice(&error.to_json()).unwrap();
            assert_eq!(answer["code"], code, "{answer}");
            if !cause.is_empty() {
                assert_eq!(answer["details"]["causes"][0]["message"], cause);
                assert_eq!(answer["details"]["causes"][0]["reason"], "DisruptionBudget");
            }
        }
    }

    #[test]
    fn a_pod_is_counted_once() {
        let status = json!({"observedGeneration": 2, "disruptionsAllowed": 2, "currentHealthy": 4, "desiredHealthy": 2});
        let mut budget = budget(status);
        count_disruption(&mut budget, "p", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(budget["status"]["disruptionsAllowed"], 1);
        assert_eq!(budget["status"]["disruptedPods"], json!({"p": "2026-01-01T00:00:00Z"}));
        count_disruption(&mut budget, "q", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(budget["status"]["conditions"][0]["status"], "False");
        assert!(count_disruption(&mut budget, "r", "2026-01-01T00:00:00Z").is_err());
    }
}
