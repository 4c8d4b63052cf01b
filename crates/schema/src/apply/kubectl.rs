//! From `kubectl apply` to `kubectl apply --server-side`: what the first one left with an object the second may take.

use serde_json::{Map, Value};

use super::set::Set;
use super::types::Structure;

/// The manager for which this is done.
pub(super) const MANAGER: &str = "kubectl";
/// The annotation that keeps the configuration that was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together.
const ANNOTATIONS_MAX: usize = 256 << 10;

fn last_applied(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())
}

/// The paths on which conflicts are none, because what is there is what was applied last. `None` if nothing was.
pub(super) fn allowed(structure: Structure<'_>, version: &str, live: &Value) -> Option<Set> {
    let last: Value = serde_json::from_str(last_applied(live)?).ok()?;
    if last["apiVersion"] != version || !last["kind"].is_string() {
        return None;
    }
    structure.check(&last).ok()?;
    let compared = structure.compare(&last, live).ok()?;
    let differs = compared.modified.union(&compared.added).union(&compared.removed);
    Some(structure.paths(&last).ok()?.difference(&differs))
}

fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.pointer_mut("/metadata/annotations")?.as_object_mut()
}

/// Keeps the annotation of an object that has one as it would be if this had been applied.
pub(super) fn sync(object: &mut Value, applied: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = annotations(&mut applied) {
        annotations.remove(LAST_APPLIED);
    }
    let Some(annotations) = annotations(object) else { return };
    annotations.insert(LAST_APPLIED.to_owned(), go_json(&applied).into());
    let size = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len));
    if size.sum::<usize>() > ANNOTATIONS_MAX {
        annotations.remove(LAST_APPLIED);
    }
}

/// JSON as Go writes it: safe within HTML, on a line of its own.
fn go_json(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            other => text.push(other),
        }
    }
    text.push('\n');
    text
}
