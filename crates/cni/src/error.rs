//! What a plugin says when it cannot: the error object of the CNI specification.

use std::fmt::Display;

use serde_json::{Map, Value, json};

use crate::Version;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, CniError>;

/// The error numbers of the specification ("Error", well-known codes), and 50 and 51 of STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The configuration's version is none of ours.
    IncompatibleVersion = 1,
    /// A field has a value we do not support.
    UnsupportedField = 2,
    /// There is no such container: a runtime need not clean up.
    UnknownContainer = 3,
    /// An environment variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// What was read is no JSON.
    Decode = 6,
    /// The configuration says something that cannot be.
    InvalidConfig = 7,
    /// The same request may succeed later.
    TryAgainLater = 11,
    /// STATUS: the plugin cannot take ADD requests.
    NotAvailable = 50,
    /// STATUS: it cannot, and containers that are there may have no network.
    NotAvailableLimited = 51,
    /// What is there is not what was made (CHECK), or the kernel refused something.
    Failed = 100,
}

/// An error as it goes to whoever called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!(": {details}") })]
pub struct CniError {
    /// A number; see [`Code`].
    pub code: u32,
    /// One line: the field, the value, the way out.
    pub msg: String,
    /// More, if there is more.
    pub details: String,
}

impl CniError {
    /// An error with nothing more to say.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: String::new() }
    }

    /// The same with `details`.
    pub fn because(self, details: impl Display) -> Self {
        Self { details: details.to_string(), ..self }
    }

    /// Of a field of the configuration.
    pub(crate) fn config(field: &str, value: impl Display, way_out: &str) -> Self {
        Self::new(Code::InvalidConfig, format!("{field}: {value} {way_out}"))
    }

    /// Of a file that cannot be read or written.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::new(Code::Io, what).because(error)
    }

    /// As it is printed by a plugin.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = self.to_object();
        object.insert("cniVersion".into(), version.as_str().into());
        Value::Object(object)
    }

    /// Without a version, as it is sent from the agent.
    pub fn to_object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("code".into(), json!(self.code));
        object.insert("msg".into(), json!(self.msg));
        if !self.details.is_empty() {
            object.insert("details".into(), json!(self.details));
        }
        object
    }

    /// Reads what another plugin or the agent says; `None` if it is no error object.
    pub fn from_json(value: &Value) -> Option<Self> {
        let code = u32::try_from(value.get("code")?.as_u64()?).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self { code, msg: text("msg"), details: text("details") })
    }
}

impl From<dyad_nft::Error> for CniError {
    fn from(error: dyad_nft::Error) -> Self {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Self { code: Code::Failed as u32, msg: error.to_string(), details: source }
    }
}

impl From<dyad_links::Error> for CniError {
    fn from(error: dyad_links::Error) -> Self {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Self { code: Code::Failed as u32, msg: error.to_string(), details: source }
    }
}
