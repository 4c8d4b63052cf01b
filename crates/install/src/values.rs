//! What can be chosen: the values of the chart in `deploy/helm` with its defaults, merged as Helm merges them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod set;

/// The chart's own values.
pub(crate) const DEFAULTS: &str = include_str!("../../../deploy/helm/dyad/values.yaml");

/// Values below which anything may be named.
const FREE: [&str; 4] = ["agent.nodeSelector", "agent.resources", "controllers.resources", "dns.resources"];

/// Values that make no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValuesError {
    /// A file is no YAML.
    #[error("{0}")]
    Yaml(#[from] serde_saphyr::Error),
    /// There is no value of this name.
    #[error("{key}: there is no such value: {place} has {known}")]
    Unknown {
        /// Its path.
        key: String,
        /// Where it was looked for.
        place: String,
        /// What there is.
        known: String,
    },
    /// A value is of another kind, or not one of those that there are.
    #[error("{key}: {problem}")]
    Wrong {
        /// Its path.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// `--set` can't be read.
    #[error("--set {text:?}: {problem}")]
    Set {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn wrong(key: &str, problem: impl Into<String>) -> ValuesError {
    ValuesError::Wrong { key: key.to_owned(), problem: problem.into() }
}

/// All of them. What each means is said in `deploy/helm/dyad/values.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Values {
    pub image: Image,
    pub api: Api,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Vec<IpNet>,
    pub agent: Agent,
    pub proxy: Proxy,
    pub policy: Policy,
    pub cni: Cni,
    pub controllers: Controllers,
    pub dns: Dns,
    pub crds: Crds,
}

/// The image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Image {
    pub repository: String,
    pub tag: String,
    pub pull_policy: PullPolicy,
    pub pull_secrets: Vec<Value>,
}

/// When nodes pull an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "Kubernetes' words")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The way to the API server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Api {
    pub host: String,
    pub port: u16,
}

/// The agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Agent {
    pub verbosity: u8,
    pub extra_args: Vec<String>,
    pub resources: Map<String, Value>,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Value>,
    pub max_unavailable: Value,
    pub health_port: u16,
    pub metrics_port: u16,
}

/// Services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Proxy {
    pub enabled: bool,
    pub dataplane: Dataplane,
    pub cgroup_root: String,
    pub node_port_addresses: Vec<String>,
    pub masquerade_all: bool,
}

/// What carries Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as `dyad agent --dataplane`")]
pub enum Dataplane {
    Auto,
    Nftables,
    Ebpf,
}

/// Policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Policy {
    pub enabled: bool,
    pub open_pods: bool,
}

/// The network of pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Cni {
    pub enabled: bool,
    pub conf_dir: String,
    pub bin_dir: String,
    pub routing: Routing,
    pub mtu: u32,
    pub ipam: Ipam,
    pub masquerade: bool,
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as `dyad agent --routing`")]
pub enum Routing {
    Auto,
    Direct,
    Vxlan,
}

/// Where nodes have pod ranges from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as `dyad agent --ipam`")]
pub enum Ipam {
    Kubernetes,
    Dyad,
}

/// What runs once per cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Controllers {
    pub replicas: u32,
    pub extra_args: Vec<String>,
    pub resources: Map<String, Value>,
}

/// The cluster's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Dns {
    pub enabled: bool,
    pub service: String,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    pub replicas: u32,
    pub domain: String,
    pub upstreams: Vec<String>,
    pub resources: Map<String, Value>,
}

/// Definitions of kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Crds {
    pub enabled: bool,
}

/// What somebody has chosen, over the defaults: files first, then `--set`, the last one wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen(Map<String, Value>);

impl Chosen {
    /// Adds a file.
    pub fn file(&mut self, text: &str) -> Result<(), ValuesError> {
        match serde_saphyr::from_str::<Value>(text)? {
            Value::Object(map) => merge(&mut self.0, map),
            // A file with comments alone.
            Value::Null => {}
            _ => return Err(wrong("the file", "is no map of values, as `proxy: {enabled: false}`")),
        }
        Ok(())
    }

    /// Adds a `--set a.b=c,d=e`.
    pub fn set(&mut self, text: &str) -> Result<(), ValuesError> {
        set::parse(text)?.into_iter().for_each(|one| merge(&mut self.0, one));
        Ok(())
    }

    /// All values, the defaults where nothing was chosen.
    pub fn values(&self) -> Result<Values, ValuesError> {
        let mut all = defaults();
        overlay("", &mut all, &self.0)?;
        let values: Values =
            serde_json::from_value(Value::Object(all)).map_err(|error| wrong("values", error.to_string()))?;
        values.check()?;
        Ok(values)
    }

