//! OpenAPI v3 documents, one per group and version, from the tables of fields and kinds (rule J4).
//!
//! `kubectl` explains, validates and merges with these; it goes back to the old protobuf document unless the PATCH
//! operation of a kind has the parameter `fieldValidation` and names strategic merge among its content types.
//! Descriptions are not part of the table; whoever has some hands them in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::fields::{Schema, Table};
use crate::kinds;
use crate::patch::PatchType;

mod old;
mod paths;
mod schemas;

pub use old::old;

#[cfg(test)]
mod tests;

/// A kind with its group and version; the group of core is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupVersionKind<'a> {
    /// Group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
}

impl GroupVersionKind<'_> {
    fn extension(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// A resource that is served, with its verbs as discovery names them.
#[derive(Clone, Debug)]
pub struct Resource<'a> {
    /// Plural, as in the path.
    pub plural: &'a str,
    /// Kind of an object, of the document's group and version.
    pub kind: &'a str,
    /// Whether objects are in a namespace.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<&'a str>,
    /// Whether DELETE answers with the object, not with a Status.
    pub delete_returns_object: bool,
    /// Subresources.
    pub subresources: Vec<Subresource<'a>>,
}

/// A subresource that is served.
#[derive(Clone, Debug)]
pub struct Subresource<'a> {
    /// Last part of the path.
    pub name: &'a str,
    /// What it is read and written as.
    pub kind: GroupVersionKind<'a>,
    /// Verbs.
    pub verbs: Vec<&'a str>,
}

impl Subresource<'_> {
    /// Whether it is a connection (exec, proxy, log) and no object.
    fn is_connection(&self) -> bool {
        self.name == "log" || self.kind.kind.ends_with("Options")
    }
}

impl From<&kinds::Kind> for Resource<'static> {
    fn from(row: &kinds::Kind) -> Self {
        let part = |part: &kinds::Subresource| {
            let (group, version) = part.group_version_of(row);
            let kind = GroupVersionKind { group, version, kind: part.kind_of(row) };
            Subresource { name: part.name, kind, verbs: part.verbs.to_vec() }
        };
        Self {
            plural: row.plural,
            kind: row.kind,
            namespaced: row.namespaced,
            verbs: row.verbs.to_vec(),
            delete_returns_object: row.deleted == kinds::Deleted::Object,
            subresources: row.subresources.iter().map(part).collect(),
        }
    }
}

/// The document of one group and version of the table of kinds; `None` if none of its kinds is there.
pub fn built_in(group: &str, version: &str, options: Options<'_>) -> Option<Value> {
    let rows = kinds::all().iter().filter(|row| (row.group, row.version) == (group, version));
    let resources: Vec<_> = rows.map(Resource::from).collect();
    (!resources.is_empty()).then(|| document(group, version, &resources, options))
}

/// What a document says beyond the tables.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Patches that are understood, besides apply. Without strategic merge among them kubectl goes back to the old document.
    pub patch_types: &'static [PatchType],
    /// Description of a schema (field empty) or of one of its fields, by their names in the document.
    pub descriptions: Option<fn(schema: &str, field: &str) -> Option<&'static str>>,
    /// Schemas of kinds that are not in the table, by their names in the document.
    pub custom: Option<&'a BTreeMap<String, Value>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { patch_types: &PatchType::ALL, descriptions: None, custom: None }
    }
}

/// The part of a URL that names a group and version: `api/v1`, `apis/apps/v1`.
pub fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of one group and version. Kinds without fields in the table appear as open objects.
pub fn document(group: &str, version: &str, resources: &[Resource<'_>], options: Options<'_>) -> Value {
    let mut writer = Writer { options, group, version, wanted: BTreeSet::new() };
    let paths = paths::all(&mut writer, resources);
    let schemas = schemas::all(&mut writer);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization"}},
        },
    })
}

/// The index at `/openapi/v3`: documents by the path of their group and version, with the hash of their text.
pub fn index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({ "paths": paths })
}

/// The hash of a document's text, for the index and for ETag (FNV-1a: it tells versions apart, no more).
pub fn hash(document: &[u8]) -> String {
    let hash = document.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016X}")
}

/// State while a document is written.
struct Writer<'a> {
    options: Options<'a>,
    group: &'a str,
    version: &'a str,
    /// Names of the schemas that something refers to.
    wanted: BTreeSet<String>,
}

impl Writer<'_> {
    /// A reference to a schema of the document, which from then on must be in it.
    fn reference(&mut self, name: &str) -> Value {
        self.wanted.insert(name.to_owned());
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// A reference to the schema of a kind.
    fn kind(&mut self, kind: &GroupVersionKind<'_>) -> Value {
        let custom = schemas::open_name(kind);
        if self.options.custom.is_some_and(|schemas| schemas.contains_key(&custom)) {
            return self.reference(&custom);
        }
        let name = match Schema::for_kind(kind.group, kind.version, kind.kind) {
            Some(schema) => schema.root().openapi.clone(),
            None => custom,
        };
        self.reference(&name)
    }

    fn meta(&mut self, kind: &str) -> Value {
        self.reference(&format!("{}.{kind}", schemas::META))
    }

    fn table() -> &'static Table {
        Table::get()
    }
}
