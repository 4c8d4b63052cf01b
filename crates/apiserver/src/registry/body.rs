//! Bodies of requests: JSON, YAML or protobuf in, an object of the kind out (J10, J11, J43).

use std::borrow::Cow;

use bytes::Bytes;
use dyad_custom::Version;
use dyad_model::FieldError;
use dyad_schema::apply::ownerless;
use dyad_schema::fields::Schema;
use dyad_schema::kinds;
use dyad_schema::normalize::{Decoded, find_duplicates, shown, strict_message, syntax_error};
use dyad_schema::protobuf::{self, Envelope};
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::options::FieldValidation;
use super::resource::{Fields, Served};
use super::write::{Scope, meta_text};
use crate::status::{About, ApiError};

/// Content types of bodies that can be read.
const READABLE: [&str; 3] = ["application/json", "application/yaml", protobuf::CONTENT_TYPE];

/// How a body is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
    /// A content type that is not one of these, without parameters.
    Other(String),
}

impl Media {
    /// From a `Content-Type` header; none means JSON.
    pub(crate) fn from_content_type(header: &str) -> Self {
        let media = header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "" => Self::Json,
            media if media == READABLE[0] => Self::Json,
            media if media == READABLE[1] => Self::Yaml,
            media if media == READABLE[2] => Self::Protobuf,
            _ => Self::Other(media),
        }
    }
}

/// The body of a request.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) media: Media,
    pub(crate) bytes: Bytes,
}

/// A configuration to be applied.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) config: Value,
    /// A key that it has twice, if that is not to be.
    twice: Option<String>,
}

impl Applied {
    /// What is said of the text only once it is known that it could be applied.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        match &self.twice {
            Some(why) => Err(ApiError::bad_request(format!("error strict decoding YAML: {why}"))),
            None => Ok(()),
        }
    }
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

/// What the table of fields says of a kind that is not stored.
pub(super) fn schema_of((group, version, kind): (&str, &str, &str)) -> Result<Schema, ApiError> {
    Schema::for_kind(group, version, kind)
        .ok_or_else(|| ApiError::internal(format!("the table of fields has no {kind}")))
}

