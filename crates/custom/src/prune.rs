//! Takes away what a schema does not declare, and says what that was.

use serde_json::{Map, Value};

use crate::schema::{Additional, Schema};

/// Fields that every object of a kind has.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Takes away the undeclared fields of an object of a kind; `metadata` is left to those who know it. The result is the
/// paths of what went, sorted.
pub(crate) fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut pruner = Pruner { path: String::new(), gone: Vec::new() };
    let keep = |key: &str| META_FIELDS.contains(&key);
    if schema.preserve {
        pruner.skip(object, schema, &keep);
    } else if let Value::Object(map) = object {
        pruner.map(map, Some(schema), &keep);
    }
    pruner.gone.sort();
    pruner.gone
}

/// Takes away `null` where there may be none and no default stands for it.
pub(crate) fn prune_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let schema = schema.and_then(|schema| schema.field(key));
            if value.is_null() && schema.is_some_and(|schema| !schema.nullable && schema.default.is_none()) {
                return false;
            }
            prune_nulls(value, schema);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            items.iter_mut().for_each(|item| prune_nulls(item, schema));
        }
        _ => {}
    }
}

struct Pruner {
    path: String,
    gone: Vec<String>,
}

impl Pruner {
    fn value(&mut self, value: &mut Value, schema: Option<&Schema>) {
        let embedded = schema.is_some_and(|schema| schema.embedded);
        let keep = |key: &str| embedded && META_FIELDS.contains(&key);
        match (schema, value) {
            (Some(schema), value) if schema.preserve => self.skip(value, schema, &keep),
            (schema, Value::Object(map)) => self.map(map, schema, &keep),
            (schema, Value::Array(items)) => {
                let of_items = schema.and_then(|schema| schema.items.as_deref());
                for (index, item) in items.iter_mut().enumerate() {
                    self.below(&format!("[{index}]"), |this| this.value(item, of_items));
                }
            }
            _ => {}
        }
    }

    fn map(&mut self, map: &mut Map<String, Value>, schema: Option<&Schema>, keep: &dyn Fn(&str) -> bool) {
        let root = self.path.is_empty();
        map.retain(|key, value| {
            if keep(key) {
                return true;
            }
            let of_key = schema.and_then(|schema| match (schema.properties.get(key), &schema.additional) {
                (Some(property), _) => Some(Some(property)),
                (None, Some(Additional::Schema(schema))) => Some(Some(&**schema)),
                (None, Some(Additional::Allowed(_))) => Some(None),
                (None, None) => None,
            });
            match of_key {
                Some(of_key) => {
                    self.below(&step(root, key), |this| this.value(value, of_key));
                    true
                }
                None => {
                    self.gone.push(format!("{}{}", self.path, step(root, key)));
                    false
                }
            }
        });
    }

    /// What is below something that keeps all of its own fields.
    fn skip(&mut self, value: &mut Value, schema: &Schema, keep: &dyn Fn(&str) -> bool) {
        let root = self.path.is_empty();
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut().filter(|(key, _)| !keep(key)) {
                    let of_key = match (schema.properties.get(key), &schema.additional) {
                        (Some(property), _) => Some(property),
                        (None, Some(Additional::Schema(schema))) => Some(&**schema),
                        // Any value at all.
                        _ => continue,
                    };
                    self.below(&step(root, key), |this| this.value(value, of_key));
                }
            }
            Value::Array(items) => {
                let Some(of_items) = schema.items.as_deref() else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    self.below(&format!("[{index}]"), |this| this.value(item, Some(of_items)));
                }
            }
            _ => {}
        }
    }

    fn below(&mut self, step: &str, with: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        with(self);
        self.path.truncate(length);
    }
}

fn step(root: bool, key: &str) -> String {
    if root { key.to_owned() } else { format!(".{key}") }
}
