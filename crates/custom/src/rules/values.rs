//! Objects as expressions see them.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::objects::{Key, Map, OptionalValue};
use kube_cel::cel::{Context, Program, Value};
use serde_json::Value as Json;

use crate::schema::{Schema, Type};

/// What an expression may speak of.
pub(super) struct Scope {
    value: Value,
    old: Option<Value>,
    size: Size,
}

/// How large values are, at most.
#[derive(Default)]
struct Size {
    /// Elements of the longest list or map.
    elements: u64,
    /// Bytes of the longest text.
    bytes: u64,
}

/// What an expression said.
#[derive(Debug)]
pub(super) enum Answer {
    Bool(bool),
    Text(String),
    Other,
}

impl Answer {
    pub(super) fn of(value: Value) -> Self {
        match value {
            Value::Bool(answer) => Self::Bool(answer),
            Value::String(text) => Self::Text(text.to_string()),
            _ => Self::Other,
        }
    }
}

impl Scope {
    pub(super) fn new(value: &Json, old: Option<&Json>, schema: &Schema, root: bool) -> Self {
        let mut size = Size::default();
        let mut read = |json: &Json| Reader { size: &mut size }.value(json, Some(schema), root);
        let value = read(value);
        let old = old.map(read);
        Self { value, old, size }
    }

    pub(super) fn value(&self) -> Value {
        self.value.clone()
    }

    /// What it was; as something that may be there or not, if the rule wants it so.
    pub(super) fn old(&self, optional: bool) -> Option<Value> {
        if !optional {
            return self.old.clone();
        }
        let old = self.old.clone().map_or_else(OptionalValue::none, OptionalValue::of);
        Some(Value::Opaque(Arc::new(old)))
    }

    pub(super) fn longest(&self) -> u64 {
        self.size.elements
    }

    pub(super) fn text_bytes(&self) -> u64 {
        self.size.bytes
    }
}

struct Reader<'a> {
    size: &'a mut Size,
}

impl Reader<'_> {
    fn value(&mut self, json: &Json, schema: Option<&Schema>, root: bool) -> Value {
        let kind = schema.and_then(|schema| schema.kind);
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (kind, number.as_i64()) {
                (Some(Type::Number), _) | (_, None) => Value::Float(number.as_f64().unwrap_or_default()),
                (_, Some(integer)) => Value::Int(integer),
            },
            Json::String(text) => self.text(text, schema),
            Json::Array(items) => {
                self.size.elements = self.size.elements.max(items.len() as u64);
                let of_items = schema.and_then(|schema| schema.items.as_deref());
                let items = items.iter().map(|item| self.value(item, of_items, false)).collect();
                Value::List(Arc::new(items))
            }
            Json::Object(fields) => {
                self.size.elements = self.size.elements.max(fields.len() as u64);
                let embedded = root || schema.is_some_and(|schema| schema.embedded);
                // The keys of maps are data, those of structs are names.
                let is_map = schema.is_none_or(|schema| schema.additional.is_some());
                let mut map = HashMap::with_capacity(fields.len());
                for (key, value) in fields {
                    let property = schema.and_then(|schema| schema.properties.get(key));
                    let value = match key.as_str() {
                        "metadata" if embedded => self.meta(value),
                        _ => self.value(value, schema.and_then(|schema| schema.field(key)), false),
                    };
                    let key = if is_map && property.is_none() { Some(key.clone()) } else { escape(key) };
                    if let Some(key) = key {
                        map.insert(Key::String(Arc::new(key)), value);
                    }
                }
                Value::Map(Map { map: Arc::new(map) })
            }
        }
    }

    /// Of metadata, names are seen and nothing else.
    fn meta(&mut self, json: &Json) -> Value {
        let names = ["name", "generateName"].into_iter().filter_map(|key| Some((key, json.get(key)?)));
        let map = names
            .map(|(key, value)| (Key::String(Arc::new(key.to_owned())), self.value(value, None, false)))
            .collect();
        Value::Map(Map { map: Arc::new(map) })
    }

    fn text(&mut self, text: &str, schema: Option<&Schema>) -> Value {
        self.size.bytes = self.size.bytes.max(text.len() as u64);
        let plain = || Value::String(Arc::new(text.to_owned()));
        let format =
            schema.filter(|schema| schema.kind == Some(Type::String)).and_then(|s| s.format.as_ref());
        let convert = match format.map(|format| format.name()) {
            Some("date-time" | "datetime") => "timestamp(text)",
            Some("date") => "timestamp(text + 'T00:00:00Z')",
            Some("duration") => "duration(text)",
            Some("byte") => "base64.decode(text)",
            _ => return plain(),
        };
        // The engine knows how to read what it compares with.
        let mut context = Context::default();
        kube_cel::KubeCelExt::register_all(&mut context);
        context.add_variable_from_value("text", plain());
        let read = Program::compile(convert).ok().and_then(|program| program.execute(&context).ok());
        read.unwrap_or_else(plain)
    }
}

/// Types, which the engine does not know as values: `type(x) == int`.
pub(super) fn add_types(context: &mut Context<'_>) {
    for name in super::check::TYPES.iter().copied() {
        context.add_variable_from_value(name, name.to_owned());
    }
    context.add_function("type", |value: Value| -> String {
        let name = match value {
            Value::List(_) => "list",
            Value::Map(_) => "map",
            Value::Int(_) => "int",
            Value::UInt(_) => "uint",
            Value::Float(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Bool(_) => "bool",
            Value::Duration(_) => "duration",
            Value::Timestamp(_) => "timestamp",
            Value::Null => "null_type",
            _ => "dyn",
        };
        name.to_owned()
    });
}

/// Words that are no names in CEL.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name of a field in expressions; `None` if it has none there.
pub(super) fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || "_-./".contains(first));
    if !starts || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-./".contains(letter)) {
        return None;
    }
    let name = name.replace("__", "__underscores__");
    Some(name.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}
