//! What can be asked of an object whose types are known: which paths it has, and what becomes of it without some of them.

use serde_json::{Map, Value};

use super::set::{Node, Set};
use super::step::Step;
use super::types::{Form, Identity, ListOf, MapOf, Structure, Type, Types};

impl Structure<'_> {
    /// Every path of an object: its leaves, the elements of its lists and the keys of its maps.
    pub(super) fn paths(&self, object: &Value) -> Result<Set, String> {
        Ok(paths(self.types, self.root, object)?.below)
    }

    /// The object without what is at these paths, and without what is below them.
    pub(super) fn without(&self, object: &Value, paths: &Set) -> Result<Value, String> {
        Ok(without(self.types, self.root, object, paths)?.unwrap_or(Value::Null))
    }

    /// The set, with every field of a struct that has something in the set below it.
    pub(super) fn with_fields(&self, set: &Set) -> Set {
        with_fields(self.types, Some(self.root), set)
    }

    /// What a set is under these types, if it was written when others were in force: what is one value now is owned
    /// as one value.
    pub(super) fn reconciled(&self, set: &Set) -> Set {
        let (mut gone, mut new) = (Set::default(), Set::default());
        reconcile(self.types, self.root, set, false, &mut Vec::new(), (&mut gone, &mut new));
        if gone.is_empty() { set.clone() } else { set.difference_below(&gone).union(&new) }
    }
}

/// The step that leads to an element of a set or of a list with keys.
pub(super) fn step_of(types: &Types, list: &ListOf, item: &Value) -> Result<Step, String> {
    let error = |text: &str| Err(text.to_owned());
    match &list.identity {
        Identity::Atomic => error("invalid indexing of non-associative list"),
        Identity::Set => match item {
            Value::Object(_) => error("associative list without keys has an element that's a map type"),
            Value::Array(_) => error("not supported: associative list with lists as elements"),
            Value::Null => error("associative list without keys has an element that's an explicit null"),
            scalar => Ok(Step::Value(scalar.clone())),
        },
        Identity::Keys(keys) => {
            let Value::Object(item) = item else {
                return error(match item {
                    Value::Null => "associative list with keys may not have a null element",
                    _ => "associative list with keys may not have non-map elements",
                });
            };
            let fields = types.at(list.items).map.as_ref().map(|map| &map.fields);
            let default = |key: &str| fields.and_then(|fields| fields.get(key)?.default.as_ref());
            let given = |key: &str| item.get(key).or_else(|| default(key)).cloned();
            let mut step: Vec<_> = keys.iter().filter_map(|key| Some((key.clone(), given(key)?))).collect();
            if step.is_empty() && !keys.is_empty() {
                let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                     values for any key fields)",
                    keys.join(" ")
                ));
            }
            step.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(Step::Key(step))
        }
    }
}

fn paths(types: &Types, of: Type, value: &Value) -> Result<Node, String> {
    match types.at(of).form(Some(value)) {
        Form::Scalar(_) => Ok(Node::LEAF),
        Form::List(list) => list_paths(types, list, value),
        Form::Map(map) => map_paths(types, map, value),
    }
}

fn list_paths(types: &Types, list: &ListOf, value: &Value) -> Result<Node, String> {
    if matches!(list.identity, Identity::Atomic) {
        return Ok(Node::LEAF);
    }
    let mut below = Set::default();
    let mut twice = Set::default();
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    let steps: Vec<Step> = items.iter().map(|item| step_of(types, list, item)).collect::<Result<_, _>>()?;
    for (step, item) in steps.into_iter().zip(items) {
        if twice.get(&step).is_some() {
            continue;
        }
        if below.get(&step).is_some() {
            // Elements with the same key cannot be told apart, and are owned together.
            twice.add(step, Node::LEAF);
            continue;
        }
        let node = paths(types, list.items, item)?;
        below.add(step, Node { member: true, ..node });
    }
    if !twice.is_empty() {
        below = below.difference_below(&twice).union(&twice);
    }
    Ok(Node { member: false, below })
}

