//! What the fields of a custom resource are to those who own them (J45), from its schema.

use dyad_schema::apply::{Atom, FieldOf, Identity, ListOf, MapOf, Scalar, Type as ApplyType, Types};

use crate::schema::{Additional, ListType, Schema, Type};

/// The types of an object of a kind, and that of the object itself.
pub(crate) fn of(schema: &Schema) -> (Types, ApplyType) {
    let mut reader = Reader { types: Types::default(), meta: ApplyType::UNTYPED };
    reader.meta = reader.object_meta();
    let root = reader.atom(schema, false, true);
    let root = reader.types.add(root);
    (reader.types, root)
}

struct Reader {
    types: Types,
    meta: ApplyType,
}

impl Reader {
    fn add(&mut self, schema: &Schema, preserve: bool) -> ApplyType {
        let preserve = preserve || schema.preserve;
        if schema.int_or_string {
            return ApplyType::SCALAR;
        }
        match schema.kind {
            Some(Type::String) => ApplyType::STRING,
            Some(Type::Boolean) => ApplyType::BOOLEAN,
            Some(Type::Integer | Type::Number) => ApplyType::NUMERIC,
            Some(Type::Array | Type::Object) => {
                let atom = self.atom(schema, preserve, false);
                self.types.add(atom)
            }
            None if preserve => ApplyType::DEDUCED,
            None => ApplyType::UNTYPED,
        }
    }

    fn atom(&mut self, schema: &Schema, preserve: bool, root: bool) -> Atom {
        let preserve = preserve || schema.preserve;
        if schema.kind == Some(Type::Array) {
            let items = match &schema.items {
                Some(items) => self.add(items, preserve),
                None => ApplyType::UNTYPED,
            };
            let identity = match &schema.list {
                ListType::Atomic => Identity::Atomic,
                ListType::Set => Identity::Set,
                ListType::Map(keys) => Identity::Keys(keys.iter().map(|key| key.as_str().into()).collect()),
            };
            return Atom { list: Some(ListOf { items, identity }), ..Atom::default() };
        }
        let fields = schema.properties.iter().map(|(name, property)| {
            let of = self.add(property, preserve);
            (name.as_str().into(), FieldOf { of, default: property.default.clone() })
        });
        let mut map = MapOf { fields: fields.collect(), values: None, atomic: schema.atomic_map };
        map.values = match &schema.additional {
            Some(Additional::Schema(values)) => Some(self.add(values, preserve)),
            Some(Additional::Allowed(true)) => Some(ApplyType::DEDUCED),
            _ if preserve => Some(ApplyType::DEDUCED),
            None if map.fields.is_empty() && !root => Some(ApplyType::DEDUCED),
            _ => None,
        };
        if root || schema.embedded {
            let text = || FieldOf { of: ApplyType::STRING, default: None };
            map.fields.insert("apiVersion".into(), text());
            map.fields.insert("kind".into(), text());
            map.fields.insert("metadata".into(), FieldOf { of: self.meta, default: None });
        }
        Atom { map: Some(map), ..Atom::default() }
    }

    fn map(&mut self, fields: &[(&str, ApplyType)], atomic: bool) -> ApplyType {
        let fields = fields.iter().map(|(name, of)| ((*name).into(), FieldOf { of: *of, default: None }));
        let map = MapOf { fields: fields.collect(), values: None, atomic };
        self.types.add(Atom { map: Some(map), ..Atom::default() })
    }

    fn list(&mut self, items: ApplyType, identity: Identity) -> ApplyType {
        self.types.add(Atom { list: Some(ListOf { items, identity }), ..Atom::default() })
    }

    fn object_meta(&mut self) -> ApplyType {
        let (text, number, flag) = (ApplyType::STRING, ApplyType::NUMERIC, ApplyType::BOOLEAN);
        let texts = MapOf { values: Some(text), ..MapOf::default() };
        let texts = self.types.add(Atom { map: Some(texts), ..Atom::default() });
        let owner = self.map(
            &[
                ("apiVersion", text),
                ("kind", text),
                ("name", text),
                ("uid", text),
                ("controller", flag),
                ("blockOwnerDeletion", flag),
            ],
            true,
        );
        let owners = self.list(owner, Identity::Keys(vec!["uid".into()]));
        let finalizers = self.list(text, Identity::Set);
        let managers = self.list(ApplyType::UNTYPED, Identity::Atomic);
        let time = self.types.add(Atom { scalar: Some(Scalar::Untyped), ..Atom::default() });
        self.map(
            &[
                ("name", text),
                ("generateName", text),
                ("namespace", text),
                ("selfLink", text),
                ("uid", text),
                ("resourceVersion", text),
                ("generation", number),
                ("creationTimestamp", time),
                ("deletionTimestamp", time),
                ("deletionGracePeriodSeconds", number),
                ("labels", texts),
                ("annotations", texts),
                ("ownerReferences", owners),
                ("finalizers", finalizers),
                ("managedFields", managers),
            ],
            false,
        )
    }
}
