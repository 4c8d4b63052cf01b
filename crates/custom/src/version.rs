//! One version of a custom resource as it is served: how its objects are read, changed, shown and checked.

use dyad_model::meta::Checks;
use dyad_model::{ClusterNet, Context, ErrorType, FieldError, Strategy, names};
use dyad_schema::apply::{Set, Structure, Type as ApplyType, Types};
use dyad_schema::kinds::Kind;
use serde_json::{Map, Value};

use crate::columns::Column;
use crate::old::Old;
use crate::path::Path;
use crate::schema::Schema;
use crate::{defaults, embedded, lists, openapi, prune, rules, types, validate};

/// A version of a custom resource.
#[derive(Debug)]
pub struct Version {
    api_version: String,
    /// The schema as the definition has it.
    json: Value,
    schema: Schema,
    /// Whether there is a `status` of its own.
    status: bool,
    scale: Option<Scale>,
    columns: Vec<Column>,
    selectable: Vec<(String, Path)>,
    types: Types,
    root: ApplyType,
    /// What clients are told with every answer.
    warning: Option<String>,
}

/// Where the `scale` of an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The path of the replicas wanted, as the definition has it.
    pub spec: String,
    /// The path of the replicas there are.
    pub status: String,
    /// The path of the selector, as text.
    pub selector: Option<String>,
}

/// What was made of a body.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// The object, without unknown fields and with defaults.
    pub object: Value,
    /// `unknown field "spec.x"`, for those who want to know.
    pub strict: Vec<String>,
}

