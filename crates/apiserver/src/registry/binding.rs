//! `pods/binding` (J56).

use dyad_model::{FieldError, names};
use dyad_store::Op;
use serde_json::{Value, json};

use super::Registry;
use super::body::Body;
use super::options::WriteOptions;
use super::stored::Stored;
use super::values;
use super::write::{ATTEMPTS, Committed, Scope, check_preconditions, meta_text};
use crate::status::{About, ApiError};

impl Registry {
    /// Puts a pod on a node, once (J56).
    pub(crate) async fn bind(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let kind = ("", "v1", "Binding");
        let binding = body.decode_about(scope.name, kind, options.field_validation, warnings)?;
        let node = binding["target"]["name"].as_str().unwrap_or_default();
        check_target(scope.name, &binding["target"])?;
        self.until_as_new_as(None).await?;
        let resource = scope.resource();
        let mut current = resource.cache.get(&resource.cache_key(scope.namespace, scope.name));
        for _ in 0..ATTEMPTS {
            let old = current.ok_or_else(|| ApiError::not_found(scope.about()))?;
            let given = |key: &str| Some(meta_text(&binding, key)).filter(|text| !text.is_empty());
            check_preconditions(scope.about(), given("uid"), given("resourceVersion"), &old)?;
            let mut pod = old.value();
            let about = About { resource: "pods/binding", ..scope.about() };
            bind_pod(&mut pod, node, &binding).map_err(|why| ApiError::conflict(about, &why))?;
            self.label_with_topology(&mut pod);
            if options.dry_run {
                return Ok(());
            }
            let key = resource.store_key(scope.namespace, scope.name);
            let op = Op::Put { key, value: self.encoded(resource, &pod) };
            let session = self.session(scope.namespace, scope.name);
            match self.commit(op, old.rev, Vec::new(), session).await? {
                Committed::At(_) => return Ok(()),
                Committed::Lost(kv) => current = self.reload(scope, kv)?,
                Committed::AllocationLost => current = Some(old),
            }
        }
        Err(ApiError::conflict(scope.about(), "too many others write the object at the same time; try again"))
    }
}

/// The target of a binding must be a node, by name.
fn check_target(pod: &str, target: &Value) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    let name = target["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(FieldError::required("target.name", ""));
    } else {
        let problems = names::path_segment(name);
        errors.extend(problems.into_iter().map(|text| FieldError::invalid("target.name", name, text)));
    }
    let about = About { group: "", resource: "bindings", kind: "Binding", name: pod };
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(about, &errors)) }
}

/// The pod on its node; the error says why it can't be.
fn bind_pod(pod: &mut Value, node: &str, binding: &Value) -> Result<(), String> {
    let name = meta_text(pod, "name");
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let bound = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !bound.is_empty() {
        return Err(format!("pod {name} is already assigned to node {bound:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = node.into();
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    for key in ["annotations", "labels"] {
        for (name, value) in binding["metadata"][key].as_object().into_iter().flatten() {
            pod["metadata"][key][name] = value.clone();
        }
    }
    let scheduled = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": values::now(),
    });
    let conditions = &mut pod["status"]["conditions"];
    match conditions.as_array_mut() {
        None => *conditions = json!([scheduled]),
        Some(list) => match list.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
            None => list.push(scheduled),
            Some(condition) if condition["status"] == "True" => {}
            Some(condition) => *condition = scheduled,
        },
    }
    Ok(())
}

/// The Status that a binding or an eviction is answered with.
pub(crate) fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

/// The Status that the deletion of an object is answered with, where the object itself is not (J40).
pub(crate) fn deleted(about: About<'_>, stored: &Stored) -> Value {
    let mut details = json!({"name": about.name, "kind": about.resource, "uid": &*stored.meta.uid});
    if !about.group.is_empty() {
        details["group"] = about.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j56_a_pod_is_bound_once() {
        let binding = json!({"metadata": {"annotations": {"a": "1"}}, "target": {"name": "n1"}});
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"nominatedNodeName": "n1"}});
        bind_pod(&mut pod, "n1", &binding).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["metadata"]["annotations"]["a"], "1");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        assert!(pod["status"]["nominatedNodeName"].is_null());
        let again = bind_pod(&mut pod, "n2", &binding).unwrap_err();
        assert_eq!(again, "pod p is already assigned to node \"n1\"");
        let mut going = json!({"metadata": {"name": "p", "deletionTimestamp": "x"}, "spec": {}});
        assert!(bind_pod(&mut going, "n1", &binding).unwrap_err().contains("is being deleted"));
        let mut gated = json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}});
        assert!(bind_pod(&mut gated, "n1", &binding).unwrap_err().contains("schedulingGates"));
    }

    #[test]
    fn bindings_need_a_node() {
        assert_eq!(check_target("p", &json!({})).unwrap_err().code(), 422);
        assert_eq!(check_target("p", &json!({"kind": "Pod", "name": "x"})).unwrap_err().code(), 422);
        assert!(check_target("p", &json!({"kind": "Node", "name": "x"})).is_ok());
    }
}
