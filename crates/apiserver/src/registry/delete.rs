//! Delete: finalizers, grace, and what holds an object back (J49 to J52).

use std::sync::Arc;

use dyad_model::meta::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use dyad_store::{Kv, Op};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::list::Listed;
use super::options::{DeleteOptions, ListOptions, Propagation};
use super::stored::Stored;
use super::update::Removed;
use super::values;
use super::write::{ATTEMPTS, Committed, Scope, has_finalizers, meta_mut};
use super::{Registry, Resource};
use crate::status::{About, ApiError};

/// Namespaces without which a cluster does not work.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// What became of a deletion.
#[derive(Debug)]
pub(crate) struct Deletion {
    /// As it was last, or as it is while it waits.
    pub(crate) stored: Arc<Stored>,
    /// Whether it is gone.
    pub(crate) gone: bool,
}

/// What a deletion has to do now.
enum Step {
    /// Nothing: it is under way.
    Wait,
    /// Write it marked as being deleted.
    Mark(Value),
    /// Delete it, this being its last state.
    Remove(Value),
}

impl Registry {
    /// DELETE of an object.
    pub(crate) async fn delete(
        &self,
        scope: Scope<'_>,
        options: &DeleteOptions,
    ) -> Result<Deletion, ApiError> {
        self.until_as_new_as(None).await?;
        let resource = scope.resource();
        let mut current = resource.cache.get(&resource.cache_key(scope.namespace, scope.name));
        for _ in 0..ATTEMPTS {
            let old = current.ok_or_else(|| ApiError::not_found(scope.about()))?;
            match self.try_delete(scope, &old, options).await? {
                Attempt::Done(deletion) => return Ok(deletion),
                Attempt::Lost(kv) => current = self.reload(scope, kv)?,
                Attempt::AllocationLost => current = Some(old),
            }
        }
        Err(ApiError::conflict(scope.about(), "too many others write the object at the same time; try again"))
    }

    async fn try_delete(
        &self,
        scope: Scope<'_>,
        old: &Arc<Stored>,
        options: &DeleteOptions,
    ) -> Result<Attempt, ApiError> {
        let resource = scope.resource();
        check_meant(scope.about(), options, old)?;
        let value = old.value();
        scope.check_node(self, Some(&value), None)?;
        if resource.is("", "namespaces") && IMMORTAL.contains(&scope.name) {
            return Err(ApiError::forbidden(scope.about(), "this namespace may not be deleted"));
        }
        // J50: what was always so stays so for who does not say otherwise.
        let said = options.propagation.is_some() || has_propagation(&value);
        let default = (!said && resource.strategy.orphans_dependents()).then_some(Propagation::Orphan);
        let options = &DeleteOptions { propagation: options.propagation.or(default), ..options.clone() };
        let step = if resource.is("", "namespaces") {
            namespace_step(value, options)
        } else if resource.is(dyad_custom::GROUP, dyad_custom::PLURAL) && is_alive(&value) {
            definition_step(value)
        } else {
            step(value, options, resource.is("", "pods"))
        };
        let marked = match step {
            Step::Wait => {
                return Ok(Attempt::Done(Deletion { stored: Arc::clone(old), gone: false }));
            }
            Step::Remove(last) => {
                return Ok(match self.remove(scope, old, &last, options.dry_run).await? {
                    Removed::Gone(stored) => Attempt::Done(Deletion { stored: Arc::new(stored), gone: true }),
                    Removed::Lost(kv) => Attempt::Lost(kv),
                    Removed::AllocationLost => Attempt::AllocationLost,
                });
            }
            Step::Mark(marked) => marked,
        };
        let done = |stored| Attempt::Done(Deletion { stored: Arc::new(stored), gone: false });
        if marked == old.value() {
            return Ok(Attempt::Done(Deletion { stored: Arc::clone(old), gone: false }));
        }
        let json = self.encoded(resource, &marked);
        if options.dry_run {
            return Ok(done(Stored::written(resource, marked, json, old.rev, &self.cluster)));
        }
        let op = Op::Put { key: resource.store_key(scope.namespace, scope.name), value: json.clone() };
        let session = self.session(scope.namespace, scope.name);
        Ok(match self.commit(op, old.rev, Vec::new(), session).await? {
            Committed::At(rev) => done(Stored::written(resource, marked, json, rev, &self.cluster)),
            Committed::Lost(kv) => Attempt::Lost(kv),
            Committed::AllocationLost => Attempt::AllocationLost,
        })
    }

