//! JSON patch (RFC 6902), with the leniencies of the implementation that Kubernetes uses: negative indices count from
//! the end, and `replace` of a name that is not there adds it.

use serde_json::{Map, Value};

use super::{PatchError, find_duplicates, json_kind, parse};

/// All `copy` operations together may add this many bytes; without a limit a short patch makes a huge object.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

const MEMBERS: [&str; 4] = ["op", "path", "from", "value"];

/// Why a patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonPatchError {
    #[error("Unexpected kind: {0}")]
    Kind(String),
    #[error("{0} operation failed to decode {1}: missing value")]
    Member(&'static str, &'static str),
    #[error("{op} operation does not apply: doc is missing {what}: {path}: missing value")]
    MissingPath { op: &'static str, what: &'static str, path: String },
    #[error("error in {op} for path: '{path}': {problem}")]
    At { op: &'static str, path: String, problem: String },
    #[error("testing value {0} failed: test failed")]
    Test(String),
    #[error("replace operation value must be object or array")]
    Root,
    #[error(
        "Unable to complete the copy, the accumulated size increase of JSON patch copy is {0} bytes, \
         limit is {MAX_COPIED_BYTES} bytes"
    )]
    Copied(usize),
}

/// A patch that has been read.
pub(super) struct Operations {
    /// The operations, in order.
    pub(super) list: Vec<Map<String, Value>>,
    /// What a strict reader would refuse.
    pub(super) strict: Vec<String>,
}

/// Reads a patch.
pub(super) fn read(patch: &[u8]) -> Result<Operations, PatchError> {
    let refused = |text: String| PatchError::BadRequest(format!("error decoding patch: {text}"));
    let mut strict: Vec<String> = find_duplicates(patch)
        .map_err(|error| refused(error.to_string()))?
        .into_iter()
        .map(|text| format!("json patch {text}"))
        .collect();
    let list = match parse(patch).map_err(|error| refused(error.to_string()))? {
        Value::Array(list) => list,
        Value::Null => Vec::new(),
        other => {
            let kind = json_kind(&other);
            return Err(refused(format!(
                "json: cannot unmarshal {kind} into Go value of type []handlers.jsonPatchOp"
            )));
        }
    };
    let mut operations = Vec::with_capacity(list.len());
    for (index, operation) in list.into_iter().enumerate() {
        let Value::Object(operation) = operation else {
            let kind = json_kind(&operation);
            return Err(refused(format!(
                "json: cannot unmarshal {kind} into Go value of type handlers.jsonPatchOp"
            )));
        };
        for name in operation.keys().filter(|name| !MEMBERS.contains(&name.as_str())) {
            strict.push(format!("json patch unknown field \"[{index}].{name}\""));
        }
        operations.push(operation);
    }
    Ok(Operations { list: operations, strict })
}

/// Applies operations in order, to all or none.
pub(super) fn apply(original: &Value, operations: &[Map<String, Value>]) -> Result<Value, JsonPatchError> {
    let mut document = original.clone();
    let mut copied = 0;
    for operation in operations {
        step(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn step(
    document: &mut Value,
    operation: &Map<String, Value>,
    copied: &mut usize,
) -> Result<(), JsonPatchError> {
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match operation.get("op").and_then(Value::as_str).unwrap_or("unknown") {
        "add" => add(document, "add", pointer(operation, "add", "path")?, value()),
        "remove" => remove(document, "remove", pointer(operation, "remove", "path")?).map(drop),
        "replace" => replace(document, pointer(operation, "replace", "path")?, value()),
        "test" => test(document, pointer(operation, "test", "path")?, &value()),
        "move" => {
            let moved = remove(document, "move", pointer(operation, "move", "from")?)?;
            add(document, "move", pointer(operation, "move", "path")?, moved)
        }
        "copy" => {
            let from = pointer(operation, "copy", "from")?;
            let value = get(document, "copy", from)?.unwrap_or(Value::Null);
            *copied += value.to_string().len();
            if *copied > MAX_COPIED_BYTES {
                return Err(JsonPatchError::Copied(*copied));
            }
            add(document, "copy", pointer(operation, "copy", "path")?, value)
        }
        other => Err(JsonPatchError::Kind(other.to_owned())),
    }
}

fn pointer<'a>(
    operation: &'a Map<String, Value>,
    op: &'static str,
    member: &'static str,
) -> Result<&'a str, JsonPatchError> {
    operation.get(member).and_then(Value::as_str).ok_or(JsonPatchError::Member(op, member))
}

/// The container a pointer points into, and the last step.
fn locate<'a>(
    document: &'a mut Value,
    op: &'static str,
    path: &str,
) -> Result<(&'a mut Value, String), JsonPatchError> {
    let missing = || JsonPatchError::MissingPath { op, what: "path", path: path.to_owned() };
    let (parents, last) = path.rsplit_once('/').ok_or_else(missing)?;
    let mut container = document;
    for part in parents.split('/').skip(1) {
        let part = unescape(part);
        container = match container {
            Value::Object(map) => map.get_mut(&part),
            Value::Array(list) => index(&part, list.len()).ok().and_then(|at| list.get_mut(at)),
            _ => None,
        }
        .ok_or_else(missing)?;
    }
    if !matches!(container, Value::Object(_) | Value::Array(_)) {
        return Err(missing());
    }
    Ok((container, unescape(last)))
}

