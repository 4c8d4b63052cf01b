//! A resource: its row in the table of kinds, and what the server keeps for it.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use dyad_custom::Version;
use dyad_model::Strategy;
use dyad_model::selector::FieldSelector;
use dyad_schema::fields::Schema;
use dyad_schema::kinds::{self, Kind};
use serde_json::{Map, Value, json};

use super::cache::Cache;
use super::selectable::{self, Selectable, Selected};
use crate::status::About;

/// A kind as it is stored, with its watch cache.
pub(crate) struct Resource {
    /// Its row in the table of kinds.
    pub(crate) row: &'static Kind,
    pub(crate) strategy: Logic,
    /// Fields that field selectors can name (J53).
    selectable: &'static [Selectable],
    /// The versions of a kind that was defined.
    versions: Arc<[Arc<Version>]>,
    /// `{"kind":"Pod","apiVersion":"v1","metadata":{`: how every stored object of this kind begins, so that the
    /// resourceVersion can be put in without reading the object.
    pub(crate) opening: String,
    /// `/registry/<group>/<resource>/`.
    pub(crate) prefix: String,
    pub(crate) cache: Cache,
}

/// What a kind means: as it is built in, or as it was defined.
#[derive(Clone)]
pub(crate) enum Logic {
    BuiltIn(&'static dyn Strategy),
    Custom(Arc<Version>),
}

impl Deref for Logic {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(strategy) => *strategy,
            Self::Custom(version) => &**version,
        }
    }
}

impl Resource {
    /// A kind of the table.
    pub(crate) fn new(row: &'static Kind) -> Self {
        let strategy = match (row.group, row.kind) {
            (dyad_custom::GROUP, dyad_custom::KIND) => &dyad_custom::DEFINITION,
            (group, kind) => dyad_model::strategy(group, kind),
        };
        Self::with(row, Logic::BuiltIn(strategy))
    }

    /// A kind that was defined, as it is stored.
    pub(crate) fn custom(row: &'static Kind, version: Arc<Version>, all: Arc<[Arc<Version>]>) -> Self {
        Self { versions: all, ..Self::with(row, Logic::Custom(version)) }
    }

    fn with(row: &'static Kind, strategy: Logic) -> Self {
        let (kind, version) = (row.kind, row.api_version());
        Self {
            row,
            strategy,
            selectable: selectable::of(row.group, row.kind),
            versions: Arc::default(),
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

    /// The values of the fields that selectors can name.
    pub(crate) fn selected(&self, object: &Value) -> Selected {
        match &self.strategy {
            Logic::BuiltIn(_) => selectable::read(self.selectable, object),
            Logic::Custom(_) => {
                let mut all: Vec<(&'static str, Box<str>)> = Vec::new();
                for version in &*self.versions {
                    for (name, value) in version.selectable().zip(version.selected(object)) {
                        if !value.is_empty() && !all.iter().any(|(known, _)| *known == name) {
                            all.push((kinds::defined::name(name), value.into_boxed_str()));
                        }
                    }
                }
                all.into_boxed_slice()
            }
        }
    }

    /// Whether this is the resource of that group and name.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.row.group == group && self.row.plural == plural
    }
}

/// A kind as clients see it: as it is stored, or in another form (a view, another version).
pub(crate) struct Served {
    /// Its row in the table of kinds.
    pub(crate) row: &'static Kind,
    pub(crate) fields: Fields,
    /// An object that says nothing.
    pub(crate) empty: Value,
    pub(crate) resource: Arc<Resource>,
}

/// What the fields of a kind are.
pub(crate) enum Fields {
    Table(Schema),
    Custom(Custom),
}

/// A version of a kind that was defined, among the others.
pub(crate) struct Custom {
    pub(crate) version: Arc<Version>,
    pub(crate) all: Arc<[Arc<Version>]>,
    /// Whether its definition is being deleted.
    pub(crate) terminating: bool,
    /// Why its objects cannot be read in this version.
    pub(crate) unreadable: Option<String>,
}

impl Served {
    pub(crate) fn new(row: &'static Kind, resource: Arc<Resource>) -> Self {
        let schema = Schema::for_kind(row.group, row.version, row.kind)
            .expect("every row of the table of kinds has fields: a test of that table says so");
        let empty = schema.canonical(&Value::Object(Map::new())).unwrap_or_default();
        Self { row, fields: Fields::Table(schema), empty, resource }
    }

    /// A version of a kind that was defined.
    pub(crate) fn custom(row: &'static Kind, resource: Arc<Resource>, custom: Custom) -> Self {
        let empty = json!({"kind": row.kind, "apiVersion": row.api_version()});
        Self { row, fields: Fields::Custom(custom), empty, resource }
    }

    /// The fields of a kind of the table.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        match &self.fields {
            Fields::Table(schema) => Some(schema),
            Fields::Custom(_) => None,
        }
    }

    /// What it is if it was defined.
    pub(crate) fn defined(&self) -> Option<&Custom> {
        match &self.fields {
            Fields::Table(_) => None,
            Fields::Custom(custom) => Some(custom),
        }
    }

    /// What the kind means to those who write it in this form.
    pub(crate) fn strategy(&self) -> &dyn Strategy {
        match &self.fields {
            Fields::Table(_) => &*self.resource.strategy,
            Fields::Custom(custom) => &*custom.version,
        }
    }

    /// Whether objects look as they are stored.
    pub(crate) fn as_stored(&self) -> bool {
        self.row.view.is_none() && std::ptr::eq(self.row.version, self.resource.row.version)
    }

    /// Turns what a client sent into what is stored.
    pub(crate) fn to_stored(&self, object: &mut Value) {
        if let Some(view) = self.row.view {
            (view.to_stored)(object);
        }
        if let Logic::Custom(stored) = &self.resource.strategy
            && !self.as_stored()
        {
            stored.show(object);
        }
    }

    /// Turns what is stored into what the client sees.
    pub(crate) fn show(&self, object: &mut Value) {
        if let Some(view) = self.row.view {
            (view.from_stored)(object);
        }
        if let Fields::Custom(custom) = &self.fields
            && !self.as_stored()
        {
            custom.version.show(object);
        }
    }

    /// Whether every field of a selector can be selected by; the error is the message of the 400.
    pub(crate) fn check_selector(&self, selector: &FieldSelector) -> Result<(), String> {
        match &self.fields {
            Fields::Table(_) => selectable::check(self.resource.selectable, selector),
            Fields::Custom(custom) => {
                let known: Vec<&str> = custom.version.selectable().collect();
                selectable::check_names(&known, self.row.namespaced, selector)
            }
        }
    }

    /// What errors say an object of this resource is.
    pub(crate) fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        About { group: self.row.group, resource: self.row.plural, kind: self.row.kind, name }
    }
}
