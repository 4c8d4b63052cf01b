//! Whether a value is what its schema demands, with the words of Kubernetes 1.36.
//!
//! What an `anyOf` or `oneOf` says about a value that fits none is what the alternative says that fits best, so checks that
//! hold are counted. Of a change, what was wrong before and is as it was is not said again (ratcheting).

use dyad_model::{ErrorType, FieldError};
use serde_json::{Map, Value};

use crate::old::Old;
use crate::schema::{Additional, Schema, Type};

mod numbers;

/// The field of errors that are of the whole.
const NOWHERE: &str = "<nil>";

/// What checks of a value found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What is wrong.
    pub(crate) errors: Vec<FieldError>,
    /// How many checks held or were made, as Kubernetes counts.
    matches: usize,
}

impl Found {
    fn add(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Self) {
        other.errors.into_iter().for_each(|error| self.add(error));
        self.matches += other.matches;
    }

    fn of(error: FieldError) -> Self {
        Self { errors: vec![error], matches: 0 }
    }

    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Everything that is wrong with a value at `path`, which was `old` before if it was there.
pub(crate) fn validate(value: &Value, schema: &Schema, path: &str, old: Old<'_>) -> Vec<FieldError> {
    ratcheted(value, schema, path, old).errors
}

fn ratcheted(value: &Value, schema: &Schema, path: &str, old: Old<'_>) -> Found {
    let mut found = check(value, schema, path, old);
    if !found.is_valid() && old.is(value) {
        found.errors.clear();
    }
    found
}

fn check(value: &Value, schema: &Schema, path: &str, old: Old<'_>) -> Found {
    let mut found = Found::default();
    let mut take = |part: Option<Found>| {
        if let Some(part) = part {
            found.merge(part);
        }
    };
    if value.is_null() {
        take(Some(check_type(value, schema, path)));
        take(check_enum(value, schema, path));
        return found;
    }
    // Every check that applies counts, and the value itself.
    let mut applied = 1;
    if schema.kind.is_some() || schema.int_or_string || schema.format.is_some() {
        take(Some(check_type(value, schema, path)));
        applied += 1;
    }
    take(Some(combined(value, schema, path, old)));
    applied += 1;
    match value {
        Value::String(text) => {
            take(check_text(text, schema, path));
            applied += 1;
            if let Some(format) = &schema.format
                && !matches!(schema.kind, Some(Type::Integer | Type::Number))
            {
                applied += 1;
                if !format.matches(text) {
                    let detail = format!("{path} in body must be of type {}: {text:?}", format.name());
                    take(Some(Found::of(wrong_type(path, value.clone(), detail))));
                }
            }
        }
        Value::Number(number) => {
            take(Some(numbers::check(number, schema, path)));
            applied += 1;
        }
        Value::Array(items) => {
            take(Some(check_items(items, schema, path, old)));
            applied += 1;
        }
        _ => {}
    }
    take(check_enum(value, schema, path));
    applied += 1;
    if let Value::Object(map) = value {
        take(Some(check_map(map, schema, path, old)));
        applied += 1;
    }
    found.matches += applied;
    found
}

/// Errors name the root as nothing, and everything else without the dot in front.
fn field(path: &str) -> &str {
    match path.strip_prefix('.').unwrap_or(path) {
        "" => NOWHERE,
        field => field,
    }
}

fn wrong_type(path: &str, value: Value, detail: String) -> FieldError {
    FieldError::new(ErrorType::TypeInvalid, field(path), value, detail)
}

fn invalid(path: &str, value: impl Into<Value>, detail: String) -> FieldError {
    FieldError::invalid(field(path), value, detail)
}

/// An error that is not of one field.
fn of_all(detail: String) -> FieldError {
    FieldError::invalid(NOWHERE, "", detail)
}

fn check_type(value: &Value, schema: &Schema, path: &str) -> Found {
    let types: Vec<&str> = match (schema.int_or_string, schema.kind) {
        (true, _) => vec!["integer", "string"],
        (false, Some(kind)) => vec![kind.name()],
        (false, None) => Vec::new(),
    };
    let refuse = |expected: &str, is: &str| {
        let detail = format!("{path} in body must be of type {expected}: {is:?}");
        Found::of(wrong_type(path, is.into(), detail))
    };
    let is = match value {
        Value::Null => {
            let wrong = !types.is_empty() && !schema.nullable;
            return if wrong {
                refuse(&types.join(","), "null")
            } else {
                Found { matches: 1, ..Found::default() }
            };
        }
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let whole = is == "number" && value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let numeric = types.contains(&"integer") || types.contains(&"number");
    let fits = types.contains(&is)
        || (whole && types.contains(&"integer"))
        || (is == "integer" && types.contains(&"number"));
    if let Some(format) = &schema.format {
        let text = matches!(value, Value::String(_) | Value::Array(_));
        if !text && !fits {
            let is = match is {
                "integer" => "int64",
                "number" => "float64",
                _ => "",
            };
            return refuse(format.name(), is);
        }
        if text && !numeric {
            return Found { matches: 1, ..Found::default() };
        }
    }
    if fits { Found { matches: 1, ..Found::default() } } else { refuse(&types.join(","), is) }
}

fn check_enum(value: &Value, schema: &Schema, path: &str) -> Option<Found> {
    if schema.values.is_empty() || schema.values.iter().any(|allowed| same(allowed, value)) {
        return None;
    }
    let texts: Vec<String> = schema
        .values
        .iter()
        .map(|allowed| allowed.as_str().map_or_else(|| allowed.to_string(), str::to_owned))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Some(Found::of(FieldError::not_supported(field(path), value.clone(), &texts)))
}

/// Whether two values are equal; 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

fn check_text(text: &str, schema: &Schema, path: &str) -> Option<Found> {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let error = if let Some(max) = schema.length.max.filter(|max| length > *max) {
        let detail = format!("may not be more than {max} bytes");
        FieldError::new(ErrorType::TooLong, field(path), "", detail)
    } else if let Some(min) = schema.length.min.filter(|min| length < *min) {
        invalid(path, text, format!("{path} in body should be at least {min} chars long"))
    } else {
        let (pattern, regex) = schema.pattern.as_ref()?;
        if regex.as_ref().is_none_or(|regex| regex.is_match(text)) {
            return None;
        }
        invalid(path, text, format!("{path} in body should match '{pattern}'"))
    };
    Some(Found::of(error))
}

fn check_items(items: &[Value], schema: &Schema, path: &str, old: Old<'_>) -> Found {
    let mut found = Found::default();
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(of_items) = &schema.items {
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            found.merge(ratcheted(item, of_items, &path, old.item(schema, item)));
        }
    }
    if let Some(min) = schema.items_count.min.filter(|min| count < *min) {
        found.add(invalid(path, count, format!("{path} in body should have at least {min} items")));
    }
    if let Some(max) = schema.items_count.max.filter(|max| count > *max) {
        found.add(too_many(path, count, max));
    }
    if schema.unique && crate::lists::duplicates(items).next().is_some() {
        found.add(invalid(path, "", format!("{path} in body shouldn't contain duplicates")));
    }
    found.matches += 1;
    found
}

fn too_many(path: &str, count: i64, max: i64) -> FieldError {
    let unsigned = |count: i64| usize::try_from(count).unwrap_or_default();
    FieldError::too_many(field(path), unsigned(count), unsigned(max))
}

fn check_map(map: &Map<String, Value>, schema: &Schema, path: &str, old: Old<'_>) -> Found {
    let mut found = Found::default();
    let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = schema.properties_count.min.filter(|min| count < *min) {
        found.add(invalid(path, count, format!("{path} in body should have at least {min} properties")));
    }
    if let Some(max) = schema.properties_count.max.filter(|max| count > *max) {
        found.add(too_many(path, count, max));
    }
    for (key, value) in map.iter().filter(|(key, _)| !schema.properties.contains_key(*key)) {
        match &schema.additional {
            Some(Additional::Allowed(false)) => {
                found.add(invalid(
                    path,
                    key.as_str(),
                    format!("{path}.{key} in body is a forbidden property"),
                ));
            }
            Some(Additional::Schema(of_values)) => {
                found.merge(ratcheted(value, of_values, &format!("{path}.{key}"), old.key(key, path)));
            }
            Some(Additional::Allowed(true)) | None => {}
        }
    }
    for (name, property) in &schema.properties {
        let Some(value) = map.get(name) else { continue };
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        found.merge(ratcheted(value, property, &below, old.key(name, path)));
    }
    for name in schema.required.iter().filter(|name| !map.contains_key(*name)) {
        found.add(FieldError::required(field(&format!("{path}.{name}")), ""));
    }
    found
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(value: &Value, schema: &Schema, path: &str, old: Old<'_>) -> Found {
    let mut found = Found::default();
    let judge = |schema: &Schema| check(value, schema, path, old);
    if !schema.any_of.is_empty() {
        let mut best: Option<Found> = None;
        for alternative in &schema.any_of {
            let judged = judge(alternative);
            let valid = judged.is_valid();
            if valid || best.as_ref().is_none_or(|best| judged.matches > best.matches) {
                best = Some(judged);
            }
            if valid {
                break;
            }
        }
        if best.as_ref().is_some_and(|best| !best.is_valid()) {
            found.add(of_all(format!("{path:?} must validate at least one schema (anyOf)")));
        }
        found.merge(best.unwrap_or_default());
    }
    if !schema.one_of.is_empty() {
        found.merge(one_of(&schema.one_of, path, judge));
    }
    if !schema.all_of.is_empty() {
        let mut valid = 0;
        for each in &schema.all_of {
            let judged = judge(each);
            valid += usize::from(judged.is_valid());
            found.merge(judged);
        }
        if valid != schema.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            found.add(of_all(format!("{path:?} must validate all the schemas (allOf){none}")));
        }
    }
    if schema.not.as_ref().is_some_and(|not| judge(not).is_valid()) {
        found.add(of_all(format!("{path:?} must not validate the schema (not)")));
    }
    found.matches += 1;
    found
}

fn one_of(alternatives: &[Schema], path: &str, judge: impl Fn(&Schema) -> Found) -> Found {
    let mut found = Found::default();
    let (mut valid, mut first, mut best) = (0, None, None::<Found>);
    for alternative in alternatives {
        let judged = judge(alternative);
        if judged.is_valid() {
            valid += 1;
            first = first.or(Some(judged));
            best = None;
        } else if valid == 0 && best.as_ref().is_none_or(|best| judged.matches > best.matches) {
            best = Some(judged);
        }
    }
    let why = match valid {
        1 => {
            found.merge(first.unwrap_or_default());
            return found;
        }
        0 => "Found none valid".to_owned(),
        more => format!("Found {more} valid alternatives"),
    };
    found.add(of_all(format!("{path:?} must validate one and only one schema (oneOf). {why}")));
    found.merge(best.unwrap_or_default());
    found
}
