//! Patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge (rules J41 and J42).
//!
//! [`apply`] gives the patched object in canonical form. What a strict reader refuses comes with it, because only the
//! request knows whether that is an error, a warning or nothing (rule J43). Server-side apply is in [`crate::apply`].

use serde_json::Value;

use crate::apply::ownerless;
use crate::fields::Schema;
use crate::normalize::{self, DecodeError, Decoded, Dialect, find_duplicates, strict_message};

mod json;
mod merge;
mod strategic;

pub(crate) use strategic::go_text;

#[cfg(test)]
mod tests;

/// The longest JSON patch.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Json, Self::Merge, Self::Strategic];

    /// The content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }

    /// The type of a `Content-Type` header, without its parameters. `None` for server-side apply and anything else.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let name = content_type.split(';').next().unwrap_or_default().trim();
        Self::ALL.into_iter().find(|kind| kind.content_type() == name)
    }
}

/// Why a patch cannot be applied, by the answer it gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// 400 BadRequest: not a patch.
    #[error("{0}")]
    BadRequest(String),
    /// 413 RequestEntityTooLarge.
    #[error("Request entity too large: {0}")]
    TooLarge(String),
    /// 415 UnsupportedMediaType: strategic merge on a kind whose fields are not known.
    #[error("strategic merge patch format is not supported")]
    Unsupported,
    /// 422 Invalid without causes. Upstream keeps the reason to itself; it is in `detail`.
    #[error("the server rejected our request due to an error in our request")]
    Rejected {
        /// What is wrong with the patch.
        detail: String,
    },
    /// 422 Invalid with one cause: an invalid value of the field `patch`.
    #[error(" \"\" is invalid: patch: Invalid value: {value:?}: {detail}")]
    Invalid {
        /// The patched object, or the patch, as text.
        value: String,
        /// Why.
        detail: String,
    },
    /// 500 without a reason: upstream has no better answer to some malformed strategic patches.
    #[error("{0}")]
    Internal(String),
}

/// A patched object.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    /// The object in canonical form.
    pub object: Value,
    /// Unknown and duplicate fields, as in [`Decoded::strict`].
    pub strict: Vec<String>,
    /// The text that stands for the patch when `strict` is an error.
    shown: String,
}

impl Patched {
    /// The object, or the error of `fieldValidation=Strict` if there is anything to refuse.
    pub fn require_strict(self) -> Result<Value, PatchError> {
        if self.strict.is_empty() {
            return Ok(self.object);
        }
        Err(PatchError::Invalid { value: self.shown, detail: strict_message(&self.strict) })
    }
}

/// Applies a patch to an object of a built-in kind.
pub fn apply(
    schema: &Schema,
    kind: PatchType,
    original: &Value,
    patch: &[u8],
) -> Result<Patched, PatchError> {
    let Raw { object, mut strict, shown } = match kind {
        PatchType::Strategic => strategic_patch(schema, original, patch)?,
        PatchType::Json | PatchType::Merge => generic_patch(kind, original, patch)?,
    };
    let dialect = if kind == PatchType::Strategic { Dialect::Converter } else { Dialect::Json };
    match schema.convert(&object, dialect) {
        Ok(Decoded { object: mut canonical, strict: unknown }) => {
            strict.extend(unknown);
            ownerless::keep(&object, &mut canonical);
            Ok(Patched { object: canonical, strict, shown })
        }
        Err(error) => Err(PatchError::Invalid { value: shown, detail: error.to_string() }),
    }
}

/// Applies a patch to an object of a kind whose fields are not known (custom resources).
pub fn apply_untyped(kind: PatchType, original: &Value, patch: &[u8]) -> Result<Patched, PatchError> {
    let Raw { object, strict, shown } = generic_patch(kind, original, patch)?;
    Ok(Patched { object, strict, shown })
}

/// A patched object before its kind has looked at it.
struct Raw {
    object: Value,
    strict: Vec<String>,
    shown: String,
}

fn generic_patch(kind: PatchType, original: &Value, patch: &[u8]) -> Result<Raw, PatchError> {
    let refused = |error: DecodeError| PatchError::BadRequest(format!("error decoding patch: {error}"));
    let (object, strict) = match kind {
        PatchType::Json => {
            let json::Operations { list: operations, strict } = json::read(patch)?;
            if operations.len() > MAX_JSON_PATCH_OPERATIONS {
                return Err(PatchError::TooLarge(format!(
                    "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
                    operations.len()
                )));
            }
            let object = json::apply(original, &operations)
                .map_err(|error| PatchError::Rejected { detail: error.to_string() })?;
            (object, strict)
        }
        PatchType::Merge => {
            let strict = find_duplicates(patch).map_err(refused)?;
            let mut object = original.clone();
            match parse(patch).map_err(refused)? {
                Value::Null => return Err(PatchError::BadRequest("Invalid JSON Patch".to_owned())),
                patch @ Value::Object(_) => merge::merge(&mut object, patch),
                other => {
                    let error = DecodeError::Type(format!(
                        "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                        json_kind(&other)
                    ));
                    return Err(refused(error));
                }
            }
            (object, strict)
        }
        PatchType::Strategic => return Err(PatchError::Unsupported),
    };
    let shown = object.to_string();
    Ok(Raw { object, strict, shown })
}

fn strategic_patch(schema: &Schema, original: &Value, patch: &[u8]) -> Result<Raw, PatchError> {
    let refused = |error: DecodeError| PatchError::BadRequest(error.to_string());
    let strict = find_duplicates(patch).map_err(refused)?;
    let patch = match parse(patch).map_err(refused)? {
        Value::Object(patch) => patch,
        Value::Null => serde_json::Map::new(),
        other => {
            return Err(PatchError::BadRequest(format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                json_kind(&other)
            )));
        }
    };
    let shown = go_text(&Value::Object(patch.clone()));
    let original = original.as_object().cloned().unwrap_or_default();
    let object = strategic::merge(schema, original, patch).map_err(|error| match error {
        strategic::MergeError::Format(_) => PatchError::BadRequest(error.to_string()),
        strategic::MergeError::Content(_) => PatchError::Rejected { detail: error.to_string() },
        strategic::MergeError::Other(_) => PatchError::Internal(error.to_string()),
    })?;
    Ok(Raw { object: Value::Object(object), strict, shown })
}

fn parse(body: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(body).map_err(|error| DecodeError::Syntax(normalize::syntax_error(&error, body)))
}

/// A JSON type as Go's decoder names it.
fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
