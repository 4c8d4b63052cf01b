//! What a schema may say, level by level.

use std::collections::BTreeSet;

use dyad_model::FieldError;
use serde_json::Value;

use super::{items, text};
use crate::format::Format;
use crate::schema::Type;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What the root may say where `status` has an endpoint of its own: nothing that would be lost to it.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// What is particular about the root of a schema.
pub(super) fn root(schema: &Value, status: bool, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if status {
        let mut said = schema.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        let kind = text(schema, "type");
        if !kind.is_empty() && kind != "object" {
            let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is \
                       enabled";
            errors.push(FieldError::invalid(format!("{path}.type"), kind, why));
        } else if said.any(|key| !AT_ROOT.iter().any(|(allowed, _)| *allowed == key)) {
            let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
            let why = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                names.join(" ")
            );
            errors.push(FieldError::invalid(path, schema.clone(), why));
        }
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    errors
}

/// Everything that a schema says and may not.
pub(super) fn validate(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut checker = Checker { errors: Vec::new() };
    checker.schema(schema, path, Place { root: true, ..Place::default() });
    checker.errors
}

/// Formats that say nothing, wherever they stand in a schema.
pub(super) fn unknown_formats(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match schema {
        Value::Object(map) => {
            if let Some(format) = map.get("format").and_then(Value::as_str)
                && Format::of(format, Type::named(text(schema, "type"))).is_none()
            {
                found.push(format.to_owned());
            }
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        found.extend(properties.values().flat_map(unknown_formats));
                    }
                    ("items" | "additionalProperties" | "not" | "allOf" | "anyOf" | "oneOf", value) => {
                        found.extend(unknown_formats(value));
                    }
                    _ => {}
                }
            }
        }
        Value::Array(list) => found.extend(list.iter().flat_map(unknown_formats)),
        _ => {}
    }
    found
}

/// Where a schema stands.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    root: bool,
    /// Whether it is about metadata.
    meta: bool,
    /// Why there may be no default.
    no_default: Option<&'a str>,
}

struct Checker {
    errors: Vec<FieldError>,
}

impl Checker {
    fn forbid(&mut self, path: &str, key: &str, why: &str) {
        self.errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
    }

    fn require(&mut self, path: &str, key: &str, why: &str) {
        self.errors.push(FieldError::required(format!("{path}.{key}"), why));
    }

    fn invalid(&mut self, path: &str, key: &str, value: &Value, why: &str) {
        self.errors.push(FieldError::invalid(format!("{path}.{key}"), value.clone(), why));
    }

    fn schema(&mut self, schema: &Value, path: &str, place: Place<'_>) {
        self.standard(schema, path, place);
        if schema["uniqueItems"] == true {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(path, "uniqueItems", why);
        }
        let additional = &schema["additionalProperties"];
        let has_properties = schema["properties"].as_object().is_some_and(|map| !map.is_empty());
        if !additional.is_null() {
            if has_properties && *additional != true {
                let why = "additionalProperties and properties are mutual exclusive";
                self.forbid(path, "additionalProperties", why);
            }
            if additional.is_object() {
                let reason = "inside additionalProperties applying to object metadata";
                let no_default = if place.meta { Some(reason) } else { place.no_default };
                let below = Place { root: false, no_default, ..place };
                self.schema(additional, &format!("{path}.additionalProperties"), below);
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let meta = (place.root || schema["x-kubernetes-embedded-resource"] == true)
                && matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
            let reason = format!("in top-level {name}");
            let no_default = if meta && place.root { Some(reason.as_str()) } else { place.no_default };
            let below = Place { root: false, meta: place.meta || meta, no_default };
            self.schema(property, &format!("{path}.properties[{name}]"), below);
        }
        let below = Place { root: false, ..place };
        if schema["not"].is_object() {
            self.schema(&schema["not"], &format!("{path}.not"), below);
        }
        for key in ["allOf", "oneOf", "anyOf"] {
            for (index, schema) in items(&schema[key]).iter().enumerate() {
                self.schema(schema, &format!("{path}.{key}[{index}]"), below);
            }
        }
        if schema["items"].is_object() {
            self.schema(&schema["items"], &format!("{path}.items"), below);
        }
        self.extensions(schema, path);
        self.keys(schema, path);
        for (index, rule) in items(&schema["x-kubernetes-validations"]).iter().enumerate() {
            self.rule(rule, schema, &format!("{path}.x-kubernetes-validations[{index}]"));
        }
    }

    fn standard(&mut self, schema: &Value, path: &str, place: Place<'_>) {
        let kind = text(schema, "type");
        if !kind.is_empty() && !TYPES.contains(&kind) {
            self.errors.push(FieldError::not_supported(format!("{path}.type"), kind, &TYPES));
        }
        if let Some(reason) = place.no_default
            && !schema["default"].is_null()
        {
            self.forbid(path, "default", &format!("must not be set {reason}"));
        }
        for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            if !schema[key].is_null() {
                self.forbid(path, key, &format!("{key} is not supported"));
            }
        }
        if kind == "null" {
            self.forbid(path, "type", "type cannot be set to null, use nullable as an alternative");
        }
        if schema["items"].is_array() {
            self.forbid(path, "items", "items must be a schema object and not an array");
        }
        if place.meta && schema["x-kubernetes-embedded-resource"] == true {
            self.forbid(path, "x-kubernetes-embedded-resource", "must not be used inside of resource meta");
        }
    }

