//! What a definition says of its versions: schema, subresources, columns, selectable fields.

use std::collections::BTreeSet;

use dyad_model::FieldError;
use serde_json::Value;

use super::{defaults, items, schema, structural, text};
use crate::path::Path;
use crate::rules;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Most selectable fields of a version.
const SELECTABLE_MAX: usize = 8;

/// Which parts all versions have in common. Kubernetes keeps those, be it of one version, in one place, and errors name that.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

const SCHEMA: &str = "schema";
const SUBRESOURCES: &str = "subresources";
const COLUMNS: &str = "additionalPrinterColumns";
const SELECTABLE: &str = "selectableFields";

impl Parts {
    pub(super) fn of(versions: &[Value]) -> Self {
        let same = |key: &str| versions.iter().all(|version| version[key] == versions[0][key]);
        Self {
            schema: same(SCHEMA),
            subresources: same(SUBRESOURCES),
            columns: same(COLUMNS),
            selectable: same(SELECTABLE),
        }
    }

    /// Checks what is particular about a version.
    pub(super) fn version(
        self,
        version: &Value,
        old: Option<&Value>,
        path: &str,
        errors: &mut Vec<FieldError>,
    ) {
        deprecation(version, &format!("{path}.deprecationWarning"), errors);
        if !self.schema {
            let status = version[SUBRESOURCES]["status"].is_object();
            schema_of(version, old, status, &format!("{path}.schema"), errors);
        }
        if !self.subresources {
            scale(&version[SUBRESOURCES]["scale"], &format!("{path}.subresources"), errors);
        }
        if !self.columns {
            columns(version, &format!("{path}.additionalPrinterColumns"), errors);
        }
        if !self.selectable {
            selectable(version, &format!("{path}.selectableFields"), errors);
        }
    }

    /// Checks what is the same in all versions, given one of them.
    pub(super) fn same(
        self,
        version: &Value,
        old: Option<&Value>,
        all: &[Value],
        errors: &mut Vec<FieldError>,
    ) {
        if self.schema {
            let status = all.iter().any(|version| version[SUBRESOURCES]["status"].is_object());
            schema_of(version, old, status, "spec.validation", errors);
        }
        if self.subresources {
            scale(&version[SUBRESOURCES]["scale"], "spec.subresources", errors);
        }
        if self.columns {
            columns(version, "spec.additionalPrinterColumns", errors);
        }
        if self.selectable {
            selectable(version, "spec.selectableFields", errors);
        }
    }
}

/// Whether a schema has a default anywhere.
pub(super) fn has_default(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.iter().any(|(key, value)| (key == "default" && !value.is_null()) || has_default(value))
        }
        Value::Array(list) => list.iter().any(has_default),
        _ => false,
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(text) = version["deprecationWarning"].as_str() else { return };
    let mut invalid = |why: String| errors.push(FieldError::invalid(path, text, why));
    if version["deprecated"] != true {
        invalid("can only be set for deprecated versions".to_owned());
        return;
    }
    if text.len() > 256 {
        invalid("must be <= 256 characters long".to_owned());
    }
    if text.is_empty() {
        invalid("must not be an empty string".to_owned());
    }
    if let Some((index, _)) = text.char_indices().find(|(_, letter)| letter.is_control()) {
        invalid(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
}

fn columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, column) in items(&version[COLUMNS]).iter().enumerate() {
        self::column(column, &format!("{path}[{index}]"), errors);
    }
}

fn schema_of(version: &Value, old: Option<&Value>, status: bool, path: &str, errors: &mut Vec<FieldError>) {
    let json = &version[SCHEMA]["openAPIV3Schema"];
    // What was accepted once is not refused because another field changes.
    let unchanged = old.is_some_and(|old| {
        let known = items(&old["spec"]["versions"]).iter().find(|known| known["name"] == version["name"]);
        known.is_some_and(|known| known[SCHEMA] == version[SCHEMA])
    });
    if json.is_object() && !unchanged {
        errors.extend(of_schema(json, status, &format!("{path}.openAPIV3Schema")));
    }
}

