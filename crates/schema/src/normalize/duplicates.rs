//! Duplicate fields in JSON of which nothing is known.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{DecodeError, MAX_STRICT_ERRORS, syntax_error};

/// `duplicate field "a.b"` for every name that occurs twice in one object of the body, in the order of the body.
///
/// For bodies without a schema: patches and custom resources. [`Schema::decode`](crate::fields::Schema::decode)
/// finds duplicates on its way.
pub fn find_duplicates(body: &[u8]) -> Result<Vec<String>, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let (mut path, mut found) = (String::new(), Vec::new());
    Scan { path: &mut path, found: &mut found }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(|error| DecodeError::Syntax(syntax_error(&error, body)))?;
    Ok(found)
}

struct Scan<'a> {
    path: &'a mut String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for index in 0.. {
            self.path.push_str(&format!("[{index}]"));
            let item = items.next_element_seed(Scan { path: self.path, found: self.found })?;
            self.path.truncate(length);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let length = self.path.len();
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let text = format!("duplicate field {:?}", self.path);
            if !seen.insert(key) && self.found.len() < MAX_STRICT_ERRORS && !self.found.contains(&text) {
                self.found.push(text);
            }
            entries.next_value_seed(Scan { path: self.path, found: self.found })?;
            self.path.truncate(length);
        }
        Ok(())
    }
}
