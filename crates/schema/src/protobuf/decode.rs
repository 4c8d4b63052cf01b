//! Protobuf to JSON.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::special::{
    base64_text, bytes, read_int_or_string, read_json, read_quantity, read_time, text, varint, wrong_wire,
};
use super::wire::{Payload, Reader};
use super::{DEPTH_MAX, ProtobufError, VALUES_MAX, named_list, positions};
use crate::fields::{Field, Kind, Shape, Struct, StructId, Table};
use crate::normalize::time::Precision;
use crate::normalize::{write_struct, zero};

pub(super) fn message(table: &'static Table, root: StructId, bytes: &[u8]) -> Result<Value, ProtobufError> {
    Decoder { table, depth: 0, values: 0 }.object(table.at(root), bytes)
}

struct Decoder {
    table: &'static Table,
    depth: usize,
    /// Values made so far.
    values: usize,
}

impl Decoder {
    fn object(&mut self, of: &'static Struct, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut values = vec![None; of.json.len()];
        self.fields(of, bytes, &mut values)?;
        Ok(write_struct(self.table, of, values))
    }

    /// Reads a message into the values of a struct's fields as JSON has them.
    fn fields(
        &mut self,
        of: &'static Struct,
        bytes: &[u8],
        values: &mut [Option<Value>],
    ) -> Result<(), ProtobufError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ProtobufError::Depth);
        }
        self.count(values.len())?;
        let mut found: Vec<Vec<Payload<'_>>> = vec![Vec::new(); of.fields.len()];
        let mut reader = Reader::new(bytes, of.name);
        while let Some((number, payload)) = reader.field()? {
            let is_it = |field: &Field| field.proto.is_some_and(|proto| proto.number == number);
            // Unknown fields are for servers newer than this one.
            if let Some(index) = of.fields.iter().position(is_it) {
                found[index].push(payload);
            }
        }
        for ((field, position), payloads) in positions(of, self.table).zip(found) {
            match (&field.shape.kind, payloads.as_slice()) {
                (_, []) => {}
                (Kind::Struct(id), payloads) if field.inline => {
                    let inner = self.table.at(*id);
                    let bytes = merged(payloads, inner.name)?;
                    self.fields(inner, &bytes, &mut values[position..position + inner.json.len()])?;
                }
                (_, payloads) => values[position] = Some(self.field(field, payloads)?),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn field(&mut self, field: &'static Field, payloads: &[Payload<'_>]) -> Result<Value, ProtobufError> {
        let shape = &field.shape;
        // Errors name fields as Go does, where metadata has no name but that of its type.
        let name = match shape.go.as_str() {
            "v1.ObjectMeta" => "ObjectMeta",
            "v1.ListMeta" => "ListMeta",
            _ => field.name,
        };
        match &shape.kind {
            Kind::List(_) if named_list(shape) => self.value(shape, &merged(payloads, name)?, name),
            Kind::List(item) => {
                let mut list = Vec::with_capacity(payloads.len());
                for payload in payloads {
                    self.item(item, *payload, name, &mut list)?;
                }
                Ok(Value::Array(list))
            }
            Kind::Map(item) => {
                let mut map = Map::new();
                for payload in payloads {
                    let (key, value) = self.entry(item, bytes(*payload, name)?, name)?;
                    map.insert(key, value);
                }
                Ok(Value::Object(map))
            }
            // What occurs twice counts the last time, and messages are merged: they are one after the other.
            Kind::Struct(_)
            | Kind::IntOrString
            | Kind::Quantity
            | Kind::RawExtension
            | Kind::FieldsV1
            | Kind::Json => self.value(shape, &merged(payloads, name)?, name),
            _ => payloads.iter().try_fold(Value::Null, |_, payload| self.single(shape, *payload, name)),
        }
    }

    /// Reads what is one field of a list: an item, or several numbers at once.
    fn item(
        &mut self,
        shape: &'static Shape,
        payload: Payload<'_>,
        name: &'static str,
        list: &mut Vec<Value>,
    ) -> Result<(), ProtobufError> {
        let numbers = matches!(shape.kind, Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Float64);
        let (Payload::Bytes(packed), true) = (payload, numbers) else {
            list.push(self.single(shape, payload, name)?);
            return Ok(());
        };
        let mut reader = Reader::new(packed, name);
        while !reader.is_empty() {
            let payload = match shape.kind {
                Kind::Float64 => Payload::Fixed64(reader.fixed64()?),
                _ => Payload::Varint(reader.varint()?),
            };
            list.push(self.single(shape, payload, name)?);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        shape: &'static Shape,
        bytes: &[u8],
        name: &'static str,
    ) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes, name);
        while let Some((number, payload)) = reader.field()? {
            match number {
                1 => key = text(payload, name)?,
                2 => value = Some(self.single(shape, payload, name)?),
                _ => {}
            }
        }
        // A nil []byte in a map comes back from storage as an empty one.
        let absent = || if shape.kind == Kind::Bytes { "".into() } else { zero(self.table, shape) };
        Ok((key, value.unwrap_or_else(absent)))
    }

    fn single(
        &mut self,
        shape: &'static Shape,
        payload: Payload<'_>,
        name: &'static str,
    ) -> Result<Value, ProtobufError> {
        self.count(1)?;
        Ok(match shape.kind {
            Kind::String => text(payload, name)?.into(),
            Kind::Bool => (varint(payload, name)? != 0).into(),
            // Go's int32 takes the lower half.
            Kind::Int32 => (varint(payload, name)? as i32).into(),
            Kind::Int64 => varint(payload, name)?.cast_signed().into(),
            Kind::Float64 => match payload {
                Payload::Fixed64(bits) => float(f64::from_bits(bits), name)?,
                other => return Err(wrong_wire(other, name)),
            },
            Kind::Bytes => base64_text(bytes(payload, name)?),
            _ => self.value(shape, bytes(payload, name)?, name)?,
        })
    }

    /// Reads a message of its own.
    fn value(
        &mut self,
        shape: &'static Shape,
        bytes: &[u8],
        name: &'static str,
    ) -> Result<Value, ProtobufError> {
        match &shape.kind {
            Kind::Time => read_time(bytes, Precision::Seconds, name),
            Kind::MicroTime => read_time(bytes, Precision::Micros, name),
            Kind::Quantity => read_quantity(bytes, name),
            Kind::IntOrString => read_int_or_string(bytes, name),
            Kind::RawExtension | Kind::FieldsV1 | Kind::Json => read_json(bytes, name),
            Kind::Struct(id) => self.object(self.table.at(*id), bytes),
            Kind::List(item) => {
                let mut list = Vec::new();
                let mut reader = Reader::new(bytes, name);
                while let Some((number, payload)) = reader.field()? {
                    if number == 1 {
                        self.item(item, payload, name, &mut list)?;
                    }
                }
                // Nothing tells an empty list from none.
                Ok(if list.is_empty() { Value::Null } else { Value::Array(list) })
            }
            Kind::String
            | Kind::Bool
            | Kind::Int32
            | Kind::Int64
            | Kind::Float64
            | Kind::Bytes
            | Kind::Map(_) => Ok(zero(self.table, shape)),
        }
    }

    fn count(&mut self, values: usize) -> Result<(), ProtobufError> {
        self.values += values;
        if self.values > VALUES_MAX { Err(ProtobufError::Size) } else { Ok(()) }
    }
}

/// Go writes a whole number without a fraction.
fn float(float: f64, field: &'static str) -> Result<Value, ProtobufError> {
    if float.fract() == 0.0 && float.abs() < 9e15 {
        return Ok(Value::from(float as i64));
    }
    let number = serde_json::Number::from_f64(float).map(Value::Number);
    number.ok_or_else(|| ProtobufError::Value {
        field,
        why: format!("{float} is no number: send a finite one"),
    })
}

/// A message that came in several pieces.
fn merged<'a>(payloads: &[Payload<'a>], name: &str) -> Result<Cow<'a, [u8]>, ProtobufError> {
    if let [payload] = payloads {
        return bytes(*payload, name).map(Cow::Borrowed);
    }
    let mut all = Vec::new();
    for payload in payloads {
        all.extend_from_slice(bytes(*payload, name)?);
    }
    Ok(Cow::Owned(all))
}
