//! The table of kinds: everything the API server serves, one row each.
//!
//! There is no handler per kind. A row says how a kind is named, what can be done with it and how it looks in a
//! table; what it means is its strategy in `dyad-model`, found by group and kind. Kinds without logic cost one row.

use crate::columns::Column;

pub mod defined;
pub mod event;
mod table;
#[cfg(test)]
mod tests;

/// What clients may do with a resource, in the order of discovery documents.
pub type Verbs = &'static [&'static str];

/// What every stored resource offers (J1).
pub const ALL_VERBS: Verbs =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One served kind in one version.
#[derive(Debug)]
pub struct Kind {
    /// API group; `""` for the core group.
    pub group: &'static str,
    /// Version, e.g. `v1`.
    pub version: &'static str,
    /// Kind, e.g. `Pod`.
    pub kind: &'static str,
    /// Kind of a list, where it is not the kind and `List`.
    pub list_kind: Option<&'static str>,
    /// Resource name in paths, e.g. `pods`.
    pub plural: &'static str,
    /// Resource name for one, e.g. `pod`.
    pub singular: &'static str,
    /// Abbreviations for the command line, e.g. `po`.
    pub short_names: &'static [&'static str],
    /// Groups of resources for the command line, e.g. `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// What clients may do with it.
    pub verbs: Verbs,
    /// What can be asked below an object, sorted by name.
    pub subresources: &'static [Subresource],
    /// What DELETE answers when the object is gone at once (J40).
    pub deleted: Deleted,
    /// The columns of its table (J14).
    pub columns: &'static [Column],
    /// Whether the objects are stored as another kind.
    pub view: Option<&'static View>,
}

/// Something that can be asked below an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last part of the path, e.g. `scale`.
    pub name: &'static str,
    /// Group and version of what is sent and returned; `None` for those of the object.
    pub group_version: Option<(&'static str, &'static str)>,
    /// Kind of what is sent and returned; `None` for the object itself.
    pub kind: Option<&'static str>,
    /// What clients may do with it.
    pub verbs: Verbs,
}

/// What DELETE answers when the object is gone at once (J40).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// A Status `Success` with the object's uid in its details.
    Status,
    /// The object as it was last.
    Object,
}

/// How objects of one kind are those of another, which is the one that is stored.
#[derive(Debug)]
pub struct View {
    /// Group of the stored kind.
    pub group: &'static str,
    /// Kind of the stored kind.
    pub kind: &'static str,
    /// Turns an object as clients of this kind send it into the stored form.
    pub to_stored: fn(&mut serde_json::Value),
    /// Turns a stored object into what clients of this kind see.
    pub from_stored: fn(&mut serde_json::Value),
    /// The stored name of a field that field selectors can name (J53); `None` if they cannot name it.
    pub stored_field: fn(&str) -> Option<&'static str>,
}

impl Kind {
    const fn namespaced(
        group: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        columns: &'static [Column],
    ) -> Self {
        Self {
            group,
            version: "v1",
            kind,
            list_kind: None,
            plural,
            singular,
            short_names: &[],
            categories: &[],
            namespaced: true,
            verbs: ALL_VERBS,
            subresources: &[],
            deleted: Deleted::Status,
            columns,
            view: None,
        }
    }

    const fn cluster(
        group: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        columns: &'static [Column],
    ) -> Self {
        Self { namespaced: false, ..Self::namespaced(group, kind, plural, singular, columns) }
    }

    /// Of another version than v1.
    const fn version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    const fn short(self, short_names: &'static [&'static str]) -> Self {
        Self { short_names, ..self }
    }

    const fn in_category(self, categories: &'static [&'static str]) -> Self {
        Self { categories, ..self }
    }

    /// Shown by `kubectl get all`.
    const fn in_all(self) -> Self {
        self.in_category(&["all"])
    }

    /// Only asked and never stored.
    const fn review(self) -> Self {
        Self { verbs: &["create"], ..self }
    }

    const fn verbs(self, verbs: Verbs) -> Self {
        Self { verbs, ..self }
    }

    const fn below(self, subresources: &'static [Subresource]) -> Self {
        Self { subresources, ..self }
    }

    const fn returned_when_deleted(self) -> Self {
        Self { deleted: Deleted::Object, ..self }
    }

    const fn view_of_another(self, view: &'static View) -> Self {
        Self { view: Some(view), ..self }
    }

    /// `apiVersion` of the objects: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Kind of a list of the objects.
    pub fn list_kind(&self) -> String {
        self.list_kind.map_or_else(|| format!("{}List", self.kind), str::to_owned)
    }

    /// The type of an object, or of a list, in the internal version of Kubernetes, which some refusals name.
    pub fn go_type(&self, list: bool) -> String {
        let package = match self.group.split('.').next() {
            None | Some("") => "core",
            Some(label) => label,
        };
        format!("*{package}.{}{}", self.kind, if list { "List" } else { "" })
    }

    /// Whether its objects are only asked and never stored.
    pub fn is_review(&self) -> bool {
        self.verbs == ["create"]
    }

    /// Whether clients may use a verb on the resource itself.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The row whose objects are stored for this one: this one, or the one it is a view of.
    pub fn stored(&'static self) -> &'static Self {
        match self.view {
            Some(view) => {
                by_kind(view.group, view.kind).expect("the table names a stored kind; a test checks it")
            }
            None => self,
        }
    }

    /// Where the store keeps the objects: `/registry/core/pods/`, the same for all views of one kind.
    pub fn store_prefix(&'static self) -> String {
        let stored = self.stored();
        let group = if stored.group.is_empty() { "core" } else { stored.group };
        format!("/registry/{group}/{}/", stored.plural)
    }
}

impl Subresource {
    /// Group and version of what is sent and returned, for an object of this kind.
    pub fn group_version_of(&self, owner: &Kind) -> (&'static str, &'static str) {
        self.group_version.unwrap_or((owner.group, owner.version))
    }

    /// Kind of what is sent and returned, for an object of this kind.
    pub fn kind_of(&self, owner: &Kind) -> &'static str {
        self.kind.unwrap_or(owner.kind)
    }
}

/// `apiVersion` of a group and version: `v1`, `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Every row, those of an API group together, the groups in the order of discovery documents.
pub fn all() -> &'static [Kind] {
    table::KINDS
}

/// The row of a resource, as paths name it.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|row| row.plural == plural && row.group == group && row.version == version)
}

/// The row of a kind, as objects and owner references name it.
pub fn by_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|row| row.kind == kind && row.group == group)
}
