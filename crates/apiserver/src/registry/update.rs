//! Update and patch (section 0.4): read, change, check the version, infer and allocate, prepare, validate, write, and
//! all of it again when somebody else was faster.

use std::sync::Arc;

use bytes::Bytes;
use dyad_model::{FieldError, meta};
use dyad_schema::patch::{self, PatchError, PatchType};
use dyad_store::{Kv, Op};
use serde_json::Value;

use super::Registry;
use super::body::{Applied, Body};
use super::create::check_namespace;
use super::delete::is_held_by_spec;
use super::options::{FieldValidation, WriteOptions};
use super::ownership;
use super::resource::{Fields, Served};
use super::stored::Stored;
use super::values;
use super::write::{
    ATTEMPTS, Committed, Scope, Written, check_preconditions, has_finalizers, meta_mut, meta_text,
    refuse_if_any,
};
use crate::http::query::parse_unsigned;
use crate::status::{About, ApiError};

/// How the new object comes out of the old one.
pub(crate) enum Compute<'a> {
    /// PUT: it is this one.
    Replace(Value),
    /// PATCH.
    Patch { kind: PatchType, patch: Bytes },
    /// PATCH that applies a configuration, which makes the object if it is not there and the client may do that.
    Apply { applied: Applied, may_create: &'a (dyn Fn() -> Result<(), ApiError> + Sync) },
    /// What the server itself changes.
    With(&'a (dyn Fn(&mut Value) -> Result<(), ApiError> + Sync)),
    /// The same, for changes that say themselves who owns what.
    Owned(&'a (dyn Fn(&mut Value) -> Result<(), ApiError> + Sync)),
}

impl Registry {
    /// PUT of an object or a subresource.
    pub(crate) async fn replace(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        let mut object = body.decode(scope.served, options.field_validation, warnings)?;
        check_namespace(scope, &mut object)?;
        check_name(scope, &object)?;
        self.update(scope, Compute::Replace(object), options, warnings).await
    }

    /// PATCH of an object or a subresource.
    pub(crate) async fn patch(
        &self,
        scope: Scope<'_>,
        kind: PatchType,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        self.update(scope, Compute::Patch { kind, patch: body.bytes.clone() }, options, warnings).await
    }

    /// PATCH that applies a configuration to an object or a subresource.
    pub(crate) async fn apply_configuration(
        &self,
        scope: Scope<'_>,
        body: &Body,
        may_create: &(dyn Fn() -> Result<(), ApiError> + Sync),
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        let applied = body.applied(options.field_validation, warnings)?;
        self.update(scope, Compute::Apply { applied, may_create }, options, warnings).await
    }

    /// Changes an object until the change sticks.
    pub(crate) async fn update(
        &self,
        scope: Scope<'_>,
        mut compute: Compute<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Written, ApiError> {
        self.until_as_new_as(None).await?;
        let resource = scope.resource();
        let mut current = resource.cache.get(&resource.cache_key(scope.namespace, scope.name));
        for _ in 0..ATTEMPTS {
            let Some(old) = current else {
                return match compute {
                    Compute::Replace(object)
                        if scope.subresource.is_empty() && scope.strategy().create_on_update() =>
                    {
                        self.create_by_put(scope, object, options, warnings).await
                    }
                    Compute::Apply { applied, may_create } if scope.subresource.is_empty() => {
                        self.create_by_apply(scope, &applied, may_create, options, warnings).await
                    }
                    _ => Err(ApiError::not_found(scope.about())),
                };
            };
            let mut warned = Vec::new();
            match self.try_update(scope, &old, &mut compute, options, &mut warned).await? {
                Attempt::Done(written) => {
                    warnings.append(&mut warned);
                    return Ok(written);
                }
                Attempt::Lost(kv) => current = self.reload(scope, kv)?,
                Attempt::AllocationLost => current = Some(old),
            }
        }
        Err(ApiError::conflict(scope.about(), "too many others write the object at the same time; try again"))
    }

    /// What the store says it is now, after somebody else was faster.
    pub(crate) fn reload(&self, scope: Scope<'_>, kv: Option<Kv>) -> Result<Option<Arc<Stored>>, ApiError> {
        let load = |kv: Kv| Stored::load(scope.resource(), &kv.key, &kv.value, kv.mod_rev, &self.cluster);
        kv.map(load).transpose().map(|stored| stored.map(Arc::new)).map_err(ApiError::internal)
    }

    async fn try_update(
        &self,
        scope: Scope<'_>,
        old: &Arc<Stored>,
        compute: &mut Compute<'_>,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Attempt, ApiError> {
        let resource = scope.resource();
        let strategy = scope.strategy();
        let about = scope.about();
        let old_value = old.value();
        let now = values::now();
        let mut new = self.compute(scope, &old_value, compute, (options, &now), warnings)?;
        if matches!(compute, Compute::Replace(_)) {
            let uid = Some(meta_text(&new, "uid")).filter(|uid| !uid.is_empty());
            check_preconditions(about, uid, None, old)?;
        }
        match given_rev(&new)? {
            Some(given) if given != old.rev => return Err(ApiError::modified(about)),
            None if !strategy.unconditional_update() => {
                let text = "must be specified for an update";
                // Kubernetes names the resource here, not the kind.
                return Err(ApiError::invalid(
                    About { kind: about.resource, ..about },
                    &[FieldError::invalid("metadata.resourceVersion", 0, text)],
                ));
            }
            _ => {}
        }
        let meta = meta_mut(&mut new);
        meta.insert("resourceVersion".to_owned(), old.rev.to_string().into());
        meta.remove("selfLink");
        let owners = ownership::take(&mut new);
        meta::inherit(&mut new, &old_value);
        scope.check_node(self, Some(&old_value), Some(&new))?;
        self.check_escalation(scope, Some(&old_value), &new)?;
        self.check_signer(scope, &old_value, &new)?;
        let cx = scope.context(self, &now);
        let mut session = self.session(scope.namespace, scope.name);
        if scope.subresource.is_empty() {
            strategy
                .begin_update(&mut new, &old_value, &cx, &mut session)
                .map_err(|refusal| ApiError::refused(about, &refusal))?;
        }
        strategy.prepare_update(&mut new, &old_value, &cx);
        ownership::put(&mut new, owners);
        ownership::keep_times(&mut new, &old_value);
        let mut errors = meta::validate_update(&new, &old_value, strategy.meta_checks(&cx));
        errors.extend(strategy.validate_update(&new, &old_value, &cx));
        refuse_if_any(about, &errors)?;
        warnings.extend(strategy.warnings(&new, Some(&old_value), &cx));
        self.charge(&mut session, scope, about, Some(&old_value), &new)?;
        if is_deleted_by(&new, &old_value, resource) {
            drop(session);
            return Ok(match self.remove(scope, old, &new, options.dry_run).await? {
                Removed::Gone(stored) => Attempt::Done(Written { stored: Arc::new(stored), created: false }),
                Removed::Lost(kv) => Attempt::Lost(kv),
                Removed::AllocationLost => Attempt::AllocationLost,
            });
        }
        if new == old_value && session.is_empty() {
            // J46: nothing to write, nothing to tell.
            return Ok(Attempt::Done(Written { stored: Arc::clone(old), created: false }));
        }
        let json = self.encoded(resource, &new);
        if options.dry_run {
            return Ok(Attempt::done(Stored::written(resource, new, json, old.rev, &self.cluster)));
        }
        let op = Op::Put { key: resource.store_key(scope.namespace, scope.name), value: json.clone() };
        Ok(match self.commit(op, old.rev, Vec::new(), session).await? {
            Committed::At(rev) => Attempt::done(Stored::written(resource, new, json, rev, &self.cluster)),
            Committed::Lost(kv) => Attempt::Lost(kv),
            Committed::AllocationLost => Attempt::AllocationLost,
        })
    }

    /// The new object, with defaults.
    fn compute(
        &self,
        scope: Scope<'_>,
        old: &Value,
        compute: &mut Compute<'_>,
        (options, now): (&WriteOptions, &str),
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let served = scope.served;
        let mut new = match compute {
            Compute::Replace(object) => object.clone(),
            Compute::Patch { kind, patch } => {
                let mut shown = old.clone();
                served.show(&mut shown);
                let patched = patched(served, *kind, &shown, patch)?;
                let mut object = match options.field_validation {
                    FieldValidation::Strict => patched.require_strict().map_err(patch_error)?,
                    FieldValidation::Warn => {
                        warnings.extend(patched.strict);
                        patched.object
                    }
                    FieldValidation::Ignore => patched.object,
                };
                if *kind == PatchType::Strategic {
                    // Such a patch is about the fields of a kind, and the kind is none of them.
                    object["kind"] = served.row.kind.into();
                    object["apiVersion"] = served.row.api_version().into();
                }
                check_type(served.row, &object)?;
                check_namespace(scope, &mut object)?;
                check_name(scope, &object)?;
                served.to_stored(&mut object);
                object
            }
            Compute::Apply { applied, .. } => {
                let mut shown = old.clone();
                served.show(&mut shown);
                let mut object = ownership::apply(scope, Some(&shown), applied, options, now)?;
                check_namespace(scope, &mut object)?;
                check_name(scope, &object)?;
                served.to_stored(&mut object);
                object
            }
            Compute::With(change) | Compute::Owned(change) => {
                let mut object = old.clone();
                change(&mut object)?;
                object
            }
        };
        scope.strategy().default(&mut new);
        if !matches!(compute, Compute::Apply { .. } | Compute::Owned(_)) {
            ownership::update(scope, Some(old), &mut new, &options.manager, now);
        }
        Ok(new)
    }

    /// Deletes an object for good, `last` being what it was when it went, with all it holds.
    pub(crate) async fn remove(
        &self,
        scope: Scope<'_>,
        old: &Arc<Stored>,
        last: &Value,
        dry_run: bool,
    ) -> Result<Removed, ApiError> {
        let resource = scope.resource();
        let json = self.encoded(resource, last);
        if dry_run {
            return Ok(Removed::Gone(Stored::written(resource, last.clone(), json, old.rev, &self.cluster)));
        }
        let mut session = self.session(scope.namespace, scope.name);
        resource.strategy.begin_delete(&old.value(), &mut session);
        let mut more = Vec::new();
        if resource.is("", "services") {
            // A126: the Endpoints go with their Service.
            let endpoints = self.builtin("", "endpoints");
            more.push(Op::Delete { key: endpoints.store_key(scope.namespace, scope.name) });
        }
        let op = Op::Delete { key: resource.store_key(scope.namespace, scope.name) };
        Ok(match self.commit(op, old.rev, more, session).await? {
            Committed::At(rev) => {
                Removed::Gone(Stored::written(resource, last.clone(), json, rev, &self.cluster))
            }
            Committed::Lost(kv) => Removed::Lost(kv),
            Committed::AllocationLost => Removed::AllocationLost,
        })
    }
}

enum Attempt {
    Done(Written),
    Lost(Option<Kv>),
    AllocationLost,
}

impl Attempt {
    fn done(stored: Stored) -> Self {
        Self::Done(Written { stored: Arc::new(stored), created: false })
    }
}

/// An object after a patch, with what a strict reader has against it.
fn patched(
    served: &Served,
    kind: PatchType,
    shown: &Value,
    patch: &Bytes,
) -> Result<patch::Patched, ApiError> {
    let custom = match &served.fields {
        Fields::Table(schema) => return patch::apply(schema, kind, shown, patch).map_err(patch_error),
        Fields::Custom(custom) => custom,
    };
    let mut patched = patch::apply_untyped(kind, shown, patch).map_err(patch_error)?;
    let text = patched.object.to_string();
    let decoded = custom
        .version
        .decode(std::mem::take(&mut patched.object))
        .map_err(|why| patch_error(PatchError::Invalid { value: text, detail: why }))?;
    patched.object = decoded.object;
    patched.strict.extend(decoded.strict);
    Ok(patched)
}

/// What became of a removal.
pub(crate) enum Removed {
    /// As it was when it went.
    Gone(Stored),
    Lost(Option<Kv>),
    AllocationLost,
}

/// J49: an update that takes the last finalizer off an object that is being deleted deletes it.
fn is_deleted_by(new: &Value, old: &Value, resource: &super::Resource) -> bool {
    !has_finalizers(new)
        && !is_held_by_spec(new, resource)
        && !old["metadata"]["deletionTimestamp"].is_null()
        && old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// The resourceVersion that an object to be written says it is a change of.
pub(super) fn given_rev(object: &Value) -> Result<Option<u64>, ApiError> {
    match meta_text(object, "resourceVersion") {
        "" => Ok(None),
        text => parse_unsigned(text).map(|rev| (rev != 0).then_some(rev)).map_err(ApiError::unknown),
    }
}

/// The name of an object to be written is that of the path.
pub(super) fn check_name(scope: Scope<'_>, object: &Value) -> Result<(), ApiError> {
    let path = scope.name;
    match meta_text(object, "name") {
        name if name == path => Ok(()),
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({path} based on URL) was undeterminable: name must be provided"
        ))),
        name => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({path})"
        ))),
    }
}

/// A patch cannot make one kind of another.
fn check_type(row: &dyad_schema::kinds::Kind, object: &Value) -> Result<(), ApiError> {
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if (kind.is_empty() || kind == row.kind) && (version.is_empty() || version == row.api_version()) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the patched object is a {kind} in version {version:?}, which can't be changed from {} in version {:?}",
        row.kind,
        row.api_version()
    )))
}

pub(crate) fn patch_error(error: PatchError) -> ApiError {
    match error {
        PatchError::BadRequest(why) => ApiError::bad_request(why),
        PatchError::TooLarge(why) => ApiError::patch_too_large(&why),
        PatchError::Unsupported => ApiError::unsupported_media_type(&[
            PatchType::Json.content_type(),
            PatchType::Merge.content_type(),
        ]),
        PatchError::Invalid { value, detail } => ApiError::invalid(
            About { group: "", resource: "", kind: "", name: "" },
            &[FieldError::invalid("patch", value, detail)],
        ),
        PatchError::Internal(why) => ApiError::unknown(why),
        rejected => ApiError::rejected(rejected.to_string()),
    }
}
