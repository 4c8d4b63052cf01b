//! What Go writes: which fields are left out, and what stands for those that are not given.

use serde_json::{Map, Value};

use crate::fields::{Field, Kind, Shape, Struct, Table};

/// The object of a struct whose fields have these values, by position; `None` is a field that was not given.
pub(crate) fn write_struct(table: &'static Table, of: &Struct, values: Vec<Option<Value>>) -> Value {
    let mut object = Map::new();
    for (field, value) in of.json.iter().zip(values) {
        let value = value.unwrap_or_else(|| zero(table, &field.shape));
        if let Some(value) = written(field, value) {
            object.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(object)
}

/// What is written for a field: `None` if it is left out.
fn written(field: &Field, value: Value) -> Option<Value> {
    let empty = is_empty(&field.shape, &value);
    if (field.omit_empty && empty) || (field.omit_zero && value.is_null()) {
        return None;
    }
    let collection = matches!(field.shape.kind, Kind::List(_) | Kind::Map(_)) && !field.shape.pointer;
    Some(if collection && empty { Value::Null } else { value })
}

/// Whether Go's `omitempty` leaves the value out.
fn is_empty(shape: &Shape, value: &Value) -> bool {
    if shape.pointer {
        return value.is_null();
    }
    match (&shape.kind, value) {
        (Kind::String | Kind::Bytes, Value::String(text)) => text.is_empty(),
        (Kind::Bool, Value::Bool(value)) => !value,
        (Kind::Int32 | Kind::Int64 | Kind::Float64, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Kind::List(_), Value::Array(list)) => list.is_empty(),
        (Kind::Map(_), Value::Object(map)) => map.is_empty(),
        (Kind::List(_) | Kind::Map(_) | Kind::Bytes, Value::Null) => true,
        // Structs, and the types that are structs in Go, are never empty.
        _ => false,
    }
}

/// What Go writes for the zero value of a type.
pub(crate) fn zero(table: &'static Table, shape: &Shape) -> Value {
    if shape.pointer {
        return Value::Null;
    }
    match &shape.kind {
        Kind::String => Value::from(""),
        Kind::Bool => Value::from(false),
        Kind::Int32 | Kind::Int64 | Kind::Float64 | Kind::IntOrString => Value::from(0),
        Kind::Quantity => Value::from("0"),
        Kind::Struct(id) => {
            let of = table.at(*id);
            write_struct(table, of, vec![None; of.json.len()])
        }
        Kind::Bytes
        | Kind::Time
        | Kind::MicroTime
        | Kind::RawExtension
        | Kind::Json
        | Kind::FieldsV1
        | Kind::List(_)
        | Kind::Map(_) => Value::Null,
    }
}
