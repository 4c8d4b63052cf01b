//! Metadata, of an object and of objects of other kinds within it.

use std::sync::OnceLock;

use dyad_model::{FieldError, meta, names};
use dyad_schema::fields;
use serde_json::{Value, json};

use crate::schema::{Additional, Schema};

/// The fields of an object of which nothing but its metadata is known.
fn fields() -> Option<&'static fields::Schema> {
    static SCHEMA: OnceLock<Option<fields::Schema>> = OnceLock::new();
    SCHEMA.get_or_init(|| fields::Schema::for_kind("", "v1", "PartialObjectMetadata")).as_ref()
}

/// Brings metadata to its canonical form; the result is the unknown fields, `metadata.x`. What is malformed is an error,
/// or goes away if it is to be repaired.
pub(crate) fn normalize_meta(object: &mut Value, repair: bool) -> Result<Vec<String>, String> {
    let Some(given) = object.get_mut("metadata") else { return Ok(Vec::new()) };
    let Some(fields) = fields() else { return Ok(Vec::new()) };
    let read = |meta: &Value| fields.check_and_normalize(&json!({ "metadata": meta }));
    let mut decoded = read(given);
    if decoded.is_err() && repair {
        if let Value::Object(given) = given {
            given.retain(|key, value| read(&json!({ key: value })).is_ok());
        } else {
            *given = json!({});
        }
        decoded = read(given);
    }
    let mut decoded = decoded.map_err(|error| error.to_string())?;
    let mut normal = decoded.object["metadata"].take();
    if let (Some(normal), Some(owners)) = (normal.as_object_mut(), given.get("managedFields"))
        && owners.as_array().is_some_and(Vec::is_empty)
    {
        // An empty list of owners means something to those who look after them.
        normal.insert("managedFields".to_owned(), owners.clone());
    }
    *given = if normal.is_null() { json!({}) } else { normal };
    if given["creationTimestamp"].is_null()
        && let Some(given) = given.as_object_mut()
    {
        given.remove("creationTimestamp");
    }
    let name = |text: String| {
        text.strip_prefix("unknown field \"").and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
    };
    Ok(decoded.strict.into_iter().filter_map(name).collect())
}

/// Does the same within objects of other kinds in an object; the result is the paths of unknown fields, sorted.
pub(crate) fn coerce(object: &mut Value, schema: &Schema, repair: bool) -> Result<Vec<String>, FieldError> {
    let mut unknown = Vec::new();
    walk(object, schema, "", &mut |object, path| {
        for key in ["apiVersion", "kind"] {
            let Some(text) = object.get(key).filter(|text| !text.is_string()) else { continue };
            if !repair {
                return Err(FieldError::invalid(child(path, key), text.clone(), "must be a string"));
            }
            if let Some(map) = object.as_object_mut() {
                map.remove(key);
            }
        }
        let given = object["metadata"].clone();
        match normalize_meta(object, repair) {
            Ok(fields) => unknown.extend(fields.iter().map(|field| child(path, field))),
            Err(why) => return Err(FieldError::invalid(child(path, "metadata"), given, why)),
        }
        Ok(())
    })?;
    unknown.sort();
    Ok(unknown)
}

/// What is wrong with the objects of other kinds in an object.
pub(crate) fn validate(object: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut object = object.clone();
    // Nothing is refused on the way, only noted.
    let _: Result<(), ()> = walk(&mut object, schema, "", &mut |object, path| {
        check(object, path, &mut errors);
        Ok(())
    });
    errors
}

fn check(object: &mut Value, path: &str, errors: &mut Vec<FieldError>) {
    for key in ["apiVersion", "kind"] {
        if object.get(key).is_none() {
            errors.push(FieldError::required(child(path, key), ""));
        }
    }
    match object.get("apiVersion") {
        Some(Value::String(version)) if version.is_empty() => {
            errors.push(FieldError::invalid(child(path, "apiVersion"), "", "must not be empty"));
        }
        Some(Value::String(version)) if version.split('/').count() > 2 => {
            let detail = format!("unexpected GroupVersion string: {version}");
            errors.push(FieldError::invalid(child(path, "apiVersion"), version.as_str(), detail));
        }
        _ => {}
    }
    match object.get("kind") {
        Some(Value::String(kind)) if kind.is_empty() => {
            errors.push(FieldError::invalid(child(path, "kind"), "", "must not be empty"));
        }
        Some(Value::String(kind)) => {
            let problems = names::dns1035_label(&kind.to_lowercase());
            if !problems.is_empty() {
                let detail =
                    format!("may have mixed case, but should otherwise match: {}", problems.join(","));
                errors.push(FieldError::invalid(child(path, "kind"), kind.as_str(), detail));
            }
        }
        _ => {}
    }
    if object.get("metadata").is_some() {
        if let Some(meta) = object["metadata"].as_object_mut()
            && meta.get("name").is_none_or(|name| name == "")
        {
            // It need not have one.
            meta.insert("name".to_owned(), "fakename".into());
        }
        let namespaced = object["metadata"]["namespace"].as_str().is_some_and(|name| !name.is_empty());
        let found = meta::validate_create(object, namespaced, meta::Checks::NONE, |_| Vec::new());
        errors.extend(found.into_iter().map(|error| {
            let field = child(path, &error.field);
            error.at(field)
        }));
    }
}

/// Calls `with` for every object of a kind in a value, and its path.
fn walk<E>(
    value: &mut Value,
    schema: &Schema,
    path: &str,
    with: &mut dyn FnMut(&mut Value, &str) -> Result<(), E>,
) -> Result<(), E> {
    if schema.embedded && value.is_object() {
        with(value, path)?;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(property) = schema.properties.get(key) {
                    walk(value, property, &child(path, key), with)?;
                } else if let Some(Additional::Schema(of_values)) = &schema.additional {
                    walk(value, of_values, &format!("{path}[{key}]"), with)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(of_items) = &schema.items else { return Ok(()) };
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, of_items, &format!("{path}[{index}]"), with)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
