//! Protobuf as Kubernetes writes it (J11): the table of fields between its wire form and JSON values.
//!
//! Objects have one form in Dyad, the canonical JSON of [`normalize`](crate::normalize); this turns it into the bytes
//! that Go's generated code writes for the same object, and back. What that code does and Protobuf does not demand: fields
//! go in the order of their numbers, maps in that of their keys, and every scalar that is not behind a pointer is
//! written even if it is zero. So is every struct. Kind and apiVersion are in the [`Envelope`] only.
//!
//! Bytes from outside are bounded: nothing is read past their end, messages nest to [`DEPTH_MAX`] at most, and a body
//! makes no more values than a body in JSON may.

use serde_json::Value;

use crate::fields::{Field, Kind, Schema, Shape, Struct, Table};
use crate::normalize::VALUES_MAX;

mod decode;
mod encode;
mod envelope;
mod special;
mod wire;

pub use envelope::{Envelope, MAGIC, encode_list, encode_value, envelope, watch_frame};

#[cfg(test)]
pub(crate) mod tests;

/// Media type of bodies.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Media type of watches.
pub const STREAM_CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// Messages within messages; the deepest kind without recursion has half as many.
const DEPTH_MAX: usize = 64;

/// Why bytes are no message of their kind; most texts are those of Go's generated code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtobufError {
    /// A body without a byte.
    #[error("empty data")]
    NoData,
    /// A body that is nothing but the magic.
    #[error("empty body")]
    NoBody,
    /// A body that does not begin with the magic.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The bytes end within a field.
    #[error("unexpected EOF")]
    End,
    /// A number of more than ten bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// A length that no memory has.
    #[error("proto: negative length found during unmarshaling")]
    Length,
    /// An unknown wire type.
    #[error("proto: illegal wireType {0}")]
    IllegalWire(u8),
    /// A field that is written as another type.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WrongWire {
        /// Wire type of the bytes.
        wire: u8,
        /// Name of the field.
        field: String,
    },
    /// The end of a group instead of a field.
    #[error("proto: {0}: wiretype end group for non-group")]
    GroupInstead(&'static str),
    /// A field number that cannot be.
    #[error("proto: {name}: illegal tag {number} (wire type {tag})")]
    IllegalTag {
        /// The message.
        name: &'static str,
        /// The number.
        number: i32,
        /// Number and wire type as they were read.
        tag: u64,
    },
    /// A value that its type does not allow.
    #[error("{field}: {why}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Messages within messages without end.
    #[error("messages are nested more than {DEPTH_MAX} deep: send less deeply nested objects")]
    Depth,
    /// Bytes that would become far more than they are.
    #[error("the object has more than {VALUES_MAX} values: send smaller objects")]
    Size,
    /// A kind that has no protobuf form, as custom resources have none.
    #[error("{0} has no protobuf form: send JSON")]
    NoForm(&'static str),
}

/// Where the fields of a struct stand in JSON: a field, and the position of it (or of its first one, if inlined).
fn positions(of: &'static Struct, table: &'static Table) -> impl Iterator<Item = (&'static Field, usize)> {
    of.fields.iter().scan(0, |next, field| {
        let position = *next;
        *next += match (&field.shape.kind, field.inline) {
            (Kind::Struct(id), true) => table.at(*id).json.len(),
            _ => 1,
        };
        Some((field, position))
    })
}

/// The items of a list that is a message of its own, because it has a name in Go (`ExtraValue`, `Verbs`): field 1 of it.
fn named_list(shape: &Shape) -> bool {
    matches!(shape.kind, Kind::List(_)) && !shape.go.starts_with('[')
}

impl Schema {
    /// Whether the kind has a protobuf form.
    pub fn has_protobuf(&self) -> bool {
        let mut fields = self.root().fields.iter();
        fields.all(|field| field.inline || field.proto.is_some())
    }

    /// The message of an object in canonical form, without its envelope.
    pub fn to_protobuf(&self, object: &Value) -> Vec<u8> {
        encode::message(self.table, self.root(), object)
    }

    /// Reads a message without its envelope into canonical form, without kind and apiVersion.
    pub fn from_protobuf(&self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        if !self.has_protobuf() {
            return Err(ProtobufError::NoForm(self.kind()));
        }
        decode::message(self.table, self.root, bytes)
    }
}
