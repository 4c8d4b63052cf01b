//! What a client left out of an update because the server once chose it, and which of the two address fields
//! it meant.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::Spec;

/// A31 to A33: submitting the original manifest again changes nothing.
pub(super) fn copy_allocated(new: &mut Spec, old: &Spec) {
    if !old.is_external_name() && !new.is_external_name() {
        if new.cluster_ip.is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.is_empty() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if old.wants_node_ports() && new.wants_node_ports() {
        copy_node_ports(new, old);
    }
    if old.needs_health_check() && new.needs_health_check() && new.health_check_node_port == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// A32: by name of the port, unless the number is spoken for.
fn copy_node_ports(new: &mut Spec, old: &Spec) {
    let old_numbers: BTreeSet<i64> = old.named_node_ports().collect();
    let kept: BTreeSet<i64> = new.named_node_ports().filter(|number| old_numbers.contains(number)).collect();
    let by_name: BTreeMap<&str, i64> =
        old.ports.iter().map(|port| (port.name.as_str(), port.node_port)).collect();
    for port in new.ports.iter_mut().filter(|port| port.node_port == 0) {
        if let Some(number) = by_name.get(port.name.as_str()).filter(|number| !kept.contains(number)) {
            port.node_port = *number;
        }
    }
}

/// A34 to A41.
pub(super) fn sync_cluster_ips(new: &mut Spec, old: &Spec) {
    if !old.cluster_ips.is_empty() && new.cluster_ips.is_empty() && old.cluster_ip == new.cluster_ip {
        new.cluster_ips.clone_from(&old.cluster_ips);
    }
    if old.cluster_ip == new.cluster_ip || old.cluster_ips != new.cluster_ips {
        return;
    }
    new.cluster_ips = if new.cluster_ip.is_empty() { Vec::new() } else { vec![new.cluster_ip.clone()] };
}
