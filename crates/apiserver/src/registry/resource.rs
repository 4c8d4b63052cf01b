//! A resource: its row in the table of kinds, and what the server keeps for it.

use std::sync::Arc;

use bytes::Bytes;
use dyad_model::Strategy;
use dyad_schema::fields::Schema;
use dyad_schema::kinds::Kind;
use serde_json::{Map, Value};

use super::cache::Cache;
use super::selectable::{self, Selectable};
use crate::status::About;

/// A kind as it is stored, with its watch cache.
pub(crate) struct Resource {
    /// Its row in the table of kinds.
    pub(crate) row: &'static Kind,
    pub(crate) strategy: &'static dyn Strategy,
    /// Fields that field selectors can name (J53).
    pub(crate) selectable: &'static [Selectable],
    /// `{"kind":"Pod","apiVersion":"v1","metadata":{`: how every stored object of this kind begins, so that the
    /// resourceVersion can be put in without reading the object.
    pub(crate) opening: String,
    /// `/registry/<group>/<resource>/`.
    pub(crate) prefix: String,
    pub(crate) cache: Cache,
}

impl Resource {
    pub(crate) fn new(row: &'static Kind) -> Self {
        let (kind, version) = (row.kind, row.api_version());
        Self {
            row,
            strategy: dyad_model::strategy(row.group, row.kind),
            selectable: selectable::of(row.group, row.kind),
            opening: format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{{"),
            prefix: row.store_prefix(),
            cache: Cache::default(),
        }
    }

    /// The name under which the cache knows an object: `namespace/name`, or `name`.
    pub(crate) fn cache_key(&self, namespace: &str, name: &str) -> String {
        if self.row.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    /// The key under which the store knows an object.
    pub(crate) fn store_key(&self, namespace: &str, name: &str) -> Bytes {
        format!("{}{}", self.prefix, self.cache_key(namespace, name)).into()
    }

    /// Whether this is the resource of that group and name.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.row.group == group && self.row.plural == plural
    }
}

/// A kind as clients see it: as it is stored, or in another form (a view).
pub(crate) struct Served {
    /// Its row in the table of kinds.
    pub(crate) row: &'static Kind,
    pub(crate) schema: Schema,
    /// An object that says nothing.
    pub(crate) empty: Value,
    pub(crate) resource: Arc<Resource>,
}

impl Served {
    pub(crate) fn new(row: &'static Kind, resource: Arc<Resource>) -> Self {
        let schema = Schema::for_kind(row.group, row.version, row.kind)
            .expect("every row of the table of kinds has fields: a test of that table says so");
        let empty = schema.canonical(&Value::Object(Map::new())).unwrap_or_default();
        Self { row, schema, empty, resource }
    }

    /// Whether objects look as they are stored.
    pub(crate) fn as_stored(&self) -> bool {
        self.row.view.is_none()
    }

    /// Turns what a client sent into what is stored.
    pub(crate) fn to_stored(&self, object: &mut Value) {
        if let Some(view) = self.row.view {
            (view.to_stored)(object);
        }
    }

    /// Turns what is stored into what the client sees.
    pub(crate) fn show(&self, object: &mut Value) {
        if let Some(view) = self.row.view {
            (view.from_stored)(object);
        }
    }

    /// What errors say an object of this resource is.
    pub(crate) fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: self.row.group, resource: self.row.plural, kind: self.row.kind, name }
    }
}
