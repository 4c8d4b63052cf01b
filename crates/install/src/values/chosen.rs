//! From what somebody writes to values: files and `--set` over the defaults.

use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::{Values, ValuesError, set, wrong};

/// The chart's own values.
const DEFAULTS: &str = include_str!("../../../../deploy/helm/dyad/values.yaml");
/// Values below which anything may be named.
const FREE: [&str; 4] = ["agent.nodeSelector", "agent.resources", "controllers.resources", "dns.resources"];

/// What somebody has chosen, over the defaults: files first, then `--set`, the last one wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen(Map<String, Value>);

impl Chosen {
    /// Adds a file.
    pub fn file(&mut self, text: &str) -> Result<(), ValuesError> {
        match serde_saphyr::from_str::<Value>(text)? {
            Value::Object(map) => merge(&mut self.0, map),
            // A file with comments alone.
            Value::Null => {}
            _ => return Err(wrong("the file", "is no map of values, as `proxy: {enabled: false}`")),
        }
        Ok(())
    }

    /// Adds a `--set a.b=c,d=e`.
    pub fn set(&mut self, text: &str) -> Result<(), ValuesError> {
        set::parse(text)?.into_iter().for_each(|one| merge(&mut self.0, one));
        Ok(())
    }

    /// All values, the defaults where nothing was chosen.
    pub fn values(&self) -> Result<Values, ValuesError> {
        let mut all = defaults();
        overlay("", &mut all, &self.0)?;
        let all = Value::Object(all);
        let values: Values = serde_path_to_error::deserialize(&all)
            .map_err(|error| misread(&all, error.path(), error.inner()))?;
        values.check()?;
        Ok(values)
    }

    /// What there are values for, and the names of all else.
    pub(crate) fn known(self) -> (Self, Vec<String>) {
        let (Self(mut chosen), mut unknown) = (self, Vec::new());
        take_unknown("", &defaults(), &mut chosen, &mut unknown);
        (Self(chosen), unknown)
    }

    /// As `--set` says them.
    pub(crate) fn texts(&self) -> Vec<String> {
        fn below(place: &str, fields: &Map<String, Value>, texts: &mut Vec<String>) {
            for (name, value) in fields {
                let key = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                match value {
                    Value::Object(fields) => below(&key, fields, texts),
                    Value::String(text) => texts.push(format!("{key}={text}")),
                    value => texts.push(format!("{key}={value}")),
                }
            }
        }
        let mut texts = Vec::new();
        below("", &self.0, &mut texts);
        texts
    }

    /// As a file that says the same.
    pub fn to_yaml(&self) -> String {
        // A map of plain data always is YAML.
        serde_saphyr::to_string(&self.0).unwrap_or_default()
    }
}

/// The error about a value that is of the right kind and yet none of those there can be, with the value and the way out.
fn misread(all: &Value, path: &Path, error: &serde_json::Error) -> ValuesError {
    let step = |value: &'_ Value, segment: &Segment| match segment {
        Segment::Map { key } => value.get(key).cloned(),
        Segment::Seq { index } => value.get(index).cloned(),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    let found = path.iter().try_fold(all.clone(), |value, segment| step(&value, segment));
    let (key, problem) = (path.to_string(), error.to_string());
    match found.as_ref().and_then(Value::as_str) {
        // Of words that are none of some, it is said already.
        Some(text) if !problem.contains(&format!("`{text}`")) => {
            let name = key.split('[').next().unwrap_or_default();
            let way_out = match name {
                _ if name.ends_with("CIDR") || name.ends_with("CIDRs") => {
                    ": write a range with its length, as 10.244.0.0/16 or fd00:10:244::/56"
                }
                _ if name.ends_with("IPs") => ": write an address, as 10.96.0.10 or fd00:10:96::a",
                _ => "",
            };
            wrong(&key, format!("{text:?}: {problem}{way_out}"))
        }
        _ => wrong(&key, problem),
    }
}

/// The defaults, as the chart has them.
pub(super) fn defaults() -> Map<String, Value> {
    match serde_saphyr::from_str(DEFAULTS) {
        Ok(Value::Object(map)) => map,
        // A test reads it.
        _ => Map::new(),
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Takes out what no default has the name of.
fn take_unknown(
    place: &str,
    known: &Map<String, Value>,
    from: &mut Map<String, Value>,
    unknown: &mut Vec<String>,
) {
    from.retain(|name, value| {
        let key = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        match (known.get(name), value) {
            (None, _) => unknown.push(key.clone()),
            (Some(Value::Object(known)), Value::Object(inner)) if !FREE.contains(&key.as_str()) => {
                take_unknown(&key, known, inner, unknown);
            }
            _ => {}
        }
        known.contains_key(name)
    });
}

/// Puts what was chosen over the defaults; null takes a default back, as in Helm.
fn overlay(place: &str, into: &mut Map<String, Value>, from: &Map<String, Value>) -> Result<(), ValuesError> {
    let is_free = FREE.contains(&place);
    for (name, value) in from {
        let key = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        match (into.get_mut(name), value) {
            (None, _) if !is_free => {
                let place = if place.is_empty() { "the top" } else { place };
                let known = into.keys().cloned().collect::<Vec<_>>().join(", ");
                return Err(ValuesError::Unknown { key, place: place.to_owned(), known });
            }
            (_, Value::Null) => {
                if is_free {
                    into.remove(name);
                }
            }
            (Some(Value::Object(into)), Value::Object(from)) => overlay(&key, into, from)?,
            (Some(known), value) => *known = fitting(&key, known, value, is_free)?,
            (None, value) => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// The value, if it is of the kind of the one it takes the place of; numbers are texts where texts belong.
fn fitting(key: &str, known: &Value, value: &Value, is_free: bool) -> Result<Value, ValuesError> {
    let fits = match (known, value) {
        (Value::String(_), Value::Number(number)) if number.is_f64() && !is_free => {
            // Nobody knows any more whether it was 1.1 or 1.10.
            return Err(wrong(
                key,
                format!("{number} is a number, and a text is wanted: write it in quotes"),
            ));
        }
        (Value::String(_), Value::Number(number)) => return Ok(number.to_string().into()),
        // A number of nodes, or a share of them.
        (Value::Number(_), Value::String(_)) if key == "agent.maxUnavailable" => true,
        (known, value) => kind(known) == kind(value),
    };
    if fits || is_free {
        return Ok(value.clone());
    }
    Err(wrong(key, format!("{value} is {}, and {} is wanted, as {known}", kind(value), kind(known))))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
