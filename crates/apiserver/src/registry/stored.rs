//! The form in which objects are stored, cached and sent: JSON bytes and the little that is looked at often.
//!
//! The resourceVersion of an object is the revision of its last write, which is not known before the write. It is
//! therefore not among the stored bytes but put in when the object is sent, at a place that is known without reading
//! the bytes: stored objects begin with [`Resource::opening`].

use bytes::Bytes;
use dyad_model::ClusterNet;
use dyad_model::selector::{FieldSelector, LabelSelector};
use serde_json::Value;

use super::resource::Resource;
use super::selectable::Selected;

/// Revision of what a dry run would have created.
pub(crate) const UNWRITTEN: u64 = 0;

/// An object at one revision.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Revision of its last write, or of its deletion.
    pub(crate) rev: u64,
    pub(crate) meta: Meta,
    json: Bytes,
    /// Length of [`Resource::opening`].
    opening: usize,
}

/// What filters and the write path look at.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
    selected: Selected,
}

/// Stored bytes that are not an object of their kind.
#[derive(Debug, thiserror::Error)]
#[error("the object stored under {key} cannot be read: {why}")]
pub(crate) struct Unreadable {
    key: String,
    why: String,
}

/// Which objects a request is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Empty for all namespaces.
    pub(crate) namespace: String,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    /// Whether a selector narrows it (J25: then there is no remainingItemCount).
    pub(crate) fn selects(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(crate) fn matches(&self, meta: &Meta) -> bool {
        (self.namespace.is_empty() || *self.namespace == *meta.namespace)
            && self.labels.matches_by(|key| meta.label(key))
            && self.fields.matches(|field| meta.field(field))
    }
}

impl Meta {
    pub(crate) fn of(resource: &Resource, object: &Value) -> Self {
        let meta = &object["metadata"];
        let text = |key: &str| meta[key].as_str().unwrap_or_default().into();
        let labels = meta["labels"].as_object().into_iter().flatten();
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            labels: labels
                .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
                .collect(),
            selected: resource.selected(object),
        }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| **label == *key).map(|(_, value)| &**value)
    }

    /// The value of a field that selectors can name.
    pub(crate) fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => &self.name,
            "metadata.namespace" => &self.namespace,
            _ => self.selected.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value),
        }
    }
}

impl Stored {
    /// Reads what the store holds, with the fields that older servers did not write.
    pub(crate) fn load(
        resource: &Resource,
        key: &[u8],
        value: &Bytes,
        rev: u64,
        cluster: &ClusterNet,
    ) -> Result<Self, Unreadable> {
        let unreadable = |why: String| Unreadable { key: String::from_utf8_lossy(key).into_owned(), why };
        let mut object: Value =
            serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?;
        let decorated = resource.strategy.decorate(&mut object, cluster);
        let as_written = !decorated && value.starts_with(resource.opening.as_bytes());
        let json = if as_written { value.clone() } else { encode(resource, &object) };
        Ok(Self { rev, meta: Meta::of(resource, &object), json, opening: resource.opening.len() })
    }

    /// An object that was just written as `json`, in the form in which it is read from now on (Q5).
    pub(crate) fn written(
        resource: &Resource,
        mut object: Value,
        json: Bytes,
        rev: u64,
        cluster: &ClusterNet,
    ) -> Self {
        let decorated = resource.strategy.decorate(&mut object, cluster);
        let json = if decorated { encode(resource, &object) } else { json };
        Self { rev, meta: Meta::of(resource, &object), json, opening: resource.opening.len() }
    }

    /// Its key in the cache of its resource.
    pub(crate) fn key(&self, resource: &Resource) -> String {
        resource.cache_key(&self.meta.namespace, &self.meta.name)
    }

    /// About how much memory it takes.
    pub(crate) fn weight(&self) -> usize {
        self.json.len() + 256
    }

    /// The text of the object, without its resourceVersion.
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// The object without its resourceVersion.
    pub(crate) fn bare(&self) -> Value {
        serde_json::from_slice(&self.json).expect("read once when it was loaded")
    }

    /// The object.
    pub(crate) fn value(&self) -> Value {
        self.value_at(self.rev)
    }

    /// The object as of another revision than that of its last write: its deletion, for instance.
    pub(crate) fn value_at(&self, rev: u64) -> Value {
        let mut object = self.bare();
        if rev != UNWRITTEN {
            object["metadata"]["resourceVersion"] = rev.to_string().into();
        }
        object
    }

    /// Appends the object as JSON.
    pub(crate) fn write_to(&self, rev: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.json[..self.opening]);
        self.write_rest(rev, out);
    }

    /// Appends the object as an item of a list, which does not repeat its kind.
    pub(crate) fn write_item_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"metadata\":{");
        self.write_rest(self.rev, out);
    }

    fn write_rest(&self, rev: u64, out: &mut Vec<u8>) {
        if rev != UNWRITTEN {
            out.extend_from_slice(b"\"resourceVersion\":\"");
            out.extend_from_slice(rev.to_string().as_bytes());
            out.extend_from_slice(b"\",");
        }
        out.extend_from_slice(&self.json[self.opening..]);
    }
}

/// The stored form of an object: kind, apiVersion and metadata first, without its resourceVersion.
///
/// Every object has a name, so that its metadata never is an empty map.
pub(crate) fn encode(resource: &Resource, object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(resource.opening.as_bytes());
    let mut first = true;
    let mut entry = |out: &mut Vec<u8>, key: &str, value: &Value| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, key).expect("writing to memory");
        out.push(b':');
        serde_json::to_writer(&mut *out, value).expect("a Value has string keys only");
    };
    for (key, value) in object["metadata"].as_object().into_iter().flatten() {
        if key != "resourceVersion" {
            entry(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            entry(&mut out, key, value);
        }
    }
    out.push(b'}');
    // It is kept for as long as the object is: without the room for more that was made for writing it.
    Bytes::from(out.into_boxed_slice())
}
