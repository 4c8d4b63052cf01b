//! Schemas of structs.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{GroupVersionKind, Writer};
use crate::fields::{Field, Kind, ListType, Shape, Struct, Table};

/// Prefix of the names of meta types.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// Options that every group takes as its own kinds.
const OF_EVERY_GROUP: &[&str] = &["DeleteOptions", "WatchEvent"];

/// The name of a kind that is not in the table: domain labels reversed, as upstream names those of custom resources.
pub(super) fn open_name(kind: &GroupVersionKind<'_>) -> String {
    let labels: Vec<&str> = kind.group.split('.').rev().filter(|label| !label.is_empty()).collect();
    format!("{}.{}.{}", labels.join("."), kind.version, kind.kind)
}

/// All schemas that the document refers to, directly or not.
pub(super) fn all(writer: &mut Writer<'_>) -> Value {
    let table = Writer::table();
    let by_name: BTreeMap<&str, &Struct> =
        table.structs().map(|(_, item)| (item.openapi.as_str(), item)).collect();
    let mut done = Map::new();
    while let Some(name) = writer.wanted.pop_first() {
        if done.contains_key(&name) {
            continue;
        }
        let schema = match by_name.get(name.as_str()) {
            Some(item) => of_struct(writer, table, item),
            None => match writer.options.custom.and_then(|schemas| schemas.get(&name)) {
                Some(schema) => {
                    want_references(writer, schema);
                    schema.clone()
                }
                None => special(writer, &name),
            },
        };
        done.insert(name, schema);
    }
    Value::Object(done)
}

/// What a schema that is not of the table refers to is in the document too.
fn want_references(writer: &mut Writer<'_>, schema: &Value) {
    match schema {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            if let Some(name) = reference.and_then(|name| name.strip_prefix("#/components/schemas/")) {
                writer.wanted.insert(name.to_owned());
            }
            map.values().for_each(|schema| want_references(writer, schema));
        }
        Value::Array(list) => list.iter().for_each(|schema| want_references(writer, schema)),
        _ => {}
    }
}

/// Types whose JSON is not that of a struct.
fn special(writer: &Writer<'_>, name: &str) -> Value {
    let mut schema = match name {
        QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        INT_OR_STRING => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        _ if name.strip_prefix(META).is_some_and(|rest| matches!(rest, ".Time" | ".MicroTime")) => {
            json!({"type": "string", "format": "date-time"})
        }
        _ => json!({"type": "object"}),
    };
    describe(writer, &mut schema, name, "");
    schema
}

fn describe(writer: &Writer<'_>, schema: &mut Value, name: &str, field: &str) {
    if let Some(text) = writer.options.descriptions.and_then(|describe| describe(name, field)) {
        schema["description"] = Value::from(text);
    }
}

fn of_struct(writer: &mut Writer<'_>, table: &Table, item: &Struct) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &item.json {
        let mut property = of_field(writer, table, field);
        describe(writer, &mut property, &item.openapi, field.name);
        properties.insert(field.name.to_owned(), property);
        if field.required || (!field.optional && !field.omit_empty) {
            required.push(field.name);
        }
    }
    let mut schema = json!({"type": "object"});
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if item.atomic {
        schema["x-kubernetes-map-type"] = json!("atomic");
    }
    if item.is_kind() {
        schema["x-kubernetes-group-version-kind"] = kinds(writer, item);
    }
    describe(writer, &mut schema, &item.openapi, "");
    schema
}

/// The kinds that a struct is.
fn kinds(writer: &Writer<'_>, item: &Struct) -> Value {
    let of = |group| GroupVersionKind { group, version: item.version(), kind: item.name }.extension();
    if item.package != "meta/v1" {
        // A kind of another group (Scale, Eviction) is known by its package's first label, which for the groups
        // that lend kinds is the whole group.
        let (short, _) = item.package.split_once('/').unwrap_or((item.package, ""));
        let group = match short {
            "core" => "",
            own if writer.group.split('.').next() == Some(own) => writer.group,
            "authentication" => "authentication.k8s.io",
            "authorization" => "authorization.k8s.io",
            other => other,
        };
        return json!([of(group)]);
    }
    let mut all = vec![of("")];
    if OF_EVERY_GROUP.contains(&item.name) && !writer.group.is_empty() {
        all.push(
            GroupVersionKind { group: writer.group, version: writer.version, kind: item.name }.extension(),
        );
    }
    Value::Array(all)
}

fn of_field(writer: &mut Writer<'_>, table: &Table, field: &Field) -> Value {
    let mut schema = of_shape(writer, table, &field.shape);
    if schema.get("$ref").is_some() {
        // A reference may not have neighbours.
        schema = json!({ "allOf": [schema] });
    }
    if let Some(default) = default(field) {
        schema["default"] = default;
    }
    match &field.list {
        Some(ListType::Atomic) => schema["x-kubernetes-list-type"] = json!("atomic"),
        Some(ListType::Set) => schema["x-kubernetes-list-type"] = json!("set"),
        Some(ListType::Map(keys)) => {
            schema["x-kubernetes-list-type"] = json!("map");
            schema["x-kubernetes-list-map-keys"] = json!(keys);
        }
        None => {}
    }
    if field.atomic || field.granular {
        schema["x-kubernetes-map-type"] = json!(if field.atomic { "atomic" } else { "granular" });
    }
    let strategies: Vec<&str> =
        [("merge", field.merge), ("replace", field.replace), ("retainKeys", field.retain_keys)]
            .into_iter()
            .filter_map(|(name, on)| on.then_some(name))
            .collect();
    if !strategies.is_empty() {
        schema["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
    }
    if let Some(key) = field.merge_key {
        schema["x-kubernetes-patch-merge-key"] = json!(key);
    }
    schema
}

/// The declared default, or Go's zero value where it is written.
fn default(field: &Field) -> Option<Value> {
    if field.default.is_some() {
        return field.default.clone();
    }
    if field.shape.pointer {
        return None;
    }
    match field.shape.kind {
        Kind::Struct(_) => Some(json!({})),
        _ if field.omit_empty => None,
        Kind::String => Some(json!("")),
        Kind::Bool => Some(json!(false)),
        Kind::Int32 | Kind::Int64 | Kind::Float64 => Some(json!(0)),
        _ => None,
    }
}

fn of_shape(writer: &mut Writer<'_>, table: &Table, shape: &Shape) -> Value {
    match &shape.kind {
        Kind::String if shape.values.is_empty() => json!({"type": "string"}),
        Kind::String => json!({"type": "string", "enum": shape.values}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 => json!({"type": "integer", "format": "int32"}),
        Kind::Int64 => json!({"type": "integer", "format": "int64"}),
        Kind::Float64 => json!({"type": "number", "format": "double"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Time => writer.meta("Time"),
        Kind::MicroTime => writer.meta("MicroTime"),
        Kind::FieldsV1 => writer.meta("FieldsV1"),
        Kind::Quantity => writer.reference(QUANTITY),
        Kind::IntOrString => writer.reference(INT_OR_STRING),
        Kind::Json => json!({"x-kubernetes-preserve-unknown-fields": true}),
        Kind::RawExtension => writer.reference(RAW_EXTENSION),
        Kind::Struct(id) => writer.reference(&table.at(*id).openapi),
        Kind::List(item) => {
            let items = of_shape(writer, table, item);
            json!({"type": "array", "items": items})
        }
        Kind::Map(value) => {
            let values = of_shape(writer, table, value);
            json!({"type": "object", "additionalProperties": values})
        }
    }
}
