//! What a change touched.

use serde_json::{Map, Value};

use super::set::{Node, Set};
use super::step::{Step, same};
use super::typed::step_of;
use super::types::{Form, Identity, ListOf, MapOf, Structure, Type, Types};

/// What is different between two objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// In the first one only.
    pub removed: Set,
    /// In both, with other values.
    pub modified: Set,
    /// In the second one only.
    pub added: Set,
}

impl Structure<'_> {
    /// Compares two objects.
    pub fn compare(&self, old: &Value, new: &Value) -> Result<Comparison, String> {
        let Difference { removed, modified, added } = compare(self.types, self.root, Some(old), Some(new))?;
        Ok(Comparison { removed: removed.below, modified: modified.below, added: added.below })
    }
}

/// A comparison of what is at one path.
#[derive(Default)]
struct Difference {
    removed: Node,
    modified: Node,
    added: Node,
}

impl Difference {
    /// Of what is one value.
    fn of_leaf(old: Option<&Value>, new: Option<&Value>) -> Self {
        let mut this = Self::default();
        match (old, new) {
            (None, _) => this.added.member = true,
            (_, None) => this.removed.member = true,
            (Some(old), Some(new)) => this.modified.member = !same(old, new),
        }
        this
    }

    /// Puts in what was found one step further.
    fn add(&mut self, step: Step, below: Self) {
        let Self { removed, modified, added } = below;
        for (here, node) in [(&mut self.removed, removed), (&mut self.modified, modified)] {
            if !node.is_empty() {
                here.below.add(step.clone(), node);
            }
        }
        self.added.below.add(step, added);
    }

    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    fn and(mut self, other: Self) -> Self {
        let pairs = [
            (&mut self.removed, other.removed),
            (&mut self.modified, other.modified),
            (&mut self.added, other.added),
        ];
        for (mine, theirs) in pairs {
            mine.member |= theirs.member;
            mine.below = mine.below.union(&theirs.below);
        }
        self
    }
}

fn compare(types: &Types, of: Type, old: Option<&Value>, new: Option<&Value>) -> Result<Difference, String> {
    let atom = types.at(of);
    let (before, after) = (atom.form(old), atom.form(new));
    let difference = match (old, new) {
        (Some(_), Some(_)) if !before.is_like(&after) => {
            compare_as(types, &before, old, new)?.and(compare_as(types, &after, old, new)?)
        }
        (_, None) => compare_as(types, &before, old, new)?,
        _ => compare_as(types, &after, old, new)?,
    };
    Ok(difference)
}

fn compare_as(
    types: &Types,
    form: &Form<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Difference, String> {
    let mut difference = match form {
        Form::Scalar(_) => return Ok(Difference::of_leaf(old, new)),
        Form::List(list) => {
            let items =
                |value: Option<&'_ Value>| value.and_then(Value::as_array).is_some_and(|l| !l.is_empty());
            if matches!(list.identity, Identity::Atomic) || (!items(old) && !items(new)) {
                return Ok(Difference::of_leaf(old, new));
            }
            compare_lists(types, list, old, new)?
        }
        Form::Map(map) => {
            let fields =
                |value: Option<&'_ Value>| value.and_then(Value::as_object).is_some_and(|m| !m.is_empty());
            if map.atomic || (!fields(old) && !fields(new)) {
                return Ok(Difference::of_leaf(old, new));
            }
            compare_maps(types, map, old, new)?
        }
    };
    difference.added.member |= old.is_none();
    difference.removed.member |= new.is_none() && old.is_some();
    Ok(difference)
}

fn compare_maps(
    types: &Types,
    map: &MapOf,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Difference, String> {
    let none = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&none);
    let new = new.and_then(Value::as_object).unwrap_or(&none);
    let mut difference = Difference::default();
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    for key in keys {
        let of = map.of(key).unwrap_or(Type::UNTYPED);
        let below = compare(types, of, old.get(key), new.get(key))?;
        if !below.is_empty() {
            difference.add(Step::field(key), below);
        }
    }
    Ok(difference)
}

/// The elements of a list by what they are known by; those with the same key together.
fn by_step<'v>(
    types: &Types,
    list: &ListOf,
    value: Option<&'v Value>,
) -> Result<Vec<(Step, Vec<&'v Value>)>, String> {
    let mut elements: Vec<(Step, Vec<&Value>)> = Vec::new();
    for item in value.and_then(Value::as_array).into_iter().flatten() {
        let step = step_of(types, list, item)?;
        match elements.binary_search_by(|(there, _)| there.cmp(&step)) {
            Ok(at) => elements[at].1.push(item),
            Err(at) => elements.insert(at, (step, vec![item])),
        }
    }
    Ok(elements)
}

fn compare_lists(
    types: &Types,
    list: &ListOf,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<Difference, String> {
    let (before, after) = (by_step(types, list, old)?, by_step(types, list, new)?);
    let mut difference = Difference::default();
    let find =
        |elements: &[(Step, Vec<_>)], step: &Step| elements.binary_search_by(|(there, _)| there.cmp(step));
    let only_new = after.iter().filter(|(step, _)| find(&before, step).is_err());
    for (step, _) in before.iter().chain(only_new) {
        let was = find(&before, step).map_or(&[][..], |at| &before[at].1);
        let is = find(&after, step).map_or(&[][..], |at| &after[at].1);
        let one = |was, is| compare(types, list.items, was, is);
        let leaf = |set: &mut Set| set.add(step.clone(), Node::LEAF);
        match (was.len(), is.len()) {
            (0 | 1, 0 | 1) => {
                let below = one(was.first().copied(), is.first().copied())?;
                if !below.is_empty() {
                    difference.add(step.clone(), below);
                }
            }
            // Elements that cannot be told apart are compared as one value.
            (2.., 2..) => {
                let alike = was.len() == is.len() && was.iter().zip(is).all(|(a, b)| same(a, b));
                if !alike {
                    leaf(&mut difference.modified.below);
                }
            }
            (2.., _) => {
                if let Some(is) = is.first() {
                    difference.add(step.clone(), one(None, Some(is))?);
                }
                leaf(&mut difference.removed.below);
            }
            (_, 2..) => {
                if let Some(was) = was.first() {
                    difference.add(step.clone(), one(Some(was), None)?);
                }
                leaf(&mut difference.added.below);
            }
        }
    }
    Ok(difference)
}
