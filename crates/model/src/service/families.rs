//! Which families a Service has.

use super::linked;
use super::spec::{NONE, Spec, family_of, kind, policy};
use crate::{ClusterNet, FieldError, Refusal};

const POLICY: &str = "spec.ipFamilyPolicy";

/// Fills in policy and families of a new Service, or of one that changes (`old`).
pub(super) fn infer(spec: &mut Spec, old: Option<&Spec>, cluster: &ClusterNet) -> Result<(), Refusal> {
    if spec.is_external_name() || old.is_some_and(|old| stays_preferring(spec, old)) {
        return Ok(());
    }
    if old.is_some_and(|old| keeps_lost_family(spec, old, cluster)) {
        return Ok(());
    }
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy = Some(default_policy(spec, old));
    }
    refuse(linked::check(spec, old))?;

    let mut errors = old.map(|old| trim(spec, old)).unwrap_or_default();
    errors.extend(too_many_for_single_stack(spec));
    errors.extend(take_from_addresses(spec, cluster));
    refuse(errors)?;

    if spec.is_headless_without_selector() {
        // The endpoints are not ours, so it does not matter what families the cluster has.
        complete(spec, cluster, true);
        return Ok(());
    }
    refuse(not_configured(spec, cluster))?;
    complete(spec, cluster, cluster.service_ranges.is_dual());
    Ok(())
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Refusal> {
    if errors.is_empty() { Ok(()) } else { Err(Refusal::Invalid(errors)) }
}

/// A42: a Service that prefers two families keeps those it has until somebody says otherwise.
fn stays_preferring(new: &Spec, old: &Spec) -> bool {
    let is_prefer = |policy: &str| policy == policy::PREFER;
    new.kind == old.kind
        && matches!(new.kind.as_str(), kind::CLUSTER_IP | kind::NODE_PORT | kind::LOAD_BALANCER)
        && new.ip_family_policy.as_deref().is_some_and(is_prefer)
        && old.ip_family_policy.as_deref().is_none_or(is_prefer)
        && new.cluster_ips == old.cluster_ips
        && new.ip_families == old.ip_families
}

/// K4: a Service with a family the cluster has lost can be changed where that does not touch its families.
fn keeps_lost_family(new: &mut Spec, old: &Spec, cluster: &ClusterNet) -> bool {
    let lost = !old.is_external_name()
        && !old.is_headless_without_selector()
        && old.ip_families.iter().any(|family| !is_configured(family, cluster));
    let untouched = new.ip_family_policy.is_none() || new.ip_family_policy == old.ip_family_policy;
    let untouched = untouched && (new.ip_families.is_empty() || new.ip_families == old.ip_families);
    let keeps = lost && untouched && new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips;
    if keeps {
        new.ip_family_policy.clone_from(&old.ip_family_policy);
        new.ip_families.clone_from(&old.ip_families);
    }
    keeps
}

/// A22, A44.
fn default_policy(spec: &Spec, old: Option<&Spec>) -> String {
    let default = if spec.is_headless_without_selector() { policy::REQUIRE } else { policy::SINGLE };
    old.and_then(|old| old.ip_family_policy.clone()).unwrap_or_else(|| default.to_owned())
}

/// A45: only `SingleStack` lets go of the second family, and then by itself. A46: everything else must not.
fn trim(spec: &mut Spec, old: &Spec) -> Vec<FieldError> {
    if spec.policy_is(policy::SINGLE) {
        if spec.cluster_ips == old.cluster_ips {
            spec.cluster_ips.truncate(1);
        }
        if spec.ip_families == old.ip_families {
            spec.ip_families.truncate(1);
        }
        return Vec::new();
    }
    let fewer = |new: &[String], old: &[String]| !new.is_empty() && new.len() < old.len();
    [
        (fewer(&spec.cluster_ips, &old.cluster_ips), "cluster IP"),
        (fewer(&spec.ip_families, &old.ip_families), "IP family"),
    ]
    .into_iter()
    .filter(|(fewer, _)| *fewer)
    .map(|(_, what)| policy_error(spec, &format!("must be 'SingleStack' to release the secondary {what}")))
    .collect()
}

/// A24.
fn too_many_for_single_stack(spec: &Spec) -> Vec<FieldError> {
    if !spec.policy_is(policy::SINGLE) {
        return Vec::new();
    }
    [(spec.cluster_ips.len(), "cluster IPs"), (spec.ip_families.len(), "IP families")]
        .into_iter()
        .filter(|(count, _)| *count == 2)
        .map(|(_, what)| {
            let detail =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            policy_error(spec, &detail)
        })
        .collect()
}

fn policy_error(spec: &Spec, detail: &str) -> FieldError {
    FieldError::invalid(POLICY, spec.ip_family_policy.clone(), detail)
}

/// A25: an address says its family.
fn take_from_addresses(spec: &mut Spec, cluster: &ClusterNet) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, ip) in spec.cluster_ips.iter().enumerate() {
        if ip == NONE {
            break;
        }
        if index < spec.ip_families.len() {
            continue;
        }
        let family = family_of(ip).as_str();
        if is_configured(family, cluster) {
            spec.ip_families.push(family.to_owned());
        } else {
            errors.push(FieldError::invalid(
                format!("spec.clusterIPs[{index}]"),
                spec.shown_cluster_ips(),
                format!("{family} is not configured on this cluster"),
            ));
        }
    }
    errors
}

/// A28.
fn not_configured(spec: &Spec, cluster: &ClusterNet) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec.policy_is(policy::REQUIRE) && !cluster.service_ranges.is_dual() {
        errors.push(policy_error(spec, "this cluster is not configured for dual-stack services"));
    }
    for (index, family) in spec.ip_families.iter().enumerate() {
        if !is_configured(family, cluster) {
            errors.push(family_not_configured(index, family));
        }
    }
    errors
}

/// The error for a family the cluster does not have.
pub(super) fn family_not_configured(index: usize, family: &str) -> FieldError {
    FieldError::invalid(format!("spec.ipFamilies[{index}]"), family, "not configured on this cluster")
}

fn is_configured(family: &str, cluster: &ClusterNet) -> bool {
    cluster.families().any(|configured| configured.as_str() == family)
}

/// A27, A29: the primary family if none is named, and the other one unless the policy is against it.
fn complete(spec: &mut Spec, cluster: &ClusterNet, both: bool) {
    if spec.ip_families.is_empty() {
        spec.ip_families.push(cluster.service_ranges.primary_family().as_str().to_owned());
    }
    if both && !spec.policy_is(policy::SINGLE) && spec.ip_families.len() == 1 {
        let first = dyad_net::IpFamily::from_name(&spec.ip_families[0]);
        spec.ip_families.extend(first.map(|first| first.other().as_str().to_owned()));
    }
}
