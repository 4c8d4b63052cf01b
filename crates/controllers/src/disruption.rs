//! PodDisruptionBudgets: how many pods of each may go now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::pods::{self, Selector, controller_of, is_finished, is_ready};
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "controllermanager";

/// How long an evicted pod counts as gone before it is.
const EVICTION_LASTS: i64 = 120;

struct Budgets(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Budgets(world.clone()), |queue| {
        let budgets = queue.clone();
        world.budgets.on_change(move |old, new| {
            if let Some(budget) = new.or(old) {
                budgets.add(Key::of(budget));
            }
        });
        let (guarded, weak) = (queue.clone(), Arc::downgrade(world));
        world.pods.on_change(move |old, new| {
            let Some(world) = weak.upgrade() else { return };
            for pod in [old, new].into_iter().flatten() {
                for budget in world.budgets.in_namespace(&pod.namespace().unwrap_or_default()) {
                    if selector(&budget).matches(&pod.metadata) {
                        guarded.add(Key::of(&*budget));
                    }
                }
            }
        });
        // The size of a workload is part of the sum.
        macro_rules! sizes {
            ($($cache:ident),*) => {
                $({
                    let (all, weak) = (queue.clone(), Arc::downgrade(world));
                    world.$cache.on_change(move |old, new| {
                        let size = |one: Option<&_>| one.map(replicas);
                        fn replicas<K: serde::Serialize>(one: &K) -> Value {
                            serde_json::to_value(one).map(|value| value["spec"]["replicas"].clone()).unwrap_or_default()
                        }
                        let (Some(world), Some(one)) = (weak.upgrade(), new.or(old)) else { return };
                        if size(old) != size(new) {
                            let namespace = one.namespace().unwrap_or_default();
                            world.budgets.in_namespace(&namespace).iter().for_each(|budget| all.add(Key::of(&**budget)));
                        }
                    });
                })*
            };
        }
        sizes!(replica_sets, stateful_sets, replication_controllers, deployments);
    });
}

fn selector(budget: &PodDisruptionBudget) -> Selector {
    Selector::of_optional(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
}

/// A number, or a percentage of `whole`, rounded up.
fn amount(value: &IntOrString, whole: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
            i32::try_from((percent.saturating_mul(i64::from(whole)) + 99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    }
}

/// How many pods there should be and how many must be healthy; `scale` is the sum of their workloads' sizes.
fn expected(budget: &PodDisruptionBudget, pods: i32, scale: i32) -> (i32, i32) {
    let spec = budget.spec.clone().unwrap_or_default();
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - amount(most, scale)).max(0)),
        (None, Some(IntOrString::Int(least))) => (pods, *least),
        (None, Some(least)) => (scale, amount(least, scale)),
        (None, None) => (0, 0),
    }
}

/// The status that follows from the pods, save for its conditions; and when an eviction is next given up, in seconds.
fn status(
    budget: &PodDisruptionBudget,
    mine: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<i64>) {
    let before = budget.status.clone().unwrap_or_default();
    let noted = before.disrupted_pods.unwrap_or_default();
    let left = |time: &Time| EVICTION_LASTS - (now.as_second() - time.0.as_second());
    let staying = || mine.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let disrupted: BTreeMap<String, Time> = staying()
        .filter_map(|pod| noted.get_key_value(&pod.name_any()))
        .filter(|(_, time)| left(time) > 0)
        .map(|(name, time)| (name.clone(), time.clone()))
        .collect();
    let healthy = staying().filter(|pod| is_ready(pod) && !disrupted.contains_key(&pod.name_any())).count();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let (healthy, (pods, wanted)) = (count(healthy), expected(budget, count(mine.len()), scale));
    let allowed = if pods > 0 { (healthy - wanted).max(0) } else { 0 };
    let next = disrupted.values().map(left).min();
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(wanted),
        expected_pods: Some(pods),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|map| !map.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: before.conditions,
    };
    (status, next)
}