impl Version {
    /// Reads a version of a definition.
    pub fn read(definition: &Value, version: &Value) -> Self {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, kind, name) =
            (text(&spec["group"]), text(&spec["names"]["kind"]), text(&version["name"]));
        let api_version = format!("{group}/{name}");
        let schema = Schema::read(&version["schema"]["openAPIV3Schema"]);
        let (types, root) = types::of(&schema);
        let parts = &version["subresources"];
        let scale = parts["scale"].is_object().then(|| Scale {
            spec: text(&parts["scale"]["specReplicasPath"]),
            status: text(&parts["scale"]["statusReplicasPath"]),
            selector: parts["scale"]["labelSelectorPath"].as_str().map(str::to_owned),
        });
        let selectable = version["selectableFields"].as_array().into_iter().flatten().filter_map(|field| {
            let path = field["jsonPath"].as_str()?;
            Some((path.strip_prefix('.').unwrap_or(path).to_owned(), Path::parse(path).ok()?))
        });
        let warning = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
            Some(warning) => warning.to_owned(),
            None => format!("{api_version} {kind} is deprecated"),
        });
        Self {
            status: parts["status"].is_object(),
            columns: Column::all(version),
            selectable: selectable.collect(),
            api_version,
            json: version["schema"]["openAPIV3Schema"].clone(),
            schema,
            scale,
            types,
            root,
            warning,
        }
    }

    /// Group and version, as objects say it.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// The schemas of an object and of a list in OpenAPI documents, by name; `row` is what it is served as.
    pub fn openapi(&self, row: &Kind) -> [(String, Value); 2] {
        openapi::schemas(row, &self.json)
    }

    /// The columns of its table.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Where the scale is, if it has one.
    pub fn scale(&self) -> Option<&Scale> {
        self.scale.as_ref()
    }

    /// What those who use it are told.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The names of fields that selectors may name.
    pub fn selectable(&self) -> impl Iterator<Item = &str> {
        self.selectable.iter().map(|(name, _)| name.as_str())
    }

    /// The values of those fields in an object.
    pub fn selected(&self, object: &Value) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            value => value.to_string(),
        };
        let read = |(_, path): &(String, Path)| path.find(object).first().map(|value| text(value));
        self.selectable.iter().map(|field| read(field).unwrap_or_default()).collect()
    }

    /// What the fields are to their owners.
    pub fn structure(&self) -> Structure<'_> {
        Structure { types: &self.types, root: self.root }
    }

    /// What writers of an endpoint do not come to own.
    pub fn reset(&self, subresource: &str) -> Set {
        match subresource {
            "status" => Set::of(&[&["metadata"], &["spec"]]),
            _ if self.status => Set::of(&[&["status"]]),
            _ => Set::default(),
        }
    }

    /// Brings what a client sent, or a patch made, to the form in which it is stored.
    pub fn decode(&self, object: Value) -> Result<Decoded, String> {
        self.normalize(object, false)
    }

    /// Shows a stored object in this version. What was stored under another schema is brought to this one.
    pub fn show(&self, object: &mut Value) {
        object["apiVersion"] = self.api_version.as_str().into();
        let before = object.take();
        match self.normalize(before, true) {
            Ok(decoded) => *object = decoded.object,
            // Nothing is refused that is to be repaired.
            Err(why) => *object = Value::String(why),
        }
    }

    fn normalize(&self, mut object: Value, repair: bool) -> Result<Decoded, String> {
        whole_numbers(&mut object);
        let mut unknown = embedded::normalize_meta(&mut object, repair)?;
        unknown.extend(prune::prune(&mut object, &self.schema));
        prune::prune_nulls(&mut object, Some(&self.schema));
        let coerced = embedded::coerce(&mut object, &self.schema, repair);
        unknown.extend(coerced.map_err(|error| error.to_string())?);
        defaults::default(&mut object, &self.schema);
        let strict = unknown.into_iter().map(|field| format!("unknown field {field:?}")).collect();
        Ok(Decoded { object, strict })
    }

    fn check(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let before = old.map_or(Old::NONE, Old::of);
        let mut errors = validate::validate(new, &self.schema, "", before);
        errors.extend(self.check_scale(new, true));
        errors.extend(embedded::validate(new, &self.schema));
        if old.is_none_or(|old| lists::validate(old, &self.schema).is_empty()) {
            errors.extend(lists::validate(new, &self.schema));
        }
        self.check_rules(new, old, errors)
    }

    fn check_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let (Some(status), Some(schema)) = (new.get("status"), self.schema.properties.get("status")) {
            let before = old.get("status").map_or(Old::NONE, Old::of);
            let found = validate::validate(status, schema, "", before);
            errors.extend(found.into_iter().map(|error| {
                let field = match error.field.as_str() {
                    "<nil>" => "status".to_owned(),
                    field => format!("status.{field}"),
                };
                error.at(field)
            }));
        }
        errors.extend(self.check_scale(new, false));
        if lists::validate(old, &self.schema).is_empty() {
            errors.extend(lists::validate(new, &self.schema));
        }
        self.check_rules(new, Some(old), errors)
    }

    /// Rules are asked about objects of the right shape only.
    fn check_rules(&self, new: &Value, old: Option<&Value>, mut errors: Vec<FieldError>) -> Vec<FieldError> {
        let blocks = |error: &FieldError| {
            matches!(
                error.kind,
                ErrorType::NotSupported
                    | ErrorType::Required
                    | ErrorType::TooLong
                    | ErrorType::TooMany
                    | ErrorType::TypeInvalid
            )
        };
        if !self.schema.has_rules {
            return errors;
        }
        if errors.iter().any(blocks) {
            let detail = "some validation rules were not checked because the object was invalid; correct the existing \
                          errors to complete validation";
            errors.push(FieldError::invalid("<nil>", Value::Null, detail));
        } else {
            errors.extend(rules::validate(new, old, &self.schema));
        }
        errors
    }

    fn check_scale(&self, object: &Value, spec: bool) -> Vec<FieldError> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut errors = Vec::new();
        let mut count = |path: &str| {
            let value = at(object, path);
            let detail = match value {
                Some(Value::Number(number)) if number.is_i64() => match number.as_i64().unwrap_or_default() {
                    ..0 => "should be a non-negative integer".to_owned(),
                    value if value > i64::from(i32::MAX) => {
                        format!("should be less than or equal to {}", i32::MAX)
                    }
                    _ => return,
                },
                None | Some(Value::Null) => return,
                Some(value) => not_of_type(path, value, "int64"),
            };
            let shown = value.filter(|value| value.is_i64()).cloned().unwrap_or(Value::from(0));
            errors.push(FieldError::invalid(path, shown, detail));
        };
        if spec {
            count(&scale.spec);
        }
        count(&scale.status);
        if let Some(path) = &scale.selector
            && let Some(value) = at(object, path).filter(|value| !value.is_string() && !value.is_null())
        {
            errors.push(FieldError::invalid(path, "", not_of_type(path, value, "string")));
        }
        errors
    }
}

