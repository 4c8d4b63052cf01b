//! An applied configuration merged into an object: what it names it sets, the rest stays. Nothing goes away here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::step::Step;
use super::typed::step_of;
use super::types::{Form, Identity, ListOf, MapOf, Structure, Type, Types};

impl Structure<'_> {
    /// Merges `applied` into `live`.
    pub fn merge(&self, live: &Value, applied: &Value) -> Result<Value, String> {
        Ok(merge(self.types, self.root, live, applied)?.unwrap_or(Value::Null))
    }
}

/// `None` if there is nothing.
fn merge(types: &Types, of: Type, live: &Value, applied: &Value) -> Result<Option<Value>, String> {
    let atom = types.at(of);
    let (before, after) = (atom.form(Some(live)), atom.form(Some(applied)));
    let replaced = Ok(Some(applied.clone()));
    if !before.is_like(&after) && !live.is_null() && !applied.is_null() {
        return replaced;
    }
    // Of two, null is whatever the other one is.
    match if applied.is_null() { before } else { after } {
        Form::Scalar(_) => replaced,
        Form::List(list) => {
            let items = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
            if matches!(list.identity, Identity::Atomic) || (!items(live) && !items(applied)) {
                return replaced;
            }
            merge_lists(types, list, live, applied)
        }
        Form::Map(map) => {
            let fields = |value: &Value| value.as_object().is_some_and(|map| !map.is_empty());
            if map.atomic || (!fields(live) && !fields(applied)) {
                return replaced;
            }
            merge_maps(types, map, live, applied)
        }
    }
}

fn merge_maps(types: &Types, map: &MapOf, live: &Value, applied: &Value) -> Result<Option<Value>, String> {
    let mut merged: Map<String, Value> = live.as_object().cloned().unwrap_or_default();
    for (key, value) in applied.as_object().into_iter().flatten() {
        let of = map.of(key).unwrap_or(Type::UNTYPED);
        let value = match merged.get(key) {
            Some(live) => merge(types, of, live, value)?,
            None => Some(value.clone()),
        };
        match value {
            Some(value) => _ = merged.insert(key.clone(), value),
            None => _ = merged.remove(key),
        }
    }
    Ok((!merged.is_empty()).then_some(Value::Object(merged)))
}

/// The elements of both: in the order of the applied list where that says one, and those that it does not name where
/// they were, as far as both orders allow.
fn merge_lists(types: &Types, list: &ListOf, live: &Value, applied: &Value) -> Result<Option<Value>, String> {
    let elements = |value: &Value| -> Result<Vec<(Step, Value)>, String> {
        let items = value.as_array().into_iter().flatten();
        items.map(|item| Ok((step_of(types, list, item)?, item.clone()))).collect()
    };
    let (left, right) = (elements(live)?, elements(applied)?);
    // Live elements by key; null for those that cannot be told apart, which are replaced together.
    let mut known: BTreeMap<&Step, &Value> = BTreeMap::new();
    for (step, item) in &left {
        known.entry(step).and_modify(|known| *known = &Value::Null).or_insert(item);
    }
    let wanted: BTreeMap<&Step, ()> = right.iter().map(|(step, _)| (step, ())).collect();
    if let Some((step, _)) = right.iter().enumerate().find_map(|(at, (step, item))| {
        right[..at].iter().any(|(before, _)| before == step).then_some((step, item))
    }) {
        return Err(format!("duplicate entries for key {step}"));
    }
    let mut shared = right.iter().map(|(step, _)| step).filter(|step| known.contains_key(step)).peekable();
    let mut done: BTreeMap<&Step, ()> = BTreeMap::new();
    let mut merged = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some((step, _)), Some((theirs, _))) = (left.get(l), right.get(r)) {
            let next_is_other = shared.peek().is_some_and(|next| *next != step);
            if step != theirs && wanted.contains_key(step) && next_is_other {
                // It has its place further on in the applied order.
                l += 1;
                continue;
            }
        }
        if let Some((step, item)) = left.get(l).filter(|(step, _)| !wanted.contains_key(step)) {
            debug_assert!(!done.contains_key(step));
            merged.push(item.clone());
            l += 1;
            continue;
        }
        let both = left.get(l).zip(right.get(r)).is_some_and(|((step, _), (theirs, _))| step == theirs);
        if both || left.get(l).is_some_and(|(step, _)| done.contains_key(step)) {
            l += 1;
        }
        let Some((step, item)) = right.get(r) else { continue };
        done.insert(step, ());
        let item = match known.get(step) {
            Some(live) => merge(types, list.items, live, item)?,
            None => Some(item.clone()),
        };
        merged.extend(item);
        r += 1;
        if both || shared.peek() == Some(&step) {
            shared.next();
        }
    }
    Ok((!merged.is_empty()).then_some(Value::Array(merged)))
}
