use serde_json::json;

use super::*;
use crate::fields::Schema;

mod managers;
mod rules;
mod sequences;
mod sets;

const NOW: &str = "2026-01-02T03:04:05Z";

/// A built-in kind, with what a field manager needs of it.
pub(super) struct Kind {
    schema: Schema,
    version: &'static str,
    versions: OneVersion<'static>,
    empty: Value,
}

impl Kind {
    pub(super) fn new(group: &str, kind: &str, version: &'static str) -> Self {
        let schema = Schema::for_kind(group, "v1", kind).unwrap();
        let versions = OneVersion { name: version, structure: builtin(&schema) };
        Self { empty: schema.canonical(&json!({})).unwrap(), schema, version, versions }
    }

    pub(super) fn at<T>(
        &self,
        subresource: &str,
        reset: &Reset,
        run: impl FnOnce(&FieldManager<'_>) -> T,
    ) -> T {
        run(&FieldManager {
            versions: &self.versions,
            version: self.version,
            kind: self.schema.kind(),
            empty: &self.empty,
            subresource,
            reset,
            now: NOW,
        })
    }

    pub(super) fn apply(
        &self,
        live: Option<&Value>,
        applied: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let finish = |merged: Value| self.schema.canonical(&merged).map_err(|error| error.to_string());
        self.at("", &Reset::Nothing, |fields| fields.apply(live, applied, manager, force, &finish))
    }

    /// The object after it was written as `new`.
    pub(super) fn write(&self, live: Option<&Value>, new: &Value, manager: &str) -> Value {
        let mut new = self.schema.canonical(new).unwrap();
        let managers = self.at("", &Reset::Nothing, |fields| fields.update(live, &new, manager));
        encode(&mut new, &managers);
        new
    }

    pub(super) fn structure(&self) -> Structure<'static> {
        self.versions.structure
    }
}

pub(super) fn deployment() -> Kind {
    Kind::new("apps", "Deployment", "apps/v1")
}

pub(super) fn service() -> Kind {
    Kind::new("", "Service", "v1")
}

pub(super) fn config_map() -> Kind {
    Kind::new("", "ConfigMap", "v1")
}

/// What a manager owns, as FieldsV1; null if it owns nothing.
pub(super) fn owned(object: &Value, manager: &str, operation: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut own = entries.filter(|entry| entry["manager"] == manager && entry["operation"] == operation);
    own.next().map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}
