//! How ownership moves when an object is written.

use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::Comparison;
use super::managers::{Manager, Managers, Operation, Owned};
use super::reset::Reset;
use super::set::Set;
use super::step::{Step, same};
use super::types::Structure;

/// The versions that the objects of a kind are served in.
pub trait Versions {
    /// The types of a version; `None` if there is no such version (any more).
    fn structure(&self, version: &str) -> Option<Structure<'_>>;
    /// An object of one version as one of another.
    fn convert(&self, object: &Value, from: &str, to: &str) -> Value;
}

/// A kind that is served in one version.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion<'a> {
    /// The version.
    pub name: &'a str,
    /// Its types.
    pub structure: Structure<'a>,
}

impl Versions for OneVersion<'_> {
    fn structure(&self, version: &str) -> Option<Structure<'_>> {
        (version == self.name).then_some(self.structure)
    }

    fn convert(&self, object: &Value, _from: &str, _to: &str) -> Value {
        object.clone()
    }
}

/// A path that somebody else owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: Manager,
    /// What.
    pub path: Vec<Step>,
}

/// Why a configuration was not applied.
pub(super) enum Refused {
    Conflicts(Vec<Conflict>),
    Other(String),
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

/// What moves ownership: the versions of a kind, the one that is written in, and what writers do not own there.
pub(super) struct Updater<'a> {
    pub(super) versions: &'a dyn Versions,
    pub(super) version: &'a str,
    pub(super) structure: Structure<'a>,
    pub(super) reset: &'a Reset,
}

impl Updater<'_> {
    /// Moves what a write touched away from all others. Answers what it now owns by that.
    pub(super) fn update(&self, live: &Value, new: &Value, managers: &mut Managers) -> Result<Set, Refused> {
        self.reconcile(managers);
        let compared = self.take(live, new, managers, None, true)?;
        Ok(compared.modified.union(&compared.added))
    }

    /// Merges a configuration, removes what its manager no longer applies and nobody else owns, and moves ownership.
    /// `None` if nothing changes.
    pub(super) fn apply(
        &self,
        live: &Value,
        applied: &Value,
        managers: &mut Managers,
        manager: &Manager,
        force: bool,
    ) -> Result<Option<Value>, Refused> {
        self.reconcile(managers);
        let merged =
            self.structure.merge(live, applied).map_err(|why| format!("failed to merge config: {why}"))?;
        let set = self.reset.filter(self.structure.paths(applied)?);
        let version = self.version.to_owned();
        let last = managers.get(manager).cloned();
        let time = last.as_ref().and_then(|last| last.time.clone());
        managers.insert(manager.clone(), Owned { version, set, time });
        let new = match last.filter(|last| !last.set.is_empty()) {
            Some(last) => self
                .prune(&merged, managers, &last)
                .map_err(|why| format!("failed to prune fields: {why}"))?,
            None => merged,
        };
        self.take(live, &new, managers, Some(manager), force)?;
        Ok((!same(live, &new)).then_some(new))
    }

    /// Takes what changed from everybody but `except`.
    fn take(
        &self,
        live: &Value,
        new: &Value,
        managers: &mut Managers,
        except: Option<&Manager>,
        force: bool,
    ) -> Result<Comparison, Refused> {
        let mut compared: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        let own = self.compare(self.structure, live, new)?;
        let mut conflicts = Vec::new();
        for (manager, owned) in &*managers {
            if except == Some(manager) {
                continue;
            }
            let version = owned.version.as_str();
            if version != self.version && !compared.contains_key(version) {
                let comparison = match self.versions.structure(version) {
                    None => None,
                    Some(structure) => {
                        let convert = |object| self.versions.convert(object, self.version, version);
                        Some(self.compare(structure, &convert(live), &convert(new))?)
                    }
                };
                compared.insert(version.to_owned(), comparison);
            }
            if let Some(compared) = of_version(&own, &compared, self.version, version) {
                let touched = owned.set.intersection(&compared.modified.union(&compared.added));
                conflicts.extend(
                    touched.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }),
                );
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(Refused::Conflicts(conflicts));
        }
        managers.retain(|manager, owned| {
            if except == Some(manager) {
                return !owned.set.is_empty();
            }
            // A version that is no more has no owners.
            let Some(compared) = of_version(&own, &compared, self.version, &owned.version) else {
                return false;
            };
            let lost = compared.modified.union(&compared.added).union(&compared.removed);
            owned.set = owned.set.difference(&lost);
            !owned.set.is_empty()
        });
        Ok(own)
    }

    fn compare(&self, structure: Structure<'_>, live: &Value, new: &Value) -> Result<Comparison, String> {
        let Comparison { removed, modified, added } =
            structure.compare(live, new).map_err(|why| format!("failed to compare objects: {why}"))?;
        Ok(Comparison {
            removed: self.reset.filter(removed),
            modified: self.reset.filter(modified),
            added: self.reset.filter(added),
        })
    }

    /// Without what the manager applied last and does not any more, unless others own it or something below it.
    fn prune(&self, merged: &Value, managers: &Managers, last: &Owned) -> Result<Value, String> {
        let Some(structure) = self.versions.structure(&last.version) else { return Ok(merged.clone()) };
        let merged = self.versions.convert(merged, self.version, &last.version);
        let dropped = structure.with_fields(&last.set);
        let pruned = structure.without(&merged, &dropped)?;
        let pruned = self.with_owned(&merged, pruned, &last.version, managers)?;
        // What was never applied goes with what it is in, but not if it is there still.
        let left = structure.with_fields(&structure.paths(&pruned)?);
        let all = structure.with_fields(&structure.paths(&merged)?);
        let gone = all.difference(&left).intersection(&dropped);
        let pruned = structure.without(&merged, &gone)?;
        Ok(self.versions.convert(&pruned, &last.version, self.version))
    }

    /// Puts back what somebody owns.
    fn with_owned(
        &self,
        merged: &Value,
        mut pruned: Value,
        version: &str,
        managers: &Managers,
    ) -> Result<Value, String> {
        let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
        for of in managers.values() {
            let set = owned.entry(&of.version).or_default();
            *set = set.union(&of.set);
        }
        // Those of the version at hand first.
        let others = owned.keys().copied().filter(|other| *other != version);
        for at in owned.contains_key(version).then_some(version).into_iter().chain(others) {
            let Some(structure) = self.versions.structure(at) else { continue };
            let merged = self.versions.convert(merged, version, at);
            let there = self.versions.convert(&pruned, version, at);
            let all = structure.with_fields(&structure.paths(&merged)?);
            let kept = structure.with_fields(&structure.paths(&there)?);
            let kept = kept.union(&structure.with_fields(&owned[at]));
            let back = structure.without(&merged, &all.difference(&kept))?;
            pruned = self.versions.convert(&back, at, version);
        }
        Ok(pruned)
    }

    /// Owners of versions that are no more go; what became one value is owned as one.
    fn reconcile(&self, managers: &mut Managers) {
        managers.retain(|_, owned| match self.versions.structure(&owned.version) {
            None => false,
            Some(structure) => {
                owned.set = structure.reconciled(&owned.set);
                true
            }
        });
    }
}

