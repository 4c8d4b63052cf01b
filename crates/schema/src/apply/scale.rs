//! Owners of replicas, seen from the `scale` subresource and from the object itself.

use super::managers::{Managers, Owned};
use super::set::Set;
use super::step::Step;

/// The version of a Scale.
const SCALE: &str = "autoscaling/v1";

fn replicas() -> [Step; 2] {
    [Step::field("spec"), Step::field("replicas")]
}

/// The managers of an object's replicas, as those of its Scale. `path` leads to the replicas in the versions of the
/// object that are known.
pub fn to_scale(managers: &Managers, path: &dyn Fn(&str) -> Option<Vec<Step>>) -> Managers {
    let owners =
        managers.iter().filter(|(_, owned)| path(&owned.version).is_some_and(|path| owned.set.has(&path)));
    owners
        .map(|(manager, owned)| {
            let mut set = Set::default();
            set.insert(&replicas());
            (manager.clone(), Owned { version: SCALE.to_owned(), set, time: owned.time.clone() })
        })
        .collect()
}

/// The managers of an object after its Scale was written: `scale` are now those of the replicas.
pub fn from_scale(
    managers: &Managers,
    mut scale: Managers,
    version: &str,
    path: &dyn Fn(&str) -> Option<Vec<Step>>,
) -> Managers {
    let mut merged = Managers::new();
    for (manager, owned) in managers {
        let Some(path) = path(&owned.version) else { continue };
        let mut owned = owned.clone();
        if owned.set.has(&path) && scale.remove(manager).is_none() {
            let mut stolen = Set::default();
            stolen.insert(&path);
            owned.set = owned.set.difference(&stolen);
            if owned.set.is_empty() {
                continue;
            }
        }
        merged.insert(manager.clone(), owned);
    }
    let own = path(version).unwrap_or_default();
    scale.retain(|_, owned| owned.set.has(&replicas()));
    for manager in scale.into_keys() {
        let mut set = Set::default();
        set.insert(&own);
        // Kubernetes loses the time of a manager that is new to the object.
        let time = managers.get(&manager).and_then(|before| before.time.clone());
        merged.insert(manager, Owned { version: version.to_owned(), set, time });
    }
    merged
}
