//! Readiness per family as a pod says it (`dyad_model::readiness`): one condition for each family, and only while its
//! families differ. Every other pod looks as with Kubernetes.

use std::collections::BTreeMap;

use dyad_model::readiness;
use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::Pod;

use super::status::{Condition, Input};
use crate::probe::Beside;

/// The conditions to report beside `ready`, which is that of the first family; `of` says what that of another is.
pub(super) fn conditions(
    input: &Input<'_>,
    ready: &Condition,
    of: impl Fn(IpFamily) -> Condition,
) -> Vec<(String, Condition)> {
    let mut families = input.pod_ips.iter().map(|ip| IpFamily::from(*ip));
    let Some(first) = families.next() else { return Vec::new() };
    let others: Vec<(IpFamily, Condition)> = families
        .map(|family| (family, of(family)))
        .map(|(family, (status, reason, message))| {
            (family, (status, reason, message + &problems(input, family)))
        })
        .collect();
    if others.iter().all(|(_, (status, ..))| *status == ready.0) {
        return Vec::new();
    }
    let all = std::iter::once((first, ready.clone())).chain(others);
    all.map(|(family, condition)| (readiness::condition(family), condition)).collect()
}

/// Those of the containers that are not ready in a family.
pub(super) fn unready<'a>(
    input: &Input<'_>,
    names: impl Iterator<Item = &'a str>,
    family: IpFamily,
) -> Vec<&'a str> {
    let is_ready = |name: &str| input.records.get(name).is_some_and(|record| record.is_ready_in(family));
    names.filter(|name| !is_ready(name)).collect()
}

/// What the probes of containers that are not ready there were told.
fn problems(input: &Input<'_>, family: IpFamily) -> String {
    let beside = input.records.values().filter_map(|record| record.beside.get(&family));
    let problems = beside.filter(|beside| !beside.problem.is_empty());
    problems.map(|beside| format!(": {}", beside.problem)).collect()
}

/// What a pod's status says of its families, for a kubelet that comes after another one. Of the pod and not of each
/// container: probes say the rest.
pub(super) fn said(pod: &Pod) -> BTreeMap<IpFamily, Beside> {
    let conditions = || pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let of = |family| {
        let kind = readiness::condition(family);
        let found = conditions().find(|condition| condition.type_ == kind)?;
        Some((family, Beside { ready: found.status == "True", problem: String::new() }))
    };
    let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    let others = ips.into_iter().flatten().skip(1).filter_map(|ip| ip.ip.parse().ok());
    others.filter_map(|ip: std::net::IpAddr| of(ip.into())).collect()
}
