use std::collections::BTreeSet;

use serde_json::Value;

use crate::{FieldError, names, selector, wire};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The errors of tolerations at `list`.
pub(crate) fn validate_tolerations(tolerations: &[Value], list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        let field = format!("{list}[{index}]");
        let text = |key: &str| wire::text(toleration, key);
        let (key, operator, value, effect) = (text("key"), text("operator"), text("value"), text("effect"));
        let operator_field = format!("{field}.operator");
        if !key.is_empty() {
            errors.extend(names::check(names::qualified_name, format!("{field}.key"), key));
        } else if operator != "Exists" {
            let text =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(operator_field.as_str(), operator, text));
        }
        if wire::has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(format!("{field}.effect"), effect, text));
        }
        match operator {
            "" | "Equal" => {
                let problems = names::label_value(value);
                if !problems.is_empty() {
                    errors.push(FieldError::invalid(operator_field, value, problems.join(";")));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let text = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(operator_field, value, text));
            }
            "Lt" | "Gt" => {
                let known = ["Equal", "Exists", "Lt", "Gt"];
                errors.push(FieldError::not_supported(operator_field, operator, &known));
            }
            _ => errors.push(FieldError::not_supported(operator_field, operator, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            errors.extend(validate_effect(effect, &field));
        }
    }
    errors
}

/// The errors of a node's taints at `list`.
pub(crate) fn validate_taints(taints: &[Value], list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let field = format!("{list}[{index}]");
        let (key, value, effect) =
            (wire::text(taint, "key"), wire::text(taint, "value"), wire::text(taint, "effect"));
        errors.extend(names::check(names::qualified_name, format!("{field}.key"), key));
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(format!("{field}.value"), value, problems.join(";")));
        }
        if effect.is_empty() {
            errors.push(FieldError::required(format!("{field}.effect"), ""));
        } else {
            errors.extend(validate_effect(effect, &field));
        }
        if !seen.insert((effect, key)) {
            let mut error = FieldError::duplicate(field, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

fn validate_effect(effect: &str, field: &str) -> Option<FieldError> {
    let known = EFFECTS.contains(&effect);
    (!known).then(|| FieldError::not_supported_in_order(format!("{field}.effect"), effect, &EFFECTS))
}

/// The errors of `schedulingGates`.
pub(super) fn validate_gates(spec: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, gate) in wire::list(spec, "schedulingGates").iter().enumerate() {
        let (field, name) = (format!("{list}[{index}]"), wire::text(gate, "name"));
        errors.extend(names::check(names::qualified_name, field.as_str(), name));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(field, name));
        }
    }
    errors
}

/// The errors of `topologySpreadConstraints`.
pub(super) fn validate_spread(spec: &Value, list: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let constraints = wire::list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let field = format!("{list}[{index}]");
        let positive = |key: &str, number: i64| {
            let text = "must be greater than zero";
            (number <= 0).then(|| FieldError::invalid(format!("{field}.{key}"), number, text))
        };
        errors.extend(positive("maxSkew", wire::int(constraint, "maxSkew").unwrap_or_default()));
        let (key, action) =
            (wire::text(constraint, "topologyKey"), wire::text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(FieldError::required(format!("{field}.topologyKey"), "can not be empty"));
        } else {
            errors.extend(names::check(names::qualified_name, format!("{field}.topologyKey"), key));
        }
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let known = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(FieldError::not_supported(format!("{field}.whenUnsatisfiable"), action, &known));
        }
        let same =
            |key: &str| constraints[index + 1..].iter().any(|later| wire::same(later, constraint, key));
        if same("topologyKey") && same("whenUnsatisfiable") {
            let pair = format!("{{{key}, {action}}}");
            errors.push(FieldError::duplicate(format!("{field}.{{topologyKey, whenUnsatisfiable}}"), pair));
        }
        if let Some(domains) = wire::int(constraint, "minDomains") {
            errors.extend(positive("minDomains", domains));
            if action != "DoNotSchedule" {
                let text =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.push(FieldError::invalid(format!("{field}.minDomains"), domains, text));
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = wire::text(constraint, key);
            if !matches!(policy, "" | "Honor" | "Ignore") {
                errors.push(FieldError::not_supported(
                    format!("{field}.{key}"),
                    policy,
                    &["Honor", "Ignore"],
                ));
            }
        }
        if !wire::has(constraint, "labelSelector") && !wire::list(constraint, "matchLabelKeys").is_empty() {
            let text = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(format!("{field}.matchLabelKeys"), text));
        }
        errors.extend(selector::validate(
            wire::at(constraint, &["labelSelector"]),
            &format!("{field}.labelSelector"),
        ));
    }
    errors
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// The errors of `affinity`.
pub(super) fn validate_affinity(affinity: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let node = wire::at(affinity, &["nodeAffinity"]);
    let node_field = format!("{field}.nodeAffinity");
    if wire::has(node, REQUIRED) {
        errors
            .extend(validate_node_selector(wire::at(node, &[REQUIRED]), &format!("{node_field}.{REQUIRED}")));
    }
    for (index, term) in wire::list(node, PREFERRED).iter().enumerate() {
        let field = format!("{node_field}.{PREFERRED}[{index}]");
        errors.extend(weight(term, &field));
        errors.extend(node_term(wire::at(term, &["preference"]), &format!("{field}.preference")));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = wire::at(affinity, &[kind]);
        for (index, term) in wire::list(pods, REQUIRED).iter().enumerate() {
            errors.extend(pod_term(term, &format!("{field}.{kind}.{REQUIRED}[{index}]")));
        }
        for (index, term) in wire::list(pods, PREFERRED).iter().enumerate() {
            let field = format!("{field}.{kind}.{PREFERRED}[{index}]");
            errors.extend(weight(term, &field));
            errors
                .extend(pod_term(wire::at(term, &["podAffinityTerm"]), &format!("{field}.podAffinityTerm")));
        }
    }
    errors
}

