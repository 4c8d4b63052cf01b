//! What can be chosen: the values of the chart in `deploy/helm` with its defaults, merged as Helm merges them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dyad_net::{Blocks, Derivation, IpFamily, IpNet};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod chosen;
mod set;

pub use chosen::Chosen;

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
    pub wireguard_port: u16,
    pub tunnel_underlay: Underlay,
    pub mtu: u32,
    pub ipam: Ipam,
    pub derive: Derive,
    pub masquerade: bool,
    #[serde(rename = "masqueradeIPv4")]
    pub masquerade_ipv4: Masquerade,
    #[serde(rename = "masqueradeIPv6")]
    pub masquerade_ipv6: Masquerade,
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<IpNet>,
    pub ndp_proxy: bool,
    pub node_address_interfaces: Vec<String>,
    #[serde(rename = "nodeAddressCIDRs")]
    pub node_address_cidrs: Vec<IpNet>,
}

/// Which pods of a family are masqueraded outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub enum Masquerade {
    Auto,
    Always,
    Never,
}

/// What carries packets between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as `dyad agent --tunnel-underlay`")]
pub enum Underlay {
    Auto,
    Ipv4,
    Ipv6,
}

/// How ranges of one family follow from the other's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Derive {
    pub from: String,
    pub to: String,
}

impl Derive {
    fn check(&self) -> Result<(), ValuesError> {
        let blocks = |key, text: &str| {
            text.parse::<Blocks>().map_err(|error| wrong(key, format!("{error} (cni.ipam=derived needs it)")))
        };
        let (from, to) = (blocks("cni.derive.from", &self.from)?, blocks("cni.derive.to", &self.to)?);
        Derivation::new(from, to).map(drop).map_err(|error| wrong("cni.derive.to", error.to_string()))
    }
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as `dyad agent --routing`")]
pub enum Routing {
    Auto,
    Direct,
    Vxlan,
    Wireguard,
}

/// Where nodes have pod ranges from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "as `dyad agent --ipam`")]
pub enum Ipam {
    Kubernetes,
    Dyad,
    Derived,
}

/// What runs once per cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "values.yaml says what they mean")]
pub struct Controllers {
    pub replicas: u32,
    pub health_port: u16,
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
        if self.cni.wireguard_port == 0 {
            return Err(wrong(
                "cni.wireguardPort",
                "0 is no port: give one that is open between nodes, as 51871",
            ));
        }
        if self.cni.ipam == Ipam::Derived {
            self.cni.derive.check()?;
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
        if self.cni.mtu != 0 && !(1280..=65_535).contains(&self.cni.mtu) {
            return Err(wrong("cni.mtu", format!("{} is not in 1280..=65535, nor 0", self.cni.mtu)));
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
