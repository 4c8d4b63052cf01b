//! Random schemas, objects that nearly fit them, and damage.

use serde_json::{Map, Value, json};

/// A generator of numbers (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

const NAMES: [&str; 5] = ["a", "b", "c", "spec", "status"];
const TEXTS: [&str; 6] = ["", "a", "ab", "10.0.0.1", "2026-01-02T03:04:05Z", "ü\u{1f600}"];

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or_default()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    /// A schema of an object.
    pub(super) fn schema(&mut self, depth: usize) -> Value {
        let mut schema = json!({"type": "object"});
        self.fields(&mut schema, depth);
        schema
    }

    fn fields(&mut self, schema: &mut Value, depth: usize) {
        let mut properties = Map::new();
        for name in NAMES {
            if self.one_in(2) {
                properties.insert(name.to_owned(), self.any_schema(depth));
            }
        }
        let names: Vec<String> = properties.keys().cloned().collect();
        schema["properties"] = Value::Object(properties);
        let some = |this: &mut Self| -> Vec<Value> {
            names.iter().filter(|_| this.one_in(3)).map(|name| name.as_str().into()).collect()
        };
        if self.one_in(2) {
            schema["required"] = some(self).into();
        }
        for key in ["oneOf", "anyOf", "allOf"] {
            if self.one_in(6) {
                schema[key] = (0..2).map(|_| json!({"required": some(self)})).collect();
            }
        }
        if self.one_in(10) {
            schema["not"] = json!({"required": some(self), "minProperties": self.below(4)});
        }
        if self.one_in(6) {
            schema["maxProperties"] = self.below(5).into();
        }
        if self.one_in(6) {
            schema["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
    }

    fn any_schema(&mut self, depth: usize) -> Value {
        let mut schema = match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => json!({"type": "boolean"}),
            1 => {
                let (min, max) = (self.below(5), 5 + self.below(5));
                json!({"type": "integer", "minimum": min, "maximum": max, "exclusiveMinimum": self.one_in(2)})
            }
            2 => {
                json!({"type": "number", "multipleOf": 0.5, "exclusiveMaximum": true, "maximum": self.below(9)})
            }
            3 => {
                let mut schema = json!({"type": "string", "maxLength": self.below(4)});
                match self.below(4) {
                    0 => schema["pattern"] = "^[a-z]*$".into(),
                    1 => schema["enum"] = json!(["a", "ab"]),
                    2 => schema["minLength"] = 1.into(),
                    _ => {}
                }
                schema
            }
            4 => json!({"x-kubernetes-int-or-string": true}),
            5 => {
                let items = self.any_schema(depth - 1);
                json!({"type": "array", "items": items, "maxItems": self.below(4), "minItems": self.below(2)})
            }
            6 => {
                let values = self.any_schema(depth - 1);
                json!({"type": "object", "additionalProperties": values})
            }
            _ => self.schema(depth - 1),
        };
        if self.one_in(4) {
            schema["nullable"] = true.into();
        }
        if self.one_in(4) {
            schema["default"] = self.value(&schema.clone(), 1);
        }
        schema
    }

    /// An object that has something to do with a schema.
    pub(super) fn object(&mut self, schema: &Value, depth: usize) -> Value {
        match self.value(schema, depth) {
            object @ Value::Object(_) => object,
            _ => json!({}),
        }
    }

    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if self.one_in(12) {
            return self.anything(1);
        }
        match schema["type"].as_str() {
            Some("boolean") => self.one_in(2).into(),
            Some("integer") => self.below(12).into(),
            Some("number") => (self.below(24) as f64 / 4.0).into(),
            Some("string") => TEXTS[self.below(TEXTS.len())].into(),
            Some("array") => {
                (0..self.below(4)).map(|_| self.value(&schema["items"], depth.saturating_sub(1))).collect()
            }
            Some("object") if depth > 0 => {
                let mut map = Map::new();
                for name in NAMES {
                    if self.one_in(2) {
                        let property = match schema["properties"].get(name) {
                            Some(property) => property,
                            None => &schema["additionalProperties"],
                        };
                        map.insert(name.to_owned(), self.value(&property.clone(), depth - 1));
                    }
                }
                Value::Object(map)
            }
            Some(_) => json!({}),
            None if self.one_in(2) => self.below(9).into(),
            None => "x".into(),
        }
    }

    fn anything(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => Value::Null,
            1 => true.into(),
            2 => json!(-1),
            3 => json!(1.5),
            4 => TEXTS[self.below(TEXTS.len())].into(),
            5 => json!([self.anything(depth - 1), self.anything(depth - 1)]),
            _ => json!({"a": self.anything(depth - 1), "metadata": self.anything(depth - 1)}),
        }
    }

    /// Puts something else somewhere.
    pub(super) fn damage(&mut self, value: &mut Value) {
        let children = match value {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => 0,
        };
        if children == 0 || self.one_in(6) {
            *value = self.anything(2);
            return;
        }
        let at = self.below(children);
        match value {
            Value::Object(map) => {
                if let Some(child) = map.values_mut().nth(at) {
                    self.damage(child);
                }
            }
            Value::Array(list) => self.damage(&mut list[at]),
            _ => {}
        }
    }
}