    /// A type that an extension is for.
    fn of_type(&mut self, schema: &Value, path: &str, wanted: &str, extension: &str) -> bool {
        if schema[extension].is_null() || schema["type"] == wanted {
            return true;
        }
        let why = format!("must be {wanted} if {extension} is specified");
        match text(schema, "type") {
            "" => self.require(path, "type", &why),
            _ => self.invalid(path, "type", &schema["type"], &why),
        }
        false
    }

    fn extensions(&mut self, schema: &Value, path: &str) {
        const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
        const MAP: &str = "x-kubernetes-map-type";
        const LIST: &str = "x-kubernetes-list-type";
        if schema[PRESERVE] == false {
            self.invalid(path, PRESERVE, &schema[PRESERVE], "must be true or undefined");
        }
        self.of_type(schema, path, "object", MAP);
        let (map, list) = (text(schema, MAP), text(schema, LIST));
        if !schema[MAP].is_null() && !["atomic", "granular"].contains(&map) {
            self.errors.push(FieldError::not_supported(
                format!("{path}.{MAP}"),
                map,
                &["atomic", "granular"],
            ));
        }
        if self.of_type(schema, path, "array", LIST) && list == "set" && schema["items"].is_object() {
            let of_items = &schema["items"];
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let inner = text(of_items, LIST);
            match text(of_items, "type") {
                "array" if !inner.is_empty() && inner != "atomic" => {
                    self.invalid(path, &format!("items.{LIST}"), &of_items[LIST], why);
                }
                "object" if of_items[MAP] != "atomic" => {
                    self.invalid(path, &format!("items.{MAP}"), &of_items[LIST], why);
                }
                _ => {}
            }
        }
        if !schema[LIST].is_null() && !["atomic", "set", "map"].contains(&list) {
            let path = format!("{path}.{LIST}");
            self.errors.push(FieldError::not_supported(path, list, &["atomic", "set", "map"]));
        }
    }

    fn keys(&mut self, schema: &Value, path: &str) {
        const LIST: &str = "x-kubernetes-list-type";
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let (list, keys, of_items) = (text(schema, LIST), items(&schema[KEYS]), &schema["items"]);
        if !keys.is_empty() && list != "map" {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            match list {
                "" => self.require(path, LIST, why),
                _ => self.invalid(path, LIST, &schema[LIST], why),
            }
        }
        if list == "map" {
            if keys.is_empty() {
                self.require(path, KEYS, "must not be empty if x-kubernetes-list-type is map");
            }
            if of_items.is_null() {
                self.require(path, "items", "must have a schema if x-kubernetes-list-type is map");
            } else if of_items.is_array() {
                let why = "must only have a single schema if x-kubernetes-list-type is map";
                self.invalid(path, "items", of_items, why);
            } else if of_items["type"] != "object" {
                let why = "must be object if parent array's x-kubernetes-list-type is map";
                self.invalid(path, "items.type", &of_items["type"], why);
            } else {
                self.map_keys(schema, keys, path);
            }
        }
        if matches!(list, "set" | "map") && of_items["nullable"] == true {
            let why = format!("cannot be nullable when x-kubernetes-list-type is {list}");
            self.forbid(path, "items.nullable", &why);
        }
        if list == "map" && of_items.is_object() {
            for key in keys.iter().filter_map(Value::as_str) {
                let property = &of_items["properties"][key];
                if !property.is_object() {
                    continue;
                }
                let path = format!("{path}.items.properties[{key}]");
                let required = items(&of_items["required"]).iter().any(|name| name == key);
                if !required && property["default"].is_null() {
                    let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                               required property";
                    self.require(&path, "default", why);
                }
                if property["nullable"] == true {
                    let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    self.forbid(&path, "nullable", why);
                }
            }
        }
    }

    fn map_keys(&mut self, schema: &Value, keys: &[Value], path: &str) {
        const KEYS: &str = "x-kubernetes-list-map-keys";
        let of_items = &schema["items"];
        let mut seen = BTreeSet::new();
        for key in keys.iter().filter_map(Value::as_str) {
            let property = &of_items["properties"][key];
            if property.is_null() {
                self.invalid(path, KEYS, &schema[KEYS], "entries must all be names of item properties");
            } else if matches!(text(property, "type"), "array" | "object") {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.invalid(path, &format!("items.properties[{key}].type"), &of_items["type"], why);
            }
            if !seen.insert(key) {
                self.invalid(path, KEYS, &schema[KEYS], "must not contain duplicate entries");
            }
        }
    }

    fn rule(&mut self, rule: &Value, schema: &Value, path: &str) {
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let (said, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if said.is_empty() {
            self.require(path, "rule", "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            self.invalid(path, "message", &rule["message"], "must be non-empty if specified");
        } else if breaks(message.trim()) {
            self.invalid(path, "message", &rule["message"], "must not contain line breaks");
        } else if breaks(said) && message.trim().is_empty() {
            self.require(path, "message", "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            self.require(path, "messageExpression", "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
            self.errors.push(FieldError::not_supported(format!("{path}.reason"), reason, &REASONS));
        }
        let field = text(rule, "fieldPath");
        if field.is_empty() {
            return;
        }
        if field.trim().is_empty() {
            self.invalid(path, "fieldPath", &rule["fieldPath"], "must be non-empty if specified");
        }
        if breaks(field) {
            self.invalid(path, "fieldPath", &rule["fieldPath"], "must not contain line breaks");
        }
        if crate::rules::field_of(schema, field).is_none() {
            self.invalid(path, "fieldPath", &rule["fieldPath"], "must be a valid path");
        }
    }
}