    /// DELETE of a collection: every object that is selected, each for itself. Answers what was selected.
    pub(crate) async fn delete_collection(
        &self,
        scope: Scope<'_>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Listed, ApiError> {
        let listed = self.list(scope.resource(), list).await?;
        for stored in &listed.items {
            let one = Scope { namespace: &stored.meta.namespace, name: &stored.meta.name, ..scope };
            match self.delete(one, options).await {
                Err(error) if error.reason() != "NotFound" => return Err(error),
                _ => {}
            }
        }
        Ok(listed)
    }
}

/// Whether this is what the client wants to delete (J49).
fn check_meant(about: About<'_>, options: &DeleteOptions, old: &Stored) -> Result<(), ApiError> {
    if let Some(uid) = options.uid.as_deref().filter(|uid| **uid != *old.meta.uid) {
        return Err(ApiError::not_meant(
            about,
            &format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
                 deleted and then recreated",
                old.meta.uid
            ),
        ));
    }
    let rev = old.rev.to_string();
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != rev) {
        return Err(ApiError::not_meant(
            about,
            &format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
                 ({rev}). The object might have been modified"
            ),
        ));
    }
    Ok(())
}

enum Attempt {
    Done(Deletion),
    Lost(Option<Kv>),
    AllocationLost,
}

/// Whether the object waits for something in its spec (J52), besides its finalizers.
pub(crate) fn is_held_by_spec(object: &Value, resource: &Resource) -> bool {
    resource.is("", "namespaces")
        && object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// What to do with an object; `graceful` if its kind goes gracefully, as pods do.
fn step(mut object: Value, options: &DeleteOptions, graceful: bool) -> Step {
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    // Whether the object is now marked with a grace of so many seconds, and waits for its kubelet if that is not 0.
    let mut marked_grace = None;
    if graceful && deleting {
        match (grace.unwrap_or(0), options.grace_secs) {
            (0, _) => {}
            (pending, Some(wanted)) if wanted < pending => {
                marked_grace = Some(shorten(&mut object, pending, wanted));
            }
            _ => return Step::Wait,
        }
    } else if graceful {
        let secs = pod_grace(&object, options);
        mark(&mut object, Timestamp::now() + SignedDuration::from_secs(secs), secs);
        marked_grace = Some(secs);
    }
    set_propagation(&mut object, options);
    if has_finalizers(&object) {
        if marked_grace.is_none() {
            mark_now(&mut object);
        }
        return Step::Mark(object);
    }
    match marked_grace {
        Some(secs) if secs > 0 => Step::Mark(object),
        _ => Step::Remove(object),
    }
}

fn is_alive(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_null()
}

/// A definition stays until its objects are gone, whatever else was asked for.
fn definition_step(mut definition: Value) -> Step {
    dyad_custom::mark_deleted(&mut definition, &values::now());
    Step::Mark(definition)
}

/// Namespaces are marked first and go when what they hold has gone: then their spec has no finalizers left.
fn namespace_step(mut object: Value, options: &DeleteOptions) -> Step {
    if object["metadata"]["deletionTimestamp"].is_null() {
        meta_mut(&mut object).insert("deletionTimestamp".to_owned(), values::now().into());
        object["status"]["phase"] = "Terminating".into();
        set_propagation(&mut object, options);
        return Step::Mark(object);
    }
    if object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
        return Step::Wait;
    }
    step(object, options, false)
}

/// J51: how long a pod has. None at all if nobody runs it.
fn pod_grace(pod: &Value, options: &DeleteOptions) -> i64 {
    let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let over = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if !scheduled || over {
        return 0;
    }
    let secs =
        options.grace_secs.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(0);
    if secs < 0 { 1 } else { secs }
}

/// Marks an object as being deleted at `at`, for the first time.
fn mark(object: &mut Value, at: Timestamp, grace_secs: i64) {
    bump_generation(object);
    let meta = meta_mut(object);
    meta.insert("deletionTimestamp".to_owned(), values::time(at).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace_secs.into());
}

/// Marks an object without grace as being deleted.
fn mark_now(object: &mut Value) {
    let now = Timestamp::now();
    let at = object["metadata"]["deletionTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    if object["metadata"]["deletionTimestamp"].is_null() {
        bump_generation(object);
    }
    let meta = meta_mut(object);
    if at.is_none_or(|at| at > now) {
        meta.insert("deletionTimestamp".to_owned(), values::time(now).into());
    }
    meta.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
}

