//! What is known of the cluster: the few fields that names are made of.

use std::fmt;
use std::net::IpAddr;

use dyad_net::IpNet;

use crate::wire::{MAX_LABEL, Name};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name in it.
    pub name: Box<str>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What its name leads to.
    pub kind: ServiceKind,
    /// Its ports; those of headless Services come from their slices.
    pub ports: Vec<Port>,
}

/// What the name of a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Its cluster IPs, of one family or both; none yet while they are being allocated.
    ClusterIps(Vec<IpAddr>),
    /// Its endpoints: `clusterIP: None`.
    Headless,
    /// Another name: `externalName`.
    External(Box<str>),
}

/// A port of a Service or slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name, empty if it has none.
    pub name: Box<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// The protocol of a port, and the label it is (RFC 2782; RFC 6335 section 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its Service, by the label `kubernetes.io/service-name`.
    pub service: ObjectName,
    /// Ports that have a number.
    pub ports: Vec<Port>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; what is missing is true. Nothing else of the conditions counts.
    pub ready: bool,
    /// `hostname`.
    pub hostname: Option<Box<str>>,
    /// The name of the pod it is.
    pub pod: Option<Box<str>>,
}

/// The addresses of a pod that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// All of `status.podIPs`.
    pub ips: Vec<IpAddr>,
}

/// What names below `pod` there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// None.
    #[default]
    Disabled,
    /// That of every address, in namespaces that exist.
    Insecure,
    /// Those of pods that exist.
    Verified,
}

/// Whose addresses the zone's name server has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameServers {
    /// The Service in front of this server.
    pub service: Option<ObjectName>,
    /// Addresses to give while there is no such Service.
    pub addresses: Vec<IpAddr>,
}

/// How names are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The cluster domain.
    pub domain: Name,
    /// The prefixes whose reverse names are answered for here; of both families, and of any length.
    pub reverse: Vec<IpNet>,
    /// The TTL of all records, in seconds.
    pub ttl: u32,
    /// The longest that negative answers hold, in seconds.
    pub negative_ttl: u32,
    /// Names below `pod`.
    pub pods: PodMode,
    /// Whether a headless Service without ready endpoints exists all the same.
    pub empty_headless_exists: bool,
    /// Whether a Service with cluster IPs does not exist as long as it has no ready endpoints.
    pub ignore_empty_service: bool,
    /// Whether endpoints without a hostname are called by their pod's name.
    pub endpoint_pod_names: bool,
    /// Who is the name server of the zone.
    pub name_servers: NameServers,
    /// Domains in which names that are not found are looked up elsewhere.
    pub fallthrough: Vec<Name>,
}

impl Options {
    /// The defaults for a cluster domain (A.2).
    pub const fn new(domain: Name) -> Self {
        Self {
            domain,
            reverse: Vec::new(),
            ttl: 30,
            negative_ttl: 30,
            pods: PodMode::Disabled,
            empty_headless_exists: false,
            ignore_empty_service: false,
            endpoint_pod_names: false,
            name_servers: NameServers { service: None, addresses: Vec::new() },
            fallthrough: Vec::new(),
        }
    }
}

impl ObjectName {
    /// An object's name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The labels of name and namespace, in lower case, as they stand in a name's wire form. `None` if they can't.
    pub(crate) fn key(&self) -> Option<Vec<u8>> {
        Some([label(&self.name)?, label(&self.namespace)?].concat())
    }

    /// The name of which `key` is the [`key`](Self::key).
    pub(crate) fn of_key(key: &[u8]) -> Self {
        let mut labels = crate::wire::Labels::of(key).map(|label| String::from_utf8_lossy(label).into());
        let name = labels.next().unwrap_or_default();
        Self { namespace: labels.next().unwrap_or_default(), name }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

/// A label in wire form and lower case.
pub(crate) fn label(text: &str) -> Option<Vec<u8>> {
    let length =
        u8::try_from(text.len()).ok().filter(|length| (1..=MAX_LABEL).contains(&(*length).into()))?;
    let mut wire = Vec::with_capacity(text.len() + 1);
    wire.push(length);
    wire.extend(text.bytes().map(|byte| byte.to_ascii_lowercase()));
    Some(wire)
}
