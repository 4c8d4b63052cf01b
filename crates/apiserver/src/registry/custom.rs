//! Kinds that were defined while the server runs (J6): which they are follows from the definitions, and nothing else.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use dyad_custom::{Version, accepted, is_established};
use dyad_schema::kinds::Kind;
use dyad_schema::kinds::defined::Defined;
use dyad_store::StoreError;
use serde_json::Value;

use super::Registry;
use super::resource::{self, Resource, Served};

/// What is defined now.
#[derive(Default)]
pub(crate) struct Kinds {
    now: RwLock<Arc<Custom>>,
}

/// What is defined at one moment.
#[derive(Default)]
pub(crate) struct Custom {
    /// By group and plural.
    entries: HashMap<(String, String), Entry>,
    /// By group, version and plural.
    served: HashMap<(String, String, String), Arc<Served>>,
    /// The rows, those of a group together, its preferred version first.
    rows: Vec<&'static Kind>,
}

/// A definition and what is made of it.
#[derive(Clone)]
struct Entry {
    uid: Value,
    generation: Value,
    /// The definition as it was.
    spec: Arc<Value>,
    versions: Arc<[Arc<Version>]>,
    resource: Arc<Resource>,
}

impl Kinds {
    pub(crate) fn now(&self) -> Arc<Custom> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Custom {
    pub(crate) fn served(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        self.served.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    pub(crate) fn resource(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let entry = self.entries.get(&(group.to_owned(), plural.to_owned()))?;
        Some(Arc::clone(&entry.resource))
    }

    pub(crate) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.entries.values().map(|entry| &entry.resource)
    }

    /// The rows of all versions that are served.
    pub(crate) fn rows(&self) -> &[&'static Kind] {
        &self.rows
    }

    /// Every version that is served.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.served.values()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// The row of a version, under the names that were accepted.
fn row(definition: &Value, version: &Value) -> &'static Kind {
    let (spec, names) = (&definition["spec"], accepted(definition));
    Defined {
        group: text(&spec["group"]),
        version: text(&version["name"]),
        kind: text(&names["kind"]),
        list_kind: text(&names["listKind"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        status: version["subresources"]["status"].is_object(),
        scale: version["subresources"]["scale"].is_object(),
        terminating: is_terminating(definition),
    }
    .row()
}

fn is_terminating(definition: &Value) -> bool {
    !definition["metadata"]["deletionTimestamp"].is_null()
}

fn versions_of(definition: &Value) -> &[Value] {
    definition["spec"]["versions"].as_array().map_or(&[], Vec::as_slice)
}

/// The order of versions: stable ones first, then beta, then alpha, newer before older, and others by name.
fn priority(version: &str) -> (u8, std::cmp::Reverse<u32>, std::cmp::Reverse<u32>, String) {
    let numbers = |text: &str| text.parse::<u32>().ok();
    let read = || {
        let rest = version.strip_prefix('v')?;
        for (class, word) in [(1, "beta"), (2, "alpha")] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((class, numbers(major)?, numbers(minor)?));
            }
        }
        Some((0, numbers(rest)?, 0))
    };
    match read() {
        Some((class, major, minor)) => {
            (class, std::cmp::Reverse(major), std::cmp::Reverse(minor), String::new())
        }
        None => (3, std::cmp::Reverse(0), std::cmp::Reverse(0), version.to_owned()),
    }
}

impl Registry {
    /// The kinds that are defined now.
    pub(crate) fn custom(&self) -> Arc<Custom> {
        self.custom.now()
    }

