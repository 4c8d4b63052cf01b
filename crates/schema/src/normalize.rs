//! What an object looks like after Kubernetes has decoded it into its Go type and encoded it again.
//!
//! Unknown fields are named and dropped, values of the wrong type refused with the words of Go's decoder (clients see
//! them, rule J43), times and quantities brought to their canonical text, and empty values left out or put in as the
//! field's declaration says (rule J15). Lists and maps that are empty and may not be left out become `null`, which is
//! what reading them back from storage gives upstream. Names are case-sensitive.

use serde::de::{DeserializeSeed, Deserializer};
use serde_json::Value;

use crate::fields::{Kind, Schema, Shape};

mod context;
mod duplicates;
pub mod quantity;
mod reader;
mod syntax;
pub mod time;
mod write;

use context::Context;
use reader::Reader;

pub(crate) use context::Dialect;
pub use duplicates::find_duplicates;
pub use syntax::syntax_error;
pub(crate) use write::{write_struct, zero};

#[cfg(test)]
mod tests;

/// Structs of a few bytes have many fields: at most this many are made of one body.
pub(crate) const VALUES_MAX: usize = 1 << 20;
/// At most this many strict errors are reported for one body.
const MAX_STRICT_ERRORS: usize = 100;

/// An object in canonical form, and what a strict reader would have refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object.
    pub object: Value,
    /// `unknown field "spec.x"`, `duplicate field "spec.y"`, in the order of the body.
    pub strict: Vec<String>,
}

/// Why a body cannot be read as its kind; the text is that of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A body whose kind cannot be told: not JSON, not an object, or with a kind that is no string.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Unrecognized(String),
    /// JSON of another shape.
    #[error("{0}")]
    Type(String),
}

/// The bytes of a body that are shown when its kind cannot be told.
const SHOWN_BYTES: usize = 30;

impl DecodeError {
    /// Of a body that would take far more memory than it has bytes.
    fn full() -> Self {
        Self::Type(format!("the object has more than {VALUES_MAX} values: send smaller objects"))
    }

    /// The message of the 400 BadRequest with which an API server refuses `body` as an object of this kind.
    pub fn bad_request(&self, kind: &str, version: &str, body: &[u8]) -> String {
        match self {
            Self::Syntax(_) | Self::Unrecognized(_) => {
                let shown = shown(body);
                format!("the object provided is unrecognized (must be of type {kind}): {self} ({shown})")
            }
            Self::Type(text) => {
                format!("{kind} in version {version:?} cannot be handled as a {kind}: {text}")
            }
        }
    }
}

/// The beginning of a body: as it is if it looks like an object, in hexadecimal otherwise.
pub fn shown(body: &[u8]) -> String {
    let start = body.get(..SHOWN_BYTES).unwrap_or(body);
    let more = if start.len() < body.len() { " ..." } else { "" };
    match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).chain([more.to_owned()]).collect(),
    }
}

/// What `fieldValidation=Strict` says about strict errors: `strict decoding error: A, B` (rule J43).
pub fn strict_message(errors: &[String]) -> String {
    format!("strict decoding error: {}", errors.join(", "))
}

impl Schema {
    /// Reads a JSON body as this kind.
    pub fn decode(&self, body: &[u8]) -> Result<Decoded, DecodeError> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let mut context = Context::new(self.table, Dialect::Json);
        let object = self.walk(&mut deserializer, &mut context).and_then(|object| {
            deserializer.end()?;
            Ok(object)
        });
        let object = object.map_err(|error| match context.is_full() {
            true => DecodeError::full(),
            false => DecodeError::Unrecognized(syntax_error(&error, body)),
        });
        context.finish(object?)
    }

    /// Brings an object that is already a tree to canonical form. Duplicate fields cannot be seen here any more.
    pub fn check_and_normalize(&self, object: &Value) -> Result<Decoded, DecodeError> {
        self.convert(object, Dialect::Json)
    }

    /// An object that comes out of a merge, in canonical form.
    pub fn canonical(&self, object: &Value) -> Result<Value, DecodeError> {
        self.convert(object, Dialect::Converter).map(|decoded| decoded.object)
    }

    pub(crate) fn convert(&self, object: &Value, dialect: Dialect) -> Result<Decoded, DecodeError> {
        let mut context = Context::new(self.table, dialect);
        let object = self.walk(object, &mut context).map_err(|error| match context.is_full() {
            true => DecodeError::full(),
            false => DecodeError::Syntax(error.to_string()),
        });
        context.finish(object?)
    }

    fn walk<'de, D: Deserializer<'de>>(&self, input: D, context: &mut Context) -> Result<Value, D::Error> {
        let root = Shape {
            kind: Kind::Struct(self.root),
            pointer: false,
            go: format!("{}.{}", self.version(), self.kind()),
            values: Vec::new(),
        };
        Reader { shape: &root, context }.deserialize(input)
    }
}
