//! A kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Settings, duration};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It can't be parsed at all.
    #[error("the file is not YAML")]
    Yaml(#[from] serde_saphyr::Error),
    /// It is something else.
    #[error("the file is {found}, not a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1")]
    Kind {
        /// What it says it is.
        found: String,
    },
    /// A field has a value of the wrong type.
    #[error("{field}: {value} {problem}")]
    Field {
        /// The path of the field.
        field: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The fields there are, by the object they are in; those behind the `|` say nothing to us.
const FIELDS: [(&str, &str); 8] = [
    (
        "",
        "apiVersion kind bindAddress healthzBindAddress metricsBindAddress clusterCIDR hostnameOverride \
         clientConnection iptables ipvs nftables winkernel conntrack detectLocal detectLocalMode mode \
         nodePortAddresses oomScoreAdj | bindAddressHardFail configSyncPeriod enableProfiling featureGates logging \
         portRange showHiddenMetricsForVersion windowsRunAsService",
    ),
    ("clientConnection", "kubeconfig | acceptContentTypes burst contentType qps"),
    ("iptables", "masqueradeAll syncPeriod | localhostNodePorts masqueradeBit minSyncPeriod"),
    (
        "ipvs",
        "syncPeriod | excludeCIDRs minSyncPeriod scheduler strictARP tcpFinTimeout tcpTimeout udpTimeout",
    ),
    ("nftables", "masqueradeAll syncPeriod | masqueradeBit minSyncPeriod"),
    ("winkernel", "| enableDSR forwardHealthCheckVip networkName rootHnsEndpointName sourceVip"),
    (
        "conntrack",
        "maxPerCore min tcpBeLiberal tcpCloseWaitTimeout tcpEstablishedTimeout udpStreamTimeout udpTimeout |",
    ),
    ("detectLocal", "| bridgeInterface interfaceNamePrefix"),
];

/// Reads a file: its settings, and warnings of fields that are not known.
///
/// kube-proxy, too, goes on without what it does not know (its lenient decoding), and says so.
pub fn read_file(text: &str) -> Result<(Settings, Vec<String>), FileError> {
    let root: Value = serde_saphyr::from_str(text)?;
    let root = Object { path: String::new(), fields: root.as_object().cloned().unwrap_or_default() };
    let (version, kind) = (root.text("apiVersion")?, root.text("kind")?);
    if (version.as_deref(), kind.as_deref())
        != (Some("kubeproxy.config.k8s.io/v1alpha1"), Some("KubeProxyConfiguration"))
    {
        let said = |text: Option<String>, what: &str| text.unwrap_or_else(|| format!("without {what}"));
        let found = format!("{}, {}", said(version, "apiVersion"), said(kind, "kind"));
        return Err(FileError::Kind { found });
    }
    let mut warnings = Vec::new();
    for (object, fields) in FIELDS {
        let object = if object.is_empty() { root.clone() } else { root.object(object)? };
        let is_known = |field: &str| fields.split_whitespace().any(|known| known == field);
        let unknown = object.fields.keys().filter(|field| !is_known(field));
        warnings.extend(unknown.map(|field| format!("unknown field {:?} is ignored", object.path_of(field))));
    }
    let mode = root.text("mode")?;
    let of_mode = root.object(match mode.as_deref() {
        Some("ipvs") => "ipvs",
        Some("nftables") => "nftables",
        _ => "iptables",
    })?;
    let (client, conntrack) = (root.object("clientConnection")?, root.object("conntrack")?);
    let settings = Settings {
        kubeconfig: client.text("kubeconfig")?.map(PathBuf::from),
        hostname_override: root.text("hostnameOverride")?,
        masquerade_all: of_mode.flag("masqueradeAll")?,
        sync_period: of_mode.duration("syncPeriod")?.filter(|period| !period.is_zero()),
        proxy_mode: mode,
        healthz_bind_address: root.text("healthzBindAddress")?,
        metrics_bind_address: root.text("metricsBindAddress")?,
        cluster_cidr: root.text("clusterCIDR")?,
        nodeport_addresses: root.texts("nodePortAddresses")?,
        detect_local_mode: root.text("detectLocalMode")?,
        oom_score_adj: root.number("oomScoreAdj")?,
        conntrack_max_per_core: conntrack.number("maxPerCore")?,
        conntrack_min: conntrack.number("min")?,
        conntrack_tcp_established: conntrack.duration("tcpEstablishedTimeout")?,
        conntrack_tcp_close_wait: conntrack.duration("tcpCloseWaitTimeout")?,
        conntrack_tcp_be_liberal: conntrack.flag("tcpBeLiberal")?,
        conntrack_udp: conntrack.duration("udpTimeout")?,
        conntrack_udp_stream: conntrack.duration("udpStreamTimeout")?,
    };
    Ok((settings, warnings))
}

/// An object of the file, and the way to it. Empty texts are not said, as in Go.
#[derive(Clone, Debug)]
struct Object {
    path: String,
    fields: Map<String, Value>,
}

impl Object {
    fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    fn read<T>(
        &self,
        field: &str,
        problem: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| FileError::Field {
                field: self.path_of(field),
                value: value.to_string(),
                problem: problem.to_owned(),
            }),
        }
    }

    fn object(&self, field: &str) -> Result<Self, FileError> {
        let fields = self.read(field, "must be an object", |value| value.as_object().cloned())?;
        Ok(Self { path: self.path_of(field), fields: fields.unwrap_or_default() })
    }

    fn text(&self, field: &str) -> Result<Option<String>, FileError> {
        let text = self.read(field, "must be a string", |value| value.as_str().map(str::to_owned))?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    fn texts(&self, field: &str) -> Result<Option<Vec<String>>, FileError> {
        self.read(field, "must be a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, FileError> {
        self.read(field, "must be true or false", Value::as_bool)
    }

    fn number<T: TryFrom<i64>>(&self, field: &str) -> Result<Option<T>, FileError> {
        self.read(field, "must be a whole number in range", |value| T::try_from(value.as_i64()?).ok())
    }

    fn duration(&self, field: &str) -> Result<Option<Duration>, FileError> {
        self.read(field, "must be a duration such as 30s or 24h0m0s", |value| duration(value.as_str()?).ok())
    }
}
