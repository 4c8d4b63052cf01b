//! The rules that tie `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` together.

use std::collections::BTreeSet;

use dyad_net::IpFamily;
use serde_json::Value;

use super::spec::{NONE, Spec, family_of, policy};
use crate::addresses::legacy_ip;
use crate::{ErrorType, FieldError};

const IPS: &str = "spec.clusterIPs";

/// Every error among them; `old` is the stored Service in an update. ExternalName Services may not have them at all,
/// which is said elsewhere (A89).
pub(super) fn check(spec: &Spec, old: Option<&Spec>) -> Vec<FieldError> {
    if spec.is_external_name() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    errors.extend(singular(spec));
    errors.extend(families(spec));
    if let Some(policy) = spec.ip_family_policy.as_deref().filter(|policy| !policy::ALL.contains(policy)) {
        errors.push(FieldError::not_supported("spec.ipFamilyPolicy", policy, &policy::ALL));
    }
    let (invalid, addresses) = addresses(spec, old);
    errors.extend(addresses);
    if invalid {
        return errors;
    }
    errors.extend(one_per_family(spec));
    errors.extend(expected_families(spec));
    errors
}

/// A30.
fn singular(spec: &Spec) -> Option<FieldError> {
    let detail = match (spec.cluster_ip.as_str(), spec.cluster_ips.first()) {
        ("", None) => return None,
        ("", Some(_)) => "must be empty when `clusterIP` is not specified",
        (_, None) => return Some(FieldError::required(IPS, "")),
        (ip, Some(first)) if ip == first => return None,
        (_, Some(_)) => "first value must match `clusterIP`",
    };
    Some(FieldError::invalid(IPS, spec.shown_cluster_ips(), detail))
}

/// A50, A51.
fn families(spec: &Spec) -> Vec<FieldError> {
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (index, family) in spec.ip_families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if IpFamily::from_name(family).is_none() {
            let supported = IpFamily::BOTH.map(IpFamily::as_str);
            errors.push(FieldError::not_supported(field.as_str(), family.as_str(), &supported));
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(field, family.as_str()));
        }
    }
    errors
}

/// A53 to A55, and whether any is no address, so that nothing more can be said.
fn addresses(spec: &Spec, old: Option<&Spec>) -> (bool, Vec<FieldError>) {
    let mut errors = Vec::new();
    let stored: Vec<&str> = old.iter().flat_map(|old| &old.cluster_ips).map(String::as_str).collect();
    for (index, ip) in spec.cluster_ips.iter().enumerate() {
        if index == 0 && ip == NONE {
            if spec.cluster_ips.len() > 1 {
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(IPS, spec.shown_cluster_ips(), detail));
            }
        } else {
            errors.extend(legacy_ip(&format!("{IPS}[{index}]"), ip, &stored));
        }
    }
    let invalid = !errors.is_empty();
    if spec.cluster_ips.len() > 2 {
        errors.push(FieldError::invalid(IPS, spec.shown_cluster_ips(), "may only hold up to 2 values"));
    }
    (invalid, errors)
}

/// A56. Of three and more it is enough that both families are there, as upstream; they are too many anyway (A55).
fn one_per_family(spec: &Spec) -> Vec<FieldError> {
    let ips = &spec.cluster_ips;
    if ips.len() < 2 {
        return Vec::new();
    }
    let mut errors = Vec::new();
    // What the Service had already got past A54 (P4), "None" behind an address among it.
    let no_address = ips.iter().position(|ip| dyad_net::parse_ip_sloppy(ip).is_none());
    if let Some(index) = no_address {
        let detail = format!("failed to check for dual stack with error:invalid IP[{index}]: {}", ips[index]);
        errors.push(FieldError::new(ErrorType::Internal, IPS, Value::Null, detail));
    }
    let families: BTreeSet<IpFamily> = ips.iter().map(|ip| family_of(ip)).collect();
    if no_address.is_some() || families.len() < 2 {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(IPS, spec.shown_cluster_ips(), detail));
    }
    errors
}

/// A57.
fn expected_families(spec: &Spec) -> Vec<FieldError> {
    if spec.is_headless() {
        return Vec::new();
    }
    spec.cluster_ips
        .iter()
        .zip(&spec.ip_families)
        .enumerate()
        .filter_map(|(index, (ip, family))| {
            let wanted = IpFamily::from_name(family).filter(|wanted| *wanted != family_of(ip))?;
            let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
            Some(FieldError::invalid(format!("{IPS}[{index}]"), ip.as_str(), detail))
        })
        .collect()
}
