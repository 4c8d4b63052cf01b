//! Tables of custom resources: the name, and what the definition says is shown (J14).

use dyad_schema::columns::{TableOptions, age_since, assembled};
use serde_json::{Value, json};

use crate::path::Path;

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<Path>,
}

const CREATED: &str = ".metadata.creationTimestamp";

impl Column {
    /// The columns of a version, after the name.
    pub(crate) fn all(version: &Value) -> Vec<Self> {
        let given = version["additionalPrinterColumns"].as_array().map_or(&[][..], Vec::as_slice);
        if given.is_empty() {
            let age = json!({
                "name": "Age", "type": "date", "jsonPath": CREATED, "description": "How long ago the object was created.",
            });
            return vec![Self::read(&age)];
        }
        given.iter().map(Self::read).collect()
    }

    fn read(column: &Value) -> Self {
        let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
        let path = text("jsonPath");
        let description = match text("description") {
            none if none.is_empty() => {
                format!("Custom resource definition column (in JSONPath format): {path}")
            }
            description => description,
        };
        Self {
            name: text("name"),
            kind: text("type"),
            format: text("format"),
            description,
            priority: column["priority"].as_i64().unwrap_or_default(),
            path: Path::parse(&path).ok(),
        }
    }

    fn cell(&self, object: &Value, now: i64) -> Value {
        let found = self.path.as_ref().map(|path| path.find(object)).unwrap_or_default();
        let Some(value) = found.first() else { return Value::Null };
        match (self.kind.as_str(), value) {
            ("string", Value::String(text)) => text.as_str().into(),
            ("string", Value::Null) => "<nil>".into(),
            ("string", value) => value.to_string().into(),
            ("integer", Value::Number(number)) => match number.as_i64() {
                Some(integer) => integer.into(),
                None => (number.as_f64().unwrap_or_default() as i64).into(),
            },
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
            ("date", Value::String(text)) if text.parse::<jiff::Timestamp>().is_err() => "<invalid>".into(),
            ("date", Value::String(_)) => age_since(value, now).into(),
            _ => Value::Null,
        }
    }
}

/// The table of some objects; `metadata` is that of the list, or of the object for one.
pub fn table<'a>(
    columns: &[Column],
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    options: TableOptions,
) -> Value {
    let rows = objects.into_iter().map(|object| row(columns, object, options)).collect();
    assembled(definitions(columns), rows, metadata, options)
}

fn definitions(columns: &[Column]) -> Value {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "The object's name, unique among its kind in its namespace.",
    });
    let others = columns.iter().map(|column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    });
    std::iter::once(name).chain(others).collect()
}

fn row(columns: &[Column], object: &Value, options: TableOptions) -> Value {
    let cells = columns.iter().map(|column| column.cell(object, options.now));
    let cells: Vec<Value> = std::iter::once(object["metadata"]["name"].clone()).chain(cells).collect();
    json!({ "cells": cells, "object": options.include.of(object) })
}
