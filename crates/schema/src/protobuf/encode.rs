//! JSON to protobuf.

use serde_json::Value;

use super::named_list;
use super::special::{base64_bytes, write_int_or_string, write_json, write_quantity, write_time};
use super::wire::Writer;
use crate::fields::{Field, Kind, Proto, Shape, Struct, Table};
use crate::normalize::time::Precision;

pub(super) fn message(table: &Table, of: &Struct, object: &Value) -> Vec<u8> {
    let mut writer = Writer::default();
    write_struct(&mut writer, table, of, object);
    writer.finish()
}

/// What is not of its field's type is written as if it were absent: objects in canonical form have no such values.
fn write_struct(writer: &mut Writer, table: &Table, of: &Struct, object: &Value) {
    let mut fields: Vec<(&Field, Proto)> =
        of.fields.iter().filter_map(|field| Some((field, field.proto?))).collect();
    // From the end.
    fields.sort_unstable_by_key(|(_, proto)| std::cmp::Reverse(proto.number));
    for (field, proto) in fields {
        // The fields of an inlined struct are among the object's own.
        let value = if field.inline { object } else { &object[field.name] };
        write_field(writer, table, &field.shape, proto.number, value);
    }
}

fn write_field(writer: &mut Writer, table: &Table, shape: &Shape, number: u32, value: &Value) {
    match &shape.kind {
        Kind::List(item) if named_list(shape) => {
            if value.is_array() {
                let mark = writer.mark();
                write_items(writer, table, item, 1, value);
                writer.close(number, mark);
            }
        }
        Kind::List(item) => write_items(writer, table, item, number, value),
        Kind::Map(item) => {
            let mut entries: Vec<(&String, &Value)> = value.as_object().into_iter().flatten().collect();
            entries.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
            for (key, value) in entries {
                let mark = writer.mark();
                write_value(writer, table, item, 2, value);
                writer.bytes(1, key.as_bytes());
                writer.close(number, mark);
            }
        }
        _ if shape.pointer && value.is_null() => {}
        _ => write_value(writer, table, shape, number, value),
    }
}

fn write_items(writer: &mut Writer, table: &Table, item: &Shape, number: u32, value: &Value) {
    for value in value.as_array().into_iter().flatten().rev() {
        write_value(writer, table, item, number, value);
    }
}

/// Writes a value, and be it the zero of its type.
fn write_value(writer: &mut Writer, table: &Table, shape: &Shape, number: u32, value: &Value) {
    let mark = writer.mark();
    match &shape.kind {
        Kind::String => return writer.bytes(number, value.as_str().unwrap_or_default().as_bytes()),
        Kind::Bool => return writer.varint(number, u64::from(value.as_bool().unwrap_or_default())),
        Kind::Int32 | Kind::Int64 => return writer.signed(number, value.as_i64().unwrap_or_default()),
        Kind::Float64 => return writer.fixed64(number, value.as_f64().unwrap_or_default().to_bits()),
        Kind::Bytes => {
            // The only scalar that can be absent by itself.
            if let Some(bytes) = base64_bytes(value) {
                writer.bytes(number, &bytes);
            }
            return;
        }
        Kind::Time => write_time(writer, value, Precision::Seconds),
        Kind::MicroTime => write_time(writer, value, Precision::Micros),
        Kind::Quantity => write_quantity(writer, value),
        Kind::IntOrString => write_int_or_string(writer, value),
        Kind::RawExtension | Kind::FieldsV1 | Kind::Json => write_json(writer, value),
        Kind::Struct(id) => write_struct(writer, table, table.at(*id), value),
        // The only lists within lists or maps are those that are messages of their own.
        Kind::List(item) => write_items(writer, table, item, 1, value),
        Kind::Map(_) => {}
    }
    writer.close(number, mark);
}
