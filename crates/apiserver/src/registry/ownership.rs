//! Who owns which field of an object (J45): the field managers of the kinds that are served.

use dyad_schema::apply::{ApplyError, FieldManager, OneVersion, Reset, Structure, Versions, builtin, encode};
use dyad_schema::fields::Schema;
use serde_json::Value;

use super::body::{Applied, schema_of};
use super::options::WriteOptions;
use super::resource::{Custom, Fields};
use super::write::{Scope, meta_mut};
use crate::status::ApiError;

/// Calls `with` with the field manager of what the scope is about.
fn with_manager<T>(scope: Scope<'_>, now: &str, with: impl FnOnce(&FieldManager<'_>) -> T) -> T {
    let row = scope.served.row;
    let version = row.api_version();
    let manager = |versions: &dyn Versions, reset: &Reset| {
        with(&FieldManager {
            versions,
            version: &version,
            kind: row.kind,
            empty: &scope.served.empty,
            subresource: scope.subresource,
            reset,
            now,
        })
    };
    match &scope.served.fields {
        // Kinds of the table have one version. Views are of another group, and such owners do not know of each other
        // upstream either.
        Fields::Table(schema) => {
            let versions = OneVersion { name: &version, structure: builtin(schema) };
            manager(&versions, &Reset::of(row.group, row.kind, scope.subresource))
        }
        Fields::Custom(custom) => {
            manager(&Defined(custom), &Reset::Paths(custom.version.reset(scope.subresource)))
        }
    }
}

/// The versions of a kind that was defined: they differ in name, and in what they make of an object.
struct Defined<'a>(&'a Custom);

impl Versions for Defined<'_> {
    fn structure(&self, version: &str) -> Option<Structure<'_>> {
        let mut all = self.0.all.iter();
        all.find(|known| known.api_version() == version).map(|known| known.structure())
    }

    fn convert(&self, object: &Value, _from: &str, to: &str) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = to.into();
        object
    }
}

/// Puts the owners into an object in stored form that is written other than by apply.
pub(super) fn update(scope: Scope<'_>, old: Option<&Value>, new: &mut Value, manager: &str, now: &str) {
    let managers = with_manager(scope, now, |fields| {
        if scope.served.as_stored() {
            return fields.update(old, new, manager);
        }
        let shown = |object: &Value| {
            let mut object = object.clone();
            scope.served.show(&mut object);
            object
        };
        fields.update(old.map(shown).as_ref(), &shown(new), manager)
    });
    encode(new, &managers);
}

/// Puts the owner into an object that is answered and not kept, and that is of no served kind.
pub(super) fn note(
    kind: (&str, &str, &str),
    subresource: &str,
    object: &mut Value,
    manager: &str,
    now: &str,
) -> Result<(), ApiError> {
    let schema = schema_of(kind)?;
    let version = format!("{}/{}", kind.0, kind.1);
    let empty = schema
        .canonical(&Value::Object(serde_json::Map::new()))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let managers = FieldManager {
        versions: &OneVersion { name: &version, structure: builtin(&schema) },
        version: &version,
        kind: kind.2,
        empty: &empty,
        subresource,
        reset: &Reset::Nothing,
        now,
    }
    .update(None, object, manager);
    encode(object, &managers);
    Ok(())
}

/// An object, in the form in which it is served, after a configuration was applied to it.
pub(super) fn apply(
    scope: Scope<'_>,
    live: Option<&Value>,
    applied: &Applied,
    options: &WriteOptions,
    now: &str,
) -> Result<Value, ApiError> {
    let served = scope.served;
    let finish = |merged: Value| match &served.fields {
        Fields::Table(schema) => finish(schema, &merged),
        Fields::Custom(custom) => custom.version.decode(merged).map(|decoded| decoded.object),
    };
    let object = with_manager(scope, now, |fields| {
        fields.apply(live, &applied.config, &options.manager, options.force, &finish)
    });
    let mut object = object.map_err(apply_error)?;
    applied.check()?;
    object["kind"] = served.row.kind.into();
    object["apiVersion"] = served.row.api_version().into();
    Ok(object)
}

/// What was merged, in canonical form.
pub(super) fn finish(schema: &Schema, merged: &Value) -> Result<Value, String> {
    schema.canonical(merged).map_err(|error| {
        let text = |key: &str| merged[key].as_str().unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        format!("unable to convert unstructured object to {version}, Kind={kind}: {error}")
    })
}

pub(super) fn apply_error(error: ApplyError) -> ApiError {
    match error {
        ApplyError::BadRequest(why) => ApiError::bad_request(why),
        ApplyError::Conflicts(ref conflicts) => {
            let causes = conflicts.iter().map(|conflict| (conflict.field(), conflict.message()));
            ApiError::apply_conflict(&error.to_string(), causes)
        }
        other => ApiError::unknown(other.to_string()),
    }
}

/// Takes the owners out of an object, for the time in which its kind has its say.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    meta_mut(object).remove("managedFields")
}

/// Puts back what was taken out.
pub(super) fn put(object: &mut Value, owners: Option<Value>) {
    let meta = meta_mut(object);
    match owners {
        Some(owners) => _ = meta.insert("managedFields".to_owned(), owners),
        None => _ = meta.remove("managedFields"),
    }
}

/// A write that changes nothing but when somebody wrote changes nothing.
pub(super) fn keep_times(new: &mut Value, old: &Value) {
    let owners = |object: &Value| object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let (before, after) = (owners(old), owners(new));
    let timeless = |entry: &Value| {
        let mut entry = entry.clone();
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("time");
        }
        entry
    };
    let same = before.len() == after.len()
        && before != after
        && before.iter().zip(&after).all(|(old, new)| timeless(old) == timeless(new));
    if same {
        put(new, Some(before.into()));
        if new != old {
            put(new, Some(after.into()));
        }
    }
}
