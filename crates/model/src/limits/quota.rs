//! ResourceQuotas.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{amount, is_quota_resource, resource_name};
use crate::{Context, FieldError, Strategy, lifecycle, names, wire};

/// The strategy of ResourceQuotas.
pub static RESOURCE_QUOTA: ResourceQuota = ResourceQuota;

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// See [`RESOURCE_QUOTA`].
#[derive(Clone, Copy, Debug)]
pub struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::child(new, "spec");
        wire::set(new, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        lifecycle::keep_other_half(new, old, cx);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let mut errors = amounts(spec, "hard", "spec.hard");
        let scopes: Vec<&str> = wire::texts(spec, "scopes").collect();
        let shown = wire::at(spec, &["scopes"]);
        let invalid = |text: &str| FieldError::invalid("spec.scopes", shown.clone(), text);
        for scope in &scopes {
            if !SCOPES.contains(scope) {
                errors.push(invalid("unsupported scope"));
            }
            let unfit =
                unfit_resources(spec, scope).map(|_| invalid("unsupported scope applied to resource"));
            errors.extend(unfit);
        }
        errors.extend(conflicting(&scopes).map(invalid));
        errors.extend(validate_selector(spec));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let status = wire::at(new, &["status"]);
            let mut errors = amounts(status, "hard", "status.hard");
            errors.extend(amounts(status, "used", "status.used"));
            return errors;
        }
        let mut errors = self.validate_create(new, cx);
        let scopes = |object| wire::texts(wire::at(object, &["spec"]), "scopes").collect::<BTreeSet<_>>();
        if scopes(new) != scopes(old) {
            let shown = wire::at(new, &["spec", "scopes"]).clone();
            errors.push(FieldError::invalid("spec.scopes", shown, "field is immutable"));
        }
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn amounts(owner: &Value, key: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, value) in wire::entries(owner, key) {
        let field = format!("{field}[{name}]");
        errors.extend(resource_name(name, &field));
        if !name.contains('/') && !is_quota_resource(name) {
            errors.push(FieldError::invalid(field.as_str(), name, "must be a standard resource for quota"));
        }
        errors.extend(amount(name, value, &field));
    }
    errors
}

/// The limited resources that a scope says nothing about.
fn unfit_resources<'a>(spec: &'a Value, scope: &'a str) -> impl Iterator<Item = &'a str> {
    let fits = move |name: &str| {
        let prefixed = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits."));
        match scope {
            "BestEffort" => name == "pods",
            "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
            "Terminating"
            | "NotTerminating"
            | "NotBestEffort"
            | "PriorityClass"
            | "CrossNamespacePodAffinity" => {
                name == "pods" || matches!(prefixed.unwrap_or(name), "cpu" | "memory")
            }
            _ => true,
        }
    };
    let limited = wire::entries(spec, "hard").map(|(name, _)| name);
    limited.filter(move |name| is_quota_resource(name) && !fits(name))
}

fn conflicting(scopes: &[&str]) -> impl Iterator<Item = &'static str> {
    let pairs = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    let both = pairs.into_iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count();
    std::iter::repeat_n("conflicting scopes", both)
}

fn validate_selector(spec: &Value) -> Vec<FieldError> {
    const FIELD: &str = "spec.scopeSelector.matchExpressions";
    let selector = wire::at(spec, &["scopeSelector"]);
    let mut errors = Vec::new();
    let mut scopes = Vec::new();
    for expression in wire::list(selector, "matchExpressions") {
        let (scope, operator) = (wire::text(expression, "scopeName"), wire::text(expression, "operator"));
        let at = |key: &str| format!("{FIELD}.{key}");
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(at("scopeName"), scope, "unsupported scope"));
        }
        errors.extend(unfit_resources(spec, scope).map(|_| {
            let text = "unsupported scope applied to resource";
            FieldError::invalid(FIELD, selector.clone(), text)
        }));
        let by_existence = !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && by_existence && operator != "Exists" {
            let text = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                        ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                        ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(at("operator"), operator, text));
        }
        let values = wire::at(expression, &["values"]);
        match operator {
            "In" | "NotIn" if wire::is_empty(values) => {
                let text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(at("values"), text));
            }
            "Exists" | "DoesNotExist" if !wire::is_empty(values) => {
                let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(at("values"), values.clone(), text));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let text = "not a valid selector operator";
                errors.push(FieldError::invalid(at("operator"), operator, text));
            }
        }
        scopes.push(scope);
    }
    let shown = wire::at(spec, &["scopes"]);
    errors.extend(conflicting(&scopes).map(|text| FieldError::invalid(FIELD, shown.clone(), text)));
    errors
}