/// Does with what a strict reader would refuse in an object of the kind and version what the client asked for.
fn heed(
    strict: Vec<String>,
    (kind, version): (&str, &str),
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    match validation {
        FieldValidation::Strict if !strict.is_empty() => Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {}",
            strict_message(&strict)
        ))),
        FieldValidation::Warn => {
            warnings.extend(strict);
            Ok(())
        }
        _ => Ok(()),
    }
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
            Media::Protobuf | Media::Other(_) => Err(ApiError::unsupported_media_type(&READABLE)),
        }
    }

    /// The envelope of a body in protobuf, `None` for any other.
    fn envelope(&self) -> Option<Result<Envelope<'_>, protobuf::ProtobufError>> {
        (self.media == Media::Protobuf).then(|| Envelope::open(&self.bytes))
    }

    /// What the audit log shows of the body of a request; of objects that are not to be shown what they are called.
    pub(crate) fn shown(&self, served: &Served, scope: Scope<'_>, whole: bool) -> Option<Value> {
        if self.bytes.is_empty() {
            return None;
        }
        let row = served.row;
        let is_object = matches!(scope.verb, "create" | "update") && scope.subresource.is_empty();
        let object = match &self.media {
            Media::Protobuf if is_object => {
                let expected = (row.group, row.version, row.kind);
                let object =
                    self.decode_as(served.schema()?, expected, FieldValidation::Ignore, &mut Vec::new());
                object.ok()?
            }
            Media::Protobuf => return None,
            Media::Json | Media::Yaml => serde_json::from_slice(&self.json().ok()?).ok()?,
            // Patches say nothing of what they are for.
            Media::Other(_) if whole => serde_json::from_slice(&self.bytes).ok()?,
            Media::Other(_) => return None,
        };
        Some(object)
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
        let mut object = match &served.fields {
            Fields::Table(schema) => self.decode_as(schema, expected, validation, warnings)?,
            Fields::Custom(custom) => self.decode_custom(&custom.version, expected, validation, warnings)?,
        };
        served.to_stored(&mut object);
        Ok(object)
    }

    /// Reads an object of a kind that was defined.
    fn decode_custom(
        &self,
        version: &Version,
        (group, number, kind): (&str, &str, &str),
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        if self.media == Media::Protobuf {
            return Err(ApiError::unsupported_media_type(&READABLE[..2]));
        }
        let json = self.json()?;
        let unrecognized = |why: &str| {
            let shown = shown(&json);
            ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): {why} ({shown})"
            ))
        };
        const NO_TYPE: &str = "couldn't get version/kind; json parse error: ";
        let object: Value = serde_json::from_slice(&json)
            .map_err(|error| unrecognized(&format!("{NO_TYPE}{}", syntax_error(&error, &json))))?;
        let is = match &object {
            Value::Object(_) => "",
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            Value::Null | Value::Number(_) => "number",
        };
        if !is.is_empty() {
            return Err(unrecognized(&format!(
                "{NO_TYPE}json: cannot unmarshal {is} into Go value of type struct {{ APIVersion string \
                 \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            )));
        }
        let api_version = kinds::api_version(group, number);
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let (given_kind, given_version) = (text("kind"), text("apiVersion"));
        for (what, given) in [("Kind", &given_kind), ("apiVersion", &given_version)] {
            if given.is_empty() {
                let body = String::from_utf8_lossy(&json);
                return Err(unrecognized(&format!("Object '{what}' is missing in '{body}'")));
            }
        }
        if given_version != api_version {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
            )));
        }
        if given_kind != kind {
            let error = FieldError::invalid("kind", given_kind.as_str(), format!("must be {kind}"));
            let name = meta_text(&object, "name").to_owned();
            let about = About { group, resource: "", kind: &given_kind, name: &name };
            return Err(ApiError::invalid(about, &[error]));
        }
        let twice = find_duplicates(&json).unwrap_or_default();
        let decoded = version.decode(object).map_err(|why| {
            ApiError::bad_request(format!(
                "{kind} in version {number:?} cannot be handled as a {kind}: {why}"
            ))
        })?;
        let strict: Vec<String> = twice.into_iter().chain(decoded.strict).collect();
        heed(strict, (kind, number), validation, warnings)?;
        Ok(decoded.object)
    }

    /// Reads an object of a kind that is not stored, `(group, version, kind)`, such as a Binding.
    pub(crate) fn decode_kind(
        &self,
        kind: (&str, &str, &str),
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        self.decode_as(&schema_of(kind)?, kind, validation, warnings)
    }

    /// The same of what is sent to an object in the path: if it has a name, it is that object's.
    pub(crate) fn decode_about(
        &self,
        name: &str,
        kind: (&str, &str, &str),
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let object = self.decode_kind(kind, validation, warnings)?;
        match meta_text(&object, "name") {
            given if given.is_empty() || given == name => Ok(object),
            _ => Err(ApiError::bad_request(format!("name in URL does not match name in {} object", kind.2))),
        }
    }

    /// Reads an object of the kind `(group, version, kind)`, which `schema` describes.
    fn decode_as(
        &self,
        schema: &Schema,
        (group, version, kind): (&str, &str, &str),
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let api_version = kinds::api_version(group, version);
        if let Some(envelope) = self.envelope() {
            let envelope = envelope.map_err(|error| {
                let shown = shown(&self.bytes);
                ApiError::bad_request(format!(
                    "the object provided is unrecognized (must be of type {kind}): {error} ({shown})"
                ))
            })?;
            let given = TypeMeta { api_version: envelope.api_version, kind: envelope.kind };
            check_type(&given.or(&api_version, kind), (group, version, kind))?;
            let mut object = schema.from_protobuf(envelope.raw).map_err(|error| {
                ApiError::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: {error}"
                ))
            })?;
            object["kind"] = kind.into();
            object["apiVersion"] = api_version.into();
            return Ok(object);
        }
        let json = self.json()?;
        // A body that is no object at all is refused below, with better words.
        let given: TypeMeta = serde_json::from_slice(&json).unwrap_or_default();
        check_type(&given.or(&api_version, kind), (group, version, kind))?;
        let Decoded { mut object, strict } = schema
            .decode(&json)
            .map_err(|error| ApiError::bad_request(error.bad_request(kind, version, &json)))?;
        heed(strict, (kind, version), validation, warnings)?;
        ownerless::keep_from_body(&json, &mut object);
        object["kind"] = kind.into();
        object["apiVersion"] = api_version.into();
        Ok(object)
    }

    /// Reads a configuration to be applied, which is YAML whatever it says it is.
    pub(crate) fn applied(
        &self,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Applied, ApiError> {
        let bad = |why: &str| ApiError::bad_request(format!("error decoding YAML: {why}"));
        // Most of it is JSON, which is read faster as what it is.
        let config: Value = match serde_json::from_slice(&self.bytes) {
            Ok(config) => config,
            Err(_) => {
                let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
                serde_saphyr::from_slice_with_options(&self.bytes, options).map_err(|error| {
                    bad(&format!("error converting YAML to JSON: yaml: {}", error.without_snippet()))
                })?
            }
        };
        let is = match config {
            Value::Object(_) => "object",
            Value::Null => return Ok(Applied { config: Value::Object(serde_json::Map::new()), twice: None }),
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
        };
        if is != "object" {
            return Err(bad(&format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {is} into Go value of type \
                 map[string]interface {{}}"
            )));
        }
        let mut twice = None;
        if validation != FieldValidation::Ignore
            && let Err(error) = serde_saphyr::from_slice::<Value>(&self.bytes)
            && let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet()
        {
            let why = format!(
                "error converting YAML to JSON: yaml: unmarshal errors:\n  line {}: key {:?} already set in map",
                location.line(),
                key.as_deref().unwrap_or_default()
            );
            match validation {
                FieldValidation::Strict => twice = Some(why),
                _ => warnings.push(why),
            }
        }
        Ok(Applied { config, twice })
    }

    /// Reads the options of a delete, which clients send as of any group: `Null` if there are none.
    pub(crate) fn delete_options(&self) -> Result<Value, ApiError> {
        const KIND: &str = "DeleteOptions";
        const SCHEME: &str = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";
        if self.bytes.is_empty() {
            return Ok(Value::Null);
        }
        let bad = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
        let schema = Schema::for_kind("", "v1", KIND)
            .ok_or_else(|| ApiError::internal("the table of fields has no DeleteOptions"))?;
        let check = |given: &TypeMeta| {
            if matches!(given.kind.as_str(), "" | KIND) {
                return Ok(());
            }
            let TypeMeta { api_version, kind } = given;
            Err(ApiError::bad_request(format!(
                "no kind {kind:?} is registered for version {api_version:?} in scheme {SCHEME:?}"
            )))
        };
        if let Some(envelope) = self.envelope() {
            let Envelope { api_version, kind, raw } = envelope.map_err(|error| bad(&error))?;
            check(&TypeMeta { api_version, kind })?;
            return schema.from_protobuf(raw).map_err(|error| bad(&error));
        }
        let json = self.json()?;
        check(&serde_json::from_slice(&json).unwrap_or_default())?;
        schema.decode(&json).map(|decoded| decoded.object).map_err(|error| bad(&error))
    }
}