fn map_paths(types: &Types, map: &MapOf, value: &Value) -> Result<Node, String> {
    if map.atomic {
        return Ok(Node::LEAF);
    }
    let mut below = Set::default();
    for (key, value) in value.as_object().into_iter().flatten() {
        let mut node = match map.of(key) {
            Some(of) => paths(types, of, value)?,
            None => Node::LEAF,
        };
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        node.member |= empty || !map.fields.contains_key(key.as_str());
        below.add(Step::field(key), node);
    }
    Ok(Node { member: false, below })
}

/// `None` if nothing is left of it.
fn without(types: &Types, of: Type, value: &Value, gone: &Set) -> Result<Option<Value>, String> {
    match (types.at(of).form(Some(value)), value) {
        (Form::Scalar(_), value) => Ok(Some(value.clone())),
        (Form::List(list), Value::Array(items)) if !matches!(list.identity, Identity::Atomic) => {
            let (mut left, mut touched) = (Vec::with_capacity(items.len()), false);
            for item in items {
                let node = gone.get(&step_of(types, list, item)?);
                match node {
                    None => left.push(item.clone()),
                    Some(node) if node.member => {}
                    Some(node) => {
                        touched = true;
                        left.push(emptied(item, without(types, list.items, item, &node.below)?));
                    }
                }
            }
            Ok((!left.is_empty() || touched).then_some(Value::Array(left)))
        }
        (Form::Map(map), Value::Object(fields)) if !map.atomic => {
            let (mut left, mut touched) = (Map::new(), false);
            for (key, value) in fields {
                let kept = match gone.get(&Step::field(key)) {
                    None => value.clone(),
                    Some(node) if node.member => continue,
                    Some(node) => {
                        touched = true;
                        let of = map.of(key).unwrap_or(Type::UNTYPED);
                        emptied(value, without(types, of, value, &node.below)?)
                    }
                };
                left.insert(key.clone(), kept);
            }
            Ok((!left.is_empty() || touched).then_some(Value::Object(left)))
        }
        _ => Ok(None),
    }
}

/// What stays where something was taken out of: a list stays a list, a map a map.
fn emptied(was: &Value, left: Option<Value>) -> Value {
    left.unwrap_or_else(|| match was {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    })
}

fn with_fields(types: &Types, of: Option<Type>, set: &Set) -> Set {
    let atom = of.map(|of| types.at(of));
    let map = atom.and_then(|atom| atom.map.as_ref());
    let list = atom.and_then(|atom| atom.list.as_ref());
    let mut out = Set::default();
    for (step, node) in set.nodes() {
        let (of, declared) = match (step, map, list) {
            (Step::Field(name), Some(map), _) => (map.of(name), map.fields.contains_key(name)),
            (Step::Key(_), _, Some(list)) => (Some(list.items), false),
            _ => (None, false),
        };
        let member = node.member || (declared && !node.below.is_empty());
        out.add(step.clone(), Node { member, below: with_fields(types, of, &node.below) });
    }
    out
}

fn reconcile(
    types: &Types,
    of: Type,
    set: &Set,
    whole: bool,
    path: &mut Vec<Step>,
    (gone, new): (&mut Set, &mut Set),
) {
    // Types that are found out from the value have no say in it.
    let form = types.at(of).form(None);
    let atomic = match &form {
        Form::Scalar(_) => return,
        Form::Map(map) if map.fields.is_empty() && map.values == Some(Type::DEDUCED) => return,
        Form::Map(map) => map.atomic && !set.is_empty(),
        Form::List(list) => matches!(list.identity, Identity::Atomic),
    };
    if atomic && !whole {
        gone.insert(path);
        new.insert(path);
        return;
    }
    for (step, node) in set.nodes() {
        let below = match &form {
            Form::Map(map) => match step {
                Step::Field(name) => map.of(name),
                _ => map.values,
            },
            Form::List(list) => Some(list.items),
            Form::Scalar(_) => None,
        };
        if let Some(of) = below {
            path.push(step.clone());
            let whole = node.member && node.below.is_empty();
            reconcile(types, of, &node.below, whole, path, (&mut *gone, &mut *new));
            path.pop();
        }
    }
}