    /// Serves what the definitions say as of `rev`. Called where changes of the store are applied, and nowhere else.
    pub(super) fn redefine(&self, rev: u64) {
        let before = self.custom.now();
        let definitions = self.builtin(dyad_custom::GROUP, dyad_custom::PLURAL).cache.snapshot("").items;
        let mut custom = Custom::default();
        for stored in definitions {
            let definition = stored.value();
            if !is_established(&definition) {
                continue;
            }
            let spec = &definition["spec"];
            let key = (text(&spec["group"]), text(&spec["names"]["plural"]));
            if self.by_name.contains_key(&key) {
                // What is built in stays as it is.
                continue;
            }
            let known = before.entries.get(&key).filter(|known| {
                known.uid == definition["metadata"]["uid"]
                    && known.generation == definition["metadata"]["generation"]
                    && *known.spec == *spec
            });
            let entry = match known {
                Some(known) => known.clone(),
                None => match self.define(&definition, rev) {
                    Ok(entry) => entry,
                    Err(error) => {
                        tracing::error!(%error, plural = key.1, "the objects of a definition can't be read");
                        continue;
                    }
                },
            };
            custom.serve(&definition, &entry);
            custom.entries.insert(key, entry);
        }
        custom.rows.sort_by(|a, b| {
            let order = |row: &Kind| (row.group, priority(row.version), row.plural);
            order(a).cmp(&order(b))
        });
        let custom = Arc::new(custom);
        *self.custom.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&custom);
        for (key, entry) in &before.entries {
            let kept = custom.entries.get(key).is_some_and(|now| Arc::ptr_eq(&now.resource, &entry.resource));
            if !kept {
                // Whoever watches it comes back, to what it is now.
                entry.resource.cache.retire();
            }
        }
    }

    /// Reads a definition, and the objects that there are of it.
    fn define(&self, definition: &Value, rev: u64) -> Result<Entry, StoreError> {
        let all: Arc<[Arc<Version>]> = versions_of(definition)
            .iter()
            .map(|version| Arc::new(Version::read(definition, version)))
            .collect();
        let stored =
            versions_of(definition).iter().position(|version| version["storage"] == true).unwrap_or(0);
        let row = row(definition, &versions_of(definition)[stored]);
        let resource = Resource::custom(row, Arc::clone(&all[stored]), Arc::clone(&all));
        let prefix = resource.prefix.as_bytes();
        let (kvs, rev) = match self.store.range(prefix, None, Some(rev), 0) {
            Err(StoreError::Compacted { .. }) => self.store.range(prefix, None, None, 0)?,
            other => other?,
        };
        let key = |kv: &dyad_store::Kv| {
            let key = String::from_utf8_lossy(&kv.key[prefix.len()..]);
            key.into_owned().into_boxed_str()
        };
        let items = kvs.iter().filter_map(|kv| Some((key(kv), self.load_as(&resource, kv)?)));
        resource.cache.load(items.collect::<Vec<_>>(), rev);
        Ok(Entry {
            uid: definition["metadata"]["uid"].clone(),
            generation: definition["metadata"]["generation"].clone(),
            spec: Arc::new(definition["spec"].clone()),
            versions: all,
            resource: Arc::new(resource),
        })
    }
}

impl Custom {
    fn serve(&mut self, definition: &Value, entry: &Entry) {
        let webhook = definition["spec"]["conversion"]["strategy"] == "Webhook";
        for (version, read) in versions_of(definition).iter().zip(entry.versions.iter()) {
            if version["served"] != true {
                continue;
            }
            let row = row(definition, version);
            let stored = entry.resource.row;
            let unreadable = (webhook && version["storage"] != true).then(|| {
                format!(
                    "conversion webhook for {}, Kind={} failed: this server asks no webhooks; use version {}",
                    stored.api_version(),
                    stored.kind,
                    stored.version
                )
            });
            let custom = resource::Custom {
                version: Arc::clone(read),
                all: Arc::clone(&entry.versions),
                terminating: is_terminating(definition),
                unreadable,
            };
            let served = Served::custom(row, Arc::clone(&entry.resource), custom);
            let key = (row.group.to_owned(), row.version.to_owned(), row.plural.to_owned());
            self.served.insert(key, Arc::new(served));
            self.rows.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_prefers_them() {
        let mut versions = ["v1alpha1", "foo", "v2beta1", "v1", "v10", "v1beta2", "v2", "bar", "v2beta10"];
        versions.sort_by_key(|version| priority(version));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta10", "v2beta1", "v1beta2", "v1alpha1", "bar", "foo"]);
    }
}
