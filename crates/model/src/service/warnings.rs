//! What clients are told about Services that are accepted all the same (P6, A106).

use serde_json::Value;

use super::spec::{NONE, Spec, affinity, kind};
use super::validate::{TOPOLOGY_HINTS, TOPOLOGY_MODE};
use crate::addresses::{cidr_warning, ip_warning};
use crate::wire;

pub(super) fn collect(object: &Value, spec: &Spec) -> Vec<String> {
    let mut warnings = Vec::new();
    if wire::has(wire::at(object, &["metadata", "annotations"]), TOPOLOGY_HINTS) {
        warnings
            .push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    if !spec.cluster_ip.is_empty() && spec.cluster_ip != NONE {
        warnings.extend(ip_warnings("spec.clusterIPs", &spec.cluster_ips));
    }
    let headless = spec.kind == kind::CLUSTER_IP && spec.cluster_ip == NONE;
    if headless {
        let ignored = [
            (!spec.load_balancer_ip.is_empty(), "loadBalancerIP"),
            (!spec.external_ips.is_empty(), "externalIPs"),
            (spec.session_affinity != affinity::NONE, "SessionAffinity"),
        ];
        for (_, field) in ignored.into_iter().filter(|(is_set, _)| *is_set) {
            warnings.push(format!("spec.{field} is ignored for headless services"));
        }
    }
    warnings.extend(ip_warnings("spec.externalIPs", &spec.external_ips));
    if !spec.external_ips.is_empty() && !headless && !spec.is_external_name() {
        warnings.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    warnings.extend(ip_warning("spec.loadBalancerIP", &spec.load_balancer_ip));
    for (index, range) in spec.load_balancer_source_ranges.iter().enumerate() {
        warnings.extend(cidr_warning(&format!("spec.loadBalancerSourceRanges[{index}]"), range));
    }
    if spec.is_external_name() && !spec.external_ips.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !spec.is_external_name() && !spec.external_name.is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        warnings.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    warnings
}

fn ip_warnings(field: &str, ips: &[String]) -> Vec<String> {
    ips.iter().enumerate().filter_map(|(index, ip)| ip_warning(&format!("{field}[{index}]"), ip)).collect()
}