/// The errors of a selector of nodes.
pub(crate) fn validate_node_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let list = format!("{field}.nodeSelectorTerms");
    let terms = wire::list(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        return vec![FieldError::required(list, "must have at least one node selector term")];
    }
    let terms = terms.iter().enumerate();
    terms.flat_map(|(index, term)| node_term(term, &format!("{list}[{index}]"))).collect()
}

fn weight(term: &Value, field: &str) -> Option<FieldError> {
    let weight = wire::int(term, "weight").unwrap_or_default();
    let fits = (1..=100).contains(&weight);
    (!fits).then(|| FieldError::invalid(format!("{field}.weight"), weight, "must be in the range 1-100"))
}

/// The one field of nodes that can be selected is their name, and one name at a time.
fn node_field(requirement: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (key, operator) = (wire::text(requirement, "key"), wire::text(requirement, "operator"));
    if !matches!(operator, "In" | "NotIn") {
        let text = "not a valid selector operator";
        errors.push(FieldError::invalid(format!("{field}.operator"), operator, text));
    } else if wire::list(requirement, "values").len() != 1 {
        let text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        errors.push(FieldError::required(format!("{field}.values"), text));
    }
    if key == "metadata.name" {
        for (index, name) in wire::texts(requirement, "values").enumerate() {
            errors.extend(names::check(names::dns1123_subdomain, format!("{field}.values[{index}]"), name));
        }
    } else {
        errors.push(FieldError::invalid(format!("{field}.key"), key, "not a valid field selector key"));
    }
    errors
}

fn node_term(term: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, requirement) in wire::list(term, "matchFields").iter().enumerate() {
        errors.extend(node_field(requirement, &format!("{field}.matchFields[{index}]")));
    }
    for (index, expression) in wire::list(term, "matchExpressions").iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let (operator, values) = (wire::text(expression, "operator"), wire::list(expression, "values"));
        let at = format!("{field}.values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let text = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(at, text));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(at, text));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let text = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(at, text));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => {
                let text = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{field}.operator"), operator, text));
            }
        }
        errors.extend(names::check(
            names::qualified_name,
            format!("{field}.key"),
            wire::text(expression, "key"),
        ));
    }
    errors
}

fn pod_term(term: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["labelSelector", "namespaceSelector"] {
        errors.extend(selector::validate(wire::at(term, &[key]), &format!("{field}.{key}")));
    }
    for namespace in wire::texts(term, "namespaces") {
        errors.extend(names::check(names::dns1123_label, format!("{field}.namespace"), namespace));
    }
    let (key, field) = (wire::text(term, "topologyKey"), format!("{field}.topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(field.as_str(), "can not be empty"));
    }
    errors.extend(names::check(names::qualified_name, field, key));
    errors
}
