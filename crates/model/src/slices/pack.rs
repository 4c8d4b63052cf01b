//! Packing endpoints of one port list and family into slices, with few writes (E19).

use std::collections::BTreeMap;

use serde_json::Value;

use super::{SliceChanges, wire};

/// The endpoints that share a port list, and the slices that already have it.
pub(super) struct Group<'a> {
    ports: Vec<Value>,
    wanted: BTreeMap<String, Value>,
    existing: Vec<&'a Value>,
    /// Whether endpoints keep the hints they have, for somebody else to change.
    keeps_hints: bool,
}

/// What becomes of an existing slice.
enum Fate {
    Unchanged,
    Update,
    Delete,
}

struct Draft<'a> {
    slice: &'a Value,
    endpoints: Vec<Value>,
    fate: Fate,
}

/// What tells endpoints apart; everything else about them may change in place.
fn identity(endpoint: &Value) -> String {
    let target = wire::at(endpoint, &["targetRef"]);
    let mut addresses: Vec<&str> = wire::texts(endpoint, "addresses").collect();
    addresses.sort_unstable();
    let name = (wire::text(target, "namespace"), wire::text(target, "name"));
    format!("{}/{}/{addresses:?}/{}", name.0, name.1, wire::text(endpoint, "hostname"))
}

impl<'a> Group<'a> {
    pub(super) fn new(ports: Vec<Value>, keeps_hints: bool) -> Self {
        Self { ports, wanted: BTreeMap::new(), existing: Vec::new(), keeps_hints }
    }

    /// Adds an endpoint that should be there.
    pub(super) fn want(&mut self, endpoint: Value) {
        self.wanted.insert(identity(&endpoint), endpoint);
    }

    /// Adds a slice that is there.
    pub(super) fn have(&mut self, slice: &'a Value) {
        self.existing.push(slice);
    }

    /// The writes that put every wanted endpoint into exactly one slice of at most `max`, and nothing else.
    pub(super) fn pack(
        mut self,
        labels: &Value,
        max: usize,
        new: impl Fn(&[Value]) -> Value,
    ) -> SliceChanges {
        let max = max.max(1);
        let mut drafts = self.refresh(labels);
        self.fill_changed(&mut drafts, max);
        let mut changes = SliceChanges::default();
        while !self.wanted.is_empty() {
            let room = |draft: &Draft<'_>| max.checked_sub(draft.endpoints.len() + self.wanted.len());
            // The slice that has room for all of the rest and is filled best by it.
            let fitting = drafts
                .iter_mut()
                .filter(|draft| {
                    matches!(draft.fate, Fate::Unchanged) && room(draft).is_some_and(|room| room < max)
                })
                .min_by_key(|draft| room(draft));
            match fitting.filter(|_| self.wanted.len() < max) {
                Some(draft) => {
                    draft.fate = Fate::Update;
                    self.fill(&mut draft.endpoints, max);
                }
                None => {
                    let mut endpoints = Vec::new();
                    self.fill(&mut endpoints, max);
                    let mut slice = new(&self.ports);
                    wire::set(&mut slice, "endpoints", endpoints);
                    changes.create.push(slice);
                }
            }
        }
        for draft in drafts {
            match draft.fate {
                Fate::Unchanged => {}
                Fate::Delete => changes.delete.push(draft.slice.clone()),
                Fate::Update => {
                    let mut slice = draft.slice.clone();
                    wire::set(&mut slice, "endpoints", draft.endpoints);
                    wire::set(wire::child(&mut slice, "metadata"), "labels", labels.clone());
                    changes.update.push(slice);
                }
            }
        }
        changes
    }

    /// Keeps in each slice what is still wanted, as it is wanted.
    fn refresh(&mut self, labels: &Value) -> Vec<Draft<'a>> {
        let existing = std::mem::take(&mut self.existing).into_iter();
        existing
            .map(|slice| {
                let old = wire::list(slice, "endpoints");
                let endpoints = old.iter().filter_map(|endpoint| {
                    let mut wanted = self.wanted.remove(&identity(endpoint))?;
                    if self.keeps_hints {
                        wire::copy(&mut wanted, endpoint, "hints");
                    }
                    Some(wanted)
                });
                let endpoints: Vec<Value> = endpoints.collect();
                let fate = if endpoints == old {
                    let same_labels = wire::at(slice, &["metadata", "labels"]) == labels;
                    if same_labels { Fate::Unchanged } else { Fate::Update }
                } else if endpoints.is_empty() {
                    Fate::Delete
                } else {
                    Fate::Update
                };
                Draft { slice, endpoints, fate }
            })
            .collect()
    }

    /// Fills the slices that are written anyway, the fullest first.
    fn fill_changed(&mut self, drafts: &mut [Draft<'_>], max: usize) {
        let mut changed: Vec<&mut Draft<'_>> =
            drafts.iter_mut().filter(|draft| matches!(draft.fate, Fate::Update)).collect();
        changed.sort_by_key(|draft| std::cmp::Reverse(draft.endpoints.len()));
        for draft in changed {
            self.fill(&mut draft.endpoints, max);
        }
    }

    fn fill(&mut self, endpoints: &mut Vec<Value>, max: usize) {
        while endpoints.len() < max
            && let Some((_, endpoint)) = self.wanted.pop_first()
        {
            endpoints.push(endpoint);
        }
    }
}