/// What Go says of a value of another type than expected.
fn not_of_type(path: &str, value: &Value, expected: &str) -> String {
    let (shown, is) = match value {
        Value::String(text) => (text.clone(), "string"),
        Value::Bool(flag) => (flag.to_string(), "bool"),
        Value::Number(number) if number.is_i64() => (number.to_string(), "int64"),
        Value::Number(number) => (number.to_string(), "float64"),
        Value::Array(_) => (value.to_string(), "[]interface {}"),
        Value::Object(_) => (value.to_string(), "map[string]interface {}"),
        Value::Null => ("<nil>".to_owned(), "<nil>"),
    };
    format!("{path} accessor error: {shown} is of the type {is}, expected {expected}")
}

/// What is at a path of names.
pub fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.strip_prefix('.').unwrap_or(path).split('.').try_fold(object, |value, key| value.get(key))
}

/// Go writes a number without a fraction without one.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() < 9e15 {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// An object without what is said about it.
fn without_meta(object: &Value) -> Map<String, Value> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(key, _)| *key != "metadata").map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Strategy for Version {
    fn default(&self, object: &mut Value) {
        defaults::default(object, &self.schema);
    }

    fn decorate(&self, object: &mut Value, _cluster: &ClusterNet) -> bool {
        let before = object.clone();
        self.show(object);
        *object != before
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        if self.status
            && let Some(fields) = new.as_object_mut()
        {
            fields.remove("status");
        }
        new["metadata"]["generation"] = 1.into();
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if cx.subresource == "status" {
            let status = new.get("status").cloned();
            *new = old.clone();
            if let Some(fields) = new.as_object_mut() {
                fields.remove("status");
                if let Some(status) = status {
                    fields.insert("status".to_owned(), status);
                }
            }
            return;
        }
        if self.status
            && let Some(fields) = new.as_object_mut()
        {
            match old.get("status") {
                Some(status) => _ = fields.insert("status".to_owned(), status.clone()),
                None => _ = fields.remove("status"),
            }
        }
        if without_meta(new) != without_meta(old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
            new["metadata"]["generation"] = (generation + 1).into();
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        self.check(new, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" { self.check_status(new, old) } else { self.check(new, Some(old)) }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if cx.subresource == "status" {
            return Vec::new();
        }
        let finalizers = |object: &Value| -> Vec<String> {
            let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let before = old.map(finalizers).unwrap_or_default();
        let mut added: Vec<String> =
            finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
        added.sort();
        added.dedup();
        added.iter().flat_map(|finalizer| finalizer_warnings(finalizer)).collect()
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        // Finalizers without a domain are warned of, if at all.
        Checks { finalizers: false, ..Checks::CHANGE }
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

fn finalizer_warnings(finalizer: &str) -> Vec<String> {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let say = |text: &str| format!("metadata.finalizers: {finalizer:?}: {text}");
    let mut warnings: Vec<String> = names::qualified_name(finalizer).iter().map(|why| say(why)).collect();
    if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
        let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
        warnings.push(say(&format!(
            "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        )));
    }
    warnings
}
