//! The types of the built-in kinds, from the table of fields.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{Atom, FieldOf, Identity, ListOf, MapOf, Structure, Type, Types};
use crate::fields::{Field, Kind, ListType, Schema, Shape, StructId, Table};

/// The types of a built-in kind.
pub fn builtin(schema: &Schema) -> Structure<'static> {
    static TYPES: OnceLock<(Types, Vec<Type>)> = OnceLock::new();
    let (types, structs) = TYPES.get_or_init(|| read(schema.table));
    Structure { types, root: structs[schema.root.position()] }
}

fn read(table: &'static Table) -> (Types, Vec<Type>) {
    let mut types = Types::default();
    let structs: Vec<Type> = table.structs().map(|_| types.add(Atom::default())).collect();
    let mut reading = Reading { table, types, structs };
    for (id, item) in table.structs() {
        let atom = reading.of_struct(id, item.atomic);
        reading.types.set(reading.structs[id.position()], atom);
    }
    (reading.types, reading.structs)
}

struct Reading {
    table: &'static Table,
    types: Types,
    structs: Vec<Type>,
}

impl Reading {
    fn of_struct(&mut self, id: StructId, atomic: bool) -> Atom {
        let item = self.table.at(id);
        let fields = item.json.iter().map(|field| {
            let of = self.of_field(field);
            (field.name.into(), FieldOf { of, default: default(field) })
        });
        let fields: std::collections::HashMap<_, _> = fields.collect();
        let values = fields.is_empty().then_some(Type::DEDUCED);
        Atom { map: Some(MapOf { fields, values, atomic }), ..Atom::default() }
    }

    fn of_field(&mut self, field: &Field) -> Type {
        match &field.shape.kind {
            Kind::List(item) => {
                let identity = match (&field.list, field.merge_key) {
                    (Some(ListType::Set), _) => Identity::Set,
                    (Some(ListType::Map(keys)), _) => {
                        Identity::Keys(keys.iter().map(|key| (*key).into()).collect())
                    }
                    (None, Some(key)) if field.merge => Identity::Keys(vec![key.into()]),
                    (None, None) if field.merge => Identity::Set,
                    _ => Identity::Atomic,
                };
                let items = self.of_shape(item);
                self.types.add(Atom { list: Some(ListOf { items, identity }), ..Atom::default() })
            }
            Kind::Map(value) if field.atomic => {
                let values = Some(self.of_shape(value));
                let map = MapOf { values, atomic: true, ..MapOf::default() };
                self.types.add(Atom { map: Some(map), ..Atom::default() })
            }
            Kind::Struct(id) if field.atomic || (field.granular && self.table.at(*id).atomic) => {
                let atom = self.of_struct(*id, field.atomic);
                self.types.add(atom)
            }
            _ => self.of_shape(&field.shape),
        }
    }

    fn of_shape(&mut self, shape: &Shape) -> Type {
        match &shape.kind {
            Kind::String | Kind::Bytes => Type::STRING,
            Kind::Bool => Type::BOOLEAN,
            Kind::Int32 | Kind::Int64 | Kind::Float64 => Type::NUMERIC,
            Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString => Type::SCALAR,
            Kind::RawExtension | Kind::Json => Type::UNTYPED,
            Kind::FieldsV1 => self.map_of(Type::DEDUCED),
            Kind::Struct(id) => self.structs[id.position()],
            Kind::List(item) => {
                let items = self.of_shape(item);
                let list = ListOf { items, identity: Identity::Atomic };
                self.types.add(Atom { list: Some(list), ..Atom::default() })
            }
            Kind::Map(value) => {
                let values = self.of_shape(value);
                self.map_of(values)
            }
        }
    }

    fn map_of(&mut self, values: Type) -> Type {
        let map = MapOf { values: Some(values), ..MapOf::default() };
        self.types.add(Atom { map: Some(map), ..Atom::default() })
    }
}

/// What stands for a field that is not given: its default, or Go's zero value where that is written.
fn default(field: &Field) -> Option<Value> {
    if field.default.is_some() || field.shape.pointer || field.omit_empty {
        return field.default.clone();
    }
    match field.shape.kind {
        Kind::String => Some("".into()),
        Kind::Bool => Some(false.into()),
        Kind::Int32 | Kind::Int64 | Kind::Float64 => Some(json!(0)),
        _ => None,
    }
}
