//! What a definition says of its resource: group, names, versions, and how they are shown.

use std::collections::BTreeSet;

use dyad_model::{FieldError, names as name_rules};
use serde_json::Value;

use super::parts::{self, Parts};
use super::settle::{self, APPROVAL};
use super::{items, text};

/// Every error of a definition; of a change, with what may not change.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    group(text(spec, "group"), &mut errors);
    let scope = text(spec, "scope");
    one_of(scope, &["Cluster", "Namespaced"], "spec.scope", &mut errors);
    let versions = items(&spec["versions"]);
    for (index, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(path, ""));
        }
    }
    if spec["preserveUnknownFields"] == true
        && versions.iter().any(|version| parts::has_default(&version["schema"]))
    {
        let why = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
    }
    let mut seen = BTreeSet::new();
    let mut unique = true;
    let parts = Parts::of(versions);
    for (index, version) in versions.iter().enumerate() {
        let (name, path) = (text(version, "name"), format!("spec.versions[{index}]"));
        unique &= seen.insert(name);
        label(name, &format!("{path}.name"), &mut errors);
        parts.version(version, old, &path, &mut errors);
    }
    let stored = versions.iter().filter(|version| version["storage"] == true).count();
    let of_versions = |why: &str| FieldError::invalid("spec.versions", spec["versions"].clone(), why);
    if !unique {
        errors.push(of_versions("must contain unique version names"));
    }
    if stored != 1 {
        errors.push(of_versions("must have exactly one version marked as storage version"));
    }
    if let Some(first) = versions.first() {
        label(text(first, "name"), "spec.version", &mut errors);
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], key).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    errors.extend(names(&spec["names"], "spec.names"));
    if let Some(first) = versions.first() {
        parts.same(first, old, versions, &mut errors);
    }
    conversion(&spec["conversion"], &mut errors);
    if let Some(old) = old {
        unchanged(new, old, &mut errors);
    }
    errors.extend(names(&new["status"]["acceptedNames"], "status.acceptedNames"));
    stored_versions(new, &mut errors);
    approval(new, old, &mut errors);
    if spec["preserveUnknownFields"] == true
        && old.is_none_or(|old| old["spec"]["preserveUnknownFields"] != true)
    {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema \
                   instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
    }
    errors
}

fn group(group: &str, errors: &mut Vec<FieldError>) {
    let problems = name_rules::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !problems.is_empty() {
        errors.push(FieldError::invalid("spec.group", group, problems.join(",")));
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        errors.push(FieldError::invalid("spec.group", group, why));
    }
}

fn one_of(value: &str, accepted: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !accepted.contains(&value) {
        errors.push(FieldError::not_supported(path, value, accepted));
    }
}

fn label(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    let problems = name_rules::dns1035_label(name);
    if !problems.is_empty() {
        errors.push(FieldError::invalid(path, name, problems.join(",")));
    }
}

/// The names of a resource, as a definition wants them or as they were accepted.
pub(super) fn names(names: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = |key: &str| Some(text(names, key)).filter(|name| !name.is_empty());
    for key in ["plural", "singular"] {
        if let Some(name) = given(key) {
            label(name, &format!("{path}.{key}"), &mut errors);
        }
    }
    for key in ["kind", "listKind"] {
        let Some(name) = given(key) else { continue };
        let problems = name_rules::dns1035_label(&name.to_lowercase());
        if !problems.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            errors.push(FieldError::invalid(format!("{path}.{key}"), name, why));
        }
    }
    for (index, name) in items(&names["shortNames"]).iter().enumerate() {
        label(name.as_str().unwrap_or_default(), &format!("{path}.shortNames[{index}]"), &mut errors);
    }
    if given("kind").is_some() && given("kind") == given("listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), text(names, "listKind"), why));
    }
    for (index, name) in items(&names["categories"]).iter().enumerate() {
        label(name.as_str().unwrap_or_default(), &format!("{path}.categories[{index}]"), &mut errors);
    }
    errors
}

fn conversion(conversion: &Value, errors: &mut Vec<FieldError>) {
    let strategy = text(conversion, "strategy");
    one_of(strategy, &["None", "Webhook"], "spec.conversion.strategy", errors);
    let webhook = &conversion["webhook"];
    let client = &webhook["clientConfig"];
    let versions = items(&webhook["conversionReviewVersions"]);
    let (client_path, versions_path) =
        ("spec.conversion.webhookClientConfig", "spec.conversion.conversionReviewVersions");
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if client.is_object() {
            errors.push(FieldError::forbidden(client_path, why));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(versions_path, why));
        }
        return;
    }
    if !client.is_object() {
        errors.push(FieldError::required(client_path, "required when strategy is set to Webhook"));
    } else if client["url"].is_null() == client["service"].is_null() {
        errors.push(FieldError::required(client_path, "exactly one of url or service is required"));
    }
    if versions.is_empty() {
        errors.push(FieldError::required(versions_path, ""));
    } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(versions_path, versions.to_vec(), why));
    }
}

/// What a definition may not change.
fn unchanged(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let mut keep = |pointer: &str, path: &str| {
        let at = |definition: &Value| definition["spec"].pointer(pointer).cloned().unwrap_or_default();
        let now = at(new);
        if now != at(old) {
            errors.push(FieldError::invalid(path, now, "field is immutable"));
        }
    };
    if settle::is_established(old) {
        keep("/scope", "spec.scope");
        keep("/names/kind", "spec.names.kind");
    }
    keep("/group", "spec.group");
    keep("/names/plural", "spec.names.plural");
}

fn stored_versions(new: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "status.storedVersions";
    let stored = items(&new["status"]["storedVersions"]);
    let invalid = |why: &str| FieldError::invalid(PATH, stored.to_vec(), why);
    if stored.is_empty() {
        errors.push(FieldError::invalid(PATH, Value::Null, "must have at least one stored version"));
        return;
    }
    let versions = items(&new["spec"]["versions"]);
    for version in versions.iter().filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            errors.push(invalid(&format!("must have the storage version {}", text(version, "name"))));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let version = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {version} and removes \
                 {version} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{PATH}[{index}]"), version, why));
        }
    }
}

fn approval(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some((_, reason, message)) = settle::approval(new) else { return };
    if old.and_then(settle::approval).is_some_and(|(_, before, _)| before == reason) {
        return;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    match reason {
        "MissingAnnotation" => errors.push(FieldError::required(path, message)),
        "InvalidAnnotation" => {
            let said = text(&new["metadata"]["annotations"], APPROVAL);
            errors.push(FieldError::invalid(path, said, message));
        }
        _ => {}
    }
}
