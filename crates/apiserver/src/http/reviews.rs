//! Questions that are asked by creating an object: may this user do that, who am I (J63). Nothing is stored.

use dyad_model::FieldError;
use dyad_model::selector::FieldSelector;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::negotiate::Format;
use super::respond::{self, Body as ResponseBody};
use super::routes::{Api, Call};
use crate::auth::{Attributes, ResourceTarget, Target, UserInfo};
use crate::registry::{Body, Scope, Write, now};
use crate::status::{About, ApiError};

impl Api {
    /// Answers a review.
    pub(super) fn review(
        &self,
        call: &Call<'_>,
        scope: Scope<'_>,
        format: Format,
        body: &Body,
        warnings: &mut Vec<String>,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let options = call.options(Write::Create)?;
        let mut review = self.registry.decode_unstored(scope, body, &options, warnings)?;
        let user = scope.user;
        match scope.served.row.kind {
            "SelfSubjectReview" => {
                let status = json!({"userInfo": user_info(user)});
                review = bare(scope, json!({"creationTimestamp": now()}), None, status);
            }
            "SelfSubjectRulesReview" => {
                let namespace = text(&review["spec"], "namespace");
                if namespace.is_empty() {
                    return Err(ApiError::bad_request("no namespace on request"));
                }
                review = bare(scope, json!({}), Some(json!({})), self.rules(user, namespace));
            }
            "SelfSubjectAccessReview" => {
                check(scope, &review, &self_errors(&review["spec"]))?;
                review["status"] = self.access(user, &review["spec"]);
            }
            "LocalSubjectAccessReview" => {
                check(scope, &review, &local_errors(&review["spec"], scope.namespace))?;
                review["status"] = self.access(&subject(&review["spec"]), &review["spec"]);
            }
            "SubjectAccessReview" => {
                check(scope, &review, &subject_errors(&review["spec"]))?;
                review["status"] = self.access(&subject(&review["spec"]), &review["spec"]);
            }
            "TokenReview" => {
                let status = self.token(&review["spec"])?;
                review["status"] = status;
            }
            _ => return Err(ApiError::method_not_routed()),
        }
        Ok(respond::value(StatusCode::CREATED, format, &review))
    }

    /// The status of an access review.
    fn access(&self, user: &UserInfo, spec: &Value) -> Value {
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        let selected = |field: &str| selected(&resource["fieldSelector"], field);
        let (name, node) = (selected("metadata.name"), selected("spec.nodeName"));
        let attributes = match resource.is_null() {
            true => Attributes { verb: text(path, "verb"), target: Target::Path(text(path, "path")) },
            false => Attributes {
                verb: text(resource, "verb"),
                target: Target::Resource(ResourceTarget {
                    group: text(resource, "group"),
                    resource: text(resource, "resource"),
                    subresource: text(resource, "subresource"),
                    namespace: text(resource, "namespace"),
                    name: if text(resource, "name").is_empty() { &name } else { text(resource, "name") },
                    node: &node,
                }),
            },
        };
        let (allowed, reason) = self.registry.verdict(user, &attributes);
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        status
    }

    /// The status of a token review.
    fn token(&self, spec: &Value) -> Result<Value, ApiError> {
        let token = text(spec, "token");
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = list(&spec["audiences"]);
        let error = match self.registry.bearer(token, &audiences) {
            Ok(Some(bearer)) => {
                let user = user_info(&bearer.user);
                return Ok(json!({"authenticated": true, "user": user, "audiences": bearer.audiences}));
            }
            Ok(None) => "invalid bearer token".to_owned(),
            Err(why) => format!("[invalid bearer token, {why}]"),
        };
        Ok(json!({"user": {}, "error": error}))
    }

    /// The status of a rules review.
    fn rules(&self, user: &UserInfo, namespace: &str) -> Value {
        let (rules, problems) = self.registry.rules_for(user, namespace);
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in rules {
            let paths_only = json!({"verbs": &rule.verbs, "nonResourceURLs": &rule.non_resource_urls});
            if !rule.non_resource_urls.is_empty() {
                paths.push(paths_only);
            }
            if !rule.resources.is_empty() {
                let mut shown =
                    json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if !rule.resource_names.is_empty() {
                    shown["resourceNames"] = rule.resource_names.into();
                }
                resources.push(shown);
            }
        }
        let incomplete = !problems.is_empty();
        let mut status =
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
        if incomplete {
            status["evaluationError"] = problems.into();
        }
        status
    }
}

