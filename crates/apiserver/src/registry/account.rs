//! What admission does for the service accounts of pods (J64): every pod has one, and mounts a token of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::tokens::POD_LIFETIME;
use super::write::{Scope, meta_text};
use super::{Registry, Stored, values};
use crate::auth::mirror_fault;
use crate::status::ApiError;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Longest wait for an account that is about to be made.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Registry {
    /// Gives a new pod its account, what the account says of image pulls, and a token. Only where tokens are given out.
    pub(super) async fn admit_account(&self, scope: Scope<'_>, pod: &mut Value) -> Result<(), ApiError> {
        if let Some(why) = mirror_fault(pod) {
            return Err(ApiError::forbidden(scope.served.about(meta_text(pod, "name")), why));
        }
        if self.token_key.is_none() || !pod["metadata"]["annotations"][MIRROR].is_null() {
            return Ok(());
        }
        let spec = &mut pod["spec"];
        if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
            spec["serviceAccountName"] = "default".into();
            spec["serviceAccount"] = "default".into();
        }
        let name = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
        let place = format!("{}/{name}", scope.namespace);
        let Some(account) = self.awaited_account(&place).await else {
            let why = format!("error looking up service account {place}: serviceaccount {name:?} not found");
            return Err(ApiError::forbidden(scope.served.about(meta_text(pod, "name")), &why));
        };
        let account = account.bare();
        let switch = [&pod["spec"], &account].map(|of| of["automountServiceAccountToken"].as_bool());
        if switch[0].or(switch[1]).unwrap_or(true) {
            mount_token(&mut pod["spec"]);
        }
        let pulls = |of: &Value| of["imagePullSecrets"].as_array().is_some_and(|list| !list.is_empty());
        if !pulls(&pod["spec"]) && pulls(&account) {
            pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }

    /// The account, for which a new namespace may have to be waited for a moment.
    async fn awaited_account(&self, place: &str) -> Option<Arc<Stored>> {
        let cache = &self.builtin("", "serviceaccounts").cache;
        let mut changes = cache.subscribe();
        let deadline = Instant::now() + ACCOUNT_WAIT;
        loop {
            changes.borrow_and_update();
            let found = cache.get(place);
            if found.is_some() {
                return found;
            }
            let change = tokio::time::timeout_at(deadline, changes.changed()).await;
            change.ok()?.ok()?;
        }
    }
}

/// Mounts the token into every container that has nothing at its place.
fn mount_token(spec: &mut Value) {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let there =
        volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(VOLUME_PREFIX));
    let there = there.map(str::to_owned);
    let name = there.clone().unwrap_or_else(|| values::generate_name(VOLUME_PREFIX));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array();
            if mounts.is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH)) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            push(&mut container["volumeMounts"], mount);
            needed = true;
        }
    }
    if needed && there.is_none() {
        push(&mut spec["volumes"], volume(&name));
    }
}

/// The token, the authority that checks the server, and the namespace.
fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": POD_LIFETIME, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}})
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}
