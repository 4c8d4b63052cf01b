//! Create (section 0.4): decode, default, name, infer and allocate, prepare, validate, write.

use std::sync::Arc;

use dyad_model::meta::{self, Checks};
use dyad_store::Op;
use serde_json::Value;

use super::Registry;
use super::body::{Applied, Body};
use super::options::WriteOptions;
use super::ownership;
use super::requests;
use super::stored::{Stored, UNWRITTEN};
use super::update::{check_name, given_rev};
use super::values;
use super::write::{ATTEMPTS, Committed, Scope, Written, meta_mut, meta_text, refuse_if_any};
use crate::status::ApiError;

/// What every object holds that is on its way out.
const GOING: &[u8] = b"\"deletionTimestamp\"";
/// How often a generated name is tried (J48).
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// POST of an object.
    pub(crate) async fn create(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        let mut object = body.decode(scope.served, options.field_validation, warnings)?;
        check_namespace(scope, &mut object)?;
        self.create_decoded(scope, object, options, warnings).await
    }

    /// Creates an object that has been read; also for a PUT of what does not exist (Q3).
    pub(crate) async fn create_decoded(
        &self,
        scope: Scope<'_>,
        mut object: Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        scope.check_open()?;
        scope.strategy().default(&mut object);
        wipe(&mut object);
        ownership::update(scope, None, &mut object, &options.manager, &values::now());
        self.create_owned(scope, object, options, warnings).await
    }

    /// Creates an object that says who owns its fields; also for an apply of what does not exist.
    pub(crate) async fn create_owned(
        &self,
        scope: Scope<'_>,
        mut object: Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        self.check_namespace_is_open(scope, &object)?;
        self.check_escalation(scope, None, &object)?;
        self.until_as_new_as(None).await?;
        let is_pod = scope.resource().is("", "pods");
        if is_pod {
            self.admit_account(scope, &mut object).await?;
        }
        scope.check_node(self, None, Some(&object))?;
        self.check_requested_subject(scope, &object)?;
        requests::note_requestor(scope, &mut object);
        if is_pod {
            self.label_with_topology(&mut object);
        }
        let prefix = meta_text(&object, "generateName").to_owned();
        let generated = meta_text(&object, "name").is_empty() && !prefix.is_empty();
        let mut names = 0;
        for _ in 0..ATTEMPTS {
            let mut new = object.clone();
            if generated {
                meta_mut(&mut new).insert("name".to_owned(), values::generate_name(&prefix).into());
            }
            let mut warned = Vec::new();
            match self.try_create(scope, new, options, &mut warned).await? {
                Attempt::Done(written) => {
                    warnings.append(&mut warned);
                    return Ok(written);
                }
                Attempt::NameTaken(existing) => {
                    names += 1;
                    if !generated || names >= NAME_ATTEMPTS {
                        let about = scope.served.about(&existing.name);
                        let deleting = !existing.value["metadata"]["deletionTimestamp"].is_null();
                        return Err(if prefix.is_empty() {
                            ApiError::already_exists(about, deleting)
                        } else {
                            ApiError::not_generated(about)
                        });
                    }
                }
                Attempt::AllocationLost => {}
            }
        }
        Err(ApiError::internal("too many others allocate at the same time; try again"))
    }

    /// PUT of what does not exist, where a PUT makes it.
    pub(super) async fn create_by_put(
        &self,
        scope: Scope<'_>,
        mut object: Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        let about = scope.about();
        let uid = meta_text(&object, "uid");
        if !uid.is_empty() {
            return Err(ApiError::conflict(
                about,
                &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: "),
            ));
        }
        // A version of what is not there says nothing.
        given_rev(&object)?;
        meta_mut(&mut object).remove("resourceVersion");
        self.create_decoded(scope, object, options, warnings).await
    }

    /// Apply of what does not exist.
    pub(super) async fn create_by_apply(
        &self,
        scope: Scope<'_>,
        applied: &Applied,
        may_create: &(dyn Fn() -> Result<(), ApiError> + Sync),
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        let mut object = ownership::apply(scope, None, applied, options, &values::now())?;
        let uid = meta_text(&object, "uid");
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(scope.about(), &why));
        }
        check_namespace(scope, &mut object)?;
        check_name(scope, &object)?;
        may_create()?;
        scope.served.to_stored(&mut object);
        scope.check_open()?;
        scope.strategy().default(&mut object);
        given_rev(&object)?;
        meta_mut(&mut object).remove("resourceVersion");
        self.create_owned(scope, object, options, warnings).await
    }

    async fn try_create(
        &self,
        scope: Scope<'_>,
        mut new: Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Attempt, ApiError> {
        let resource = scope.resource();
        let strategy = scope.strategy();
        let now = values::now();
        let cx = scope.context(self, &now);
        let versioned = fill_meta(&mut new);
        let name = meta_text(&new, "name").to_owned();
        let about = scope.served.about(&name);
        let mut session = self.session(scope.namespace, &name);
        let owners = ownership::take(&mut new);
        strategy
            .begin_create(&mut new, &cx, &mut session)
            .map_err(|refusal| ApiError::refused(about, &refusal))?;
        strategy.prepare_create(&mut new, &cx);
        ownership::put(&mut new, owners);
        let (namespaced, checks) = (scope.served.row.namespaced, strategy.meta_checks(&cx));
        let metadata =
            || meta::validate_create(&new, namespaced, checks, |name| strategy.validate_name(name));
        let mut errors = if checks == Checks::NONE { Vec::new() } else { metadata() };
        errors.extend(strategy.validate_create(&new, &cx));
        if checks == Checks::NONE && errors.is_empty() {
            errors = metadata();
        }
        refuse_if_any(about, &errors)?;
        warnings.extend(strategy.warnings(&new, None, &cx));
        self.charge(&mut session, scope, about, None, &new)?;
        let key = resource.store_key(scope.namespace, &name);
        let json = self.encoded(resource, &new);
        let taken = |kv: &dyad_store::Kv| {
            let value = serde_json::from_slice(&kv.value).unwrap_or_default();
            Attempt::NameTaken(Box::new(Existing { name: name.clone(), value }))
        };
        if options.dry_run {
            return Ok(match self.store.get(&key)? {
                Some(kv) => taken(&kv),
                None => Attempt::done(Stored::written(resource, new, json, UNWRITTEN, &self.cluster)),
            });
        }
        if versioned {
            return Err(ApiError::unknown("resourceVersion should not be set on objects to be created"));
        }
        let op = Op::Put { key, value: json.clone() };
        Ok(match self.commit(op, 0, Vec::new(), session).await? {
            Committed::At(rev) => Attempt::done(Stored::written(resource, new, json, rev, &self.cluster)),
            Committed::Lost(Some(kv)) => taken(&kv),
            // There and gone again.
            Committed::Lost(None) | Committed::AllocationLost => Attempt::AllocationLost,
        })
    }

    /// Nothing is created in a namespace that is not there, or that is going (J52).
    fn check_namespace_is_open(&self, scope: Scope<'_>, object: &Value) -> Result<(), ApiError> {
        if !scope.served.row.namespaced {
            return Ok(());
        }
        let namespaces = self.builtin_served("", "namespaces");
        let key = namespaces.resource.store_key("", scope.namespace);
        let Some(kv) = self.store.get(&key)? else {
            return Err(ApiError::not_found(namespaces.about(scope.namespace)));
        };
        // Hardly any is going; reading the others would be in the way of every create.
        if !kv.value.windows(GOING.len()).any(|bytes| bytes == GOING) {
            return Ok(());
        }
        let namespace: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let about = scope.served.about(meta_text(object, "name"));
        Err(ApiError::namespace_terminating(about, scope.namespace))
    }
}

