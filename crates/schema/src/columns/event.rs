//! Columns of Events, which both groups that serve them share.

use serde_json::Value;

use super::{Column, NAME, age, number, text};

pub(crate) const EVENT: &[Column] = &[
    Column::text("Last Seen", "How long ago it happened the last time.", |event, now| {
        last_seen(event, now).into()
    }),
    Column::text("Type", "Normal or Warning.", |event, _| text(&event["type"]).into()),
    Column::text("Reason", "One word for why it happened.", |event, _| text(&event["reason"]).into()),
    Column::text("Object", "What it happened to.", |event, _| {
        let object = field(event, "involvedObject", "regarding");
        let kind = text(&object["kind"]).to_lowercase();
        match text(&object["name"]) {
            "" => kind.into(),
            name => format!("{kind}/{name}").into(),
        }
    }),
    Column::text("Subobject", "The part of the object it happened to.", |event, _| {
        text(&field(event, "involvedObject", "regarding")["fieldPath"]).into()
    })
    .wide(),
    Column::text("Source", "Who reports it.", |event, _| {
        let source = field(event, "source", "deprecatedSource");
        let component = super::or(
            text(&source["component"]),
            text(field(event, "reportingComponent", "reportingController")),
        );
        match super::or(text(&source["host"]), text(&event["reportingInstance"])) {
            "" => component.into(),
            instance => format!("{component}, {instance}").into(),
        }
    })
    .wide(),
    Column::text("Message", "What happened, for a person to read.", |event, _| {
        text(field(event, "message", "note")).trim().into()
    }),
    Column::text("First Seen", "How long ago it happened first.", |event, now| first_seen(event, now).into())
        .wide(),
    // A number under the type string, as Kubernetes has it.
    Column::text("Count", "How often it happened.", |event, _| {
        let count = number(field(event, "count", "deprecatedCount"));
        match &event["series"] {
            Value::Null => count.max(1).into(),
            series => number(&series["count"]).into(),
        }
    })
    .wide(),
    NAME.wide(),
];

/// A field by its name in the core group or in `events.k8s.io`.
fn field<'a>(event: &'a Value, core: &str, newer: &str) -> &'a Value {
    event.get(core).unwrap_or(&event[newer])
}

fn first_seen(event: &Value, now: i64) -> String {
    let first = field(event, "firstTimestamp", "deprecatedFirstTimestamp");
    age::since(if first.is_null() { &event["eventTime"] } else { first }, now)
}

fn last_seen(event: &Value, now: i64) -> String {
    let last = field(event, "lastTimestamp", "deprecatedLastTimestamp");
    match &event["series"] {
        Value::Null if last.is_null() => first_seen(event, now),
        Value::Null => age::since(last, now),
        series => age::since(&series["lastObservedTime"], now),
    }
}
