//! Changes to the text of a kubeconfig that leave every other line as it is, comments included.
//!
//! Only the block style that kubectl writes is understood; `None` means that the text is written in another way, and
//! the caller checks every result against what it wanted.

use std::ops::Range;

use serde_json::Value;

/// The text with `entry` as the last item of the list `key`.
pub(super) fn add(text: &str, key: &str, entry: &Value) -> Option<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    if let Some(last) = lines.last_mut().filter(|last| !last.ends_with('\n')) {
        last.push('\n');
    }
    let item = render(entry)?;
    let Some(header) = header(&lines, key) else {
        lines.push(format!("{key}:\n"));
        lines.push(item);
        return Some(lines.concat());
    };
    let at = body(&lines, header);
    match value_of(&lines[header], key) {
        "" => {}
        empty @ ("[]" | "null" | "~") => lines[header] = lines[header].replacen(&format!(" {empty}"), "", 1),
        _ => return None,
    }
    let indent = at.clone().find_map(|line| item_indent(&lines[line])).unwrap_or(0);
    let item = item.lines().map(|line| format!("{}{line}\n", " ".repeat(indent))).collect();
    lines.insert(at.end, item);
    Some(lines.concat())
}

/// The text without the items of the list `key` that are called `name`.
pub(super) fn remove(text: &str, key: &str, name: &str) -> Option<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let Some(header) = header(&lines, key) else { return Some(text.to_owned()) };
    let body = body(&lines, header);
    let Some(indent) = body.clone().find_map(|line| item_indent(&lines[line])) else {
        return Some(text.to_owned());
    };
    let starts: Vec<usize> = body.clone().filter(|line| item_indent(&lines[*line]) == Some(indent)).collect();
    let mut left = starts.len();
    // From behind, so that the numbers of the lines before stay right.
    for (index, start) in starts.iter().copied().enumerate().rev() {
        let end = starts.get(index + 1).copied().unwrap_or(body.end);
        let item: Value = serde_saphyr::from_str(&lines[start..end].concat()).ok()?;
        if item[0]["name"] == name {
            lines.drain(start..end);
            left -= 1;
        }
    }
    if left == 0 && !starts.is_empty() {
        lines[header] = lines[header].replacen(&format!("{key}:"), &format!("{key}: []"), 1);
    }
    Some(lines.concat())
}

/// The text with `key: value` at its top.
pub(super) fn set(text: &str, key: &str, value: &str) -> String {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let line = if value.is_empty() { format!("{key}: \"\"\n") } else { format!("{key}: {value}\n") };
    match header(&lines, key) {
        Some(header) => lines[header] = line,
        None => {
            if let Some(last) = lines.last_mut().filter(|last| !last.ends_with('\n')) {
                last.push('\n');
            }
            lines.push(line);
        }
    }
    lines.concat()
}

/// An entry as an item of a list, on lines that nothing folds: its name, and one map of strings.
fn render(entry: &Value) -> Option<String> {
    let mut text = String::new();
    for (key, value) in entry.as_object()? {
        text.push_str(if text.is_empty() { "- " } else { "  " });
        match value {
            Value::Object(fields) => {
                text.push_str(&format!("{key}:\n"));
                for (field, value) in fields {
                    text.push_str(&format!("    {field}: {}\n", Value::from(value.as_str()?)));
                }
            }
            value => text.push_str(&format!("{key}: {}\n", Value::from(value.as_str()?))),
        }
    }
    Some(text)
}

/// The line of a key at the top.
fn header(lines: &[String], key: &str) -> Option<usize> {
    lines.iter().position(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
}

/// What stands behind the key on its own line.
fn value_of<'a>(line: &'a str, key: &str) -> &'a str {
    let value = line[key.len() + 1..].trim();
    if value.starts_with('#') { "" } else { value.split(" #").next().unwrap_or(value).trim_end() }
}

/// The lines that belong to a key at the top, without what stands before the next one.
fn body(lines: &[String], header: usize) -> Range<usize> {
    let start = header + 1;
    let inside = |line: &String| line.trim().is_empty() || line.starts_with([' ', '-', '#']);
    let mut end = lines[start..].iter().position(|line| !inside(line)).map_or(lines.len(), |at| start + at);
    while end > start && (lines[end - 1].trim().is_empty() || lines[end - 1].starts_with('#')) {
        end -= 1;
    }
    start..end
}

fn item_indent(line: &str) -> Option<usize> {
    let item = line.trim_start_matches(' ');
    (item.starts_with("- ") || item.trim_end() == "-").then_some(line.len() - item.len())
}
