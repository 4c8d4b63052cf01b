//! The `scale` subresource: an autoscaling/v1 Scale as another form of what has replicas (J55).

use dyad_model::FieldError;
use dyad_model::selector::LabelSelector;
use dyad_schema::fields::Schema;
use dyad_schema::patch::{self, PatchType};
use serde_json::{Value, json};

use super::Registry;
use super::body::Body;
use super::options::{FieldValidation, WriteOptions};
use super::update::{Compute, patch_error};
use super::write::{Scope, meta_text};
use crate::status::{About, ApiError};

const KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

/// The Scale of an object.
pub(crate) fn of(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut scale = json!({
        "kind": KIND.2,
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": {},
        "status": { "replicas": object["status"]["replicas"].as_i64().unwrap_or(0) },
    });
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !meta[key].is_null() {
            scale["metadata"][key] = meta[key].clone();
        }
    }
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

fn schema() -> Result<Schema, ApiError> {
    Schema::for_kind(KIND.0, KIND.1, KIND.2)
        .ok_or_else(|| ApiError::internal("the table of fields has no Scale"))
}

/// Puts the replicas of a Scale into the object it belongs to.
fn put(object: &mut Value, scale: &Value) -> Result<(), ApiError> {
    let name = meta_text(object, "name").to_owned();
    let about = About { group: KIND.0, resource: "scales", kind: KIND.2, name: &name };
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(about, &[error]));
    }
    let (given, current) = (meta_text(scale, "resourceVersion"), meta_text(object, "resourceVersion"));
    if !given.is_empty() && given != current {
        return Err(ApiError::modified(about));
    }
    object["spec"]["replicas"] = replicas.into();
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
        let scale = body.decode_as(&schema()?, KIND, options.field_validation, warnings)?;
        let name = meta_text(&scale, "name");
        if !name.is_empty() && name != scope.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                scope.name
            )));
        }
        self.change_replicas(scope, options, warnings, &|object| put(object, &scale)).await
    }

    /// PATCH of a Scale.
    pub(crate) async fn patch_scale(
        &self,
        scope: Scope<'_>,
        kind: PatchType,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let schema = schema()?;
        let change = |object: &mut Value| {
            let patched = patch::apply(&schema, kind, &of(object), &body.bytes).map_err(patch_error)?;
            let scale = match options.field_validation {
                FieldValidation::Strict => patched.require_strict().map_err(patch_error)?,
                FieldValidation::Warn | FieldValidation::Ignore => patched.object,
            };
            put(object, &scale)
        };
        self.change_replicas(scope, options, warnings, &change).await
    }

    async fn change_replicas(
        &self,
        scope: Scope<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
        change: &(dyn Fn(&mut Value) -> Result<(), ApiError> + Sync),
    ) -> Result<Value, ApiError> {
        // It is the object itself that is written, with all that its main endpoint does.
        let main = Scope { subresource: "", ..scope };
        let written = self.update(main, Compute::With(change), options, warnings).await?;
        Ok(of(&written.stored.value()))
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
        let scale = of(&deployment);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
        let mut changed = deployment.clone();
        put(&mut changed, &json!({"spec": {"replicas": 5}})).unwrap();
        assert_eq!(changed["spec"]["replicas"], 5);
        assert_eq!(put(&mut changed, &json!({"spec": {"replicas": -1}})).unwrap_err().code(), 422);
        let stale = json!({"metadata": {"resourceVersion": "6"}, "spec": {"replicas": 1}});
        assert_eq!(put(&mut changed, &stale).unwrap_err().reason(), "Conflict");
    }
}
