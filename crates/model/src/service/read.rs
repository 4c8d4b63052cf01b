//! How Services written by older servers are shown.

use super::spec::{Spec, family_of, policy};
use crate::ClusterNet;

pub(super) fn decorate(spec: &mut Spec, cluster: &ClusterNet) {
    if spec.is_external_name() {
        spec.internal_traffic_policy = None;
    }
    spec.fill_plural();
    if spec.is_external_name() || !spec.ip_families.is_empty() {
        return;
    }
    let primary = cluster.service_ranges.primary_family();
    let (policy, families) = if spec.is_headless_without_selector() {
        // Also where the cluster has one family: the endpoints may be of any.
        (policy::REQUIRE, vec![primary, primary.other()])
    } else if spec.is_headless() {
        (policy::SINGLE, vec![primary])
    } else {
        let families: Vec<_> = spec.cluster_ips.iter().map(|ip| family_of(ip)).collect();
        match families.len() {
            0 => return,
            1 => (policy::SINGLE, families),
            _ => (policy::REQUIRE, families),
        }
    };
    spec.ip_family_policy = Some(policy.to_owned());
    spec.ip_families = families.into_iter().map(|family| family.as_str().to_owned()).collect();
}
