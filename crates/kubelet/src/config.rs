//! What a kubelet is told.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use dyad_net::{DualStack, IpFamily};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use rustls_pki_types::CertificateDer;

/// Configuration of one node's kubelet.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// The node's addresses, primary family first; they must exist on a link (B37).
    pub node_ips: DualStack<IpAddr>,
    /// Where logs (`pods/`) and the state of running pods (`state/`) are kept.
    pub root_dir: PathBuf,
    /// The program that is run as `internal sandboxes`; this one if not given.
    pub program: Option<PathBuf>,
    /// Control group below which pods get theirs; made if it is not there. Pods run without if it cannot be.
    pub cgroup_root: Option<PathBuf>,
    /// The same for each controller (`cpu`, `memory`, `pids`) of control groups of version 1, where there are any.
    pub cgroup_controllers: Vec<(String, PathBuf)>,
    /// Addresses of the cluster's DNS service, in the order in which pods shall ask them (B24).
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Search domains of pods that use the cluster's DNS, in place of those of the node; the node's if empty.
    pub dns_search: Vec<String>,
    /// Labels of the Node, besides those every node has.
    pub labels: BTreeMap<String, String>,
    /// Register with the taint that keeps ordinary pods off.
    pub control_plane_taint: bool,
    /// Most pods.
    pub max_pods: u32,
    /// Largest packet of pods, in bytes; that of the node's own link if not given.
    pub mtu: Option<u32>,
    /// Host paths that no container may see, besides `root_dir`: keys, state of others.
    pub masked_paths: Vec<PathBuf>,
    /// A file in place of the host's `/etc/resolv.conf`, as the start of pods' own.
    pub resolv_conf: PathBuf,
    /// The images that containers can run from, besides those that are built in.
    pub images: Option<dyad_images::Store>,
    /// Who pulls those that are not there; nobody if not given.
    pub puller: Option<dyad_images::registry::Puller>,
    /// Plugins that connect pods; without, the kubelet does it with addresses of the Node's `podCIDRs`.
    pub plugins: Option<Plugins>,
    /// Waited for before a pod with a network of its own starts.
    pub gate: Option<NetworkGate>,
    /// How the kubelet is asked for logs, commands and figures; not at all if not given.
    pub serving: Option<Serving>,
}

/// CNI plugins, and where they and what they leave are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugins {
    /// Network configurations; the first one by name holds.
    pub conf_dir: PathBuf,
    /// Their programs.
    pub bin_dirs: Vec<PathBuf>,
    /// What they answered, for when they shall take it back.
    pub cache_dir: PathBuf,
    /// Where the pods' namespaces have paths.
    pub netns_dir: PathBuf,
}

impl Default for Plugins {
    /// The places that they have everywhere.
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            cache_dir: "/var/lib/cni".into(),
            netns_dir: "/var/run/netns".into(),
        }
    }
}

/// What the kubelet's HTTPS server is made of. It listens at each of the node's addresses.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Its port.
    pub port: u16,
    /// Its certificate, and whose certificates it takes of clients.
    pub tls: Arc<rustls::ServerConfig>,
    /// Who a client is.
    pub identify: Identify,
}

/// Who asks the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// Whom a verified chain of certificates stands for.
type Of = dyn Fn(&[CertificateDer<'_>]) -> Option<Caller> + Send + Sync;

/// Tells whom a client's certificate stands for.
#[derive(Clone)]
pub struct Identify(Arc<Of>);

impl Identify {
    /// As `of` tells.
    pub fn new(of: impl Fn(&[CertificateDer<'_>]) -> Option<Caller> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    pub(crate) fn caller(&self, chain: &[CertificateDer<'_>]) -> Option<Caller> {
        (self.0)(chain)
    }
}

impl fmt::Debug for Identify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identify")
    }
}

/// Whether the network is ready for a pod, given the object and the addresses it will have.
type IsReady = dyn Fn(&Pod, &[IpAddr]) -> BoxFuture<'static, Result<(), String>> + Send + Sync;

/// Holds pods back until the network is ready for them, and says in words why it is not.
#[derive(Clone)]
pub struct NetworkGate(Arc<IsReady>);

impl NetworkGate {
    /// A gate that asks `is_ready`.
    pub fn new(
        is_ready: impl Fn(&Pod, &[IpAddr]) -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(is_ready))
    }

    /// Waits until the network is ready for a pod.
    pub(crate) async fn pass(&self, pod: &Pod, ips: &[IpAddr]) -> Result<(), String> {
        (self.0)(pod, ips).await
    }
}

impl fmt::Debug for NetworkGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkGate")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: "node".into(),
            node_ips: DualStack::single(IpFamily::V4, IpAddr::V4(Ipv4Addr::LOCALHOST)),
            root_dir: PathBuf::from("/var/lib/dyad"),
            program: None,
            cgroup_root: None,
            cgroup_controllers: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            dns_search: Vec::new(),
            labels: BTreeMap::new(),
            control_plane_taint: false,
            max_pods: 110,
            mtu: None,
            masked_paths: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            images: None,
            puller: None,
            plugins: None,
            gate: None,
            serving: None,
        }
    }
}
