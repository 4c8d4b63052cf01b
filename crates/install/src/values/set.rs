//! `--set a.b=c,d={e,f}`, as Helm reads it: `\` takes the meaning from what follows; true, false, null and numbers are
//! what they look like.

use serde_json::{Map, Value};

use super::ValuesError;

/// Each assignment as a map that has nothing else in it.
pub(super) fn parse(text: &str) -> Result<Vec<Map<String, Value>>, ValuesError> {
    let wrong = |problem| ValuesError::Set { text: text.to_owned(), problem };
    let mut found = Vec::new();
    for assignment in split(text, ',') {
        let parts = split(&assignment, '=');
        let [key, rest @ ..] = parts.as_slice() else { return Err(wrong("is empty")) };
        if rest.is_empty() {
            return Err(wrong("has no value: write KEY=VALUE, with \\, for a comma"));
        }
        let path = split(key, '.');
        if path.iter().any(String::is_empty) {
            return Err(wrong("has no key before ="));
        }
        if key.ends_with(']') {
            return Err(wrong("sets one item of a list: write the whole list, as KEY={a,b}"));
        }
        let value = value(&rest.join("=")).ok_or_else(|| wrong("has a list without }"))?;
        let nested = path
            .iter()
            .rev()
            .fold(value, |value, name| Value::Object(Map::from_iter([(plain(name), value)])));
        if let Value::Object(map) = nested {
            found.push(map);
        }
    }
    Ok(found)
}

/// Parts between separators that neither a `\` nor braces hide; escapes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part, mut depth, mut escaped) = (Vec::new(), String::new(), 0usize, false);
    for c in text.chars() {
        let hidden = std::mem::take(&mut escaped);
        match c {
            '\\' if !hidden => escaped = true,
            '{' if !hidden => depth += 1,
            '}' if !hidden => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == separator && !hidden && depth == 0 {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    parts
}

/// The text without what takes meaning away.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    plain
}

fn value(text: &str) -> Option<Value> {
    if let Some(inner) = text.strip_prefix('{') {
        let inner = inner.strip_suffix('}')?;
        let items = split(inner, ',').into_iter().filter(|item| !item.is_empty());
        return Some(items.map(|item| scalar(&item)).collect());
    }
    Some(scalar(text))
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        // What begins with 0 is a name of digits, as commits have them.
        "0" => 0.into(),
        _ if !text.starts_with('0') && text.parse::<i64>().is_ok() => {
            text.parse::<i64>().unwrap_or_default().into()
        }
        _ => plain(text).into(),
    }
}
