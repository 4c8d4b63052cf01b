//! Where the reader stands, and the words for what does not fit.

use serde_json::{Number, Value};

use super::{DecodeError, Decoded, MAX_STRICT_ERRORS, VALUES_MAX};
use crate::fields::{Kind, Shape, Table};

/// Whose words errors are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The JSON decoder: bodies, JSON and merge patches.
    Json,
    /// The converter from generic maps, which strategic merge patches go through.
    Converter,
}

/// The nameless Go type into which a body is read first, to tell its kind.
const KIND_READER: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// Where the reader stands, and what it has found.
pub(super) struct Context {
    pub(super) table: &'static Table,
    pub(super) dialect: Dialect,
    /// Path with indices and map keys, as strict errors show it.
    pub(super) path: String,
    /// Names of the struct fields on the way, as type errors show it.
    pub(super) fields: String,
    /// The struct that holds the innermost of `fields`.
    pub(super) owner: Option<&'static str>,
    strict: Vec<String>,
    /// Fields of the structs so far, given or not.
    values: usize,
    /// The first value of a wrong type. Go reads on after these.
    pub(super) error: Option<String>,
    /// What keeps the kind itself from being read, which happens before anything else is.
    unrecognized: Option<String>,
    /// The first error of a type with a decoder of its own. Go stops at these, so they win.
    fatal: Option<String>,
}

impl Context {
    pub(super) fn new(table: &'static Table, dialect: Dialect) -> Self {
        Self {
            table,
            dialect,
            path: String::new(),
            fields: String::new(),
            owner: None,
            strict: Vec::new(),
            values: 0,
            error: None,
            unrecognized: None,
            fatal: None,
        }
    }

    pub(super) fn finish(self, object: Value) -> Result<Decoded, DecodeError> {
        match (self.unrecognized, self.fatal.or(self.error)) {
            (Some(text), _) => Err(DecodeError::Unrecognized(text)),
            (None, Some(text)) => Err(DecodeError::Type(text)),
            (None, None) => Ok(Decoded { object, strict: self.strict }),
        }
    }

    /// Counts the fields of a struct; false if there have been too many.
    pub(super) fn count(&mut self, fields: usize) -> bool {
        self.values += fields;
        !self.is_full()
    }

    pub(super) fn is_full(&self) -> bool {
        self.values > VALUES_MAX
    }

    pub(super) fn strict(&mut self, what: &str, name: &str) {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let text = format!("{what} {path:?}");
        if self.strict.len() < MAX_STRICT_ERRORS && !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    /// `json: cannot unmarshal VALUE into ... of type GO`.
    pub(super) fn cannot_unmarshal(&self, value: &str, go: &str) -> String {
        match self.owner {
            Some(owner) if self.dialect == Dialect::Json => {
                format!(
                    "json: cannot unmarshal {value} into Go struct field {owner}.{} of type {go}",
                    self.fields
                )
            }
            _ => format!("json: cannot unmarshal {value} into Go value of type {go}"),
        }
    }

    pub(super) fn wrong(&mut self, found: &Found, shape: &Shape) {
        let value = found.json(shape);
        match (self.dialect, self.path.as_str()) {
            (Dialect::Json, "") => {
                let text = format!("json: cannot unmarshal {value} into Go value of type {KIND_READER}");
                self.unrecognized.get_or_insert(text);
            }
            (Dialect::Json, field @ ("kind" | "apiVersion")) => {
                let text =
                    format!("json: cannot unmarshal {value} into Go struct field .{field} of type string");
                self.unrecognized.get_or_insert(text);
            }
            (Dialect::Json, _) => {
                let text = self.cannot_unmarshal(&value, &shape.go);
                self.error.get_or_insert(text);
            }
            (Dialect::Converter, _) => _ = self.error.get_or_insert(found.converter(shape)),
        }
    }

    pub(super) fn fatal(&mut self, text: String) {
        // After a stop nothing that follows would have been read.
        if self.fatal.is_none() {
            self.fatal = Some(text);
        }
    }
}

/// A value that does not fit.
pub(super) enum Found {
    Bool,
    String,
    Number(Number),
    Array,
    Object,
}

impl Found {
    /// As the JSON decoder names it: numbers with their text where a number was wanted.
    pub(super) fn json(&self, shape: &Shape) -> String {
        match self {
            Self::Bool => "bool".to_owned(),
            Self::String => "string".to_owned(),
            Self::Array => "array".to_owned(),
            Self::Object => "object".to_owned(),
            Self::Number(number) => match shape.kind {
                Kind::Int32 | Kind::Int64 | Kind::Float64 | Kind::IntOrString => format!("number {number}"),
                _ => "number".to_owned(),
            },
        }
    }

    /// The name of the Go type of the value in a generic tree.
    fn go_kind(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::String => "string",
            Self::Number(number) if number.is_i64() => "int64",
            Self::Number(_) => "float64",
            Self::Array => "slice",
            Self::Object => "map",
        }
    }

    fn converter(&self, shape: &Shape) -> String {
        let found = self.go_kind();
        match (&shape.kind, self) {
            (Kind::Struct(_), _) => format!("cannot restore struct from: {found}"),
            (Kind::List(_) | Kind::Bytes, _) => format!("cannot restore slice from {found}"),
            (Kind::Map(_), _) => format!("cannot restore map from {found}"),
            // Go can convert these two, if not to anything sensible, and so refuses them elsewhere.
            (Kind::String, Self::Number(number)) if number.is_i64() => {
                format!("cannot convert int64 to {}", shape.go)
            }
            (Kind::Int32 | Kind::Int64, Self::Number(_)) => format!("cannot convert {found} to {}", shape.go),
            (Kind::String, _) => "unrecognized type: string".to_owned(),
            (Kind::Bool, _) => "unrecognized type: bool".to_owned(),
            (Kind::Int32, _) => "unrecognized type: int32".to_owned(),
            (Kind::Int64, _) => "unrecognized type: int64".to_owned(),
            (Kind::Float64, _) => "unrecognized type: float64".to_owned(),
            _ => "unrecognized type: struct".to_owned(),
        }
    }
}
