//! What may not change once set.

use super::spec::{Spec, policy, shown_list};
use super::validate::load_balancer_class;
use crate::FieldError;

const FIXED: &str = "may not change once set";

pub(super) fn check(new: &Spec, old: &Spec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // A72
    if !new.is_external_name() && !old.is_external_name() {
        errors.extend(cluster_ips(new, old));
        errors.extend(ip_families(new, old));
    }
    if new.is_load_balancer() && old.is_load_balancer() && new.load_balancer_class != old.load_balancer_class
    {
        let class = new.load_balancer_class.clone();
        errors.push(FieldError::invalid("spec.loadBalancerClass", class, FIXED));
    }
    // Upstream looks at the class here and with the rest of the object, and says what is wrong with it twice.
    errors.extend(load_balancer_class(new));
    if new.needs_health_check()
        && old.needs_health_check()
        && new.health_check_node_port != old.health_check_node_port
    {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    errors
}

fn single_stack_needed(new: &Spec, what: &str) -> Option<FieldError> {
    (!new.policy_is(policy::SINGLE)).then(|| {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        FieldError::invalid("spec.ipFamilyPolicy", new.ip_family_policy.clone(), detail)
    })
}

/// A60 to A65.
fn cluster_ips(new: &Spec, old: &Spec) -> Vec<FieldError> {
    if new.is_headless() && old.is_headless() {
        return Vec::new();
    }
    let invalid = |index: usize, detail: &str| {
        FieldError::invalid(format!("spec.clusterIPs[{index}]"), new.shown_cluster_ips(), detail)
    };
    let (new_ips, old_ips) = (new.cluster_ips.as_slice(), old.cluster_ips.as_slice());
    if new_ips.len() == old_ips.len() {
        let changed = (0..new_ips.len()).filter(|index| new_ips[*index] != old_ips[*index]);
        return changed.map(|index| invalid(index, FIXED)).collect();
    }
    let mut errors = Vec::new();
    if new_ips.is_empty() {
        errors.push(invalid(0, "primary clusterIP can not be unset"));
    } else if !old_ips.is_empty() && new_ips[0] != old_ips[0] {
        errors.push(invalid(0, FIXED));
    }
    if new_ips.len() == 1 && old_ips.len() > 1 {
        errors.extend(single_stack_needed(new, "clusterIP"));
    }
    errors
}

/// A66 to A69. The index is always that of the first family; when the number changes, the value is the addresses.
fn ip_families(new: &Spec, old: &Spec) -> Vec<FieldError> {
    if new.is_headless() || old.is_headless() {
        return Vec::new();
    }
    let invalid =
        |value: &[String], detail: &str| FieldError::invalid("spec.ipFamilies[0]", shown_list(value), detail);
    let (new_families, old_families) = (new.ip_families.as_slice(), old.ip_families.as_slice());
    if new_families.len() == old_families.len() {
        let changed = new_families.iter().zip(old_families).filter(|(new, old)| new != old);
        return changed.map(|_| invalid(new_families, FIXED)).collect();
    }
    let fewer = new_families.len() < old_families.len();
    let mut errors = Vec::new();
    if fewer && new.cluster_ips.is_empty() {
        errors.push(invalid(new_families, "primary ipFamily can not be unset"));
    }
    if !new_families.is_empty() && !old_families.is_empty() && new_families[0] != old_families[0] {
        errors.push(invalid(&new.cluster_ips, FIXED));
    }
    if fewer && new_families.len() == 1 {
        errors.extend(single_stack_needed(new, "ipFamily"));
    }
    errors
}
