//! Strategic merge patch: merge patch that knows which lists merge by which key, and directives (rule J42).
//!
//! Directives: `$patch: replace|delete` in a map, in an element of a merging list, or (replace) as an element of its
//! own; `$retainKeys`; `$deleteFromPrimitiveList/LIST`; `$setElementOrder/LIST`. Merge keys need not be unique (rule
//! B35): an element of the patch then merges into the first that matches, `delete` removes all, and `replace` writes
//! the list as it is.

use serde_json::{Map, Value};

use super::merge::without_nulls;
use crate::fields::{Field, Kind, Schema, Shape, Struct, Table};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Why a patch cannot be merged, by who is to blame in upstream's eyes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MergeError {
    /// A directive of the wrong form: 400.
    #[error("{0}")]
    Format(&'static str),
    /// A value that cannot be merged: 422.
    #[error("{0}")]
    Content(&'static str),
    /// Anything else: 500.
    #[error("{0}")]
    Other(String),
}

const BAD_RETAIN_KEYS: MergeError = MergeError::Format("invalid patch format of retainKeys");
const BAD_ORDER: MergeError = MergeError::Format("invalid patch format of setElementOrder list");

/// Merges `patch` into `original`, an object of the kind of `schema`.
pub(super) fn merge(
    schema: &Schema,
    original: Map<String, Value>,
    patch: Map<String, Value>,
) -> Result<Map<String, Value>, MergeError> {
    merge_map(original, patch, Fields { table: schema.table, of: Some(schema.root()) })
}

/// What is known of the fields of a map.
#[derive(Clone, Copy)]
struct Fields {
    table: &'static Table,
    /// `None` inside what is not a struct.
    of: Option<&'static Struct>,
}

impl Fields {
    fn field(self, name: &str) -> Result<&'static Field, MergeError> {
        let of = self.of.ok_or_else(|| {
            MergeError::Other(
                "merging an object in json but data type is not struct, instead is: map".to_owned(),
            )
        })?;
        let (_, field) = of.json_field(name).ok_or_else(|| {
            MergeError::Other(format!(
                "unable to find api field in struct {} for the json field {name:?}",
                of.name
            ))
        })?;
        Ok(field)
    }

    fn inside(self, shape: &'static Shape) -> Self {
        let of = match &shape.kind {
            Kind::Struct(id) => Some(self.table.at(*id)),
            _ => None,
        };
        Self { of, ..self }
    }

    /// How the list in this field merges.
    fn list(self, name: &str) -> Result<ListRules, MergeError> {
        let field = self.field(name)?;
        let Kind::List(item) = &field.shape.kind else {
            return Err(MergeError::Other("expected slice or array type, but got: struct".to_owned()));
        };
        Ok(ListRules { merges: field.merge, key: field.merge_key, items: self.inside(item) })
    }
}

struct ListRules {
    merges: bool,
    key: Option<&'static str>,
    items: Fields,
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    fields: Fields,
) -> Result<Map<String, Value>, MergeError> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            patch.remove(DIRECTIVE);
            return Ok(patch);
        }
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(other) => return Err(unknown_directive(other, &patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, fields)?;
    for (name, value) in patch {
        let (name, deletes) = match name.strip_prefix(DELETE_PREFIX) {
            Some(list) => (list.to_owned(), true),
            None if name.starts_with("$deleteFromPrimitiveList") => {
                return Err(MergeError::Format("invalid patch format of primitive list"));
            }
            None => (name, false),
        };
        if value.is_null() {
            original.remove(&name);
            continue;
        }
        let merged = match (original.remove(&name), value) {
            (Some(Value::Object(original)), Value::Object(patch)) => {
                let field = fields.field(&name)?;
                Some(Value::Object(if field.replace {
                    patch
                } else {
                    merge_map(original, patch, fields.inside(&field.shape))?
                }))
            }
            (Some(Value::Array(original)), Value::Array(patch)) => {
                let rules = fields.list(&name)?;
                Some(Value::Array(if deletes {
                    original.into_iter().filter(|item| !patch.contains(item)).collect()
                } else if rules.merges {
                    merge_list(original, patch, &rules)?
                } else {
                    patch
                }))
            }
            // A list to delete from something that is no list, or is not there: nothing to do.
            (original, _) if deletes => original,
            (_, value) => without_directives(without_nulls(value)),
        };
        if let Some(merged) = merged {
            original.insert(name, merged);
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, patch: &Map<String, Value>) -> MergeError {
    MergeError::Other(format!(
        "unknown patch type: {} in map: {}",
        go_text(directive),
        go_text(&Value::Object(patch.clone()))
    ))
}

/// `$retainKeys`: what it does not name goes away.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), MergeError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(BAD_RETAIN_KEYS) };
    let retained = |name: &str| keys.iter().any(|key| key == name);
    let is_directive = |name: &str| name.starts_with(DELETE_PREFIX) || name.starts_with(ORDER_PREFIX);
    if patch.iter().any(|(name, value)| !value.is_null() && !is_directive(name) && !retained(name)) {
        return Err(BAD_RETAIN_KEYS);
    }
    original.retain(|name, _| retained(name));
    Ok(())
}

/// Lists with `$setElementOrder`: merged here and put in that order, elements of the server's own in between.
fn merge_ordered_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    fields: Fields,
) -> Result<(), MergeError> {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with("$setElementOrder")).cloned().collect();
    for directive in directives {
        let name = directive.strip_prefix(ORDER_PREFIX).ok_or(BAD_ORDER)?;
        let order = list_or_error(patch.remove(&directive))?.unwrap_or_default();
        let rules = fields.list(name)?;
        let ours = list_or_error(patch.remove(name))?;
        if let Some(ours) = &ours {
            check_order(ours, &order, rules.key)?;
        }
        let theirs = list_or_error(original.get(name).cloned())?;
        let (merged, before) = match (theirs, ours) {
            (None, None) => continue,
            (Some(theirs), None) => (theirs.clone(), theirs),
            (None, Some(ours)) => (ours.into_iter().filter_map(without_directives).collect(), Vec::new()),
            (Some(theirs), Some(ours)) if rules.merges => (merge_list(theirs.clone(), ours, &rules)?, theirs),
            (Some(theirs), Some(ours)) => (ours, theirs),
        };
        let ordered = in_order(merged, &order, &before, rules.key)?;
        original.insert(name.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

fn list_or_error(value: Option<Value>) -> Result<Option<Vec<Value>>, MergeError> {
    match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => {
            let found = match other {
                Value::Null => "%!s(<nil>)",
                Value::Bool(_) => "bool",
                Value::Number(number) if number.is_i64() => "int64",
                Value::Number(_) => "float64",
                Value::String(_) => "string",
                _ => "map[string]interface {}",
            };
            Err(MergeError::Other(format!("expected a []interface {{}}, but received a {found}")))
        }
    }
}

/// The elements of the patch must stand in the order list, in its order.
fn check_order(ours: &[Value], order: &[Value], key: Option<&str>) -> Result<(), MergeError> {
    if ours.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in ours.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let identity = identity(item, key)?;
        let mut found = false;
        for other in rest.by_ref() {
            found = self::identity(other, key)? == identity;
            if found {
                break;
            }
        }
        if !found {
            return Err(MergeError::Other(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                go_text(&Value::Array(ours.to_vec())),
                go_text(&Value::Array(order.to_vec())),
            )));
        }
    }
    Ok(())
}

