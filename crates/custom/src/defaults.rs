//! Puts in what a definition says stands for what is not there.

use serde_json::Value;

use crate::schema::{Additional, Schema};

/// Defaults a value, from the outside to the inside: a default of a field has its own fields defaulted too.
pub(crate) fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                match map.get_mut(name) {
                    None => _ = map.insert(name.clone(), default.clone()),
                    Some(null @ Value::Null) if !property.nullable => *null = default.clone(),
                    Some(_) => {}
                }
            }
            for (key, value) in map.iter_mut() {
                match (schema.properties.get(key), &schema.additional) {
                    (Some(property), _) => default(value, property),
                    (None, Some(Additional::Schema(of_values))) => {
                        unless_null(value, of_values);
                        default(value, of_values);
                    }
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(of_items) = schema.items.as_deref() else { return };
            for item in items {
                unless_null(item, of_items);
                default(item, of_items);
            }
        }
        _ => {}
    }
}

/// What stands for a `null` that may not be.
fn unless_null(value: &mut Value, schema: &Schema) {
    if value.is_null() && !schema.nullable {
        *value = schema.default.clone().unwrap_or_default();
    }
}