impl Controller for Budgets {
    const NAME: &'static str = "disruption";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let api = Api::<PodDisruptionBudget>::namespaced(self.0.client.clone(), &key.namespace);
        // Evictions write it, too: the cache may not have seen the last one.
        let Some(budget) = api.get_opt(&key.name).await? else { return Ok(None) };
        if budget.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let selector = selector(&budget);
        let mut mine = self.0.pods.in_namespace(&key.namespace);
        mine.retain(|pod| selector.matches(&pod.metadata) && !is_finished(pod));
        if mine.is_empty() {
            pods::event(&self.0.client, COMPONENT, &budget, "Normal", "NoPods", "No matching pods found")
                .await;
        }
        let now = Timestamp::now();
        let (wanted, next) = status(&budget, &mine, self.scale(&key.namespace, &mine), now);
        let mut changed = budget.clone();
        changed.status = Some(wanted);
        let mut value = serde_json::to_value(&changed)?;
        let stamp = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        dyad_model::set_disruption_condition(&mut value, &stamp);
        let changed: PodDisruptionBudget = serde_json::from_value(value)?;
        if changed.status != budget.status {
            api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        }
        Ok(next.map(|seconds| Duration::from_secs(seconds.max(1).unsigned_abs())))
    }
}

impl Budgets {
    /// The sizes of all workloads that pods are of.
    fn scale(&self, namespace: &str, mine: &[Arc<Pod>]) -> i32 {
        let mut scales = BTreeMap::new();
        for owner in mine.iter().filter_map(|pod| controller_of(&pod.metadata)) {
            if let Some((uid, scale)) = self.scale_of(namespace, owner) {
                scales.insert(uid, scale);
            }
        }
        scales.values().fold(0, |sum: i32, scale| sum.saturating_add(*scale))
    }

    /// The size of a workload, or of the Deployment it is part of.
    fn scale_of(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let key = Key::new(namespace, &owner.name);
        let world = &self.0;
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = world.replica_sets.get(&key)?;
                match controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                    Some(owner) => self.scale_of(namespace, owner),
                    None => Some((set.uid()?, set.spec.as_ref()?.replicas.unwrap_or(1))),
                }
            }
            "Deployment" => {
                let deployment = world.deployments.get(&key)?;
                Some((deployment.uid()?, deployment.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            "StatefulSet" => {
                let set = world.stateful_sets.get(&key)?;
                Some((set.uid()?, set.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let controller = world.replication_controllers.get(&key)?;
                Some((controller.uid()?, controller.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(
            json!({"metadata": {"name": "b", "generation": 3}, "spec": spec, "status": status}),
        )
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": status}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn what_may_go_is_what_is_not_needed() {
        let pods = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let now = Timestamp::from_second(1000).unwrap();
        #[rustfmt::skip]
        let rows = [
            (json!({"minAvailable": 2}),      4, (3, 2, 4, 1)),
            (json!({"minAvailable": 4}),      4, (3, 4, 4, 0)),
            (json!({"minAvailable": "50%"}),  5, (3, 3, 5, 0)),
            (json!({"maxUnavailable": 2}),    5, (3, 3, 5, 0)),
            (json!({"maxUnavailable": "50%"}), 4, (3, 2, 4, 1)),
            (json!({"maxUnavailable": 9}),    4, (3, 0, 4, 3)),
            (json!({}),                       4, (3, 0, 0, 0)),
        ];
        for (spec, scale, wanted) in rows {
            let (status, _) = status(&budget(spec.clone(), json!(null)), &pods, scale, now);
            let found = (
                status.current_healthy,
                status.desired_healthy,
                status.expected_pods,
                status.disruptions_allowed,
            );
            let (healthy, needed, pods, allowed) = wanted;
            assert_eq!(found, (Some(healthy), Some(needed), Some(pods), Some(allowed)), "{spec}");
            assert_eq!(status.observed_generation, Some(3));
        }
    }

    #[test]
    fn evicted_pods_count_as_gone_for_a_while() {
        let noted = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                           "disruptedPods": {"a": "1970-01-01T00:10:00Z", "gone": "1970-01-01T00:10:00Z"}});
        let budget = budget(json!({"minAvailable": 1}), noted);
        let at = |second| {
            status(&budget, &[pod("a", true), pod("b", true)], 2, Timestamp::from_second(second).unwrap())
        };
        let (soon, next) = at(610);
        assert_eq!((soon.current_healthy, soon.disruptions_allowed, next), (Some(1), Some(0), Some(110)));
        let (later, next) = at(720);
        assert_eq!((later.current_healthy, later.disrupted_pods, next), (Some(2), None, None));
    }
}
