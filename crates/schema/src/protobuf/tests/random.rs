//! Random objects of every kind, from the table.

use serde_json::{Map, Value, json};

use crate::fields::{Kind, Schema, Shape, StructId, Table};

/// A generator of numbers (splitmix64): the same for the same seed, everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Every struct that has a protobuf form, as if it were a kind, with its package.
pub(crate) fn schemas() -> impl Iterator<Item = (String, Schema)> {
    let table = Table::get();
    table.structs().filter_map(move |(root, of)| {
        let schema = Schema { table, root };
        schema.has_protobuf().then(|| (format!("{} {}", of.package, of.name), schema))
    })
}

/// A random object in canonical form; the deeper, the less there is of it.
pub(crate) fn object(schema: &Schema, random: &mut Random) -> Value {
    let object = fields(schema.table, schema.root, random, 0);
    schema.check_and_normalize(&object).expect("only values that fit are made").object
}

fn fields(table: &'static Table, id: StructId, random: &mut Random, depth: usize) -> Value {
    let mut object = Map::new();
    for field in &table.at(id).json {
        // What an object is, is not in its message.
        let is_type = table.at(id).is_kind() && matches!(field.name, "kind" | "apiVersion");
        if !is_type && random.below(8 + depth * 4) < 6 {
            object.insert(field.name.to_owned(), value(table, &field.shape, random, depth + 1));
        }
    }
    Value::Object(object)
}

fn value(table: &'static Table, shape: &Shape, random: &mut Random, depth: usize) -> Value {
    match &shape.kind {
        Kind::String => match shape.values.as_slice() {
            [] => random.pick(&["", "a", "web-1", "grün", "\u{0}\u{1f600}", "x.y/z", "\"quoted\"\n"]).into(),
            values => random.pick(values).into(),
        },
        Kind::Bool => (random.below(2) == 1).into(),
        Kind::Int32 => random.pick(&[0, 1, 80, 127, 128, 65_535, -1, i32::MAX, i32::MIN]).into(),
        Kind::Int64 => random.pick(&[0, 1, 300, -1, 1 << 40, i64::MAX, i64::MIN]).into(),
        Kind::Float64 => random.pick(&[json!(0), json!(0.5), json!(-1.25e30), json!(3)].each_ref()).clone(),
        Kind::Bytes => random.pick(&["", "AA==", "a3Vi", "/////w=="]).into(),
        Kind::Time => {
            random.pick(&["2026-11-30T15:53:54Z", "1969-12-31T23:59:59Z", "9999-12-31T00:00:00Z"]).into()
        }
        Kind::MicroTime => {
            random.pick(&["2026-11-30T15:53:54.123456Z", "1969-12-31T23:59:59.000001Z"]).into()
        }
        Kind::Quantity => random.pick(&["0", "100m", "1Gi", "1.5", "12e6", "-3", "1000", "0.5Gi"]).into(),
        Kind::IntOrString => {
            random.pick(&[json!(0), json!(8080), json!("http"), json!("25%")].each_ref()).clone()
        }
        Kind::RawExtension | Kind::Json => json!({"kind": "Thing", "n": [1, 2.5, null, {"deep": "ü"}]}),
        Kind::FieldsV1 => json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
        Kind::Struct(id) => fields(table, *id, random, depth),
        Kind::List(item) => {
            let count = 1 + random.below(3);
            (0..count).map(|_| value(table, item, random, depth + 1)).collect()
        }
        Kind::Map(item) => {
            let keys = ["", "z", "a", "example.com/k", "ключ"];
            let count = random.below(4);
            let entry = |index: usize| (keys[(index * 2) % keys.len()].to_owned(), index);
            let mut map = Map::new();
            for (key, _) in (0..count).map(entry) {
                map.insert(key, value(table, item, random, depth + 1));
            }
            Value::Object(map)
        }
    }
}
