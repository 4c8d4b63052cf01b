//! HorizontalPodAutoscalers. They are kept and checked; nothing here scales by them.

use serde_json::{Value, json};

use crate::workloads::counts;
use crate::{Context, FieldError, Strategy, lifecycle, names, quantity::Quantity, wire};

/// The strategy of HorizontalPodAutoscalers.
pub static HORIZONTAL_POD_AUTOSCALER: HorizontalPodAutoscaler = HorizontalPodAutoscaler;

/// How busy CPUs should be where nothing else is said, in percent.
const UTILIZATION: u32 = 80;
const PERIOD_MAX: i64 = 1800;
const WINDOW_MAX: i64 = 3600;

/// Where a metric comes from: its type and the field that goes with it.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// See [`HORIZONTAL_POD_AUTOSCALER`].
#[derive(Clone, Copy, Debug)]
pub struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        wire::default(spec, "minReplicas", 1);
        if wire::list(spec, "metrics").is_empty() {
            let target = json!({"type": "Utilization", "averageUtilization": UTILIZATION});
            let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
            wire::set(spec, "metrics", vec![metric]);
        }
        if wire::has(spec, "behavior") {
            let behavior = wire::child(spec, "behavior");
            default_rules(wire::child(behavior, "scaleUp"), true);
            default_rules(wire::child(behavior, "scaleDown"), false);
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::set(new, "status", json!({"desiredReplicas": 0, "currentMetrics": null}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        lifecycle::keep_other_half(new, old, cx);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let mut errors = validate_replicas(spec);
        let target = wire::at(spec, &["scaleTargetRef"]);
        errors.extend(validate_reference(target, "spec.scaleTargetRef", true));
        let metrics = wire::list(spec, "metrics");
        for (index, metric) in metrics.iter().enumerate() {
            errors.extend(validate_metric(metric, &format!("spec.metrics[{index}]")));
        }
        let counts_others = |metric: &Value| matches!(wire::text(metric, "type"), "Object" | "External");
        if wire::int(spec, "minReplicas") == Some(0) && !metrics.iter().any(counts_others) {
            let text =
                "must specify at least one Object or External metric to support scaling to zero replicas";
            errors.push(FieldError::forbidden("spec.metrics", text));
        }
        for key in ["scaleUp", "scaleDown"] {
            let rules = wire::at(spec, &["behavior", key]);
            if !rules.is_null() {
                errors.extend(validate_rules(rules, &format!("spec.behavior.{key}")));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            let status = wire::at(new, &["status"]);
            return counts(status, "status", &["currentReplicas", "desiredReplicas"]);
        }
        self.validate_create(new, cx)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn default_rules(rules: &mut Value, up: bool) {
    wire::default(rules, "selectPolicy", "Max");
    if up {
        wire::default(rules, "stabilizationWindowSeconds", 0);
    }
    if !wire::has(rules, "policies") {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        wire::set(rules, "policies", if up { vec![pods, percent] } else { vec![percent] });
    }
}

fn validate_replicas(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (least, most) = (wire::int(spec, "minReplicas"), wire::int(spec, "maxReplicas").unwrap_or_default());
    let at_least = |key: &str, value: i64| {
        FieldError::invalid(format!("spec.{key}"), value, "must be greater than or equal to 1")
    };
    if let Some(least) = least.filter(|least| *least < 1) {
        errors.push(at_least("minReplicas", least));
    }
    if most == 0 {
        errors.push(FieldError::required("spec.maxReplicas", "must be set and greater than 0"));
    } else if most < 0 {
        errors.push(at_least("maxReplicas", most));
    }
    if least.is_some_and(|least| most < least) {
        let text = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid("spec.maxReplicas", most, text));
    }
    errors
}

fn validate_reference(reference: &Value, field: &str, grouped: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["kind", "name"] {
        let at = format!("{field}.{key}");
        match wire::text(reference, key) {
            "" => errors.push(FieldError::required(at, "")),
            value => errors.extend(names::check(names::path_segment, at, value)),
        }
    }
    let version = wire::text(reference, "apiVersion");
    let text = match version.matches('/').count() {
        0 if grouped => "apiVersion must specify API group".to_owned(),
        0 | 1 => return errors,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.push(FieldError::invalid(format!("{field}.apiVersion"), version, text));
    errors
}

fn validate_metric(metric: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = wire::text(metric, "type");
    let at = format!("{field}.type");
    let known = SOURCES.iter().find(|(name, _)| *name == kind);
    let names = SOURCES.map(|(name, _)| name);
    if kind.is_empty() {
        errors.push(FieldError::required(at.as_str(), "must specify a metric source type"));
    }
    if known.is_none() {
        errors.push(FieldError::not_supported(at.as_str(), kind, &names));
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, key)| *key).filter(|key| wire::has(metric, key)).collect();
    if let Some(first) = present.first() {
        errors.extend(validate_source(wire::at(metric, &[first]), first, &format!("{field}.{first}")));
    }
    match known {
        None => errors.push(FieldError::not_supported(at, kind, &names)),
        Some((_, expected)) if !wire::has(metric, expected) => {
            let text = "must populate information for the given metric source";
            errors.push(FieldError::required(format!("{field}.{expected}"), text));
        }
        Some(_) => {}
    }
    if present.len() != 1 {
        let expected = known.map_or("", |(_, key)| key);
        let others = present.into_iter().filter(|key| *key != expected);
        errors.extend(others.map(|key| {
            FieldError::forbidden(format!("{field}.{key}"), "must populate the given metric source only")
        }));
    }
    errors
}

fn validate_source(source: &Value, key: &str, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let target = wire::at(source, &["target"]);
    let has = |key: &str| wire::has(target, key);
    let at = |key: &str| format!("{field}.target.{key}");
    let named = |errors: &mut Vec<FieldError>, key: &str, what: &str, rule: Option<names::Rule>| {
        let at = format!("{field}.{key}");
        match (wire::text(source, key), rule) {
            ("", _) => errors.push(FieldError::required(at, format!("must specify a {what}"))),
            (name, Some(rule)) => errors.extend(names::check(rule, at, name)),
            _ => {}
        }
    };
    if key == "object" {
        let object = wire::at(source, &["describedObject"]);
        errors.extend(validate_reference(object, &format!("{field}.describedObject"), false));
    }
    match key {
        "resource" => named(&mut errors, "name", "resource name", None),
        "containerResource" => {
            named(&mut errors, "name", "resource name", None);
            named(&mut errors, "container", "container", Some(names::dns1123_label));
        }
        _ => {
            let name = format!("{field}.metric.name");
            match wire::text(wire::at(source, &["metric"]), "name") {
                "" => errors.push(FieldError::required(name, "must specify a metric name")),
                value => errors.extend(names::check(names::path_segment, name, value)),
            }
        }
    }
    errors.extend(validate_target(target, &format!("{field}.target")));
    match key {
        "object" if !has("value") && !has("averageValue") => {
            let text = "must set either a target value or averageValue";
            errors.push(FieldError::required(at("averageValue"), text));
        }
        "external" if !has("value") && !has("averageValue") => {
            let text = "must set either a target value for metric or a per-pod target";
            errors.push(FieldError::required(at("averageValue"), text));
        }
        "external" if has("value") && has("averageValue") => {
            let text = "may not set both a target value for metric and a per-pod target";
            errors.push(FieldError::forbidden(at("value"), text));
        }
        "pods" if !has("averageValue") => {
            let text = "must specify a positive target averageValue";
            errors.push(FieldError::required(at("averageValue"), text));
        }
        "resource" | "containerResource" if !has("averageUtilization") && !has("averageValue") => {
            let text = "must set either a target raw value or a target utilization";
            errors.push(FieldError::required(at("averageUtilization"), text));
        }
        "resource" | "containerResource" if has("averageUtilization") && has("averageValue") => {
            let text = "may not set both a target raw value and a target utilization";
            errors.push(FieldError::forbidden(at("averageValue"), text));
        }
        _ => {}
    }
    errors
}

fn validate_target(target: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = wire::text(target, "type");
    let at = format!("{field}.type");
    if kind.is_empty() {
        errors.push(FieldError::required(at.as_str(), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let text = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(at, kind, text));
    }
    for key in ["value", "averageValue"] {
        let value = wire::at(target, &[key]);
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if Quantity::parse(&text).is_some_and(|quantity| !quantity.is_positive()) {
            errors.push(FieldError::invalid(format!("{field}.{key}"), value.clone(), "must be positive"));
        }
    }
    if let Some(percent) = wire::int(target, "averageUtilization").filter(|percent| *percent < 1) {
        let field = format!("{field}.averageUtilization");
        errors.push(FieldError::invalid(field, percent, "must be greater than 0"));
    }
    errors
}

fn validate_rules(rules: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let within = |owner: &Value, field: &str, key: &str, low: i64, high: i64| {
        let value = wire::int(owner, key)?;
        let text = match value {
            value if value < low && low == 0 => "must be greater than or equal to zero".to_owned(),
            value if value < low => "must be greater than zero".to_owned(),
            value if value > high => format!("must be less than or equal to {high}"),
            _ => return None,
        };
        Some(FieldError::invalid(format!("{field}.{key}"), value, text))
    };
    errors.extend(within(rules, field, "stabilizationWindowSeconds", 0, WINDOW_MAX));
    let select = wire::text(rules, "selectPolicy");
    if wire::has(rules, "selectPolicy") && !matches!(select, "Max" | "Min" | "Disabled") {
        let known = ["Disabled", "Max", "Min"];
        errors.push(FieldError::not_supported(format!("{field}.selectPolicy"), select, &known));
    }
    let policies = wire::list(rules, "policies");
    if policies.is_empty() {
        errors.push(FieldError::required(format!("{field}.policies"), "must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        let field = format!("{field}.policies[{index}]");
        let kind = wire::text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.push(FieldError::not_supported(format!("{field}.type"), kind, &["Percent", "Pods"]));
        }
        errors.extend(within(policy, &field, "value", 1, i64::from(i32::MAX)));
        errors.extend(within(policy, &field, "periodSeconds", 1, PERIOD_MAX));
    }
    let tolerance = wire::at(rules, &["tolerance"]);
    let text = tolerance.as_str().map_or_else(|| tolerance.to_string(), str::to_owned);
    if Quantity::parse(&text).is_some_and(Quantity::is_negative) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("{field}.tolerance"), text, detail));
    }
    errors
}

#[cfg(test)]
mod tests;
