//! Server-side apply and the owners of fields (rule J45).
//!
//! An object says in `metadata.managedFields` who set which of its fields. [`FieldManager::apply`] merges a configuration by
//! these owners, [`FieldManager::update`] keeps them when an object is written in any other way. What is one value, a map or
//! a set is plain data ([`Types`]), from the table of fields for the built-in kinds.

use std::sync::OnceLock;

use serde_json::Value;

mod codec;
mod compare;
mod kubectl;
mod managers;
mod merge;
pub mod ownerless;
mod reset;
mod scale;
mod set;
mod step;
mod typed;
mod types;
mod updater;
mod validate;

#[cfg(test)]
mod tests;

pub use codec::FieldsError;
pub use compare::Comparison;
pub use managers::{Manager, Managers, ManagersError, Operation, Owned, decode, encode};
pub use reset::Reset;
pub use scale::{from_scale, to_scale};
pub use set::Set;
pub use step::Step;
pub use types::{Atom, FieldOf, Identity, ListOf, MapOf, Scalar, Structure, Type, Types, builtin};
pub use updater::{Conflict, OneVersion, Versions};

use step::path_text;
use updater::{Refused, Updater};

/// The content type of a configuration that is applied.
pub const CONTENT_TYPE: &str = "application/apply-patch+yaml";

/// The owner of what was there before anybody applied anything.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The name of a manager that gave none.
const UNKNOWN: &str = "unknown";

/// What nobody owns: what the server says, and what an object is known by.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

fn unowned() -> &'static Set {
    static SET: OnceLock<Set> = OnceLock::new();
    SET.get_or_init(|| Set::of(UNOWNED))
}

/// Why a configuration is not applied, by the answer it gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// 409 Conflict: others own some of it with other values.
    #[error("{}", conflict_text(.0))]
    Conflicts(Vec<Conflict>),
    /// 500 without a reason, which is how Kubernetes answers configurations that are not of their kind.
    #[error("{0}")]
    Other(String),
}

impl Conflict {
    /// Whose value it is, as a cause of the refusal says it.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.manager)
    }

    /// What is in conflict: `.spec.replicas`.
    pub fn field(&self) -> String {
        path_text(&self.path)
    }
}

fn conflict_text(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", one.message(), one.field());
    }
    let mut lines = Vec::new();
    for conflict in conflicts {
        let whose = format!("conflicts with {}:", conflict.manager);
        if !lines.contains(&whose) {
            lines.push(whose);
            let same = conflicts.iter().filter(|other| other.manager == conflict.manager);
            lines.extend(same.map(|other| format!("- {}", other.field())));
        }
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Keeps the owners of the objects of a kind, at one of its endpoints.
pub struct FieldManager<'a> {
    /// The versions of the kind.
    pub versions: &'a dyn Versions,
    /// The one in which objects come in.
    pub version: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// An object of it that says nothing.
    pub empty: &'a Value,
    /// The endpoint, empty for the object itself.
    pub subresource: &'a str,
    /// What the endpoint does not change.
    pub reset: &'a Reset,
    /// Now, RFC 3339 in whole seconds.
    pub now: &'a str,
}

