//! Who else networks a cluster.

use serde_json::Value;

use super::{Allowed, REPLACED_BY};
use crate::{PART_OF, PART_OF_VALUE, Values};

/// What somebody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Carries Services.
    Proxy,
    /// Connects pods.
    Cni,
    /// Answers for names.
    Dns,
}

/// Somebody else, who does what Dyad would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// What it does.
    pub part: Part,
    /// What people call it.
    pub called: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// The name of its DaemonSet, or of its Service.
    pub name: String,
    /// Whether Dyad has made it run nowhere.
    pub is_parked: bool,
}

/// What DaemonSets are called in other networks, and what these are called.
const CNIS: [(&str, &str); 14] = [
    ("kindnet", "kindnet"),
    ("kube-flannel", "Flannel"),
    ("calico-node", "Calico"),
    ("canal", "Canal"),
    ("cilium", "Cilium"),
    ("antrea-agent", "Antrea"),
    ("weave-net", "Weave Net"),
    ("kube-router", "kube-router"),
    ("ovnkube-node", "OVN-Kubernetes"),
    ("kube-ovn-cni", "Kube-OVN"),
    ("aws-node", "Amazon VPC CNI"),
    ("azure-cns", "Azure CNI"),
    ("netd", "GKE's network"),
    ("terway", "Terway"),
];
/// Those that carry Services, too, as they usually are installed.
const PROXIES: [(&str, &str); 1] = [("kube-proxy", "kube-proxy")];

/// Who there is, by the names of DaemonSets and by the Service of the DNS.
pub(super) fn find(daemon_sets: &[Value], dns: Option<&Value>) -> Vec<Other> {
    let is_ours = |object: &Value| object["metadata"]["labels"][PART_OF] == PART_OF_VALUE;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let other = |object: &Value, part: Part, called: &'static str| Other {
        part,
        called,
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
        is_parked: !object["metadata"]["annotations"][REPLACED_BY].is_null(),
    };
    let mut found = Vec::new();
    for object in daemon_sets.iter().filter(|object| !is_ours(object)) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        // As `kube-flannel-ds`, but not `netdata`.
        let is =
            |known: &str| name == known || name.strip_prefix(known).is_some_and(|rest| rest.starts_with('-'));
        for (part, known) in [(Part::Cni, &CNIS[..]), (Part::Proxy, &PROXIES[..])] {
            let called = known.iter().find(|(known, _)| is(known)).map(|(_, called)| *called);
            found.extend(called.map(|called| other(object, part, called)));
        }
    }
    let dns = dns.filter(|object| !is_ours(object));
    found.extend(dns.map(|object| other(object, Part::Dns, "the cluster DNS")));
    found
}

impl Other {
    fn is_wanted(&self, values: &Values) -> bool {
        match self.part {
            Part::Proxy => values.proxy.enabled,
            Part::Cni => values.cni.enabled,
            Part::Dns => values.dns.enabled && values.dns.service == self.name,
        }
    }

    /// Why nothing can be installed beside it.
    pub(super) fn refusal(&self, values: &Values, allowed: Allowed) -> Option<String> {
        let Self { called, namespace, name, .. } = self;
        let is_allowed = match self.part {
            Part::Proxy => allowed.replace_kube_proxy || self.is_parked,
            Part::Cni => allowed.other_cni,
            Part::Dns => false,
        };
        if is_allowed || !self.is_wanted(values) {
            return None;
        }
        Some(match self.part {
            Part::Proxy => format!(
                "{called} (daemonset {namespace}/{name}) carries Services: --replace-kube-proxy makes it run nowhere until \
                 `dyad uninstall`, --set proxy.enabled=false leaves Services to it"
            ),
            Part::Cni => format!(
                "{called} (daemonset {namespace}/{name}) connects pods: remove it first, as pods of two networks do not reach \
                 each other, or leave pods to it with --set cni.enabled=false; --allow-other-cni goes on in spite of it"
            ),
            Part::Dns => format!(
                "{called} (service {namespace}/{name}) is there: remove it first, give Dyad's another name with --set \
                 dns.service=NAME, or leave names to it with --set dns.enabled=false"
            ),
        })
    }

    /// What should be known of it.
    pub(super) fn note(&self, values: &Values) -> Option<String> {
        let Self { called, namespace, name, .. } = self;
        match (self.part, self.is_wanted(values)) {
            (Part::Proxy, true) => Some(format!(
                "{called} (daemonset {namespace}/{name}) runs nowhere from now on, and `dyad uninstall` brings it back; what it has \
                 left in the nodes' kernels goes with `kube-proxy --cleanup` there, or a restart"
            )),
            (Part::Cni, true) => Some(format!(
                "{called} (daemonset {namespace}/{name}) stays: pods that it has connected keep its network until they are made anew"
            )),
            (Part::Cni, false) if values.policy.enabled => Some(format!(
                "{called} connects pods: turn its own NetworkPolicies off, or Dyad's with --set policy.enabled=false"
            )),
            _ => None,
        }
    }
}
