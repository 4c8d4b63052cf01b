//! What stood where a value is now, as far as that can be told.

use serde_json::Value;

use crate::schema::{ListType, Schema};

/// The value before the change, or nothing to compare with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Old<'a>(Option<&'a Value>);

impl<'a> Old<'a> {
    /// There is none: the object is new.
    pub(crate) const NONE: Self = Self(None);

    /// This one.
    pub(crate) fn of(value: &'a Value) -> Self {
        Self(Some(value))
    }

    /// The value itself.
    pub(crate) fn value(self) -> Option<&'a Value> {
        self.0
    }

    /// Whether it is what it was.
    pub(crate) fn is(self, value: &Value) -> bool {
        self.0 == Some(value)
    }

    /// What stood under a key. The version of an object is not compared: both are shown in the same.
    pub(crate) fn key(self, key: &str, path: &str) -> Self {
        let hidden = path.is_empty() && matches!(key, "apiVersion" | "kind");
        Self(if hidden { None } else { self.0.and_then(|old| old.get(key)) })
    }

    /// The element of a list that is this one; only those of lists with keys can be told.
    pub(crate) fn item(self, schema: &Schema, item: &Value) -> Self {
        let ListType::Map(keys) = &schema.list else { return Self::NONE };
        let same = |other: &&Value| keys.iter().all(|key| other.get(key) == item.get(key));
        Self(self.0.and_then(Value::as_array).and_then(|items| items.iter().find(same)))
    }
}
