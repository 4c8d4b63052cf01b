//! Tokens that nodes ask for: for their own pods only, bound to them, and for those whom the pods mean to show them to
//! (NodeRestriction, J60, J64).

use std::sync::Arc;

use serde_json::Value;

use super::write::Scope;
use super::{Registry, Stored};
use crate::auth::{Attributes, Authorizer, Decision, ResourceTarget, Target};
use crate::status::{About, ApiError};

impl Registry {
    /// A pod that a node names, in the words of admission if it is not there.
    pub(super) fn pod_of_node(&self, namespace: &str, name: &str) -> Result<Arc<Stored>, ApiError> {
        let about = About { group: "", resource: "pod", kind: "pod", name };
        self.builtin("", "pods")
            .cache
            .get(&format!("{namespace}/{name}"))
            .ok_or_else(|| ApiError::not_found(about))
    }

    /// Refuses what a node may not ask for: `spec` is that of its TokenRequest, as it was sent.
    pub(super) fn check_node_request(&self, scope: Scope<'_>, spec: &Value) -> Result<(), ApiError> {
        let Some(node) = scope.user.node() else { return Ok(()) };
        let refuse = |why: &str| Err(ApiError::forbidden(scope.about(), why));
        let wanted = &spec["boundObjectRef"];
        let text = |key: &str| wanted[key].as_str().unwrap_or_default();
        let (name, uid) = (text("name"), text("uid"));
        if (text("apiVersion"), text("kind")) != ("v1", "Pod") || name.is_empty() {
            return refuse("node requested token not bound to a pod");
        }
        if uid.is_empty() {
            return refuse("node requested token with a pod binding without a uid");
        }
        let pod = self.pod_of_node(scope.namespace, name)?;
        if *pod.meta.uid != *uid {
            return refuse(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ));
        }
        if pod.meta.field("spec.nodeName") != node {
            return refuse("node requested token bound to a pod scheduled on a different node");
        }
        self.check_audience(scope, &spec["audiences"], &pod.bare()).or_else(|why| refuse(&why))
    }

    /// A token is for whom a volume of the pod wants one, unless the node may ask for others.
    fn check_audience(&self, scope: Scope<'_>, audiences: &Value, pod: &Value) -> Result<(), String> {
        let audience = match audiences.as_array().map_or(&[][..], Vec::as_slice) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err("node may only request 0 or 1 audiences".into()),
        };
        let mut problems = Vec::new();
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let projected = volume["projected"]["sources"].as_array();
            let mut tokens = projected.into_iter().flatten().map(|source| &source["serviceAccountToken"]);
            if tokens
                .any(|token| token.is_object() && token["audience"].as_str().unwrap_or_default() == audience)
            {
                return Ok(());
            }
            match self.driver_wants(scope.namespace, pod, volume, audience) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(problem) => problems.push(problem),
            }
        }
        match problems.as_slice() {
            [] => {}
            [one] => return Err(format!("error validating audience {audience:?}: {one}")),
            many => return Err(format!("error validating audience {audience:?}: [{}]", many.join(", "))),
        }
        let attributes = Attributes {
            verb: "request-serviceaccounts-token-audience",
            target: Target::Resource(ResourceTarget {
                resource: audience,
                namespace: scope.namespace,
                name: scope.name,
                ..ResourceTarget::default()
            }),
        };
        if self.authorize(scope.user, &attributes) == Decision::Allow {
            return Ok(());
        }
        Err(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            scope.user.name
        ))
    }

    /// Whether the driver of a volume, if it has one, asks for such tokens.
    fn driver_wants(
        &self,
        namespace: &str,
        pod: &Value,
        volume: &Value,
        audience: &str,
    ) -> Result<bool, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let get = |group: &str, plural: &str, kind: &str, key: &str| {
            let name = key.rsplit('/').next().unwrap_or_default();
            let found = self.builtin(group, plural).cache.get(key).map(|stored| stored.bare());
            found.ok_or_else(|| format!("{kind} {name:?} not found"))
        };
        let claim = match (&volume["ephemeral"], &volume["persistentVolumeClaim"]) {
            (Value::Object(_), _) => format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"])),
            (_, claim) => text(&claim["claimName"]),
        };
        let driver = if claim.is_empty() {
            text(&volume["csi"]["driver"])
        } else {
            let claim =
                get("", "persistentvolumeclaims", "persistentvolumeclaim", &format!("{namespace}/{claim}"))?;
            let bound = text(&claim["spec"]["volumeName"]);
            text(&get("", "persistentvolumes", "persistentvolume", &bound)?["spec"]["csi"]["driver"])
        };
        if driver.is_empty() {
            return Ok(false);
        }
        let driver = get("storage.k8s.io", "csidrivers", "csidriver.storage.k8s.io", &driver)?;
        let wanted = driver["spec"]["tokenRequests"].as_array();
        Ok(wanted.into_iter().flatten().any(|one| one["audience"].as_str().unwrap_or_default() == audience))
    }
}