impl FieldManager<'_> {
    /// The owners of an object that is written other than by apply; `live` is what it was, if there was one. To be put in its
    /// place; `None` if it has none.
    pub fn update(&self, live: Option<&Value>, new: &Value, manager: &str) -> Managers {
        let of_live = || live.and_then(|live| decode(live).ok()).unwrap_or_default();
        let mut managers = if !self.subresource.is_empty() {
            of_live()
        } else if ownerless::is_asked_for(new) {
            Managers::new()
        } else {
            // Clients that do not know of owners do not remove them.
            decode(new).ok().filter(|managers| !managers.is_empty()).unwrap_or_else(of_live)
        };
        if managers.is_empty() && live.is_some() {
            return managers;
        }
        match self.updated(live, new, &mut managers, manager) {
            Ok(()) => managers,
            // An object that cannot be compared has no owners.
            Err(_) => Managers::new(),
        }
    }

    fn updated(
        &self,
        live: Option<&Value>,
        new: &Value,
        managers: &mut Managers,
        manager: &str,
    ) -> Result<(), String> {
        let set = match self.updater()?.update(live.unwrap_or(self.empty), new, managers) {
            Ok(set) => set.difference(unowned()),
            Err(Refused::Other(why)) => return Err(why),
            Err(Refused::Conflicts(_)) => return Ok(()),
        };
        if !set.is_empty() {
            let manager = self.manager(manager, Operation::Update);
            let before = managers.get(&manager).map(|owned| owned.set.clone()).unwrap_or_default();
            let owned = Owned {
                version: self.version.to_owned(),
                set: before.union(&set),
                time: Some(self.now.to_owned()),
            };
            managers.insert(manager, owned);
        }
        updater::cap(managers);
        Ok(())
    }

    /// Merges what a manager applies into an object, or makes one of it. `finish` brings the result to the form of its
    /// kind, with defaults.
    pub fn apply(
        &self,
        live: Option<&Value>,
        applied: &Value,
        manager: &str,
        force: bool,
        finish: &dyn Fn(Value) -> Result<Value, String>,
    ) -> Result<Value, ApplyError> {
        let managers = decode(live.unwrap_or(self.empty))
            .map_err(|why| ApplyError::Other(format!("failed to decode managed fields: {why}")))?;
        self.check_kind(applied)?;
        let merged = match self.merged(live, applied, managers.clone(), manager, force) {
            Err(ApplyError::Conflicts(conflicts)) if manager == kubectl::MANAGER => {
                let allowed = live.and_then(|live| {
                    kubectl::allowed(self.versions.structure(self.version)?, self.version, live)
                });
                let Some(allowed) = allowed else { return Err(ApplyError::Conflicts(conflicts)) };
                let (_, left): (Vec<_>, Vec<_>) =
                    conflicts.into_iter().partition(|conflict| allowed.has(&conflict.path));
                if !left.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                self.merged(live, applied, managers, manager, true)
            }
            other => other,
        };
        let (merged, managers) = merged?;
        let mut object = match (merged, live) {
            (Some(merged), _) => finish(merged).map_err(|why| {
                let what = self.named(applied);
                ApplyError::Other(format!("failed to convert new object ({what}) to proper version: {why}"))
            })?,
            (None, live) => live.unwrap_or(self.empty).clone(),
        };
        if manager == kubectl::MANAGER {
            kubectl::sync(&mut object, applied);
        }
        encode(&mut object, &managers);
        Ok(object)
    }

    fn merged(
        &self,
        live: Option<&Value>,
        applied: &Value,
        mut managers: Managers,
        manager: &str,
        force: bool,
    ) -> Result<(Option<Value>, Managers), ApplyError> {
        let live = live.unwrap_or(self.empty);
        if managers.is_empty() {
            self.updated(None, live, &mut managers, BEFORE_FIRST_APPLY).map_err(|why| {
                ApplyError::Other(format!("failed to create manager for existing fields: {why}"))
            })?;
        }
        if !applied["metadata"]["managedFields"].is_null() {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        let updater = self.updater().map_err(ApplyError::Other)?;
        updater.structure.check(applied).map_err(|why| {
            ApplyError::Other(format!("failed to create typed patch object ({}): {why}", self.named(applied)))
        })?;
        let manager = self.manager(manager, Operation::Apply);
        let merged = match updater.apply(live, applied, &mut managers, &manager, force) {
            Ok(merged) => merged,
            Err(Refused::Conflicts(conflicts)) => return Err(ApplyError::Conflicts(conflicts)),
            Err(Refused::Other(why)) => return Err(ApplyError::Other(why)),
        };
        if let Some(owned) = managers.get_mut(&manager) {
            owned.set = owned.set.difference(unowned());
            if merged.is_some() {
                owned.time = Some(self.now.to_owned());
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok((merged, managers))
    }

    /// An applied configuration names its kind.
    fn check_kind(&self, applied: &Value) -> Result<(), ApplyError> {
        if applied["kind"] == self.kind && applied["apiVersion"] == self.version {
            return Ok(());
        }
        Err(ApplyError::BadRequest(format!("invalid object type: {}", kind_text(applied))))
    }

    fn updater(&self) -> Result<Updater<'_>, String> {
        let structure = self
            .versions
            .structure(self.version)
            .ok_or_else(|| format!("no corresponding type for {}, Kind={}", self.version, self.kind))?;
        Ok(Updater { versions: self.versions, version: self.version, structure, reset: self.reset })
    }

    fn manager(&self, name: &str, operation: Operation) -> Manager {
        let name = if name.is_empty() { UNKNOWN } else { name };
        Manager::new(name, operation, self.version, self.subresource)
    }

    /// An object as errors name it.
    fn named(&self, object: &Value) -> String {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        format!("{}/{}; {}", text("namespace"), text("name"), kind_text(object))
    }
}

/// `apps/v1, Kind=Deployment`; the group of core is empty.
fn kind_text(object: &Value) -> String {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let version = text("apiVersion");
    let (group, number) = version.split_once('/').unwrap_or(("", version));
    format!("{group}/{number}, Kind={}", text("kind"))
}
