//! The configuration of a plugin, as it comes from standard input.

use std::net::IpAddr;

use dyad_net::{IpNet, check_ip};
use serde_json::{Map, Value};

use crate::{CniError, CniResult, Code, Result, Version};

/// A configuration: what all plugins have in common, and the rest as it was written.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// Of the specification.
    pub version: Version,
    /// Of the network.
    pub name: String,
    /// Of the plugin.
    pub kind: String,
    raw: Value,
}

impl NetConf {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let value = serde_json::from_slice(bytes).map_err(|error| {
            CniError::new(Code::Decode, "the network configuration on standard input is no JSON")
                .because(error)
        })?;
        Self::from_value(value)
    }

    /// The same of what has been read already.
    pub fn from_value(raw: Value) -> Result<Self> {
        if !raw.is_object() {
            return Err(CniError::new(Code::Decode, "the network configuration is no JSON object"));
        }
        let top = Fields::of(&raw);
        let version = top.text("cniVersion")?.unwrap_or("0.1.0");
        let version = Version::parse(version).ok_or_else(|| {
            let ours = Version::ALL.map(Version::as_str).join(", ");
            CniError::new(
                Code::IncompatibleVersion,
                format!("cniVersion: {version:?} is none of those this plugin speaks: {ours}"),
            )
        })?;
        let name = top.text("name")?.unwrap_or_default().to_owned();
        if !is_name(&name) {
            let way_out = "is no network name: letters and digits, and '_', '.', '-' behind the first";
            return Err(CniError::config("name", format_args!("{name:?}"), way_out));
        }
        let kind = top.text("type")?.unwrap_or_default().to_owned();
        Ok(Self { version, name, kind, raw })
    }

    /// The whole document.
    pub const fn raw(&self) -> &Value {
        &self.raw
    }

    /// Its fields.
    pub fn fields(&self) -> Fields<'_> {
        Fields::of(&self.raw)
    }

    /// What the plugins before this one made; after ADD, what all of them did.
    pub fn previous(&self) -> Result<Option<CniResult>> {
        match self.fields().get("prevResult") {
            None => Ok(None),
            Some(value) => CniResult::parse(value)
                .map(Some)
                .map_err(|error| CniError { msg: format!("prevResult: {}", error.msg), ..error }),
        }
    }

    /// The same, where a plugin can do nothing without.
    pub fn needed_previous(&self) -> Result<CniResult> {
        self.previous()?.ok_or_else(|| {
            let way_out = "needs the result of a plugin before it: put it behind one in the plugins list";
            CniError::new(
                Code::InvalidConfig,
                format!("prevResult: there is none, and {} {way_out}", self.kind),
            )
        })
    }
}

/// Names of networks and containers: as in the specification.
pub(crate) fn is_name(text: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_alphanumeric();
    let is_other = |byte: u8| is_first(byte) || b"_.-".contains(&byte);
    matches!(text.as_bytes(), [first, rest @ ..] if is_first(*first) && rest.iter().copied().all(is_other))
}

/// An object of the configuration, and where it is. What is `null` counts as left out.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Self {
        Self { path: String::new(), map: value.as_object() }
    }

    /// The name of a field, for errors: `ipam.ranges`.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A field. As in Go, in which runtimes and the reference plugins are written, its name may be in letters of any case
    /// where there is none that is exactly so: containerd writes `HostPort`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        let map = self.map?;
        let alike = || map.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        map.get(key).or_else(alike).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        way_out: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| CniError::config(&self.name(key), value, way_out))
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "is no string: put it in quotes", Value::as_str)
    }

    /// True or false; false when left out.
    pub fn is(&self, key: &str) -> Result<bool> {
        Ok(self.flag(key)?.unwrap_or(false))
    }

    /// True, false, or left out.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "must be true or false, without quotes", Value::as_bool)
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "must be a whole number, zero or more, without quotes", Value::as_u64)
    }

    /// A number of 32 bits.
    pub fn small(&self, key: &str) -> Result<Option<u32>> {
        let read = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.typed(key, "must be a whole number from 0 to 4294967295, without quotes", read)
    }

    /// An address.
    pub fn ip(&self, key: &str) -> Result<Option<IpAddr>> {
        match self.text(key)? {
            None | Some("") => Ok(None),
            Some(text) => check_ip(text).map(Some).map_err(|reason| {
                CniError::config(&self.name(key), format_args!("{text:?}"), &reason.to_string())
            }),
        }
    }

    /// A prefix; bits beyond its length may be set.
    pub fn net(&self, key: &str) -> Result<Option<IpNet>> {
        match self.text(key)? {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                let way_out = "must be an address with a length, as in 10.1.0.0/16 or fd00:10:1::/64";
                CniError::config(&self.name(key), format_args!("{text:?}"), way_out)
            }),
        }
    }

    /// A list; empty when left out.
    pub fn list(&self, key: &str) -> Result<&'a [Value]> {
        let read = |value: &'a Value| value.as_array().map(Vec::as_slice);
        Ok(self.typed(key, "must be a list", read)?.unwrap_or_default())
    }

    /// An object; empty when left out.
    pub fn object(&self, key: &str) -> Result<Self> {
        let map = self.typed(key, "must be an object", Value::as_object)?;
        Ok(Self { path: self.name(key), map })
    }

    /// The objects of a list.
    pub fn objects(&self, key: &str) -> Result<Vec<Self>> {
        let list = self.list(key)?.iter().enumerate();
        list.map(|(at, value)| Self::entry(format!("{}[{at}]", self.name(key)), value)).collect()
    }

    /// An object that is called `path`.
    pub(crate) fn entry(path: String, value: &'a Value) -> Result<Self> {
        match value.as_object() {
            Some(map) => Ok(Self { path, map: Some(map) }),
            None => Err(CniError::config(&path, value, "must be an object")),
        }
    }
}
