//! Bodies of requests: JSON or YAML in, an object of the kind out (J10, J43).

use std::borrow::Cow;

use bytes::Bytes;
use dyad_schema::fields::Schema;
use dyad_schema::kinds;
use dyad_schema::normalize::{Decoded, strict_message};
use serde::Deserialize;
use serde_json::Value;

use super::options::FieldValidation;
use super::resource::Served;
use crate::status::ApiError;

/// Content types of bodies that can be read.
const READABLE: [&str; 2] = ["application/json", "application/yaml"];

/// How a body is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Yaml,
    /// A content type that is not one of these, without parameters.
    Other(String),
}

impl Media {
    /// From a `Content-Type` header; none means JSON.
    pub(crate) fn from_content_type(header: &str) -> Self {
        match header.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Self::Json,
            "application/yaml" | "application/x-yaml" | "text/yaml" => Self::Yaml,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// The body of a request.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) media: Media,
    pub(crate) bytes: Bytes,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

impl TypeMeta {
    /// With what was left out.
    fn or(self, api_version: &str, kind: &str) -> Self {
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        Self { api_version: or(self.api_version, api_version), kind: or(self.kind, kind) }
    }
}

/// Refuses an object of another kind than expected: one that nobody knows, one that is no such object, or one that
/// is, but is served elsewhere.
fn check_type(given: &TypeMeta, (group, version, kind): (&str, &str, &str)) -> Result<(), ApiError> {
    let TypeMeta { api_version: given_version, kind: given_kind } = given;
    let (given_group, number) = given_version.split_once('/').unwrap_or(("", given_version));
    if (given_group, number, given_kind.as_str()) == (group, version, kind) {
        return Ok(());
    }
    let mut known = kinds::all().iter();
    if !known.any(|row| row.kind == *given_kind && row.group == given_group && row.version == number) {
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version {number:?} cannot be handled as a {kind}: no kind {given_kind:?} is registered for \
             version {given_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )));
    }
    if given_kind != kind {
        let package = match group.split('.').next() {
            Some("") | None => "core",
            Some(label) => label,
        };
        return Err(ApiError::bad_request(format!(
            "{given_kind} in version {number:?} cannot be handled as a {kind}: converting ({number}.{given_kind}) to \
             ({package}.{kind}): unknown conversion"
        )));
    }
    let expected = kinds::api_version(group, version);
    Err(ApiError::bad_request(format!(
        "the API version in the data ({given_version}) does not match the expected API version ({expected})"
    )))
}

impl Body {
    /// The body as JSON text.
    pub(crate) fn json(&self) -> Result<Cow<'_, [u8]>, ApiError> {
        match self.media {
            Media::Json => Ok(Cow::Borrowed(&self.bytes)),
            Media::Yaml => {
                let value: Value = serde_saphyr::from_slice(&self.bytes).map_err(|error| {
                    ApiError::bad_request(format!("error converting YAML to JSON: {error}"))
                })?;
                Ok(Cow::Owned(serde_json::to_vec(&value).map_err(ApiError::internal)?))
            }
            Media::Other(_) => Err(ApiError::unsupported_media_type(&READABLE)),
        }
    }

    /// Reads an object of a served kind and turns it into what is stored.
    pub(crate) fn decode(
        &self,
        served: &Served,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let row = served.row;
        let expected = (row.group, row.version, row.kind);
        let mut object = self.decode_as(&served.schema, expected, validation, warnings)?;
        served.to_stored(&mut object);
        Ok(object)
    }

    /// Reads an object of the kind `(group, version, kind)`.
    pub(crate) fn decode_as(
        &self,
        schema: &Schema,
        (group, version, kind): (&str, &str, &str),
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let json = self.json()?;
        let api_version = kinds::api_version(group, version);
        // A body that is no object at all is refused below, with better words.
        let given: TypeMeta = serde_json::from_slice(&json).unwrap_or_default();
        check_type(&given.or(&api_version, kind), (group, version, kind))?;
        let Decoded { mut object, strict } = schema
            .decode(&json)
            .map_err(|error| ApiError::bad_request(error.bad_request(kind, version, &json)))?;
        if !strict.is_empty() {
            match validation {
                FieldValidation::Ignore => {}
                FieldValidation::Warn => warnings.extend(strict),
                FieldValidation::Strict => {
                    return Err(ApiError::bad_request(format!(
                        "{kind} in version {version:?} cannot be handled as a {kind}: {}",
                        strict_message(&strict)
                    )));
                }
            }
        }
        object["kind"] = kind.into();
        object["apiVersion"] = api_version.into();
        Ok(object)
    }

    /// Reads a body whose fields nobody checks: `Null` if there is none.
    pub(crate) fn untyped(&self) -> Result<Value, ApiError> {
        if self.bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.json()?).map_err(|error| ApiError::bad_request(error.to_string()))
    }
}
