//! Who owns what of an object: `metadata.managedFields`, read and written.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::codec::FieldsError;
use super::set::Set;

/// What a manager did to own something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Applied a configuration.
    Apply,
    /// Wrote the object, or a part of it.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A manager as far as it is told from others. Those that apply are the same in all versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// What it did.
    pub operation: Operation,
    /// In which version, if it updated.
    pub version: String,
    /// Through which subresource; empty for none.
    pub subresource: String,
}

/// What a manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The version that the paths are of.
    pub version: String,
    /// The paths.
    pub set: Set,
    /// When it changed something last, RFC 3339.
    pub time: Option<String>,
}

/// All managers of an object.
pub type Managers = BTreeMap<Manager, Owned>;

/// Why `metadata.managedFields` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManagersError {
    /// An operation that there is not.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    Version,
    /// No type of the fields.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoType(usize),
    /// A type of fields that there is not.
    #[error("invalid fieldsType {kind:?} in managed fields entry {at}")]
    Type {
        /// The type.
        kind: String,
        /// The entry.
        at: usize,
    },
    /// Fields that are none.
    #[error("error decoding set: {0}")]
    Fields(#[from] FieldsError),
}

/// Reads the managers of an object.
pub fn decode(object: &Value) -> Result<Managers, ManagersError> {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut managers = Managers::new();
    for (at, entry) in entries.into_iter().flatten().enumerate() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err(ManagersError::Operation),
        };
        let version = text("apiVersion");
        if version.is_empty() {
            return Err(ManagersError::Version);
        }
        match text("fieldsType").as_str() {
            "FieldsV1" => {}
            "" => return Err(ManagersError::NoType(at)),
            kind => return Err(ManagersError::Type { kind: kind.to_owned(), at }),
        }
        let manager = Manager::new(&text("manager"), operation, &version, &text("subresource"));
        let time = entry["time"].as_str().map(str::to_owned);
        managers.insert(manager, Owned { version, set: Set::from_fields(&entry["fieldsV1"])?, time });
    }
    Ok(managers)
}

/// Writes the managers into an object, in the order of Kubernetes: by operation, time and name.
pub fn encode(object: &mut Value, managers: &Managers) {
    let mut entries: Vec<_> = managers.iter().collect();
    entries.sort_by(|(a, owned), (b, theirs)| {
        let order = a.operation.cmp(&b.operation).then_with(|| owned.time.cmp(&theirs.time));
        let order = order.then_with(|| a.name.cmp(&b.name)).then_with(|| owned.version.cmp(&theirs.version));
        order.then_with(|| a.subresource.cmp(&b.subresource))
    });
    let entries: Vec<Value> = entries.into_iter().map(|(manager, owned)| entry(manager, owned)).collect();
    let Value::Object(object) = object else { return };
    let meta = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(meta) = meta else { return };
    if entries.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".to_owned(), entries.into());
    }
}

fn entry(manager: &Manager, owned: &Owned) -> Value {
    let mut entry = Map::new();
    let mut text = |key: &str, value: &str| {
        if !value.is_empty() {
            entry.insert(key.to_owned(), value.into());
        }
    };
    text("manager", &manager.name);
    text("operation", manager.operation.name());
    text("apiVersion", &owned.version);
    text("time", owned.time.as_deref().unwrap_or_default());
    text("fieldsType", "FieldsV1");
    text("subresource", &manager.subresource);
    entry.insert("fieldsV1".to_owned(), owned.set.to_fields());
    Value::Object(entry)
}

impl Manager {
    /// The manager of this name.
    pub fn new(name: &str, operation: Operation, version: &str, subresource: &str) -> Self {
        let version = if operation == Operation::Apply { "" } else { version };
        Self {
            name: name.to_owned(),
            operation,
            version: version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

impl std::fmt::Display for Manager {
    /// As messages name it: `"kubectl" with subresource "status" using apps/v1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.version),
        }
    }
}
