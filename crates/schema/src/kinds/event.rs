//! Events are served by two groups with other names for some fields; the core form is the one stored.

use serde_json::{Map, Value};

use super::View;

/// `events.k8s.io/v1` Events as views of core ones.
pub(super) static EVENTS_VIEW: View =
    View { group: "", kind: "Event", to_stored: to_core, from_stored: from_core, stored_field };

/// Name in `events.k8s.io/v1` and in core `v1`, where they differ.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// Turns an `events.k8s.io/v1` Event into a core one.
pub fn to_core(event: &mut Value) {
    let Value::Object(fields) = event else { return };
    for (theirs, core) in NAMES {
        rename(fields, theirs, core);
    }
    // These two are always written in the core form.
    for key in ["reportingComponent", "reportingInstance"] {
        fields.entry(key).or_insert_with(|| "".into());
    }
    fields.insert("apiVersion".to_owned(), "v1".into());
}

/// Turns a core Event into an `events.k8s.io/v1` one.
pub fn from_core(event: &mut Value) {
    let Value::Object(fields) = event else { return };
    for (theirs, core) in NAMES {
        rename(fields, core, theirs);
    }
    for key in ["reportingController", "reportingInstance"] {
        if fields.get(key).is_some_and(|value| value == "") {
            fields.remove(key);
        }
    }
    fields.insert("apiVersion".to_owned(), "events.k8s.io/v1".into());
}

fn rename(fields: &mut Map<String, Value>, from: &str, to: &str) {
    match fields.remove(from) {
        Some(value) => fields.insert(to.to_owned(), value),
        // A field of the other form means nothing in this one.
        None => fields.remove(to),
    };
}

/// The stored name of a field that selectors of `events.k8s.io/v1` can name (J53).
fn stored_field(field: &str) -> Option<&'static str> {
    const FIELDS: [(&str, &str); 12] = [
        ("reason", "reason"),
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reportingController", "reportingComponent"),
        ("type", "type"),
        ("metadata.namespace", "metadata.namespace"),
        ("metadata.name", "metadata.name"),
    ];
    FIELDS.into_iter().find(|(theirs, _)| *theirs == field).map(|(_, core)| core)
}
