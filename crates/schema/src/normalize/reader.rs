//! Reads a value of a known shape, from text or from a tree, in one pass.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::context::{Context, Dialect, Found};
use super::write::{write_struct, zero};
use super::{quantity, time};
use crate::fields::{Kind, Shape, Struct};

/// Reads one value of a known shape into its canonical form.
pub(super) struct Reader<'a> {
    pub(super) shape: &'a Shape,
    pub(super) context: &'a mut Context,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.shape.kind {
            Kind::RawExtension | Kind::FieldsV1 | Kind::Json => serde::Deserialize::deserialize(deserializer),
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
        if !context.count(of.json.len()) {
            return Err(serde::de::Error::custom("too many values"));
        }
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
