//! The `scale` subresource: an autoscaling/v1 Scale as another form of what has replicas (J55).

use dyad_model::FieldError;
use dyad_model::selector::LabelSelector;
use dyad_schema::apply::{
    FieldManager, OneVersion, Reset, Step, builtin, decode, encode, from_scale, to_scale,
};
use dyad_schema::patch::{self, PatchType};
use serde_json::{Value, json};

use super::Registry;
use super::body::{Body, schema_of};
use super::options::{FieldValidation, WriteOptions};
use super::resource::Served;
use super::update::{Compute, patch_error};
use super::write::{Scope, meta_text};
use super::{ownership, values};
use crate::status::{About, ApiError};

const KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");
const VERSION: &str = "autoscaling/v1";

/// The Scale of an object of a kind.
pub(crate) fn of(served: &Served, object: &Value) -> Result<Value, ApiError> {
    match paths(served) {
        None => Ok(of_builtin(object)),
        Some(paths) => of_custom(object, paths),
    }
}

/// Where the scale is in a kind that was defined.
fn paths(served: &Served) -> Option<&dyad_custom::Scale> {
    served.defined()?.version.scale()
}

/// A Scale that says nothing but of what it is, and how many there are.
fn empty(object: &Value, replicas: i64) -> Value {
    let meta = &object["metadata"];
    let mut scale = json!({
        "kind": KIND.2,
        "apiVersion": VERSION,
        "metadata": {},
        "spec": {},
        "status": { "replicas": replicas },
    });
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[key].is_null() {
            scale["metadata"][key] = meta[key].clone();
        }
    }
    scale
}

fn of_custom(object: &Value, paths: &dyad_custom::Scale) -> Result<Value, ApiError> {
    let count = |path: &str| dyad_custom::at(object, path).and_then(Value::as_i64);
    let wanted = count(&paths.spec).ok_or_else(|| {
        ApiError::internal(format!("the spec replicas field {:?} does not exist", paths.spec))
    })?;
    let mut scale = empty(object, count(&paths.status).unwrap_or(0));
    if wanted != 0 {
        scale["spec"]["replicas"] = wanted.into();
    }
    let selector = paths.selector.as_deref().and_then(|path| dyad_custom::at(object, path)?.as_str());
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        scale["status"]["selector"] = selector.into();
    }
    Ok(scale)
}

fn of_builtin(object: &Value) -> Value {
    let mut scale = empty(object, object["status"]["replicas"].as_i64().unwrap_or(0));
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    let selector = &object["spec"]["selector"];
    // A ReplicationController has labels there, and others a selector, which is made of maps and lists.
    let by_labels = selector.as_object().is_some_and(|map| map.values().all(Value::is_string));
    let selector = match by_labels {
        true => Ok(LabelSelector::from_map(selector)),
        false => LabelSelector::from_object(selector),
    };
    if let Ok(selector) = selector {
        let text = selector.to_string();
        if !text.is_empty() {
            scale["status"]["selector"] = text.into();
        }
    }
    scale
}

/// Puts the replicas of a Scale into the object it belongs to.
fn put(served: &Served, object: &mut Value, scale: &Value) -> Result<(), ApiError> {
    let name = meta_text(object, "name").to_owned();
    let about = About { group: KIND.0, resource: "scales", kind: KIND.2, name: &name };
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(about, &[error]));
    }
    let (given, current) = (meta_text(scale, "uid"), meta_text(object, "uid"));
    if !given.is_empty() && given != current {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {current}");
        return Err(ApiError::conflict(about, &why));
    }
    let (given, current) = (meta_text(scale, "resourceVersion"), meta_text(object, "resourceVersion"));
    if !given.is_empty() && given != current {
        return Err(ApiError::modified(about));
    }
    let path = paths(served).map_or(".spec.replicas", |paths| &paths.spec);
    let mut place = object;
    for key in path.trim_start_matches('.').split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[key];
    }
    *place = replicas.into();
    Ok(())
}

