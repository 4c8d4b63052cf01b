//! `spec` of a Service as the rules see it.

use std::collections::{BTreeMap, BTreeSet};

use dyad_net::{IpFamily, parse_ip_sloppy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ErrorType, FieldError, Refusal, wire};

/// `clusterIP` of a headless Service.
pub(super) const NONE: &str = "None";

/// Values of `type`.
pub(super) mod kind {
    pub(in crate::service) const CLUSTER_IP: &str = "ClusterIP";
    pub(in crate::service) const NODE_PORT: &str = "NodePort";
    pub(in crate::service) const LOAD_BALANCER: &str = "LoadBalancer";
    pub(in crate::service) const EXTERNAL_NAME: &str = "ExternalName";
}

/// Values of `ipFamilyPolicy`.
pub(super) mod policy {
    pub(in crate::service) const SINGLE: &str = "SingleStack";
    pub(in crate::service) const PREFER: &str = "PreferDualStack";
    pub(in crate::service) const REQUIRE: &str = "RequireDualStack";
    pub(in crate::service) const ALL: [&str; 3] = [PREFER, REQUIRE, SINGLE];
}

/// Values of `sessionAffinity`.
pub(super) mod affinity {
    pub(in crate::service) const NONE: &str = "None";
    pub(in crate::service) const CLIENT_IP: &str = "ClientIP";
}

/// Values of both traffic policies.
pub(super) mod traffic {
    pub(in crate::service) const CLUSTER: &str = "Cluster";
    pub(in crate::service) const LOCAL: &str = "Local";
}

/// The whole of `spec`. Texts are kept as they came, valid or not: what is wrong with them is said in validation.
///
/// Fields Go leaves out when empty are left out here; `Option` stands for a pointer, which may point to an empty text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<Port>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) selector: BTreeMap<String, String>,
    #[serde(rename = "clusterIP", skip_serializing_if = "String::is_empty")]
    pub(super) cluster_ip: String,
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) cluster_ips: Vec<String>,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub(super) kind: String,
    #[serde(rename = "externalIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) external_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) session_affinity: String,
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "String::is_empty")]
    pub(super) load_balancer_ip: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) load_balancer_source_ranges: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) external_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) external_traffic_policy: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) health_check_node_port: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_affinity_config: Option<AffinityConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ip_families: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ip_family_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allocate_load_balancer_node_ports: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) load_balancer_class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) internal_traffic_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traffic_distribution: Option<String>,
    /// Fields no rule looks at: `publishNotReadyAddresses`.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Port {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app_protocol: Option<String>,
    pub(super) port: i64,
    /// A number or the name of a container's port.
    pub(super) target_port: Value,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) node_port: i64,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AffinityConfig {
    #[serde(rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub(super) client_ip: Option<ClientIp>,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClientIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_seconds: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// An object whose `spec` has fields of the wrong type, which its reader should have refused.
#[derive(Debug, thiserror::Error)]
#[error("spec is not that of a Service: {0}")]
pub(super) struct NotAService(#[from] serde_json::Error);

impl From<NotAService> for Refusal {
    fn from(error: NotAService) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<NotAService> for FieldError {
    fn from(error: NotAService) -> Self {
        Self::new(ErrorType::Internal, "spec", Value::Null, error.to_string())
    }
}

impl Spec {
    pub(super) fn read(object: &Value) -> Result<Self, NotAService> {
        match wire::at(object, &["spec"]) {
            Value::Null => Ok(Self::default()),
            spec => Ok(Self::deserialize(spec)?),
        }
    }

    pub(super) fn write(&self, object: &mut Value) {
        let spec = serde_json::to_value(self).expect("texts, numbers and maps with text keys are JSON");
        wire::set(object, "spec", spec);
    }

    pub(super) fn is_external_name(&self) -> bool {
        self.kind == kind::EXTERNAL_NAME
    }

    pub(super) fn is_load_balancer(&self) -> bool {
        self.kind == kind::LOAD_BALANCER
    }

    /// Whether the type is one with node ports, be they wanted or not.
    pub(super) fn has_node_ports(&self) -> bool {
        self.kind == kind::NODE_PORT || self.is_load_balancer()
    }

    /// Whether ports without a node port get one (A141).
    pub(super) fn wants_node_ports(&self) -> bool {
        self.kind == kind::NODE_PORT
            || (self.is_load_balancer() && self.allocate_load_balancer_node_ports.unwrap_or(true))
    }

    /// Whether the list of addresses says headless.
    pub(super) fn is_headless(&self) -> bool {
        self.cluster_ips == [NONE]
    }

    /// Whether it says headless and has no selector: endpoints are somebody else's, and so are their families (A27).
    pub(super) fn is_headless_without_selector(&self) -> bool {
        self.cluster_ip == NONE && self.selector.is_empty()
    }

    /// Whether traffic comes in from outside by any way the API knows.
    pub(super) fn is_externally_accessible(&self) -> bool {
        self.has_node_ports() || (self.kind == kind::CLUSTER_IP && !self.external_ips.is_empty())
    }

    /// Whether nodes answer health checks of a load balancer for it (A147).
    pub(super) fn needs_health_check(&self) -> bool {
        self.is_load_balancer() && self.external_traffic_policy == traffic::LOCAL
    }

    pub(super) fn policy_is(&self, policy: &str) -> bool {
        self.ip_family_policy.as_deref() == Some(policy)
    }

    /// Old objects and old clients know the singular only (A11, A20).
    pub(super) fn fill_plural(&mut self) {
        if !self.cluster_ip.is_empty() && self.cluster_ips.is_empty() {
            self.cluster_ips = vec![self.cluster_ip.clone()];
        }
    }

    /// The node ports it names, reserved or not.
    pub(super) fn named_node_ports(&self) -> impl Iterator<Item = i64> {
        self.ports.iter().map(|port| port.node_port).filter(|port| *port != 0)
    }

    /// The node ports reserved for it, each once. What other types name is not reserved.
    pub(super) fn held_node_ports(&self) -> BTreeSet<i64> {
        if self.has_node_ports() { self.named_node_ports().collect() } else { BTreeSet::new() }
    }

    /// The list of addresses as errors show it.
    pub(super) fn shown_cluster_ips(&self) -> Value {
        shown_list(&self.cluster_ips)
    }
}

/// A list as errors show it: Go prints one it does not have as null.
pub(super) fn shown_list(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { Value::from(list) }
}

/// The family of an address in a list that has been checked; what is no address counts as IPv4, as upstream.
pub(super) fn family_of(ip: &str) -> IpFamily {
    parse_ip_sloppy(ip).map_or(IpFamily::V4, IpFamily::from)
}