fn of_version<'c>(
    own: &'c Comparison,
    others: &'c BTreeMap<String, Option<Comparison>>,
    own_version: &str,
    version: &str,
) -> Option<&'c Comparison> {
    if version == own_version { Some(own) } else { others.get(version)?.as_ref() }
}

/// Most updaters that are told apart.
const MAX_UPDATERS: usize = 10;
/// Who owns what the oldest of more updaters owned.
const ANCIENT: &str = "ancient-changes";

/// Puts the oldest updaters together until there are not too many.
pub(super) fn cap(managers: &mut Managers) {
    let mut updaters: Vec<Manager> =
        managers.keys().filter(|manager| manager.operation == Operation::Update).cloned().collect();
    if updaters.len() <= MAX_UPDATERS {
        return;
    }
    updaters.sort_by(|a, b| managers[a].time.cmp(&managers[b].time).then_with(|| a.cmp(b)));
    let mut count = updaters.len();
    let mut first: BTreeMap<String, Manager> = BTreeMap::new();
    for manager in updaters {
        if count <= MAX_UPDATERS {
            break;
        }
        let version = managers[&manager].version.clone();
        let Some(before) = first.get(&version) else {
            first.insert(version, manager);
            continue;
        };
        let bucket = Manager::new(ANCIENT, Operation::Update, &version, "");
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(before)
        {
            managers.insert(bucket.clone(), owned);
        }
        if manager == bucket {
            continue;
        }
        if let Some(old) = managers.remove(&manager)
            && let Some(into) = managers.get_mut(&bucket)
        {
            into.set = into.set.union(&old.set);
            into.time = old.time;
            count -= 1;
        }
    }
}
