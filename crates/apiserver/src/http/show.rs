//! Objects, lists and events in the form the client asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dyad_schema::columns::{self, IncludeObject, TableOptions};
use dyad_schema::protobuf;
use serde_json::{Value, json};

use super::negotiate::{Form, Format};
use crate::registry::{Fields, Listed, Served, Stored, Watch, WatchEvent};
use crate::status::ApiError;

/// How objects are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    pub(crate) format: Format,
    pub(crate) form: Form,
    /// How much of an object goes with its row of a table.
    pub(crate) include: IncludeObject,
}

fn table_options(show: Show, headers: bool) -> TableOptions {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    TableOptions { include: show.include, headers, now: i64::try_from(now).unwrap_or(i64::MAX) }
}

fn partial(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

/// A table in the older version differs in name only.
fn in_version(mut table: Value, version: &str) -> Value {
    const NEWER: &str = "meta.k8s.io/v1";
    if version != "v1" {
        let name = |object: &mut Value| {
            if object["apiVersion"] == NEWER {
                object["apiVersion"] = format!("meta.k8s.io/{version}").into();
            }
        };
        name(&mut table);
        for row in table["rows"].as_array_mut().into_iter().flatten() {
            name(&mut row["object"]);
        }
    }
    table
}

/// The table of some objects.
fn table<'a>(
    served: &Served,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    options: TableOptions,
) -> Value {
    match &served.fields {
        Fields::Table(_) => columns::table(served.row, objects, metadata, options),
        Fields::Custom(custom) => dyad_custom::table(custom.version.columns(), objects, metadata, options),
    }
}

/// The object as the client knows its kind.
fn seen(served: &Served, stored: &Stored, rev: u64) -> Value {
    let mut object = stored.value_at(rev);
    served.show(&mut object);
    object
}

/// One object, in protobuf if that is the format, else in JSON.
pub(crate) fn object(served: &Served, show: Show, stored: &Stored, rev: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write_object(served, show, stored, rev, true, &mut out);
    out
}

fn write_object(served: &Served, show: Show, stored: &Stored, rev: u64, headers: bool, out: &mut Vec<u8>) {
    if show.form == Form::Whole && show.format != Format::Protobuf && served.as_stored() {
        stored.write_to(rev, out);
        return;
    }
    let object = in_form(served, show, seen(served, stored, rev), headers);
    if show.format == Format::Protobuf {
        out.extend(in_protobuf(&object));
    } else {
        write(&object, out);
    }
}

/// The body of a value whose kind has a protobuf form, which is asked for such kinds only.
fn in_protobuf(object: &Value) -> Vec<u8> {
    protobuf::encode_value(object).unwrap_or_default()
}

/// A value that is an object of the kind, in the form wanted.
fn in_form(served: &Served, show: Show, object: Value, headers: bool) -> Value {
    match show.form {
        Form::Whole => object,
        Form::Metadata(version) => partial(&object, version),
        Form::Table(version) => {
            let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
            in_version(table(served, [&object], metadata, table_options(show, headers)), version)
        }
    }
}

fn write(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a Value has string keys only, and memory takes everything");
}

/// A list, in protobuf if that is the format, else in JSON.
pub(crate) fn list(served: &Served, show: Show, listed: &Listed) -> Vec<u8> {
    let mut metadata = json!({"resourceVersion": listed.rev.to_string()});
    if !listed.token.is_empty() {
        metadata["continue"] = listed.token.as_str().into();
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let mut out = Vec::with_capacity(256 + listed.items.iter().map(|stored| stored.weight()).sum::<usize>());
    let (kind, api_version) = match show.form {
        Form::Table(version) => {
            let objects: Vec<Value> =
                listed.items.iter().map(|stored| seen(served, stored, stored.rev)).collect();
            let table = table(served, &objects, metadata, table_options(show, true));
            write(&in_version(table, version), &mut out);
            return out;
        }
        Form::Whole => (served.row.list_kind(), served.row.api_version()),
        Form::Metadata(version) => ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}")),
    };
    if show.format == Format::Protobuf {
        let items = listed.items.iter().map(|stored| seen(served, stored, stored.rev));
        return protobuf::encode_list(&api_version, &kind, &metadata, items).unwrap_or_default();
    }
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
    write(&head, &mut out);
    // The head's closing brace gives way to the items.
    out.pop();
    out.extend_from_slice(b",\"items\":[");
    for (index, stored) in listed.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if show.form == Form::Whole && served.as_stored() {
            // What was defined repeats its kind, as what is not known to the server does in Kubernetes.
            match served.defined() {
                Some(_) => stored.write_to(stored.rev, &mut out),
                None => stored.write_item_to(&mut out),
            }
        } else {
            write_object(served, show, stored, stored.rev, false, &mut out);
        }
    }
    out.extend_from_slice(b"]}");
    out
}