/// RFC 6901 section 4: `~1` first.
fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// An index into a list of this length, or the text of the failure.
fn index(key: &str, length: usize) -> Result<usize, String> {
    let at: i64 = key.parse().map_err(|_| format!("strconv.Atoi: parsing {key:?}: invalid syntax"))?;
    let signed = i64::try_from(length).unwrap_or(i64::MAX);
    let position = if at < 0 { at + signed } else { at };
    match usize::try_from(position) {
        Ok(position) if position < length => Ok(position),
        _ => Err(format!("Unable to access invalid index: {at}: invalid index referenced")),
    }
}

fn at(op: &'static str, path: &str) -> impl FnOnce(String) -> JsonPatchError {
    move |problem| JsonPatchError::At { op, path: path.to_owned(), problem }
}

fn add(document: &mut Value, op: &'static str, path: &str, value: Value) -> Result<(), JsonPatchError> {
    let (container, key) = locate(document, op, path)?;
    match container {
        Value::Object(map) => _ = map.insert(key, value),
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            // One more place than there are elements.
            let position = index(&key, list.len() + 1).map_err(at(op, path))?;
            list.insert(position, value);
        }
        _ => {}
    }
    Ok(())
}

fn remove(document: &mut Value, op: &'static str, path: &str) -> Result<Value, JsonPatchError> {
    let (container, key) = locate(document, op, path)?;
    match container {
        Value::Array(list) => {
            let position = index(&key, list.len()).map_err(at(op, path))?;
            Ok(list.remove(position))
        }
        Value::Object(map) => map
            .remove(&key)
            .ok_or_else(|| at(op, path)(format!("Unable to remove nonexistent key: {key}: missing value"))),
        _ => Ok(Value::Null),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), JsonPatchError> {
    if path.is_empty() {
        if !matches!(value, Value::Object(_) | Value::Array(_)) {
            return Err(JsonPatchError::Root);
        }
        *document = value;
        return Ok(());
    }
    let (container, key) = locate(document, "replace", path)?;
    match container {
        Value::Object(map) => _ = map.insert(key, value),
        Value::Array(list) => {
            let position = index(&key, list.len()).map_err(|_| JsonPatchError::MissingPath {
                op: "replace",
                what: "key",
                path: path.to_owned(),
            })?;
            list[position] = value;
        }
        _ => {}
    }
    Ok(())
}

fn get(document: &mut Value, op: &'static str, path: &str) -> Result<Option<Value>, JsonPatchError> {
    let (container, key) = locate(document, op, path)?;
    match container {
        Value::Object(map) => Ok(map.get(&key).cloned()),
        Value::Array(list) => {
            let position = index(&key, list.len()).map_err(at(op, path))?;
            Ok(list.get(position).cloned())
        }
        _ => Ok(None),
    }
}

fn test(document: &mut Value, path: &str, want: &Value) -> Result<(), JsonPatchError> {
    let found = if path.is_empty() { Some(document.clone()) } else { get(document, "test", path)? };
    // A name that is not there equals null.
    if found.unwrap_or(Value::Null) == *want { Ok(()) } else { Err(JsonPatchError::Test(path.to_owned())) }
}
