//! CustomResourceDefinitions (apiextensions.k8s.io/v1) themselves.

use dyad_model::meta::Checks;
use dyad_model::{Context, FieldError, Strategy, names};
use dyad_schema::fields::Table;
use serde_json::{Value, json};

mod defaults;
mod parts;
mod schema;
mod settle;
mod spec;
mod structural;

pub use settle::{accepted, condition, is_established, mark_deleted, set_condition, settle};

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// The kind of definitions.
pub const KIND: &str = "CustomResourceDefinition";
/// The resource of definitions.
pub const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition back until its objects are gone.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The strategy of definitions.
pub static DEFINITION: Definition = Definition;

/// See [`DEFINITION`].
#[derive(Clone, Copy, Debug)]
pub struct Definition;

/// The items of a list, or none.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text, or an empty one.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The version under which objects are stored.
fn storage_version(definition: &Value) -> Option<&str> {
    let stored = items(&definition["spec"]["versions"]).iter().find(|version| version["storage"] == true);
    stored.map(|version| text(version, "name"))
}

/// Notes the storage version among those that were one.
fn note_stored(definition: &mut Value) {
    let Some(name) = storage_version(definition).map(str::to_owned) else { return };
    let stored = &mut definition["status"]["storedVersions"];
    match stored.as_array_mut() {
        Some(list) if list.iter().any(|known| *known == name) => {}
        Some(list) => list.push(name.into()),
        None => *stored = json!([name]),
    }
}

/// What reads a schema below `items` and `additionalProperties` drops what it does not know.
fn drop_unknown(schema: &mut Value, nested: bool) {
    let Some(map) = schema.as_object_mut() else { return };
    if nested {
        let table = Table::get();
        let known = table.find("apiextensions/v1", "JSONSchemaProps").map(|id| table.at(id));
        map.retain(|key, value| {
            known.is_none_or(|known| known.json_field(key).is_some())
                && (!value.is_null() || key == "default")
        });
    }
    for (key, value) in map {
        match key.as_str() {
            "items" | "additionalProperties" | "additionalItems" => match value {
                Value::Array(list) => list.iter_mut().for_each(|schema| drop_unknown(schema, true)),
                schema => drop_unknown(schema, true),
            },
            "not" => drop_unknown(value, nested),
            "allOf" | "anyOf" | "oneOf" => {
                value.as_array_mut().into_iter().flatten().for_each(|schema| drop_unknown(schema, nested));
            }
            "properties" | "patternProperties" | "definitions" => {
                value
                    .as_object_mut()
                    .into_iter()
                    .flatten()
                    .for_each(|(_, schema)| drop_unknown(schema, nested));
            }
            _ => {}
        }
    }
}

impl Strategy for Definition {
    fn default(&self, definition: &mut Value) {
        let kind = text(&definition["spec"]["names"], "kind").to_owned();
        let names = &mut definition["spec"]["names"];
        if text(names, "singular").is_empty() && !kind.is_empty() {
            names["singular"] = kind.to_lowercase().into();
        }
        if text(names, "listKind").is_empty() && !kind.is_empty() {
            names["listKind"] = format!("{kind}List").into();
        }
        let spec = &mut definition["spec"];
        if !spec["conversion"].is_object() {
            spec["conversion"] = json!({"strategy": "None"});
        }
        if let Some(Value::Object(service)) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            service.entry("port").or_insert(443.into());
        }
        for version in spec["versions"].as_array_mut().into_iter().flatten() {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                drop_unknown(schema, false);
            }
        }
        if items(&definition["status"]["storedVersions"]).is_empty() {
            note_stored(definition);
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        new["status"] = json!({
            "conditions": null,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": null,
        });
        note_stored(new);
        new["metadata"]["generation"] = 1.into();
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if cx.subresource == "status" {
            new["spec"] = old["spec"].clone();
            return;
        }
        new["status"] = old["status"].clone();
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
            new["metadata"]["generation"] = (generation + 1).into();
        }
        note_stored(new);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (meta, wanted) = (&new["metadata"], settle::full_name(new));
        if text(meta, "name") != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid("metadata.name", text(meta, "name"), detail));
        }
        errors.extend(spec::validate(new, None));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return spec::names(&new["status"]["acceptedNames"], "status.acceptedNames");
        }
        spec::validate(new, Some(old))
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if cx.subresource == "status" {
            return Vec::new();
        }
        let formats = |definition: &Value| -> Vec<String> {
            let versions = items(&definition["spec"]["versions"]).iter();
            versions
                .flat_map(|version| schema::unknown_formats(&version["schema"]["openAPIV3Schema"]))
                .collect()
        };
        let before = old.map(formats).unwrap_or_default();
        let added = formats(new).into_iter().filter(|format| !before.contains(format));
        added.map(|format| format!("unrecognized format {format:?}")).collect()
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        // Finalizers without a domain are warned of, if at all.
        Checks { finalizers: false, ..Checks::CHANGE }
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}
