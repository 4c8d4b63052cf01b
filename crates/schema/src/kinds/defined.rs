//! Rows of kinds that are defined while the server runs.
//!
//! A row says nothing but names. One that was made once is there for as long as the server, and the same names get the same
//! row: a definition that comes and goes, or whose schema changes, takes no more memory than its first time.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{Deleted, Kind, Subresource, Verbs};

/// What a row is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Defined {
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Resource name in paths.
    pub plural: String,
    /// Resource name for one.
    pub singular: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `status` has an endpoint of its own.
    pub status: bool,
    /// Whether there is a `scale`.
    pub scale: bool,
    /// Whether the definition is being deleted, so that there are no new objects.
    pub terminating: bool,
}

const VERBS: Verbs = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const LAST_VERBS: Verbs = &["delete", "deletecollection", "get", "list", "watch"];
const READ_WRITE: Verbs = &["get", "patch", "update"];

const STATUS: Subresource =
    Subresource { name: "status", group_version: None, kind: None, verbs: READ_WRITE };
const SCALE: Subresource = Subresource {
    name: "scale",
    group_version: Some(("autoscaling", "v1")),
    kind: Some("Scale"),
    verbs: READ_WRITE,
};

impl Defined {
    /// The row, which is the same for the same names.
    pub fn row(&self) -> &'static Kind {
        static ROWS: OnceLock<Mutex<HashMap<Defined, &'static Kind>>> = OnceLock::new();
        let mut rows = ROWS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get(self) {
            return row;
        }
        let row: &'static Kind = Box::leak(Box::new(self.make()));
        rows.insert(self.clone(), row);
        row
    }

    fn make(&self) -> Kind {
        let texts = |list: &[String]| -> &'static [&'static str] {
            Box::leak(list.iter().map(|text| name(text)).collect())
        };
        Kind {
            group: name(&self.group),
            version: name(&self.version),
            kind: name(&self.kind),
            list_kind: Some(name(&self.list_kind)).filter(|name| !name.is_empty()),
            plural: name(&self.plural),
            singular: name(&self.singular),
            short_names: texts(&self.short_names),
            categories: texts(&self.categories),
            namespaced: self.namespaced,
            verbs: if self.terminating { LAST_VERBS } else { VERBS },
            subresources: match (self.status, self.scale) {
                (false, false) => &[],
                (true, false) => &[STATUS],
                (false, true) => &[SCALE],
                (true, true) => &[STATUS, SCALE],
            },
            deleted: Deleted::Status,
            columns: &[],
            view: None,
        }
    }
}

/// A name that is kept for as long as the server, once.
pub fn name(text: &str) -> &'static str {
    static NAMES: OnceLock<Mutex<HashMap<String, &'static str>>> = OnceLock::new();
    let mut names = NAMES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = names.get(text) {
        return name;
    }
    let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
    names.insert(text.to_owned(), kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_names_are_the_same_row() {
        let foo =
            Defined { group: "example.com".into(), kind: "Foo".into(), status: true, ..Defined::default() };
        let row = foo.row();
        assert!(std::ptr::eq(row, foo.clone().row()));
        assert_eq!((row.kind, row.list_kind().as_str(), row.subresources), ("Foo", "FooList", &[STATUS][..]));
        let going = Defined { terminating: true, list_kind: "Foos".into(), ..foo };
        assert!(!going.row().allows("create") && going.row().list_kind() == "Foos");
    }
}
