//! Reading and writing wire objects: `serde_json::Value` in the form Go writes it, where what is empty is absent.
//!
//! Objects are type-checked before they come here, so a value of another type reads as absent.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// What lies at the end of the path, `Null` if nothing does.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().try_fold(value, |value, key| value.get(key)).unwrap_or(&NULL)
}

/// A string field, `""` if absent.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number field.
pub(crate) fn int(value: &Value, key: &str) -> Option<i64> {
    value.get(key).and_then(Value::as_i64)
}

/// A boolean field, false if absent.
pub(crate) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// A list field, empty if absent.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The strings of a list field.
pub(crate) fn texts<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    list(value, key).iter().filter_map(Value::as_str)
}

/// The entries of a map field, in key order.
pub(crate) fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// Whether the field is there.
pub(crate) fn has(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|value| !value.is_null())
}

/// Whether a value is what Go calls empty.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The value as a map, which it becomes if it is not one.
pub(crate) fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// The map in a field, created if absent.
pub(crate) fn child<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    let child = map_mut(value).entry(key).or_insert(Value::Null);
    map_mut(child);
    child
}

/// The items of a list field, none if absent.
pub(crate) fn items_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field.
pub(crate) fn set(value: &mut Value, key: &str, field: impl Into<Value>) {
    map_mut(value).insert(key.to_owned(), field.into());
}

/// Removes a field.
pub(crate) fn remove(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(key);
    }
}

/// Sets a pointer field (`*int32` and the like) if it is absent.
pub(crate) fn default(value: &mut Value, key: &str, field: impl Into<Value>) {
    if !has(value, key) {
        set(value, key, field);
    }
}

/// Sets a field without a pointer (`string`, `int32`) if it has its zero value.
pub(crate) fn default_zero(value: &mut Value, key: &str, field: impl Into<Value>) {
    if value.get(key).is_none_or(is_empty) {
        set(value, key, field);
    }
}

/// Makes a field of `target` what it is in `source`, also where that is absent.
pub(crate) fn copy(target: &mut Value, source: &Value, key: &str) {
    match source.get(key) {
        Some(field) => set(target, key, field.clone()),
        None => remove(target, key),
    }
}

/// Whether two fields say the same, with absent and empty being one.
pub(crate) fn same(left: &Value, right: &Value, key: &str) -> bool {
    let (left, right) = (at(left, &[key]), at(right, &[key]));
    left == right || (is_empty(left) && is_empty(right) && (left.is_null() || right.is_null()))
}
