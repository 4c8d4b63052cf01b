use std::collections::BTreeSet;

use serde_json::Value;

use crate::{ErrorType, FieldError, names, wire};

/// The errors of a pod's `resourceClaims`.
pub(super) fn validate_claims(spec: &Value, list: &str) -> Vec<FieldError> {
    const KEYS: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, claim) in wire::list(spec, "resourceClaims").iter().enumerate() {
        let field = format!("{list}[{index}]");
        let (name, name_field) = (wire::text(claim, "name"), format!("{field}.name"));
        if name.is_empty() {
            errors.push(FieldError::required(name_field, ""));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(name_field, name));
        } else {
            errors.extend(names::check(names::dns1123_label, name_field, name));
        }
        let text = match KEYS.map(|key| wire::has(claim, key)) {
            [true, true] => {
                Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
            }
            [false, false] => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => None,
        };
        errors.extend(text.map(|text| FieldError::invalid(field.as_str(), claim.clone(), text)));
        for key in KEYS.into_iter().filter(|key| wire::has(claim, key)) {
            errors.extend(names::check(
                names::dns1123_subdomain,
                format!("{field}.{key}"),
                wire::text(claim, key),
            ));
        }
    }
    errors
}

/// The errors of the claims that a container names in its `resources`, which are those of its pod.
pub(super) fn validate_uses(resources: &Value, spec: &Value, list: &str) -> Vec<FieldError> {
    let known: BTreeSet<&str> =
        wire::list(spec, "resourceClaims").iter().map(|claim| wire::text(claim, "name")).collect();
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, claim) in wire::list(resources, "claims").iter().enumerate() {
        let field = format!("{list}[{index}]");
        let (name, request) = (wire::text(claim, "name"), wire::text(claim, "request"));
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
            continue;
        }
        if !request.is_empty() {
            errors.extend(names::check(names::dns1123_label, format!("{field}.request"), request));
        }
        // A claim as a whole contains each of its requests.
        let overlaps = |(other, part): &(&str, &str)| {
            *other == name && (part.is_empty() || request.is_empty() || *part == request)
        };
        if seen.iter().any(overlaps) {
            errors.push(FieldError::duplicate(field.as_str(), name));
        }
        seen.insert((name, request));
        if !known.contains(name) {
            let choice = match known.iter().copied().collect::<Vec<_>>().join(", ") {
                names if names.is_empty() => " which is empty".to_owned(),
                names => format!(": {names}"),
            };
            let text = format!("must be one of the names in pod.spec.resourceClaims{choice}");
            errors.push(FieldError::new(ErrorType::NotFound, field, name, text));
        }
    }
    errors
}
