//! `FieldsV1`: a set of paths as a JSON tree, the way `metadata.managedFields` has it.
//!
//! A key is a step: `f:` a field, `k:` the fields of an element, `v:` an element itself, `i:` a position. A step with nothing
//! below it is in the set; one with something below it is if it also has the key `.`.

use serde_json::{Map, Value};

use super::set::{Node, Set};
use super::step::Step;

/// Why a tree is no set of paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldsError {
    /// Too short to have a type.
    #[error("key must be 2 characters long:")]
    Short,
    /// No type before the step.
    #[error("missing colon: {0}")]
    Colon(String),
    /// What follows the type is not what it says.
    #[error("{0:?} is not the step it says: write it as JSON after its type")]
    Step(String),
    /// Something that is no tree.
    #[error("{0} stands where the fields below a step should")]
    Tree(String),
}

impl Set {
    /// The set as a tree.
    pub fn to_fields(&self) -> Value {
        Value::Object(self.tree(false))
    }

    fn tree(&self, member: bool) -> Map<String, Value> {
        let mut tree = Map::new();
        if member && !self.is_empty() {
            tree.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, node) in self.nodes() {
            tree.insert(key(step), Value::Object(node.below.tree(node.member)));
        }
        tree
    }

    /// Reads a tree. Steps of types that nobody knows yet are left out, with what is below them.
    pub fn from_fields(tree: &Value) -> Result<Self, FieldsError> {
        match tree {
            Value::Null => Ok(Self::default()),
            tree => Ok(read(tree)?.below),
        }
    }
}

fn read(tree: &Value) -> Result<Node, FieldsError> {
    let Value::Object(tree) = tree else { return Err(FieldsError::Tree(tree.to_string())) };
    let mut node = Node { member: tree.contains_key("."), below: Set::default() };
    for (key, value) in tree.iter().filter(|(key, _)| *key != ".") {
        if let Some(step) = step(key)? {
            node.below.add(step, read(value)?);
        }
    }
    node.member |= node.below.is_empty();
    Ok(node)
}

fn key(step: &Step) -> String {
    match step {
        Step::Field(name) => format!("f:{name}"),
        Step::Key(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{}:{value}", Value::from(&**name))).collect();
            format!("k:{{{}}}", fields.join(","))
        }
        Step::Value(value) => format!("v:{value}"),
        Step::Index(index) => format!("i:{index}"),
    }
}

/// The step of a key; `None` if its type is unknown.
fn step(key: &str) -> Result<Option<Step>, FieldsError> {
    let bytes = key.as_bytes();
    if bytes.len() < 2 {
        return Err(FieldsError::Short);
    }
    if bytes[1] != b':' {
        return Err(FieldsError::Colon(key.to_owned()));
    }
    let rest = &key[2..];
    let wrong = || FieldsError::Step(key.to_owned());
    Ok(Some(match bytes[0] {
        b'f' => Step::field(rest),
        b'k' => {
            let fields: Map<String, Value> = serde_json::from_str(rest).map_err(|_| wrong())?;
            // The map is sorted by name, as the step is to be.
            Step::Key(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
        }
        b'v' => Step::Value(serde_json::from_str(rest).map_err(|_| wrong())?),
        b'i' => Step::Index(rest.parse().map_err(|_| wrong())?),
        _ => return Ok(None),
    }))
}