/// What identifies an element: itself, or its merge key.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Result<&'a Value, MergeError> {
    let Some(key) = key else { return Ok(item) };
    let Value::Object(map) = item else {
        return Err(MergeError::Other(format!(
            "expected a map[string]interface {{}}, but received a {}",
            if item.is_string() { "string" } else { "value of another type" }
        )));
    };
    map.get(key).ok_or_else(|| {
        MergeError::Other(format!("map: {} does not contain declared merge key: {key}", go_text(item)))
    })
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, rules: &ListRules) -> Result<Vec<Value>, MergeError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let of_maps = same_type(&original, &patch)?;
    if !of_maps {
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return in_order(merged, &patch, &original, None);
    }
    let Some(key) = rules.key else {
        return Err(MergeError::Other("cannot merge lists without merge key for struct".to_owned()));
    };
    let (original, patch) = list_directives(original, patch, key)?;
    let before = original.clone();
    let mut merged = original;
    for item in &patch {
        let wanted = identity(item, Some(key))?;
        let found = merged.iter_mut().find(|candidate| candidate.get(key) == Some(wanted));
        match (found, item) {
            (Some(Value::Object(found)), Value::Object(item)) => {
                *found = merge_map(std::mem::take(found), item.clone(), rules.items)?;
            }
            _ => merged.push(item.clone()),
        }
    }
    in_order(merged, &patch, &before, Some(key))
}

/// Whether the elements are maps; they must all be of one type, and no lists.
fn same_type(original: &[Value], patch: &[Value]) -> Result<bool, MergeError> {
    let mut first = None;
    for item in original.iter().chain(patch) {
        let kind = std::mem::discriminant(item);
        if item.is_array() {
            return Err(MergeError::Content("lists of lists are not supported"));
        }
        if *first.get_or_insert(kind) != kind {
            return Err(MergeError::Other(format!(
                "list element types are not identical: [{} {}]",
                go_text(&Value::Array(original.to_vec())),
                go_text(&Value::Array(patch.to_vec())),
            )));
        }
    }
    Ok(original.first().or(patch.first()).is_some_and(Value::is_object))
}

/// Elements that are directives, taken out and obeyed: the list to merge into, and the elements to merge.
fn list_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), MergeError> {
    let mut replace = false;
    let mut items = Vec::with_capacity(patch.len());
    for item in patch {
        match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => items.push(item),
            Some("delete") => {
                let wanted = identity(&item, Some(key))?;
                original.retain(|candidate| candidate.get(key) != Some(wanted));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(MergeError::Other(
                    "merging lists cannot yet be specified in the patch".to_owned(),
                ));
            }
            Some(_) => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(&item[DIRECTIVE], &map));
            }
        }
    }
    Ok(if replace { (items, Vec::new()) } else { (original, items) })
}

/// Elements that `order` names in its order, the others in the order they had in `before`. Where both lists know two
/// elements the server's order decides, otherwise those of `order` come first.
fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, MergeError> {
    let position = |list: &[Value], item: &Value| {
        list.iter().position(|candidate| match key {
            Some(key) => candidate.get(key) == item.get(key),
            None => candidate == item,
        })
    };
    for item in merged.iter().chain(order) {
        identity(item, key)?;
    }
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(order, item).is_some());
    named.sort_by_key(|item| position(order, item));
    // What the server did not have comes last.
    others.sort_by_key(|item| position(before, item).unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(name), Some(other)) = (named.peek(), others.peek()) {
        let other_first = match (position(before, other), position(before, name)) {
            (Some(other), Some(name)) => other < name,
            _ => false,
        };
        ordered.extend(if other_first { others.next() } else { named.next() });
    }
    ordered.extend(named);
    ordered.extend(others);
    Ok(ordered)
}

/// New content without the maps that carry a `$patch`; `None` if the content itself does.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(
            map.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?))).collect(),
        )),
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

/// A tree as Go prints it: `map[a:1 b:[x y]]`.
pub(crate) fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        scalar => scalar.to_string(),
    }
}