/// Turns the events of a watch into the lines or frames of its answer.
pub(crate) struct EventWriter {
    pub(crate) show: Show,
    /// Column definitions come with the first event only (J14).
    first: bool,
}

impl EventWriter {
    pub(crate) fn new(show: Show) -> Self {
        Self { show, first: true }
    }

    /// The lines or frames of some events.
    pub(crate) fn lines(&mut self, served: &Served, events: &[WatchEvent]) -> Bytes {
        let mut out = Vec::with_capacity(events.len() * 1024);
        for event in events {
            let (name, stored, rev) = match event {
                WatchEvent::Added(stored) => ("ADDED", stored, stored.rev),
                WatchEvent::Modified(stored) => ("MODIFIED", stored, stored.rev),
                WatchEvent::Deleted(stored, rev) => ("DELETED", stored, *rev),
                WatchEvent::Bookmark { rev, initial_events_end } => {
                    let bookmark = bookmark(served, *rev, *initial_events_end);
                    let object = in_form(served, self.show, bookmark, std::mem::take(&mut self.first));
                    event_of("BOOKMARK", self.show.format, &object, &mut out);
                    continue;
                }
                WatchEvent::Error(error) => {
                    out.extend(error_event(self.show.format, error));
                    continue;
                }
            };
            let headers = std::mem::take(&mut self.first);
            frame(name, self.show.format, &mut out, |out| {
                write_object(served, self.show, stored, rev, headers, out);
            });
        }
        out.into()
    }
}

/// Appends an event around what `object` writes: a line of JSON, or a frame of protobuf.
fn frame(name: &str, format: Format, out: &mut Vec<u8>, object: impl FnOnce(&mut Vec<u8>)) {
    if format == Format::Protobuf {
        let mut body = Vec::with_capacity(1024);
        object(&mut body);
        protobuf::watch_frame(out, name, &body);
        return;
    }
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object(out);
    out.extend_from_slice(b"}\n");
}

fn event_of(name: &str, format: Format, object: &Value, out: &mut Vec<u8>) {
    frame(name, format, out, |out| match format {
        Format::Protobuf => out.extend(in_protobuf(object)),
        Format::Json | Format::Yaml => write(object, out),
    });
}

/// J28: an object of the kind with nothing but its resourceVersion.
fn bookmark(served: &Served, rev: u64, initial_events_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": rev.to_string()});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"kind": served.row.kind, "apiVersion": served.row.api_version(), "metadata": metadata})
}

/// The lines or frames of a watch, as they come.
pub(crate) fn watch_lines(
    served: std::sync::Arc<Served>,
    watch: Watch,
    show: Show,
) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    let state = (watch, EventWriter::new(show), served);
    futures::stream::unfold(state, async |(mut watch, mut writer, served)| {
        let events = watch.next().await?;
        let lines = writer.lines(&served, &events);
        Some((lines, (watch, writer, served)))
    })
}

/// A failure as an event. A 410 that came before the first one is told so, for that is where clients look (J26).
pub(crate) fn error_event(format: Format, error: &ApiError) -> Bytes {
    let mut out = Vec::new();
    event_of("ERROR", format, &error.to_value(), &mut out);
    out.into()
}
