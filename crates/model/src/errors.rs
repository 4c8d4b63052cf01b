//! Field errors with the texts and cause reasons of Kubernetes (section 0.3 of the API specification).

use serde_json::Value;

/// Why a field is refused; decides the text and the cause reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// `Required value`.
    Required,
    /// `Invalid value`.
    Invalid,
    /// `Unsupported value`.
    NotSupported,
    /// `Duplicate value`.
    Duplicate,
    /// `Forbidden`.
    Forbidden,
    /// `Too many`.
    TooMany,
    /// `Too long`.
    TooLong,
    /// `Not found`.
    NotFound,
    /// `Internal error`.
    Internal,
    /// `Invalid value` with the reason `FieldValueTypeInvalid`.
    TypeInvalid,
}

impl ErrorType {
    /// The `reason` of the cause in a Status.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooMany => "FieldValueTooMany",
            Self::TooLong => "FieldValueTooLong",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooMany => "Too many",
            Self::TooLong => "Too long",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of refusal.
    pub kind: ErrorType,
    /// Path as Kubernetes writes it, e.g. `spec.clusterIPs[1]`.
    pub field: String,
    /// The refused value; not shown for `Required`, `Forbidden`, `TooLong` and `Internal`.
    pub value: Value,
    /// What would be right; may be empty.
    pub detail: String,
    /// How the value is shown.
    shown: Shown,
}

/// How a refused value is shown.
#[derive(Clone, Debug, Default, PartialEq)]
enum Shown {
    /// As it is.
    #[default]
    Value,
    /// As this text: a structure whose fields Kubernetes shows in another order, or under other names.
    Text(String),
    /// Not at all.
    Nothing,
}

impl FieldError {
    /// An error of the given kind.
    pub fn new(
        kind: ErrorType,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.into(),
            value: value.into(),
            detail: detail.into(),
            shown: Shown::default(),
        }
    }

    /// The same error, its value shown as the fields of a structure in the order given.
    pub(crate) fn shown_as(self, fields: &[(&str, &Value)]) -> Self {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        Self { shown: Shown::Text(format!("{{{}}}", fields.join(","))), ..self }
    }

    /// The same error without its value.
    pub fn without_value(self) -> Self {
        Self { shown: Shown::Nothing, ..self }
    }

    /// The same error of another field.
    pub fn at(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }

    /// `Invalid value`.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, field, value, detail)
    }

    /// `Required value`.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, field, Value::Null, detail)
    }

    /// `Forbidden`.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, field, Value::Null, detail)
    }

    /// `Not found`.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, field, value, "")
    }

    /// `Duplicate value`.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, field, value, "")
    }

    /// `Too many`, where only `limit` may be.
    pub fn too_many(field: impl Into<String>, count: usize, limit: usize) -> Self {
        let items = if limit == 1 { "item" } else { "items" };
        Self::new(ErrorType::TooMany, field, count, format!("must have at most {limit} {items}"))
    }

    /// `Unsupported value` with the supported ones, sorted and quoted.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut supported = supported.to_vec();
        supported.sort_unstable();
        Self::not_supported_in_order(field, value, &supported)
    }

    /// `Unsupported value` with the supported ones, quoted, in the order given, where Kubernetes does not sort them.
    pub fn not_supported_in_order(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = if supported.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", supported.join(", "))
        };
        Self::new(ErrorType::NotSupported, field, value, detail)
    }

    /// The message of the cause: everything but the field.
    pub fn body(&self) -> String {
        let text = self.kind.text();
        let mut body = match self.kind {
            ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::Internal => {
                text.to_owned()
            }
            _ => match (&self.shown, &self.value) {
                (Shown::Nothing, _) => text.to_owned(),
                (Shown::Text(shown), _) => format!("{text}: {shown}"),
                (Shown::Value, Value::String(value)) => format!("{text}: {}", quoted(value)),
                // JSON, which is how Value prints.
                (Shown::Value, value) => format!("{text}: {value}"),
            },
        };
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }
}

/// A string as Go quotes it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            control if control.is_ascii_control() => {
                out.push_str(&format!("\\x{:02x}", u32::from(control)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        let body = |value: &str| FieldError::invalid("f", value, "").body();
        assert_eq!(body("a\"b\\"), r#"Invalid value: "a\"b\\""#);
        assert_eq!(body("a\x01\n\x07é"), r#"Invalid value: "a\x01\n\aé""#);
        assert_eq!(FieldError::invalid("f", vec!["a"], "").body(), r#"Invalid value: ["a"]"#);
    }
}
