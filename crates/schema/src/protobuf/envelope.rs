//! What is around messages: the envelope that says what they are, lists, and the frames of a watch.

use serde_json::Value;

use super::special::{bytes, text};
use super::wire::{Reader, Writer};
use super::{ProtobufError, encode};
use crate::fields::{Kind, Schema};

/// How every body begins.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// A body: `runtime.Unknown` behind the magic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object; may be empty.
    pub api_version: String,
    /// Its kind; may be empty.
    pub kind: String,
    /// Its message.
    pub raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens a body.
    pub fn open(body: &'a [u8]) -> Result<Self, ProtobufError> {
        if body.is_empty() {
            return Err(ProtobufError::NoData);
        }
        let rest = body.strip_prefix(&MAGIC).ok_or(ProtobufError::NoMagic)?;
        if rest.is_empty() {
            return Err(ProtobufError::NoBody);
        }
        let mut envelope = Self { api_version: String::new(), kind: String::new(), raw: &[] };
        let mut reader = Reader::new(rest, "Unknown");
        while let Some((number, payload)) = reader.field()? {
            match number {
                1 => envelope.read_type(bytes(payload, "typeMeta")?)?,
                2 => envelope.raw = bytes(payload, "raw")?,
                // Nobody says another encoding than none, or another type than this one.
                3 | 4 => _ = bytes(payload, if number == 3 { "contentEncoding" } else { "contentType" })?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn read_type(&mut self, type_meta: &[u8]) -> Result<(), ProtobufError> {
        let mut reader = Reader::new(type_meta, "TypeMeta");
        while let Some((number, payload)) = reader.field()? {
            match number {
                1 => self.api_version = text(payload, "aPIVersion")?,
                2 => self.kind = text(payload, "kind")?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// A body of a message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut head = Writer::default();
    head.bytes(2, kind.as_bytes());
    head.bytes(1, api_version.as_bytes());
    head.close(1, 0);
    let mut body = MAGIC.to_vec();
    body.extend(head.finish());
    field(&mut body, 2, raw);
    field(&mut body, 3, &[]);
    field(&mut body, 4, &[]);
    body
}

/// Appends a field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | super::wire::BYTES);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// The schema of a kind that has a protobuf form.
fn schema_of(version: &str, kind: &str) -> Option<Schema> {
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    Schema::for_kind(group, number, kind).filter(Schema::has_protobuf)
}

/// The body of an object that says itself what it is; `None` if its kind has no protobuf form.
pub fn encode_value(object: &Value) -> Option<Vec<u8>> {
    // Documents of discovery have no version.
    let (version, kind) = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str()?);
    Some(envelope(version, kind, &schema_of(version, kind)?.to_protobuf(object)))
}

/// The body of a list, item by item; `None` if its kind has no protobuf form.
pub fn encode_list(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = Value>,
) -> Option<Vec<u8>> {
    let schema = schema_of(api_version, kind)?;
    let table = schema.table;
    let (meta, list) = (schema.root().json_field("metadata")?.1, schema.root().json_field("items")?.1);
    let Kind::Struct(list_meta) = meta.shape.kind else { return None };
    let Kind::List(item) = &list.shape.kind else { return None };
    let Kind::Struct(item) = item.kind else { return None };
    let (meta, list) = (u8::try_from(meta.proto?.number).ok()?, u8::try_from(list.proto?.number).ok()?);
    let mut raw = Vec::new();
    field(&mut raw, meta, &encode::message(table, table.at(list_meta), metadata));
    for object in items {
        field(&mut raw, list, &encode::message(table, table.at(item), &object));
    }
    Some(envelope(api_version, kind, &raw))
}

/// Appends a frame of a watch: the length, then a WatchEvent without an envelope around an object with one.
pub fn watch_frame(out: &mut Vec<u8>, event: &str, body: &[u8]) {
    let mut object = Vec::with_capacity(body.len() + 8);
    field(&mut object, 1, body);
    let mut frame = Vec::with_capacity(object.len() + 32);
    field(&mut frame, 1, event.as_bytes());
    field(&mut frame, 2, &object);
    out.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&frame);
}
