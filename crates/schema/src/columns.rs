//! Tables, as `kubectl get` prints them (J14).
//!
//! A column is its definition and the function that fills it, so that headers and cells cannot come apart. Cells are
//! what kubectl users know from Kubernetes 1.36, with one deliberate difference: where Kubernetes shows the first
//! address only, all are shown, comma-joined, primary family first.

use serde_json::{Value, json};

use crate::kinds::Kind;

mod age;
pub(crate) mod cluster;
pub(crate) mod event;
pub(crate) mod foreign;
pub(crate) mod limits;
pub(crate) mod network;
pub(crate) mod pod;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
pub(crate) mod workload;

pub use age::since as age_since;

/// One column of a kind's table.
#[derive(Debug)]
pub struct Column {
    /// Heading, before kubectl makes it upper case.
    pub name: &'static str,
    /// What the cells are.
    pub cell_type: CellType,
    /// `name` for the column that identifies the object, else empty.
    pub format: &'static str,
    /// What it tells.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
    /// The cell of an object; the second argument is now, in seconds since 1970.
    pub cell: fn(&Value, i64) -> Value,
}

/// OpenAPI type of a column's cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellType {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Yes or no.
    Boolean,
    /// A point in time that the client turns into an age.
    Date,
}

/// How much of an object goes with its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// What goes with the row of an object.
    pub fn of(self, object: &Value) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            }),
            Self::Object => object.clone(),
        }
    }

    /// Reads the query parameter `includeObject`; the error is what a 400 says about it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            )),
        }
    }
}

/// How a table is asked for.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    /// How much of each object goes with its row.
    pub include: IncludeObject,
    /// Whether to define the columns: on a watch, only the first event does.
    pub headers: bool,
    /// Now, in seconds since 1970.
    pub now: i64,
}

/// The table of some objects of a kind.
///
/// `metadata` is that of the list, or for a single object and a watch event `{"resourceVersion": ...}`. Objects are
/// complete, with `apiVersion` and `kind`.
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    options: TableOptions,
) -> Value {
    let rows = objects.into_iter().map(|object| row(kind, object, options)).collect();
    assembled(definitions(kind), rows, metadata, options)
}

/// A table of these parts.
pub fn assembled(definitions: Value, rows: Vec<Value>, metadata: Value, options: TableOptions) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": if options.headers { definitions } else { Value::Null },
        "rows": rows,
    })
}

/// The `columnDefinitions` of a kind.
pub fn definitions(kind: &Kind) -> Value {
    kind.columns.iter().map(Column::definition).collect()
}

/// The row of one object.
pub fn row(kind: &Kind, object: &Value, options: TableOptions) -> Value {
    let mut row = json!({ "cells": cells(kind, object, options.now) });
    if let Some(condition) = pod::completed(kind, object) {
        row["conditions"] = json!([condition]);
    }
    row["object"] = options.include.of(object);
    row
}

/// The cells of one object, in the order of the columns; `now` is in seconds since 1970.
pub fn cells(kind: &Kind, object: &Value, now: i64) -> Vec<Value> {
    kind.columns.iter().map(|column| (column.cell)(object, now)).collect()
}

impl Column {
    const fn text(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Self {
        Self { name, cell_type: CellType::String, format: "", description, priority: 0, cell }
    }

    const fn integer(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Self {
        Self { cell_type: CellType::Integer, ..Self::text(name, description, cell) }
    }

    const fn boolean(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Self {
        Self { cell_type: CellType::Boolean, ..Self::text(name, description, cell) }
    }

    const fn date(name: &'static str, description: &'static str, cell: fn(&Value, i64) -> Value) -> Self {
        Self { cell_type: CellType::Date, ..Self::text(name, description, cell) }
    }

    /// Shown with `-o wide` only.
    const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    /// The column that identifies the object.
    const fn identifying(self) -> Self {
        Self { format: "name", ..self }
    }

    fn definition(&self) -> Value {
        let cell_type = match self.cell_type {
            CellType::String => "string",
            CellType::Integer => "integer",
            CellType::Boolean => "boolean",
            CellType::Date => "date",
        };
        json!({
            "name": self.name,
            "type": cell_type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// Shown where there is nothing to show.
const NONE: &str = "<none>";

const NAME: Column =
    Column::text("Name", "The object's name, unique among its kind in its namespace.", |object, _| {
        name(object).into()
    })
    .identifying();

const AGE: Column = Column::text("Age", "How long ago the object was created.", |object, now| {
    age::since(&object["metadata"]["creationTimestamp"], now).into()
});

/// The object's name.
fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

/// A string field; empty if it is not there.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number field; 0 if it is not there.
fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// The items of a list; none if it is not there.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text, or a placeholder if it is empty.
fn or<'a>(text: &'a str, placeholder: &'a str) -> &'a str {
    if text.is_empty() { placeholder } else { text }
}

/// The non-empty texts, comma-joined, or `<none>`.
fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    if texts.is_empty() { NONE.to_owned() } else { texts.join(",") }
}

/// The first three of a longer list, and how many more there are; empty for none.
fn first_three(texts: impl IntoIterator<Item = String>) -> String {
    first_some(texts, 3, ",")
}

/// The first of a longer list, and how many more there are; empty for none.
fn first_some(texts: impl IntoIterator<Item = String>, most: usize, separator: &str) -> String {
    let mut texts = texts.into_iter();
    let shown: Vec<String> = texts.by_ref().take(most).collect();
    match texts.count() {
        0 => shown.join(separator),
        more => format!("{} + {more} more...", shown.join(separator)),
    }
}

/// A map of labels as `a=b,c=d`, or `<none>`.
fn labels(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let mut pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", text(value))).collect();
    pairs.sort_unstable();
    joined(pairs.iter().map(String::as_str))
}
