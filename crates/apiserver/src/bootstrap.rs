//! What a cluster begins with, and what is kept of it afterwards: namespaces, the default ServiceCIDR, the
//! `kubernetes` Service with its endpoints, roles and bindings, and in every namespace a ServiceAccount and the certificate
//! authority.
//!
//! Desired state against what is there, like every controller; it lives in the server because the server is not
//! complete without it.

mod accounts;
mod cluster_info;
mod follow;
mod kubernetes;
mod legacy_tokens;
mod roles;
mod service_cidr;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::DualStack;
use serde_json::{Value, json};

use follow::{Follower, Parts};

use crate::auth::UserInfo;
use crate::registry::{Compute, Registry, Scope, Served, WriteOptions, closed, now};
use crate::status::ApiError;

/// Namespaces that exist from the beginning (J52).
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Classes of pods that the cluster itself needs.
const PRIORITY_CLASSES: [(&str, u32, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
/// The ConfigMap that delegated authentication reads, by the Role `extension-apiserver-authentication-reader`.
const CLIENT_AUTHORITY: &str = "extension-apiserver-authentication";
/// Everything is looked at again this often, also if nothing has changed.
const EVERY: Duration = Duration::from_secs(60);

/// Since when uses of tokens in Secrets are known of: the cleaner of such tokens in kube-controller-manager asks for it.
fn legacy_tokens() -> Value {
    let today = now().chars().take_while(|char| *char != 'T').collect::<String>();
    json!({
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": today},
    })
}

/// Keeps what a cluster begins with.
pub(crate) struct Bootstrap {
    registry: Arc<Registry>,
    user: UserInfo,
    /// Where nodes and pods reach this server, primary family of the Services first.
    advertise: DualStack<IpAddr>,
    port: u16,
    ca_pem: String,
}

impl Bootstrap {
    pub(crate) fn new(
        registry: Arc<Registry>,
        advertise: DualStack<IpAddr>,
        port: u16,
        ca_pem: String,
    ) -> Self {
        Self { registry, user: UserInfo::server(), advertise, port, ca_pem }
    }

    /// Makes everything as it should be at the start.
    pub(crate) async fn begin(&self) -> Result<(), ApiError> {
        self.ensure(&Parts { roles: false, ..Parts::all() }).await?;
        self.ensure_roles().await?;
        self.gather_roles().await
    }

    /// Makes these parts as they should be.
    async fn ensure(&self, parts: &Parts) -> Result<(), ApiError> {
        if parts.objects {
            self.ensure_objects().await?;
        }
        if parts.addresses {
            self.registry.back_addresses().await?;
        }
        if parts.kubernetes {
            self.ensure_kubernetes().await?;
            self.ensure_cluster_info().await?;
        }
        if parts.roles {
            self.gather_roles().await?;
        }
        self.ensure_accounts(parts).await?;
        if parts.tokens {
            self.ensure_legacy_tokens().await?;
        }
        Ok(())
    }

    async fn ensure_objects(&self) -> Result<(), ApiError> {
        for name in NAMESPACES {
            let object = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
            self.create_if_missing("", "namespaces", object).await?;
        }
        for (name, value, description) in PRIORITY_CLASSES {
            let object = json!({
                "kind": "PriorityClass",
                "apiVersion": "scheduling.k8s.io/v1",
                "metadata": {"name": name},
                "value": value,
                "description": description,
            });
            self.create_if_missing("scheduling.k8s.io", "priorityclasses", object).await?;
        }
        self.create_if_missing("", "configmaps", legacy_tokens()).await?;
        self.ensure_client_authority().await?;
        self.ensure_service_cidr().await
    }

    /// By which authority clients are known here, for servers that leave it to this one whom to let in: schedulers, metrics.
    async fn ensure_client_authority(&self) -> Result<(), ApiError> {
        if self.ca_pem.is_empty() {
            return Ok(());
        }
        let map = json!({
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": CLIENT_AUTHORITY, "namespace": "kube-system"},
            "data": {"client-ca-file": self.ca_pem},
        });
        self.put("", "configmaps", map, &["data"]).await
    }

    /// Keeps everything so, until the server shuts down.
    pub(crate) async fn keep(self) {
        let mut closing = self.registry.closing.subscribe();
        let mut follower = Follower::new(&self.registry);
        let mut again = tokio::time::interval(EVERY);
        let mut left_over = false;
        loop {
            let parts = tokio::select! {
                () = follower.changed() => match follower.parts() {
                    _ if left_over => Parts::all(),
                    parts => parts,
                },
                _ = again.tick() => Parts::all(),
                () = closed(&mut closing) => return,
            };
            let result = self.ensure(&parts).await;
            left_over = result.is_err();
            if let Err(error) = result {
                tracing::warn!(%error, "what the cluster begins with is incomplete");
            }
        }
    }

    fn scope<'a>(
        &'a self,
        served: &'a Served,
        namespace: &'a str,
        name: &'a str,
        verb: &'a str,
    ) -> Scope<'a> {
        Scope { served, namespace, name, subresource: "", user: &self.user, verb }
    }

    /// The object as it is, `None` if it is not there.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = &self.registry.builtin_served(group, plural).resource;
        resource.cache.get(&resource.cache_key(namespace, name)).map(|stored| stored.value())
    }

    /// Creates an object unless there is one of its name.
    async fn create_if_missing(&self, group: &str, plural: &str, object: Value) -> Result<(), ApiError> {
        let served = self.registry.builtin_served(group, plural);
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        if self.get(group, plural, &namespace, &name).is_some() {
            return Ok(());
        }
        let scope = self.scope(served, &namespace, &name, "create");
        let created =
            self.registry.create_decoded(scope, object, &WriteOptions::of_server(), &mut Vec::new()).await;
        match created {
            Err(error) if error.reason() != "AlreadyExists" => Err(error),
            _ => Ok(()),
        }
    }

    /// Changes an object that is there.
    async fn change(
        &self,
        (group, plural, subresource): (&str, &str, &str),
        namespace: &str,
        name: &str,
        change: &(dyn Fn(&mut Value) -> Result<(), ApiError> + Sync),
    ) -> Result<(), ApiError> {
        let served = self.registry.builtin_served(group, plural);
        let scope = Scope { subresource, ..self.scope(served, namespace, name, "update") };
        let options = WriteOptions::of_server();
        let changed = self.registry.update(scope, Compute::With(change), &options, &mut Vec::new()).await;
        match changed {
            // It has gone meanwhile; the next look will see.
            Err(error) if error.reason() != "NotFound" => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes `keys` of an object what they should be, and creates it if it is not there.
    async fn put(&self, group: &str, plural: &str, desired: Value, keys: &[&str]) -> Result<(), ApiError> {
        let text = |key: &str| desired["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let Some(current) = self.get(group, plural, &namespace, &name) else {
            return self.create_if_missing(group, plural, desired).await;
        };
        let labelled = desired["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| current["metadata"]["labels"][key] == *value);
        if labelled && keys.iter().all(|key| current[key] == desired[key]) {
            return Ok(());
        }
        self.change((group, plural, ""), &namespace, &name, &|object| {
            for (key, value) in desired["metadata"]["labels"].as_object().into_iter().flatten() {
                object["metadata"]["labels"][key] = value.clone();
            }
            for key in keys {
                object[*key] = desired[*key].clone();
            }
            Ok(())
        })
        .await
    }
}
