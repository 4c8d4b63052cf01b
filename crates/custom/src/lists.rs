//! Elements of sets, and of lists with keys, are there once.

use std::collections::HashMap;

use dyad_model::FieldError;
use serde_json::{Map, Value};

use crate::schema::{Additional, ListType, Schema};

/// Every element that is there twice.
pub(crate) fn validate(object: &Value, schema: &Schema) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check(object, schema, "", &mut errors);
    errors
}

fn check(value: &Value, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(property) = schema.properties.get(key) {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    check(value, property, &path, errors);
                } else if let Some(Additional::Schema(of_values)) = &schema.additional {
                    check(value, of_values, &format!("{path}[{key}]"), errors);
                }
            }
        }
        Value::Array(items) => {
            match &schema.list {
                ListType::Atomic => {}
                ListType::Set => errors
                    .extend(duplicates(items).map(|index| {
                        FieldError::duplicate(format!("{path}[{index}]"), items[index].clone())
                    })),
                ListType::Map(keys) => check_keys(items, keys, path, errors),
            }
            let Some(of_items) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                check(item, of_items, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn check_keys(items: &[Value], keys: &[String], path: &str, errors: &mut Vec<FieldError>) {
    if let Some(index) = items.iter().position(|item| !item.is_null() && !item.is_object()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(format!("{path}[{index}]"), items[index].clone(), detail));
        return;
    }
    let key_of = |item: &Value| {
        let given = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        Value::Object(given.collect::<Map<_, _>>())
    };
    let found: Vec<Value> = items.iter().map(key_of).collect();
    errors.extend(
        duplicates(&found)
            .map(|index| FieldError::duplicate(format!("{path}[{index}]"), found[index].clone())),
    );
}

/// The places of elements that are there for the second time; a third is not said again.
pub(crate) fn duplicates(items: &[Value]) -> impl Iterator<Item = usize> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    items.iter().enumerate().filter_map(move |(index, item)| {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        (*times == 2).then_some(index)
    })
}
