//! StorageClasses.

use serde_json::Value;

use crate::{Context, FieldError, Strategy, meta, names, wire};

/// The strategy of StorageClasses.
pub static STORAGE_CLASS: StorageClass = StorageClass;

/// Most parameters, and longest sum of their keys and values in bytes.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE_MAX: usize = 256 * 1024;

/// See [`STORAGE_CLASS`].
#[derive(Clone, Copy, Debug)]
pub struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        wire::default(object, "reclaimPolicy", "Delete");
        wire::default(object, "volumeBindingMode", "Immediate");
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match wire::text(new, "provisioner") {
            "" => errors.push(FieldError::required("provisioner", "")),
            // Its letters may be of either case, and it is shown in lower case.
            name => errors.extend(names::check(names::qualified_name, "provisioner", &name.to_lowercase())),
        }
        errors.extend(validate_parameters(wire::at(new, &["parameters"])));
        for (key, known) in [
            ("reclaimPolicy", ["Delete", "Retain"]),
            ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
        ] {
            let value = wire::text(new, key);
            let is_left_out = key == "reclaimPolicy" && value.is_empty();
            if !(is_left_out || known.contains(&value)) {
                errors.push(FieldError::not_supported(key, value, &known));
            }
        }
        for (index, term) in wire::list(new, "allowedTopologies").iter().enumerate() {
            errors.extend(validate_topology(term, &format!("allowedTopologies[{index}]")));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.validate_create(new, cx);
        let fixed = ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"];
        errors.extend(fixed.into_iter().filter_map(|key| super::immutable(new, old, key, key)));
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn validate_parameters(parameters: &Value) -> Vec<FieldError> {
    let entries: Vec<_> = parameters.as_object().into_iter().flatten().collect();
    if entries.len() > PARAMETERS_MAX {
        return vec![meta::too_long("parameters", PARAMETERS_MAX)];
    }
    let mut errors = Vec::new();
    if entries.iter().any(|(key, _)| key.is_empty()) {
        errors.push(FieldError::invalid("parameters", "", "field can not be empty."));
    }
    let size: usize =
        entries.iter().map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len()).sum();
    if size > PARAMETERS_SIZE_MAX {
        errors.push(meta::too_long("parameters", PARAMETERS_SIZE_MAX));
    }
    errors
}

fn validate_topology(term: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut keys = std::collections::BTreeSet::new();
    for (index, expression) in wire::list(term, "matchLabelExpressions").iter().enumerate() {
        let field = format!("{field}.matchLabelExpressions[{index}]");
        let key = wire::text(expression, "key");
        if wire::list(expression, "values").is_empty() {
            errors.push(FieldError::required(format!("{field}.values"), ""));
        }
        let mut values = std::collections::BTreeSet::new();
        for (index, value) in wire::texts(expression, "values").enumerate() {
            if !values.insert(value) {
                errors.push(FieldError::duplicate(format!("{field}.values[{index}]"), value));
            }
        }
        errors.extend(names::check(names::qualified_name, format!("{field}.key"), key));
        if !keys.insert(key) {
            errors.push(FieldError::duplicate(format!("{field}.key"), key));
        }
    }
    errors
}
