//! What all writes share: what they are about, the transaction, and its result.

use std::sync::Arc;

use dyad_model::{Context, FieldError, Strategy};
use dyad_store::{Compare, Kv, Op, TxnOutcome};
use serde_json::Value;

use super::Registry;
use super::allocations::Session;
use super::resource::{Resource, Served};
use super::stored::{Stored, encode};
use crate::auth::{self, Attributes, ResourceTarget, Target, UserInfo};
use crate::status::{About, ApiError};

/// How often a write starts over because somebody else was faster.
pub(crate) const ATTEMPTS: usize = 100;

/// Where roles and bindings are stored.
const GRANTS: &[u8] = b"/registry/rbac.authorization.k8s.io/";

/// What a request is about.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) served: &'a Served,
    /// Empty for cluster-scoped kinds.
    pub(crate) namespace: &'a str,
    /// Empty for collections.
    pub(crate) name: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// Who asks.
    pub(crate) user: &'a UserInfo,
    /// As the authorizer knows it: `create`, `update`, ...
    pub(crate) verb: &'a str,
}

impl<'a> Scope<'a> {
    pub(crate) fn resource(&self) -> &'a Resource {
        &self.served.resource
    }

    /// What the kind means in the form in which it is asked for.
    pub(crate) fn strategy(&self) -> &'a dyn Strategy {
        self.served.strategy()
    }

    pub(crate) fn about(&self) -> About<'a> {
        self.served.about(self.name)
    }

    /// Nothing is created of a kind whose definition is going.
    pub(crate) fn check_open(&self) -> Result<(), ApiError> {
        if self.served.defined().is_none_or(|custom| !custom.terminating) {
            return Ok(());
        }
        let why = "create not allowed while custom resource definition is terminating";
        Err(ApiError::forbidden(self.about(), why))
    }

    /// What is asked for, as authorizers know it.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes {
            verb: self.verb,
            target: Target::Resource(ResourceTarget {
                group: self.served.row.group,
                resource: self.served.row.plural,
                subresource: self.subresource,
                namespace: self.namespace,
                name: self.name,
                node: "",
            }),
        }
    }

    /// What nodes may not do to this very object.
    pub(crate) fn check_node(
        &self,
        registry: &Registry,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let name = match self.name {
            "" => new.map_or("", |new| meta_text(new, "name")),
            name => name,
        };
        auth::restrict_node(self.user, registry, &self.attributes(), old, new)
            .map_err(|why| ApiError::forbidden(self.served.about(name), &why))
    }

    pub(crate) fn context<'c>(&self, registry: &'c Registry, now: &'c str) -> Context<'c>
    where
        'a: 'c,
    {
        Context { objects: registry, cluster: &registry.cluster, subresource: self.subresource, now }
    }
}

/// What a write made of an object.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) stored: Arc<Stored>,
    pub(crate) created: bool,
}

/// What became of a transaction.
pub(crate) enum Committed {
    At(u64),
    /// Somebody else was faster with the object itself; what it is now.
    Lost(Option<Kv>),
    /// Somebody else was faster with something allocated.
    AllocationLost,
}

impl Registry {
    /// Writes `op` for the object that was at `mod_rev`, together with what `session` took and released.
    pub(crate) async fn commit(
        &self,
        op: Op,
        mod_rev: u64,
        more: Vec<Op>,
        session: Session<'_>,
    ) -> Result<Committed, ApiError> {
        let (Op::Put { key, .. } | Op::Delete { key }) = &op;
        let grants = key.starts_with(GRANTS);
        let mut compares = vec![Compare { key: key.clone(), mod_rev }];
        let mut ops = vec![op];
        session.add_to(&mut compares, &mut ops)?;
        ops.extend(more);
        match self.store.txn(compares, ops).await? {
            TxnOutcome::Committed { rev } => {
                session.keep();
                if grants {
                    // Whoever was given something may use it once it is said to be done.
                    self.until_applied(rev).await?;
                }
                Ok(Committed::At(rev))
            }
            TxnOutcome::Failed { compare: 0, current } => Ok(Committed::Lost(current)),
            TxnOutcome::Failed { .. } => {
                drop(session);
                // What beat us is in the store; it has to be known here before we look again.
                self.until_as_new_as(None).await?;
                Ok(Committed::AllocationLost)
            }
        }
    }

    /// The stored form of an object, and the object as it is answered.
    pub(crate) fn encoded(&self, resource: &Resource, object: &Value) -> bytes::Bytes {
        encode(resource, object)
    }

    /// An allocator for one request on an object.
    pub(crate) fn session(&self, namespace: &str, name: &str) -> Session<'_> {
        Session::new(self, namespace, name)
    }
}

/// The uid and resourceVersion that a request demands (J49).
pub(crate) fn check_preconditions(
    about: About<'_>,
    uid: Option<&str>,
    resource_version: Option<&str>,
    stored: &Stored,
) -> Result<(), ApiError> {
    if let Some(uid) = uid.filter(|uid| **uid != *stored.meta.uid) {
        return Err(ApiError::conflict(
            about,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                stored.meta.uid
            ),
        ));
    }
    let rev = stored.rev.to_string();
    if let Some(wanted) = resource_version.filter(|wanted| **wanted != rev) {
        return Err(ApiError::conflict(
            about,
            &format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {rev}"
            ),
        ));
    }
    Ok(())
}

/// 422 if there are errors.
pub(crate) fn refuse_if_any(about: About<'_>, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(about, errors)) }
}

/// A text in `metadata`, `""` if absent.
pub(crate) fn meta_text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// The map of `metadata`.
pub(crate) fn meta_mut(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(serde_json::Map::new());
    }
    match &mut object["metadata"] {
        Value::Object(meta) => meta,
        _ => unreachable!("made a map above"),
    }
}

/// Whether the object has finalizers.
pub(crate) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}