enum Attempt {
    Done(Written),
    NameTaken(Box<Existing>),
    AllocationLost,
}

struct Existing {
    name: String,
    value: Value,
}

impl Attempt {
    fn done(stored: Stored) -> Self {
        Self::Done(Written { stored: Arc::new(stored), created: true })
    }
}

/// The namespace of the object is that of the path, which it takes if it has none; cluster-scoped objects lose theirs.
pub(crate) fn check_namespace(scope: Scope<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !scope.served.row.namespaced {
        meta_mut(object).remove("namespace");
        return Ok(());
    }
    match meta_text(object, "namespace") {
        namespace if namespace == scope.namespace => Ok(()),
        "" => {
            meta_mut(object).insert("namespace".to_owned(), scope.namespace.into());
            Ok(())
        }
        _ => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// Takes away what only the server says about an object.
fn wipe(object: &mut Value) {
    let meta = meta_mut(object);
    for key in ["uid", "creationTimestamp", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        meta.remove(key);
    }
}

/// What only the server says about an object. True if the client says which version of the object it is, which cannot
/// be; what is no number says nothing, here as in Kubernetes.
fn fill_meta(object: &mut Value) -> bool {
    let versioned = meta_text(object, "resourceVersion").parse::<u64>().is_ok_and(|rev| rev != 0);
    wipe(object);
    let meta = meta_mut(object);
    meta.remove("resourceVersion");
    meta.insert("uid".to_owned(), values::uid().into());
    meta.insert("creationTimestamp".to_owned(), values::now().into());
    versioned
}
