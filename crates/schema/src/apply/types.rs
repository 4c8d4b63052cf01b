//! What values are to those who own them: which are one value, which lists are sets or maps, and by which keys.
//!
//! Types are plain data, so that a kind that is defined while the server runs has them as the built-in ones do.

use std::collections::HashMap;

use serde_json::Value;

mod builtin;

pub use builtin::builtin;

/// A type: its position among [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type(u32);

/// What a scalar may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// An integer or a float.
    Numeric,
    /// A string.
    String,
    /// `true` or `false`.
    Boolean,
    /// Any of them.
    Untyped,
}

/// The forms a value of a type can take, mostly one.
#[derive(Clone, Debug, Default)]
pub struct Atom {
    /// If it can be a scalar.
    pub scalar: Option<Scalar>,
    /// If it can be a list.
    pub list: Option<ListOf>,
    /// If it can be a map or a struct.
    pub map: Option<MapOf>,
}

/// A list.
#[derive(Clone, Debug)]
pub struct ListOf {
    /// Type of the elements.
    pub items: Type,
    /// What an element is known by.
    pub identity: Identity,
}

/// What an element of a list is known by.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Nothing: the list is one value.
    Atomic,
    /// Itself.
    Set,
    /// These fields.
    Keys(Vec<Box<str>>),
}

/// A map or a struct.
#[derive(Clone, Debug, Default)]
pub struct MapOf {
    /// The fields that are declared.
    pub fields: HashMap<Box<str>, FieldOf>,
    /// Type of all other values; `None` if there may be no others.
    pub values: Option<Type>,
    /// Whether it is one value.
    pub atomic: bool,
}

/// A declared field.
#[derive(Clone, Debug)]
pub struct FieldOf {
    /// Its type.
    pub of: Type,
    /// What stands for it in the key of its struct when it is not given.
    pub default: Option<Value>,
}

/// Types that refer to each other.
#[derive(Clone, Debug)]
pub struct Types {
    atoms: Vec<Atom>,
}

/// The form in which a value is looked at.
pub(super) enum Form<'a> {
    Scalar(Scalar),
    List(&'a ListOf),
    Map(&'a MapOf),
}

impl Type {
    /// Anything, as one value.
    pub const UNTYPED: Self = Self(0);
    /// Anything; maps value by value, everything else as one. What custom resources without a schema are.
    pub const DEDUCED: Self = Self(1);
    /// A number.
    pub const NUMERIC: Self = Self(2);
    /// A string.
    pub const STRING: Self = Self(3);
    /// A boolean.
    pub const BOOLEAN: Self = Self(4);
    /// Any scalar.
    pub const SCALAR: Self = Self(5);
}

impl Default for Types {
    fn default() -> Self {
        let any = |map: MapOf| Atom {
            scalar: Some(Scalar::Untyped),
            list: Some(ListOf { items: Type::UNTYPED, identity: Identity::Atomic }),
            map: Some(map),
        };
        let scalar = |scalar| Atom { scalar: Some(scalar), ..Atom::default() };
        Self {
            atoms: vec![
                any(MapOf { values: Some(Type::UNTYPED), atomic: true, ..MapOf::default() }),
                any(MapOf { values: Some(Type::DEDUCED), ..MapOf::default() }),
                scalar(Scalar::Numeric),
                scalar(Scalar::String),
                scalar(Scalar::Boolean),
                scalar(Scalar::Untyped),
            ],
        }
    }
}

impl Types {
    /// Adds a type.
    pub fn add(&mut self, atom: Atom) -> Type {
        self.atoms.push(atom);
        Type(u32::try_from(self.atoms.len() - 1).unwrap_or(Type::UNTYPED.0))
    }

    /// Says what a type is that was added before, for types that contain themselves.
    pub fn set(&mut self, of: Type, atom: Atom) {
        self.atoms[of.0 as usize] = atom;
    }

    /// What a type is.
    pub fn at(&self, of: Type) -> &Atom {
        &self.atoms[of.0 as usize]
    }
}

impl Atom {
    /// How `value` is looked at as this: as what it is, or else as the first thing that it may be.
    pub(super) fn form(&self, value: Option<&Value>) -> Form<'_> {
        let scalar = self.scalar.map(Form::Scalar);
        let list = self.list.as_ref().map(Form::List);
        let map = self.map.as_ref().map(Form::Map);
        let as_it_is = match value {
            None | Some(Value::Null) => {
                return map.or(scalar).or(list).unwrap_or(Form::Scalar(Scalar::Untyped));
            }
            Some(Value::Array(_)) => list,
            Some(Value::Object(_)) => map,
            Some(_) => scalar,
        };
        as_it_is.unwrap_or_else(|| self.form(None))
    }
}

impl Form<'_> {
    pub(super) fn is_like(&self, other: &Form<'_>) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl MapOf {
    /// Type of the value under a key; `None` if there can be none.
    pub(super) fn of(&self, key: &str) -> Option<Type> {
        self.fields.get(key).map(|field| field.of).or(self.values)
    }
}

/// The types of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Structure<'a> {
    /// All types.
    pub types: &'a Types,
    /// The type of its objects.
    pub root: Type,
}
