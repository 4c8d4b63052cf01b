//! Types whose JSON is not that of their message: times, quantities, numbers or texts, bytes, embedded objects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::ProtobufError;
use super::wire::{Payload, Reader, Writer};
use crate::normalize::time::{Moment, Precision};
use crate::normalize::{quantity, time};

/// `IntOrString.type` of a text.
const TEXT: u64 = 1;

/// Writes a time; nothing for the zero time, which is `null`.
pub(super) fn write_time(writer: &mut Writer, value: &Value, precision: Precision) {
    let moment = value.as_str().and_then(|text| time::moment(text, precision).ok());
    if let Some(Moment { seconds, micros }) = moment.filter(|moment| *moment != Moment::ZERO) {
        writer.varint(2, u64::from(micros) * 1000);
        writer.signed(1, seconds);
    }
}

pub(super) fn read_time(
    bytes: &[u8],
    precision: Precision,
    field: &'static str,
) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0_i32);
    let mut reader = Reader::new(bytes, "Timestamp");
    while let Some((number, payload)) = reader.field()? {
        match number {
            1 => seconds = varint(payload, "Seconds")?.cast_signed(),
            2 => nanos = varint(payload, "Nanos")? as i32,
            _ => {}
        }
    }
    let micros = match precision {
        Precision::Seconds => 0,
        Precision::Micros => nanos / 1000,
    };
    let refuse = |why: String| ProtobufError::Value { field, why };
    let micros = u32::try_from(micros).ok().filter(|micros| *micros < 1_000_000);
    let micros = micros
        .ok_or_else(|| refuse(format!("{nanos} nanoseconds are not within a second: send 0 to 999999999")))?;
    time::written(Moment { seconds, micros }, precision)
        .map(|text| text.map_or(Value::Null, Value::String))
        .map_err(refuse)
}

pub(super) fn write_quantity(writer: &mut Writer, value: &Value) {
    writer.bytes(1, value.as_str().unwrap_or("0").as_bytes());
}

pub(super) fn read_quantity(bytes: &[u8], field: &'static str) -> Result<Value, ProtobufError> {
    let mut quantity = Value::from("0");
    let mut reader = Reader::new(bytes, "Quantity");
    while let Some((number, payload)) = reader.field()? {
        if number == 1 {
            let text = text(payload, "String_")?;
            let canonical = quantity::canonical(&text);
            quantity =
                canonical.map_err(|error| ProtobufError::Value { field, why: error.to_string() })?.into();
        }
    }
    Ok(quantity)
}

pub(super) fn write_int_or_string(writer: &mut Writer, value: &Value) {
    writer.bytes(3, value.as_str().unwrap_or_default().as_bytes());
    writer.signed(2, value.as_i64().unwrap_or(0));
    writer.varint(1, if value.is_string() { TEXT } else { 0 });
}

pub(super) fn read_int_or_string(bytes: &[u8], field: &'static str) -> Result<Value, ProtobufError> {
    let (mut kind, mut int, mut string) = (0, 0_i32, Value::from(""));
    let mut reader = Reader::new(bytes, "IntOrString");
    while let Some((number, payload)) = reader.field()? {
        match number {
            1 => kind = varint(payload, "Type")?,
            2 => int = varint(payload, "IntVal")? as i32,
            3 => string = text(payload, "StrVal")?.into(),
            _ => {}
        }
    }
    match kind {
        0 => Ok(int.into()),
        TEXT => Ok(string),
        _ => Err(ProtobufError::Value { field, why: "impossible IntOrString.Type: send 0 or 1".to_owned() }),
    }
}

/// Writes an embedded object or a tree of field names: its JSON; nothing for `null`.
pub(super) fn write_json(writer: &mut Writer, value: &Value) {
    if !value.is_null() {
        writer.bytes(1, value.to_string().as_bytes());
    }
}

pub(super) fn read_json(bytes: &[u8], field: &'static str) -> Result<Value, ProtobufError> {
    let mut json = Value::Null;
    let mut reader = Reader::new(bytes, "RawExtension");
    while let Some((number, payload)) = reader.field()? {
        if let (1, Payload::Bytes(bytes)) = (number, payload) {
            json = match bytes {
                [] => Value::Null,
                bytes => serde_json::from_slice(bytes).map_err(|error| ProtobufError::Value {
                    field,
                    why: format!("the embedded object must be JSON: {error}"),
                })?,
            };
        }
    }
    Ok(json)
}

/// The bytes of a text in base64; `None` for what is none.
pub(super) fn base64_bytes(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str()?).ok()
}

pub(super) fn base64_text(bytes: &[u8]) -> Value {
    STANDARD.encode(bytes).into()
}

pub(super) fn varint(payload: Payload<'_>, field: &str) -> Result<u64, ProtobufError> {
    match payload {
        Payload::Varint(number) => Ok(number),
        other => Err(wrong_wire(other, field)),
    }
}

pub(super) fn bytes<'a>(payload: Payload<'a>, field: &str) -> Result<&'a [u8], ProtobufError> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        other => Err(wrong_wire(other, field)),
    }
}

/// Go's strings hold any bytes; its JSON replaces each of those that are no text.
pub(super) fn text(payload: Payload<'_>, field: &str) -> Result<String, ProtobufError> {
    let bytes = bytes(payload, field)?;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Ok(text)
}

/// The name of a field in Go begins with a capital.
pub(super) fn wrong_wire(payload: Payload<'_>, field: &str) -> ProtobufError {
    let mut letters = field.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    ProtobufError::WrongWire { wire: payload.wire(), field: first.into_iter().chain(letters).collect() }
}