/// Writes an object through its Scale: `write` makes the new Scale, with its owners, of the one that is there.
fn through_scale(
    scope: Scope<'_>,
    object: &mut Value,
    write: &dyn Fn(&FieldManager<'_>, &Value) -> Result<Value, ApiError>,
) -> Result<(), ApiError> {
    let schema = schema_of(KIND)?;
    let (version, now) = (scope.served.row.api_version(), values::now());
    let empty = schema.canonical(&json!({})).map_err(ApiError::internal)?;
    let fields = FieldManager {
        versions: &OneVersion { name: VERSION, structure: builtin(&schema) },
        version: VERSION,
        kind: KIND.2,
        empty: &empty,
        subresource: scope.subresource,
        reset: &Reset::Nothing,
        now: &now,
    };
    let owners = |object: &Value| decode(object).map_err(|error| ApiError::unknown(error.to_string()));
    let served = scope.served;
    let path = |of: &str| -> Option<Vec<Step>> {
        let Some(custom) = served.defined() else {
            return (of == version).then(|| vec![Step::field("spec"), Step::field("replicas")]);
        };
        let known = custom.all.iter().find(|known| known.api_version() == of)?;
        Some(known.scale()?.spec.trim_start_matches('.').split('.').map(Step::field).collect())
    };
    let before = owners(object)?;
    let mut live = of(served, object)?;
    encode(&mut live, &to_scale(&before, &path));
    let scale = write(&fields, &live)?;
    put(served, object, &scale)?;
    encode(object, &from_scale(&before, owners(&scale)?, &version, &path));
    Ok(())
}

impl Registry {
    /// PUT of a Scale.
    pub(crate) async fn replace_scale(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let scale = body.decode_kind(KIND, options.field_validation, warnings)?;
        let name = meta_text(&scale, "name");
        if !name.is_empty() && name != scope.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                scope.name
            )));
        }
        let write = |fields: &FieldManager<'_>, live: &Value| {
            let mut scale = scale.clone();
            let managers = fields.update(Some(live), &scale, &options.manager);
            encode(&mut scale, &managers);
            Ok(scale)
        };
        self.change_replicas(scope, options, warnings, &write).await
    }

    /// PATCH of a Scale; without a type of patch, it is applied.
    pub(crate) async fn patch_scale(
        &self,
        scope: Scope<'_>,
        kind: Option<PatchType>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let schema = schema_of(KIND)?;
        let Some(kind) = kind else {
            let applied = body.applied(options.field_validation, warnings)?;
            let finish = |scale: Value| ownership::finish(&schema, &scale);
            let write = |fields: &FieldManager<'_>, live: &Value| {
                let scale = fields
                    .apply(Some(live), &applied.config, &options.manager, options.force, &finish)
                    .map_err(ownership::apply_error)?;
                applied.check().map(|()| scale)
            };
            return self.change_replicas(scope, options, warnings, &write).await;
        };
        let write = |fields: &FieldManager<'_>, live: &Value| {
            let patched = patch::apply(&schema, kind, live, &body.bytes).map_err(patch_error)?;
            let mut scale = match options.field_validation {
                FieldValidation::Strict => patched.require_strict().map_err(patch_error)?,
                FieldValidation::Warn | FieldValidation::Ignore => patched.object,
            };
            let managers = fields.update(Some(live), &scale, &options.manager);
            encode(&mut scale, &managers);
            Ok(scale)
        };
        self.change_replicas(scope, options, warnings, &write).await
    }

    async fn change_replicas(
        &self,
        scope: Scope<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
        write: &(dyn Fn(&FieldManager<'_>, &Value) -> Result<Value, ApiError> + Sync),
    ) -> Result<Value, ApiError> {
        // It is the object itself that is written, with all that its main endpoint does.
        let main = Scope { subresource: "", ..scope };
        let change = |object: &mut Value| through_scale(scope, object, write);
        let written = self.update(main, Compute::Owned(&change), options, warnings).await?;
        let mut object = written.stored.value();
        scope.served.show(&mut object);
        of(scope.served, &object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u", "resourceVersion": "7"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}},
            "status": {"replicas": 2},
        });
        let scale = of_builtin(&deployment);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
        let row = dyad_schema::kinds::by_kind("apps", "Deployment").unwrap();
        let served = Served::new(row, std::sync::Arc::new(super::super::Resource::new(row)));
        let mut changed = deployment.clone();
        put(&served, &mut changed, &json!({"spec": {"replicas": 5}})).unwrap();
        assert_eq!(changed["spec"]["replicas"], 5);
        let negative = json!({"spec": {"replicas": -1}});
        assert_eq!(put(&served, &mut changed, &negative).unwrap_err().code(), 422);
        let stale = json!({"metadata": {"resourceVersion": "6"}, "spec": {"replicas": 1}});
        assert_eq!(put(&served, &mut changed, &stale).unwrap_err().reason(), "Conflict");
    }
}