/// Everything that is wrong with the schema of a version.
fn of_schema(json: &Value, status: bool, path: &str) -> Vec<FieldError> {
    let mut errors = schema::root(json, status, path);
    let mut structure = structural::validate(json, path);
    if structure.is_empty() {
        structure = defaults::validate(json, path);
    }
    let is_structural = structure.is_empty();
    errors.extend(structure);
    let of_schema = schema::validate(json, path);
    let compiles = is_structural && of_schema.is_empty();
    errors.extend(of_schema);
    if compiles {
        errors.extend(rules::compile_all(json, path));
    }
    errors
}

fn simple_path(path: &str, field: &str, below: &[&str], or: &str, errors: &mut Vec<FieldError>) {
    if path.is_empty() {
        errors.push(FieldError::required(field, ""));
    } else if !path.starts_with('.') {
        errors.push(FieldError::invalid(field, path, "must be a simple json path starting with ."));
    } else if !below.iter().any(|root| path.starts_with(root)) {
        errors.push(FieldError::invalid(field, path, format!("should be a json path under {or}")));
    }
}

fn scale(scale: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !scale.is_object() {
        return;
    }
    let field = |key: &str| format!("{path}.scale.{key}");
    simple_path(text(scale, "specReplicasPath"), &field("specReplicasPath"), &[".spec."], ".spec", errors);
    simple_path(
        text(scale, "statusReplicasPath"),
        &field("statusReplicasPath"),
        &[".status."],
        ".status",
        errors,
    );
    let selector = text(scale, "labelSelectorPath");
    if !selector.is_empty() {
        let below = [".spec.", ".status."];
        simple_path(selector, &field("labelSelectorPath"), &below, "either .spec or .status", errors);
    }
}

fn column(column: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let must_be = |names: &[&str]| format!("must be one of {}", names.join(","));
    if text(column, "name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    match text(column, "type") {
        "" => errors.push(FieldError::required(format!("{path}.type"), must_be(&COLUMN_TYPES))),
        kind if !COLUMN_TYPES.contains(&kind) => {
            errors.push(FieldError::invalid(format!("{path}.type"), kind, must_be(&COLUMN_TYPES)));
        }
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.push(FieldError::invalid(format!("{path}.format"), format, must_be(&COLUMN_FORMATS)));
    }
    let json_path = text(column, "jsonPath");
    simple_path(json_path, &format!("{path}.JSONPath"), &["."], ".", errors);
}

fn selectable(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    if !items(&version[SELECTABLE]).is_empty() && !version[SCHEMA]["openAPIV3Schema"].is_object() {
        let why = "may only be set when validations.schema is included";
        errors.push(FieldError::invalid(path, "", why));
        return;
    }
    for (index, field) in items(&version[SELECTABLE]).iter().enumerate() {
        let (json_path, path) = (text(field, "jsonPath"), format!("{path}[{index}].jsonPath"));
        let mut invalid = |why: &str| errors.push(FieldError::invalid(path.as_str(), json_path, why));
        if json_path.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let read = Path::parse(json_path);
        let fields = read.as_ref().ok().and_then(Path::fields).filter(|_| json_path.starts_with('.'));
        if !json_path.starts_with('.') {
            let first = json_path.split(['.', '[']).next().unwrap_or_default();
            invalid(&format!("is an invalid path: expected [ or . but got: {first}"));
            continue;
        }
        let Some(fields) = fields else {
            invalid("is an invalid path: only names of fields may be in it");
            continue;
        };
        let root = &version["schema"]["openAPIV3Schema"];
        let found = fields.iter().try_fold(root, |schema, name| schema["properties"].get(name));
        let meta = fields.first() == Some(&"metadata");
        let Some(found) = found.or(meta.then_some(&Value::Null)) else {
            invalid("is an invalid path: does not refer to a valid field");
            continue;
        };
        if meta {
            invalid("must not point to fields in metadata");
        }
        if !matches!(text(found, "type"), "string" | "boolean" | "integer") {
            invalid(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                 formats are allowed.",
            );
        }
        if !seen.insert(fields.join(".")) {
            errors.push(FieldError::duplicate(path.as_str(), json_path));
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, seen.len(), SELECTABLE_MAX));
    }
}