/// Gives a pod that is going less time than it had. Answers how much it has now.
fn shorten(object: &mut Value, pending: i64, mut wanted: i64) -> i64 {
    let now = Timestamp::now();
    let at = object["metadata"]["deletionTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let mut at = at.unwrap_or(now) - SignedDuration::from_secs(pending) + SignedDuration::from_secs(wanted);
    if at < now {
        at = now;
        // All of the time that was wanted is over; what remains graceful stays so for a second.
        wanted = wanted.min(1);
    }
    let meta = meta_mut(object);
    meta.insert("deletionTimestamp".to_owned(), values::time(at).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), wanted.into());
    wanted
}

fn bump_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|generation| *generation > 0) {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Whether a finalizer already says what becomes of an object's dependents.
fn has_propagation(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers
        .is_some_and(|all| all.iter().any(|name| name == FINALIZER_FOREGROUND || name == FINALIZER_ORPHAN))
}

/// J50: the finalizers for the garbage collector.
fn set_propagation(object: &mut Value, options: &DeleteOptions) {
    let Some(propagation) = options.propagation else { return };
    let meta = meta_mut(object);
    let mut finalizers: Vec<Value> = meta
        .get("finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|name| *name != FINALIZER_FOREGROUND && *name != FINALIZER_ORPHAN)
        .cloned()
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FINALIZER_FOREGROUND.into()),
        Propagation::Orphan => finalizers.push(FINALIZER_ORPHAN.into()),
    }
    if finalizers.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), finalizers.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(meta: Value) -> Value {
        json!({"metadata": meta, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {}})
    }

    fn grace(secs: i64) -> DeleteOptions {
        DeleteOptions { grace_secs: Some(secs), ..DeleteOptions::default() }
    }

    #[test]
    fn j51_pods_go_gracefully() {
        let Step::Mark(marked) = step(pod(json!({"generation": 1})), &DeleteOptions::default(), true) else {
            panic!("a scheduled pod has 30 seconds")
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert!(matches!(step(marked.clone(), &DeleteOptions::default(), true), Step::Wait), "already going");
        assert!(matches!(step(marked.clone(), &grace(60), true), Step::Wait), "longer is ignored");
        let Step::Mark(shorter) = step(marked.clone(), &grace(5), true) else { panic!("shorter counts") };
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert_eq!(shorter["metadata"]["generation"], 2);
        assert!(matches!(step(marked, &grace(0), true), Step::Remove(_)), "the kubelet's last word");
    }

    #[test]
    fn j51_pods_that_nobody_runs_go_at_once() {
        let mut unscheduled = pod(json!({}));
        unscheduled["spec"]["nodeName"] = "".into();
        assert!(matches!(step(unscheduled, &grace(9), true), Step::Remove(_)));
        let mut over = pod(json!({}));
        over["status"]["phase"] = "Succeeded".into();
        assert!(matches!(step(over, &DeleteOptions::default(), true), Step::Remove(_)));
    }

    #[test]
    fn j49_finalizers_hold_an_object() {
        let object = json!({"metadata": {"finalizers": ["a/b"], "generation": 3}});
        let Step::Mark(marked) = step(object, &DeleteOptions::default(), false) else { panic!("it is held") };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(marked["metadata"]["generation"], 4);
        let Step::Mark(again) = step(marked.clone(), &DeleteOptions::default(), false) else {
            panic!("still held")
        };
        assert_eq!(again, marked);
        assert!(matches!(step(json!({"metadata": {}}), &DeleteOptions::default(), false), Step::Remove(_)));
    }

    #[test]
    fn j50_the_policy_becomes_a_finalizer() {
        for (propagation, name) in
            [(Propagation::Foreground, FINALIZER_FOREGROUND), (Propagation::Orphan, FINALIZER_ORPHAN)]
        {
            let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
            let Step::Mark(marked) = step(json!({"metadata": {}}), &options, false) else { panic!("{name}") };
            assert_eq!(marked["metadata"]["finalizers"], json!([name]));
        }
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        let orphaned = json!({"metadata": {"finalizers": [FINALIZER_ORPHAN]}});
        assert!(matches!(step(orphaned, &options, false), Step::Remove(_)));
    }

    #[test]
    fn j52_namespaces_wait_for_their_contents() {
        let namespace =
            json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Step::Mark(marked) = namespace_step(namespace, &DeleteOptions::default()) else {
            panic!("marked")
        };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert!(marked["metadata"]["deletionGracePeriodSeconds"].is_null());
        assert!(matches!(namespace_step(marked.clone(), &DeleteOptions::default()), Step::Wait));
        let mut emptied = marked;
        emptied["spec"] = json!({});
        assert!(matches!(namespace_step(emptied, &DeleteOptions::default()), Step::Remove(_)));
    }
}
