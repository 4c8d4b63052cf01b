//! What an object looks like after Kubernetes has decoded it into its Go type and encoded it again.
//!
//! Unknown fields are named and dropped, values of the wrong type refused with the words of Go's decoder (clients see
//! them, rule J43), times and quantities brought to their canonical text, and empty values left out or put in as the
//! field's declaration says (rule J15). Lists and maps that are empty and may not be left out become `null`, which is
//! what reading them back from storage gives upstream. Names are case-sensitive.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::fields::{Field, Kind, Schema, Shape, Struct, Table};

mod duplicates;
pub mod quantity;
mod syntax;
pub mod time;

pub use duplicates::find_duplicates;
pub use syntax::syntax_error;

#[cfg(test)]
mod tests;

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
    /// JSON of another shape.
    #[error("{0}")]
    Type(String),
}

impl DecodeError {
    /// The message of the 400 BadRequest with which an API server refuses a body of this kind.
    pub fn bad_request(&self, kind: &str, version: &str) -> String {
        match self {
            // The kind of a body that is not JSON is not known: it fails where the kind is looked for.
            Self::Syntax(text) => format!("couldn't get version/kind; json parse error: {text}"),
            Self::Type(text) => {
                format!("{kind} in version {version:?} cannot be handled as a {kind}: {text}")
            }
        }
    }
}

/// What `fieldValidation=Strict` says about strict errors: `strict decoding error: A, B` (rule J43).
pub fn strict_message(errors: &[String]) -> String {
    format!("strict decoding error: {}", errors.join(", "))
}

/// Whose words errors are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The JSON decoder: bodies, JSON and merge patches.
    Json,
    /// The converter from generic maps, which strategic merge patches go through.
    Converter,
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
        context.finish(object.map_err(|error| DecodeError::Syntax(syntax_error(&error, body)))?)
    }

    /// Brings an object that is already a tree to canonical form. Duplicate fields cannot be seen here any more.
    pub fn check_and_normalize(&self, object: &Value) -> Result<Decoded, DecodeError> {
        self.convert(object, Dialect::Json)
    }

    pub(crate) fn convert(&self, object: &Value, dialect: Dialect) -> Result<Decoded, DecodeError> {
        let mut context = Context::new(self.table, dialect);
        let object =
            self.walk(object, &mut context).map_err(|error| DecodeError::Syntax(error.to_string()))?;
        context.finish(object)
    }

    fn walk<'de, D: Deserializer<'de>>(&self, input: D, context: &mut Context) -> Result<Value, D::Error> {
        let root = Shape {
            kind: Kind::Struct(self.root),
            pointer: false,
            go: format!("v1.{}", self.kind()),
            values: Vec::new(),
        };
        Reader { shape: &root, context }.deserialize(input)
    }
}

/// Where the reader stands, and what it has found.
struct Context {
    table: &'static Table,
    dialect: Dialect,
    /// Path with indices and map keys, as strict errors show it.
    path: String,
    /// Names of the struct fields on the way, as type errors show it.
    fields: String,
    /// The struct that holds the innermost of `fields`.
    owner: Option<&'static str>,
    strict: Vec<String>,
    /// The first value of a wrong type. Go reads on after these.
    error: Option<String>,
    /// The first error of a type with a decoder of its own. Go stops at these, so they win.
    fatal: Option<String>,
}

impl Context {
    fn new(table: &'static Table, dialect: Dialect) -> Self {
        Self {
            table,
            dialect,
            path: String::new(),
            fields: String::new(),
            owner: None,
            strict: Vec::new(),
            error: None,
            fatal: None,
        }
    }

    fn finish(self, object: Value) -> Result<Decoded, DecodeError> {
        match self.fatal.or(self.error) {
            Some(text) => Err(DecodeError::Type(text)),
            None => Ok(Decoded { object, strict: self.strict }),
        }
    }