/// The one value that a review's field selector demands of a field.
fn selected(selector: &Value, field: &str) -> String {
    let requirements = selector["requirements"].as_array();
    let demanded = requirements.into_iter().flatten().find_map(|requirement| {
        let one = requirement["values"].as_array().filter(|values| values.len() == 1)?;
        let demands = requirement["key"] == field && requirement["operator"] == "In";
        one[0].as_str().filter(|_| demands).map(str::to_owned)
    });
    let raw = || FieldSelector::parse(text(selector, "rawSelector")).ok()?.required(field).map(str::to_owned);
    demanded.or_else(raw).unwrap_or_default()
}

/// A user as reviews show it.
pub(crate) fn user_info(user: &UserInfo) -> Value {
    let mut shown = json!({});
    for (key, value) in [("username", &user.name), ("uid", &user.uid)] {
        if !value.is_empty() {
            shown[key] = value.as_str().into();
        }
    }
    if !user.groups.is_empty() {
        shown["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}

/// The user that a review is about.
fn subject(spec: &Value) -> UserInfo {
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(spec, "user").to_owned(),
        uid: text(spec, "uid").to_owned(),
        groups: list(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.to_lowercase(), list(values))).collect(),
    }
}

/// An object of which nothing that was sent is kept.
fn bare(scope: Scope<'_>, metadata: Value, spec: Option<Value>, status: Value) -> Value {
    let row = scope.served.row;
    let mut object = json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": metadata});
    if let Some(spec) = spec {
        object["spec"] = spec;
    }
    object["status"] = status;
    object
}

fn self_errors(spec: &Value) -> Vec<FieldError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if !resource.is_null() && !path.is_null() {
        let text = "cannot be specified in combination with resourceAttributes";
        return vec![FieldError::invalid("spec.nonResourceAttributes", shown_path(path), text)];
    }
    if resource.is_null() && path.is_null() {
        let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        return vec![FieldError::invalid("spec.resourceAttributes", Value::Null, text)];
    }
    Vec::new()
}

fn subject_errors(spec: &Value) -> Vec<FieldError> {
    let mut errors = self_errors(spec);
    if text(spec, "user").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty) {
        errors.push(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    errors
}

fn local_errors(spec: &Value, namespace: &str) -> Vec<FieldError> {
    let mut errors = subject_errors(spec);
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if !resource.is_null() && text(resource, "namespace") != namespace {
        let field = "spec.resourceAttributes.namespace";
        errors.push(FieldError::invalid(field, text(resource, "namespace"), "must match metadata.namespace"));
    }
    if !path.is_null() {
        let text = "disallowed on this kind of request";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", shown_path(path), text));
    }
    errors
}

/// The internal type has no JSON names, so its Go ones are shown.
fn shown_path(path: &Value) -> Value {
    json!({"Path": text(path, "path"), "Verb": text(path, "verb")})
}

/// 422 if there are errors, or metadata other than what the server has put there.
fn check(scope: Scope<'_>, review: &Value, errors: &[FieldError]) -> Result<(), ApiError> {
    let mut errors = errors.to_vec();
    let own = |key: &str| key == "managedFields" || key == "namespace" && !scope.namespace.is_empty();
    let metadata = review["metadata"].as_object();
    if metadata.is_some_and(|metadata| metadata.keys().any(|key| !own(key))) {
        errors.push(FieldError::invalid("metadata", without_namespace(metadata), "must be empty"));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let about = About { group: scope.served.row.group, resource: "", kind: "", name: "" };
    Err(ApiError::invalid(about, &errors))
}

fn without_namespace(metadata: Option<&Map<String, Value>>) -> Value {
    let mut metadata = metadata.cloned().unwrap_or_default();
    metadata.remove("namespace");
    metadata.into()
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}