    /// As a file that says the same.
    pub fn to_yaml(&self) -> String {
        // A map of plain data always is YAML.
        serde_saphyr::to_string(&self.0).unwrap_or_default()
    }
}

/// The defaults, as the chart has them.
fn defaults() -> Map<String, Value> {
    match serde_saphyr::from_str(DEFAULTS) {
        Ok(Value::Object(map)) => map,
        // A test reads it.
        _ => Map::new(),
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(into)), Value::Object(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Puts what was chosen over the defaults; null takes a default back, as in Helm.
fn overlay(place: &str, into: &mut Map<String, Value>, from: &Map<String, Value>) -> Result<(), ValuesError> {
    let is_free = FREE.contains(&place);
    for (name, value) in from {
        let key = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        match (into.get_mut(name), value) {
            (None, _) if !is_free => {
                let place = if place.is_empty() { "the top" } else { place };
                let known = into.keys().cloned().collect::<Vec<_>>().join(", ");
                return Err(ValuesError::Unknown { key, place: place.to_owned(), known });
            }
            (_, Value::Null) => {
                if is_free {
                    into.remove(name);
                }
            }
            (Some(Value::Object(into)), Value::Object(from)) => overlay(&key, into, from)?,
            (Some(known), value) => *known = fitting(&key, known, value, is_free)?,
            (None, value) => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// The value, if it is of the kind of the one it takes the place of; numbers are texts where texts belong.
fn fitting(key: &str, known: &Value, value: &Value, is_free: bool) -> Result<Value, ValuesError> {
    let fits = match (known, value) {
        (Value::String(_), Value::Number(number)) => return Ok(number.to_string().into()),
        // A number of nodes, or a share of them.
        (Value::Number(_), Value::String(_)) if key == "agent.maxUnavailable" => true,
        (known, value) => kind(known) == kind(value),
    };
    if fits || is_free {
        return Ok(value.clone());
    }
    Err(wrong(key, format!("{value} is {}, and {} is wanted, as {known}", kind(value), kind(known))))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

impl Default for Values {
    fn default() -> Self {
        // A test reads the defaults.
        Chosen::default().values().unwrap_or_else(|error| unreachable!("{error}"))
    }
}

impl Values {
    /// As the templates see them.
    pub(crate) fn to_json(&self) -> Value {
        // Plain data always is JSON.
        serde_json::to_value(self).unwrap_or_default()
    }

    fn check(&self) -> Result<(), ValuesError> {
        let families: Vec<_> = self.cluster_cidr.iter().map(|range| IpFamily::from(*range)).collect();
        one_of_each("clusterCIDR", &families)?;
        let families: Vec<_> = self.dns.cluster_ips.iter().map(|ip| IpFamily::from(*ip)).collect();
        one_of_each("dns.clusterIPs", &families)?;
        if self.proxy.dataplane == Dataplane::Ebpf && self.proxy.cgroup_root.is_empty() {
            return Err(wrong(
                "proxy.cgroupRoot",
                "proxy.dataplane=ebpf needs it, as /sys/fs/cgroup/kubepods.slice (systemd) or /sys/fs/cgroup/kubepods",
            ));
        }
        for (key, path) in [
            ("cni.confDir", &self.cni.conf_dir),
            ("cni.binDir", &self.cni.bin_dir),
            ("proxy.cgroupRoot", &self.proxy.cgroup_root),
        ] {
            let is_missing = path.is_empty() && key == "proxy.cgroupRoot";
            if !is_missing && (!path.starts_with('/') || path.split('/').any(|part| part == "..")) {
                return Err(wrong(key, format!("{path:?} is no absolute path")));
            }
        }
        for (key, text) in [
            ("image.repository", &self.image.repository),
            ("dns.service", &self.dns.service),
            ("dns.domain", &self.dns.domain),
        ] {
            let is_fine = |c: char| c.is_ascii_alphanumeric() || "-._:/[]".contains(c);
            if text.is_empty() || !text.chars().all(is_fine) {
                return Err(wrong(key, format!("{text:?} is no name")));
            }
        }
        for upstream in &self.dns.upstreams {
            if upstream.is_empty() || upstream.contains(|c: char| c.is_whitespace() || c == '{' || c == '}') {
                return Err(wrong(
                    "dns.upstreams",
                    format!("{upstream:?} is no server, as 192.0.2.53 or tls://192.0.2.53"),
                ));
            }
        }
        Ok(())
    }
}

fn one_of_each(key: &str, families: &[IpFamily]) -> Result<(), ValuesError> {
    match families {
        [] | [_] => Ok(()),
        [one, other] if one != other => Ok(()),
        _ => Err(wrong(key, "one of each family at most, the primary one first")),
    }
}

#[cfg(test)]
mod tests;
