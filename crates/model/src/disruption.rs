//! PodDisruptionBudgets.

use serde_json::{Value, json};

use crate::meta::Checks;
use crate::workloads::{counts, rollout, start};
use crate::{Context, FieldError, Strategy, lifecycle, meta, names, selector, wire};

/// The strategy of PodDisruptionBudgets.
pub static POD_DISRUPTION_BUDGET: PodDisruptionBudget = PodDisruptionBudget;

/// Longest reason and message of a condition, in bytes.
const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

/// Counts of a status that are always told.
const COUNTS: [&str; 4] = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

/// See [`POD_DISRUPTION_BUDGET`].
#[derive(Clone, Copy, Debug)]
pub struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::child(new, "spec");
        start(new, &COUNTS);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let amounts = [wire::at(spec, &["minAvailable"]), wire::at(spec, &["maxUnavailable"])];
        let mut errors = Vec::new();
        if amounts.iter().all(|amount| !amount.is_null()) {
            let text = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid("spec", spec.clone(), text).shown_as(&[
                ("MinAvailable", amounts[0]),
                ("Selector", wire::at(spec, &["selector"])),
                ("MaxUnavailable", amounts[1]),
                ("UnhealthyPodEvictionPolicy", wire::at(spec, &["unhealthyPodEvictionPolicy"])),
            ]));
        }
        for (key, amount) in ["minAvailable", "maxUnavailable"].into_iter().zip(amounts) {
            let field = format!("spec.{key}");
            errors.extend(rollout::amount_errors(amount, &field));
            errors.extend(rollout::at_most_all(amount, &field));
        }
        errors.extend(selector::validate(wire::at(spec, &["selector"]), "spec.selector"));
        let policy = wire::text(spec, "unhealthyPodEvictionPolicy");
        const POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];
        if wire::has(spec, "unhealthyPodEvictionPolicy") && !POLICIES.contains(&policy) {
            errors.push(FieldError::not_supported("spec.unhealthyPodEvictionPolicy", policy, &POLICIES));
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let status = wire::at(new, &["status"]);
            let mut errors = validate_conditions(status, "status.conditions");
            errors.extend(counts(status, "status", &COUNTS));
            return errors;
        }
        self.validate_create(new, cx)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::NONE
    }
}

/// Says in the one condition that budgets have whether any of its pods may go; its time moves only with that.
pub fn set_disruption_condition(budget: &mut Value, now: &str) {
    const TYPE: &str = "DisruptionAllowed";
    let status = wire::child(budget, "status");
    let allowed = wire::int(status, "disruptionsAllowed").unwrap_or_default() > 0;
    let (value, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut condition = json!({
        "type": TYPE, "status": value, "reason": reason, "message": "", "lastTransitionTime": now,
    });
    wire::copy(&mut condition, status, "observedGeneration");
    let mut conditions = wire::list(status, "conditions").to_vec();
    match conditions.iter_mut().find(|one| wire::text(one, "type") == TYPE) {
        None => conditions.push(condition),
        Some(one) => {
            if wire::text(one, "status") == value {
                wire::copy(&mut condition, one, "lastTransitionTime");
            }
            *one = condition;
        }
    }
    wire::set(status, "conditions", conditions);
}

/// The errors of `metav1` conditions at `field`.
pub(crate) fn validate_conditions(status: &Value, field: &str) -> Vec<FieldError> {
    const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
    let mut errors = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    for (index, condition) in wire::list(status, "conditions").iter().enumerate() {
        let field = format!("{field}[{index}]");
        let text = |key: &str| wire::text(condition, key);
        if seen.insert(text("type"), index).is_some() {
            errors.push(FieldError::duplicate(format!("{field}.type"), text("type")));
        }
        errors.extend(names::check(names::qualified_name, format!("{field}.type"), text("type")));
        if !STATUSES.contains(&text("status")) {
            errors.push(FieldError::not_supported(format!("{field}.status"), text("status"), &STATUSES));
        }
        if let Some(generation) = wire::int(condition, "observedGeneration").filter(|number| *number < 0) {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(format!("{field}.observedGeneration"), generation, detail));
        }
        if !wire::has(condition, "lastTransitionTime") {
            errors.push(FieldError::required(format!("{field}.lastTransitionTime"), ""));
        }
        let at = format!("{field}.reason");
        match text("reason") {
            "" => errors.push(FieldError::required(at.as_str(), "")),
            reason => errors.extend(names::check(names::condition_reason, at.as_str(), reason)),
        }
        if text("reason").len() > REASON_MAX {
            errors.push(meta::too_long(at, REASON_MAX));
        }
        if text("message").len() > MESSAGE_MAX {
            errors.push(meta::too_long(format!("{field}.message"), MESSAGE_MAX));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
