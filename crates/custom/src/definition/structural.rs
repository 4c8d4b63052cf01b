//! What makes a schema structural: every field is said outside of `allOf` and its like, once and with its type.

use dyad_model::FieldError;
use serde_json::{Value, json};

use super::{items, text};
use crate::pattern;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that keeps a schema from being structural, sorted.
pub(super) fn validate(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    of_values(schema, schema, path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn flag(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

fn child(path: &str, key: &str) -> String {
    format!("{path}.{key}")
}

fn property(path: &str, name: &str) -> String {
    format!("{path}.properties[{name}]")
}

/// The properties of a schema.
fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn invariants(schema: &Value, level: Level, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(schema, "type");
    let mut required = |key: &str, why: &str| errors.push(FieldError::required(child(path, key), why));
    if kind == "array" && !schema["items"].is_object() {
        required("items", "must be specified");
    }
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag(schema, "x-kubernetes-int-or-string");
    if embedded && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        match kind {
            "" => required("type", why),
            kind => errors.push(FieldError::invalid(child(path, "type"), kind, why)),
        }
    } else if kind.is_empty() && !int_or_string && !preserve {
        required(
            "type",
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if schema["items"].is_object() {
        invariants(&schema["items"], Level::Item, &child(path, "items"), errors);
    }
    for (name, schema) in properties(schema) {
        invariants(schema, Level::Field, &property(path, name), errors);
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() {
        let path = child(path, "additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(path.as_str(), "must not be used at the root"));
        }
        if embedded {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            errors.push(FieldError::forbidden(path.as_str(), why));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &path, errors);
        }
    }
    for (key, both) in
        [("x-kubernetes-preserve-unknown-fields", preserve), ("x-kubernetes-embedded-resource", embedded)]
    {
        if int_or_string && both {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(child(path, key), true, why));
        }
    }
    value_validation(schema, path, errors);
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(child(path, "type"), kind, "must be object at the root"));
    }
    metadata(schema, level, embedded, path, errors);
    if embedded && !preserve && properties(schema).next().is_none() {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                   x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(child(path, "properties"), why));
    }
}

/// The fields that every object of a kind has are what they are.
fn metadata(schema: &Value, level: Level, embedded: bool, path: &str, errors: &mut Vec<FieldError>) {
    if level != Level::Root && !embedded {
        return;
    }
    for name in ["kind", "apiVersion"] {
        let of = &schema["properties"][name];
        if of.is_object() && of["type"] != "string" {
            let path = child(&property(path, name), "type");
            errors.push(FieldError::invalid(path, text(of, "type"), "must be string"));
        }
    }
    let meta = &schema["properties"]["metadata"];
    if !meta.is_object() {
        return;
    }
    let path = property(path, "metadata");
    if meta["type"] != "object" {
        errors.push(FieldError::invalid(child(&path, "type"), text(meta, "type"), "must be object"));
    }
    if level == Level::Root {
        let named = properties(meta).all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
        let others = meta.as_object().into_iter().flatten();
        let mut others = others.filter(|(key, _)| !matches!(key.as_str(), "type" | "properties" | "default"));
        if !named || others.next().is_some() {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(path, why));
        }
    }
}

/// The two ways in which an integer or a string may be said where no types may.
fn is_int_or_string(alternatives: &Value) -> bool {
    *alternatives == json!([{"type": "integer"}, {"type": "string"}])
}

fn value_validation(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let in_any = is_int_or_string(&schema["anyOf"]);
    let in_all = is_int_or_string(&schema["allOf"][0]["anyOf"]);
    check_values(schema, in_any, in_all, path, errors);
}

fn check_values(schema: &Value, skip_any: bool, skip_first: bool, path: &str, errors: &mut Vec<FieldError>) {
    if !skip_any {
        for (index, schema) in items(&schema["anyOf"]).iter().enumerate() {
            nested(schema, false, &format!("{path}.anyOf[{index}]"), errors);
        }
    }
    for (index, schema) in items(&schema["allOf"]).iter().enumerate() {
        nested(schema, skip_first && index == 0, &format!("{path}.allOf[{index}]"), errors);
    }
    for (index, schema) in items(&schema["oneOf"]).iter().enumerate() {
        nested(schema, false, &format!("{path}.oneOf[{index}]"), errors);
    }
    if schema["not"].is_object() {
        nested(&schema["not"], false, &child(path, "not"), errors);
    }
    let expression = text(schema, "pattern");
    if let Err(why) = pattern::compile(expression) {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(FieldError::invalid(child(path, "pattern"), expression, detail));
    }
}

/// A schema within `allOf` and its like says nothing but what values there may be.
fn nested(schema: &Value, skip_any: bool, path: &str, errors: &mut Vec<FieldError>) {
    check_values(schema, skip_any, false, path, errors);
    if schema["items"].is_object() {
        nested(&schema["items"], false, &child(path, "items"), errors);
    }
    for (name, schema) in properties(schema) {
        nested(schema, false, &property(path, name), errors);
    }
    let mut forbid = |key: &str, there: bool, must: &str| {
        if there {
            errors.push(FieldError::forbidden(child(path, key), format!("must be {must} to be structural")));
        }
    };
    forbid("type", !text(schema, "type").is_empty(), "empty");
    let additional = &schema["additionalProperties"];
    forbid("additionalProperties", additional.is_object() || *additional == true, "undefined");
    forbid("default", !schema["default"].is_null(), "undefined");
    forbid("title", !text(schema, "title").is_empty(), "empty");
    forbid("description", !text(schema, "description").is_empty(), "empty");
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        forbid(key, flag(schema, key), "false");
    }
    forbid("x-kubernetes-list-map-keys", !items(&schema["x-kubernetes-list-map-keys"]).is_empty(), "empty");
    forbid("x-kubernetes-list-type", !schema["x-kubernetes-list-type"].is_null(), "undefined");
    forbid("x-kubernetes-map-type", !schema["x-kubernetes-map-type"].is_null(), "undefined");
    forbid("x-kubernetes-validations", !items(&schema["x-kubernetes-validations"]).is_empty(), "empty");
    if !schema["properties"]["metadata"].is_null() {
        let why = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(property(path, "metadata"), why));
    }
}

/// Every field that `allOf` and its like speak of is also said outside of them.
fn complete(values: &Value, schema: Option<&Value>, path: &str, at: &str, errors: &mut Vec<FieldError>) {
    let Some(schema) = schema else {
        errors.push(FieldError::required(path, format!("because it is defined in {at}")));
        return;
    };
    of_values(values, schema, path, at, errors);
    if values["items"].is_object() {
        let of_items = Some(&schema["items"]).filter(|items| items.is_object());
        complete(&values["items"], of_items, &child(path, "items"), &child(at, "items"), errors);
    }
    for (name, values) in properties(values) {
        let of_property = Some(&schema["properties"][name]).filter(|property| property.is_object());
        complete(values, of_property, &property(path, name), &property(at, name), errors);
    }
}

fn of_values(values: &Value, schema: &Value, path: &str, at: &str, errors: &mut Vec<FieldError>) {
    if values["not"].is_object() {
        complete(&values["not"], Some(schema), path, &child(at, "not"), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, values) in items(&values[key]).iter().enumerate() {
            complete(values, Some(schema), path, &format!("{at}.{key}[{index}]"), errors);
        }
    }
}
