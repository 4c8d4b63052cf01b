//! Fields the new type has no use for, dropped on update unless the client changed them too.

use std::collections::BTreeSet;

use super::spec::Spec;

pub(super) fn apply(new: &mut Spec, old: &Spec) {
    // A110
    if !old.is_external_name() && new.is_external_name() {
        if new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips {
            new.cluster_ip.clear();
            new.cluster_ips.clear();
        }
        if new.ip_families == old.ip_families {
            new.ip_families.clear();
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    // A111
    if old.has_node_ports() && !new.has_node_ports() {
        let old_numbers: BTreeSet<i64> = old.named_node_ports().collect();
        if new.named_node_ports().all(|number| old_numbers.contains(&number)) {
            new.ports.iter_mut().for_each(|port| port.node_port = 0);
        }
    }
    // A112
    if old.needs_health_check()
        && !new.needs_health_check()
        && new.health_check_node_port == old.health_check_node_port
    {
        new.health_check_node_port = 0;
    }
    // A113
    if old.is_load_balancer() && !new.is_load_balancer() {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    // A114
    if old.is_externally_accessible()
        && !new.is_externally_accessible()
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy.clear();
    }
}