    fn strict(&mut self, what: &str, name: &str) {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let text = format!("{what} {path:?}");
        if self.strict.len() < MAX_STRICT_ERRORS && !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    /// `json: cannot unmarshal VALUE into ... of type GO`.
    fn cannot_unmarshal(&self, value: &str, go: &str) -> String {
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

    fn wrong(&mut self, found: &Found, shape: &Shape) {
        let text = match self.dialect {
            Dialect::Json => self.cannot_unmarshal(&found.json(shape), &shape.go),
            Dialect::Converter => found.converter(shape),
        };
        self.error.get_or_insert(text);
    }

    fn fatal(&mut self, text: String) {
        // After a stop nothing that follows would have been read.
        if self.fatal.is_none() {
            self.fatal = Some(text);
        }
    }
}

/// A value that does not fit.
enum Found {
    Bool,
    String,
    Number(Number),
    Array,
    Object,
}

impl Found {
    /// As the JSON decoder names it: numbers with their text where a number was wanted.
    fn json(&self, shape: &Shape) -> String {
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

/// Reads one value of a known shape into its canonical form.
struct Reader<'a> {
    shape: &'a Shape,
    context: &'a mut Context,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.shape.kind {
            Kind::RawExtension | Kind::FieldsV1 => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Reader<'_> {
    /// Refuses a value; what is returned stands in for it and is never seen.
    fn refuse(self, found: &Found) -> Value {
        let context = self.context;
        match self.shape.kind {
            Kind::Time | Kind::MicroTime => {
                let text = context.cannot_unmarshal(&found.json(self.shape), "string");
                context.fatal(text);
            }
            Kind::IntOrString => {
                let text = context.cannot_unmarshal(&found.json(self.shape), "int32");
                context.fatal(text);
            }
            Kind::Quantity => context.fatal(quantity::QuantityError::Format.to_string()),
            _ => context.wrong(found, self.shape),
        }
        Value::Null
    }

    fn number(self, number: Number) -> Value {
        let integer = number.as_i64();
        match self.shape.kind {
            Kind::Int32 if integer.is_some_and(|value| i32::try_from(value).is_ok()) => Value::Number(number),
            Kind::Int64 if integer.is_some() => Value::Number(number),
            Kind::Int32 | Kind::Int64 if self.context.dialect == Dialect::Converter => {
                match converted(&number, &self.shape.kind) {
                    Some(value) => Value::from(value),
                    None => self.refuse(&Found::Number(number)),
                }
            }
            Kind::Float64 => match number.as_f64() {
                // Go writes a whole number without a fraction.
                Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => Value::from(float as i64),
                _ => Value::Number(number),
            },
            Kind::IntOrString if integer.is_some_and(|value| i32::try_from(value).is_ok()) => {
                Value::Number(number)
            }
            Kind::Quantity => self.quantity(&number.to_string()),
            _ => self.refuse(&Found::Number(number)),
        }
    }

    fn quantity(self, text: &str) -> Value {
        match quantity::canonical(text.trim()) {
            Ok(text) => Value::String(text),
            Err(error) => {
                self.context.fatal(error.to_string());
                Value::Null
            }
        }
    }

    fn time(self, text: &str, precision: time::Precision) -> Value {
        match time::canonical(text, precision) {
            Ok(Some(text)) => Value::String(text),
            Ok(None) => Value::Null,
            Err(error) => {
                self.context.fatal(error);
                Value::Null
            }
        }
    }

    fn bytes(self, text: &str) -> Value {
        use base64::Engine as _;
        use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
        );
        let joined: String = text.chars().filter(|character| !matches!(character, '\r' | '\n')).collect();
        match LENIENT.decode(&joined) {
            Ok(bytes) => Value::String(STANDARD.encode(bytes)),
            Err(error) => {
                let offset = match error {
                    base64::DecodeError::InvalidByte(offset, _) => offset,
                    _ => joined.len() / 4 * 4,
                };
                let text = format!("illegal base64 data at input byte {offset}");
                match self.context.dialect {
                    Dialect::Json => _ = self.context.error.get_or_insert(text),
                    Dialect::Converter => self.context.fatal(format!("error decoding from json: {text}")),
                }
                Value::Null
            }
        }
    }

    fn object<'de, A: MapAccess<'de>>(self, of: &'static Struct, mut entries: A) -> Result<Value, A::Error> {
        let context = self.context;
        let (path, fields, owner) = (context.path.len(), context.fields.len(), context.owner);
        let mut values: Vec<Option<Value>> = vec![None; of.json.len()];
        while let Some(key) = entries.next_key_seed(KeyOf(of))? {
            let (position, field) = match key {
                Key::Known(position) => (position, &of.json[position]),
                Key::Unknown(name) => {
                    context.strict("unknown field", &name);
                    entries.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if values[position].is_some() {
                context.strict("duplicate field", field.name);
            }
            for (trail, length) in [(&mut context.path, path), (&mut context.fields, fields)] {
                if length > 0 {
                    trail.push('.');
                }
                trail.push_str(field.name);
            }
            context.owner = Some(of.name);
            values[position] = Some(entries.next_value_seed(Reader { shape: &field.shape, context })?);
            context.path.truncate(path);
            context.fields.truncate(fields);
        }
        context.owner = owner;
        Ok(write_struct(context.table, of, values))
    }

    fn map<'de, A: MapAccess<'de>>(self, shape: &Shape, mut entries: A) -> Result<Value, A::Error> {
        let context = self.context;
        let path = context.path.len();
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                context.strict("duplicate field", &key);
            }
            if path > 0 {
                context.path.push('.');
            }
            context.path.push_str(&key);
            let value = entries.next_value_seed(Reader { shape, context })?;
            // A nil []byte in a map comes back from storage as an empty one.
            let value = if shape.kind == Kind::Bytes && value.is_null() { Value::from("") } else { value };
            map.insert(key, value);
            context.path.truncate(path);
        }
        Ok(Value::Object(map))
    }
}

/// What the converter makes of a number that JSON would refuse: integers wrap around, whole floats become integers.
fn converted(number: &Number, kind: &Kind) -> Option<i64> {
    let integer = match number.as_i64() {
        Some(integer) => integer,
        None => number.as_f64().filter(|float| float.fract() == 0.0)? as i64,
    };
    Some(if *kind == Kind::Int32 { i64::from(integer as i32) } else { integer })
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shape.go)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(zero(self.context.table, self.shape))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(match self.shape.kind {
            Kind::Bool => Value::Bool(value),
            _ => self.refuse(&Found::Bool),
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(self.number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no infinities, so this is always a number.
        Ok(Number::from_f64(value).map_or(Value::Null, |number| self.number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(match self.shape.kind {
            Kind::String | Kind::IntOrString => Value::from(value),
            Kind::Bytes => self.bytes(value),
            Kind::Time => self.time(value, time::Precision::Seconds),
            Kind::MicroTime => self.time(value, time::Precision::Micros),
            Kind::Quantity => self.quantity(value),
            _ => self.refuse(&Found::String),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let Kind::List(shape) = &self.shape.kind else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(self.refuse(&Found::Array));
        };
        let context = self.context;
        let path = context.path.len();
        let mut list = Vec::new();
        loop {
            context.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Reader { shape, context })?;
            context.path.truncate(path);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        match &self.shape.kind {
            Kind::Struct(id) => {
                let of = self.context.table.at(*id);
                self.object(of, entries)
            }
            Kind::Map(shape) => self.map(shape, entries),
            _ => {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.refuse(&Found::Object))
            }
        }
    }
}

/// Looks a key up without making a string of it.
struct KeyOf(&'static Struct);

enum Key {
    Known(usize),
    Unknown(String),
}

impl<'de> DeserializeSeed<'de> for KeyOf {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf {
    type Value = Key;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key, E> {
        Ok(match self.0.json_field(name) {
            Some((position, _)) => Key::Known(position),
            None => Key::Unknown(name.to_owned()),
        })
    }
}

/// The object of a struct whose fields have these values, by position; `None` is a field that was not given.
fn write_struct(table: &'static Table, of: &Struct, values: Vec<Option<Value>>) -> Value {
    let mut object = Map::new();
    for (field, value) in of.json.iter().zip(values) {
        let value = value.unwrap_or_else(|| zero(table, &field.shape));
        if let Some(value) = written(field, value) {
            object.insert(field.name.to_owned(), value);
        }
    }
    Value::Object(object)
}

/// What is written for a field: `None` if it is left out.
fn written(field: &Field, value: Value) -> Option<Value> {
    let empty = is_empty(&field.shape, &value);
    if (field.omit_empty && empty) || (field.omit_zero && value.is_null()) {
        return None;
    }
    let collection = matches!(field.shape.kind, Kind::List(_) | Kind::Map(_)) && !field.shape.pointer;
    Some(if collection && empty { Value::Null } else { value })
}

/// Whether Go's `omitempty` leaves the value out.
fn is_empty(shape: &Shape, value: &Value) -> bool {
    if shape.pointer {
        return value.is_null();
    }
    match (&shape.kind, value) {
        (Kind::String | Kind::Bytes, Value::String(text)) => text.is_empty(),
        (Kind::Bool, Value::Bool(value)) => !value,
        (Kind::Int32 | Kind::Int64 | Kind::Float64, Value::Number(number)) => number.as_f64() == Some(0.0),
        (Kind::List(_), Value::Array(list)) => list.is_empty(),
        (Kind::Map(_), Value::Object(map)) => map.is_empty(),
        (Kind::List(_) | Kind::Map(_) | Kind::Bytes, Value::Null) => true,
        // Structs, and the types that are structs in Go, are never empty.
        _ => false,
    }
}

/// What Go writes for the zero value of a type.
fn zero(table: &'static Table, shape: &Shape) -> Value {
    if shape.pointer {
        return Value::Null;
    }
    match &shape.kind {
        Kind::String => Value::from(""),
        Kind::Bool => Value::from(false),
        Kind::Int32 | Kind::Int64 | Kind::Float64 | Kind::IntOrString => Value::from(0),
        Kind::Quantity => Value::from("0"),
        Kind::Struct(id) => {
            let of = table.at(*id);
            write_struct(table, of, vec![None; of.json.len()])
        }
        Kind::Bytes
        | Kind::Time
        | Kind::MicroTime
        | Kind::RawExtension
        | Kind::FieldsV1
        | Kind::List(_)
        | Kind::Map(_) => Value::Null,
    }
}
