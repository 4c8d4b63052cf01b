//! DaemonSets: one pod on each node that takes it, renewed a few at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::{
    self, controller_of, is_active, is_available, is_controlled_by, is_finished, is_ready, matches, node_name,
};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::{adopt, delete};
use crate::scheduler::{selected, untolerated};
use crate::{Shared, spawn};

/// Label that tells the pods of different templates apart.
const HASH: &str = "controller-revision-hash";

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "daemonset-controller";

struct DaemonSets(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, DaemonSets(world.clone()), |queue| {
        let sets = queue.clone();
        world.daemon_sets.on_change(move |old, new| {
            if let Some(set) = new.or(old) {
                sets.add(Key::of(set));
            }
        });
        let owned = queue.clone();
        world.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                if let Some(owner) = controller_of(&pod.metadata).filter(|owner| owner.kind == "DaemonSet") {
                    owned.add(Key::new(pod.namespace().unwrap_or_default(), &owner.name));
                }
            }
        });
        let (all, weak) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.nodes.on_change(move |old, new| {
            let same = matches!((old, new), (Some(old), Some(new)) if old.spec == new.spec && old.labels() == new.labels());
            if let Some(world) = weak.upgrade().filter(|_| !same) {
                world.daemon_sets.all().iter().for_each(|set| all.add(Key::of(&**set)));
            }
        });
    });
}

/// Taints that daemons tolerate, as they are there to mend what the taints tell of.
fn tolerations(host_network: bool) -> Vec<Toleration> {
    let exists = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut list = vec![
        exists("not-ready", "NoExecute"),
        exists("unreachable", "NoExecute"),
        exists("disk-pressure", "NoSchedule"),
        exists("memory-pressure", "NoSchedule"),
        exists("pid-pressure", "NoSchedule"),
        exists("unschedulable", "NoSchedule"),
    ];
    if host_network {
        list.push(exists("network-unavailable", "NoSchedule"));
    }
    list
}

/// The template as a pod of one node.
fn pod_of(set: &DaemonSet, node: &str, hash: &str) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert(HASH.into(), hash.into());
    let mut spec: PodSpec = template.spec?;
    spec.tolerations.get_or_insert_default().extend(tolerations(spec.host_network == Some(true)));
    let here = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let node_affinity = spec
        .affinity
        .get_or_insert_with(Affinity::default)
        .node_affinity
        .get_or_insert_with(NodeAffinity::default);
    let required = node_affinity
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_with(NodeSelector::default);
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![here.clone()]);
    }
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: meta.annotations,
            owner_references: Some(vec![set.controller_owner_ref(&())?]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    })
}

/// Short name of a template.
fn hash(set: &DaemonSet) -> String {
    let text = serde_json::to_string(&set.spec.as_ref().map(|spec| &spec.template)).unwrap_or_default();
    let hash =
        text.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// The node a pod is on, or meant for.
fn target(pod: &Pod) -> String {
    let bound = node_name(pod);
    if !bound.is_empty() {
        return bound.to_owned();
    }
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let fields = required.and_then(|selector| selector.node_selector_terms.first()?.match_fields.as_ref());
    fields.and_then(|fields| fields.first()?.values.as_ref()?.first().cloned()).unwrap_or_default()
}

/// What to change.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<String>,
    delete: Vec<String>,
}

/// How a pod stands, for [`plan`].
#[derive(Clone, Debug)]
struct Daemon {
    name: String,
    node: String,
    current: bool,
    available: bool,
    finished: bool,
    leaving: bool,
}

/// One pod per node that takes it; old ones go while no more than `unavailable` nodes are without.
fn plan(nodes: &[String], daemons: &[Daemon], unavailable: Option<usize>) -> Plan {
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, Vec<&Daemon>> =
        nodes.iter().map(|node| (node.as_str(), Vec::new())).collect();
    for daemon in daemons {
        match by_node.get_mut(daemon.node.as_str()) {
            Some(list) => list.push(daemon),
            None if !daemon.leaving => plan.delete.push(daemon.name.clone()),
            None => {}
        }
    }
    let mut missing = 0;
    let mut replaceable = Vec::new();
    for (node, list) in &mut by_node {
        plan.delete
            .extend(list.iter().filter(|one| one.finished && !one.leaving).map(|one| one.name.clone()));
        // One that is leaving still holds its place, so that there are never two at once.
        list.retain(|one| !one.finished);
        list.sort_by_key(|one| (one.leaving, !one.current, !one.available));
        match list.split_first() {
            None => {
                plan.create.push((*node).to_owned());
                missing += 1;
            }
            Some((first, surplus)) => {
                plan.delete.extend(surplus.iter().filter(|one| !one.leaving).map(|one| one.name.clone()));
                if first.leaving || !first.available {
                    missing += 1;
                }
                if !first.current && !first.leaving {
                    replaceable.push(*first);
                }
            }
        }
    }
    let Some(most) = unavailable else { return plan };
    // Those that don't work are replaced at once: it costs nobody anything.
    let (working, broken): (Vec<&Daemon>, Vec<&Daemon>) =
        replaceable.into_iter().partition(|one| one.available);
    plan.delete.extend(broken.iter().map(|one| one.name.clone()));
    plan.delete.extend(working.iter().take(most.saturating_sub(missing)).map(|one| one.name.clone()));
    plan
}

/// How many nodes may be without; `None` when nothing is replaced by itself (OnDelete).
fn max_unavailable(set: &DaemonSet, nodes: usize) -> Option<usize> {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return None;
    }
    let most = match strategy.rolling_update.and_then(|rolling| rolling.max_unavailable) {
        Some(IntOrString::Int(number)) => usize::try_from(number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            (text.trim_end_matches('%').parse::<usize>().unwrap_or(0) * nodes).div_ceil(100)
        }
        None => 1,
    };
    Some(most.max(1))
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemon-set";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.0.daemon_sets.get(key).filter(|set| set.metadata.deletion_timestamp.is_none())
        else {
            return Ok(None);
        };
        let (Some(spec), hash) = (set.spec.as_ref(), hash(&set)) else { return Ok(None) };
        let api = Api::<Pod>::namespaced(self.0.client.clone(), &key.namespace);
        let mut mine = Vec::new();
        for pod in api.list(&ListParams::default()).await?.items {
            if is_controlled_by(&pod.metadata, &*set) {
                mine.push(pod);
            } else if controller_of(&pod.metadata).is_none()
                && matches(&spec.selector, &pod.metadata)
                && is_active(&pod)
            {
                mine.push(adopt(&api, &*set, &pod).await?);
            }
        }
        let nodes: Vec<String> =
            self.0.nodes.all().iter().filter(|node| takes(&set, node)).map(|node| node.name_any()).collect();
        let now = Timestamp::now();
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let daemons: Vec<Daemon> = mine
            .iter()
            .map(|pod| Daemon {
                name: pod.name_any(),
                node: target(pod),
                current: pod.labels().get(HASH) == Some(&hash),
                available: is_available(pod, min_ready, now),
                finished: is_finished(pod),
                leaving: pod.metadata.deletion_timestamp.is_some(),
            })
            .collect();
        let plan = plan(&nodes, &daemons, max_unavailable(&set, nodes.len()));
        for pod in mine.iter().filter(|pod| plan.delete.contains(&pod.name_any())) {
            delete(&api, pod).await?;
            pods::event(
                &self.0.client,
                COMPONENT,
                &*set,
                "Normal",
                "SuccessfulDelete",
                &format!("Deleted pod: {}", pod.name_any()),
            )
            .await;
        }
        for node in &plan.create {
            let Some(pod) = pod_of(&set, node, &hash) else { continue };
            let made = api.create(&PostParams::default(), &pod).await?;
            pods::event(
                &self.0.client,
                COMPONENT,
                &*set,
                "Normal",
                "SuccessfulCreate",
                &format!("Created pod: {}", made.name_any()),
            )
            .await;
        }
        self.write_status(&set, &nodes, &mine, &hash).await?;
        let waiting = mine.iter().any(|pod| is_ready(pod) && !is_available(pod, min_ready, now));
        Ok(waiting.then(|| Duration::from_secs(1)))
    }
}

/// Whether a node gets a pod.
fn takes(set: &DaemonSet, node: &Node) -> bool {
    let Some(pod) = pod_of(set, &node.name_any(), "") else { return false };
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_none()
        && selected(&pod, node)
        && untolerated(node, tolerations).is_none()
}

impl DaemonSets {
    async fn write_status(
        &self,
        set: &DaemonSet,
        nodes: &[String],
        mine: &[Pod],
        hash: &str,
    ) -> Result<(), Error> {
        let now = Timestamp::now();
        let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let placed: Vec<&Pod> =
            mine.iter().filter(|pod| is_active(pod) && nodes.contains(&target(pod))).collect();
        let count = |test: &dyn Fn(&&&Pod) -> bool| {
            i32::try_from(placed.iter().filter(test).count()).unwrap_or(i32::MAX)
        };
        let desired = i32::try_from(nodes.len()).unwrap_or(i32::MAX);
        let available = count(&|pod| is_available(pod, min_ready, now));
        let some = |count: i32| Some(count).filter(|count| *count != 0);
        let misplaced = mine.iter().filter(|pod| is_active(pod) && !nodes.contains(&target(pod))).count();
        let status = DaemonSetStatus {
            current_number_scheduled: count(&|_| true),
            desired_number_scheduled: desired,
            number_misscheduled: i32::try_from(misplaced).unwrap_or(i32::MAX),
            number_ready: count(&|pod| is_ready(pod)),
            updated_number_scheduled: some(count(&|pod| {
                pod.labels().get(HASH).is_some_and(|one| one == hash)
            })),
            number_available: some(available),
            number_unavailable: some(desired - available),
            observed_generation: set.metadata.generation,
            ..DaemonSetStatus::default()
        };
        if set.status.as_ref() != Some(&status) {
            let mut value = serde_json::to_value(&status)?;
            for count in ["updatedNumberScheduled", "numberAvailable", "numberUnavailable"] {
                value.as_object_mut().map(|fields| fields.entry(count).or_insert(serde_json::Value::Null));
            }
            let patch = json!({"metadata": {"uid": set.uid()}, "status": value});
            let api =
                Api::<DaemonSet>::namespaced(self.0.client.clone(), &set.namespace().unwrap_or_default());
            api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(name: &str, node: &str, current: bool, available: bool) -> Daemon {
        Daemon { name: name.into(), node: node.into(), current, available, finished: false, leaving: false }
    }

    #[test]
    fn one_pod_per_node_and_old_ones_go_one_by_one() {
        let nodes = ["a".to_owned(), "b".to_owned()];
        let leaving = |mut daemon: Daemon| {
            daemon.leaving = true;
            daemon
        };
        let finished = |mut daemon: Daemon| {
            daemon.finished = true;
            daemon
        };
        #[rustfmt::skip]
        let cases = [
            (vec![], &["a", "b"][..], &[][..], "none yet"),
            (vec![daemon("1", "a", true, true), daemon("2", "b", true, true)], &[], &[], "all there"),
            (vec![daemon("1", "a", true, true), daemon("2", "c", true, true)], &["b"], &["2"], "a node that does not take it"),
            (vec![daemon("1", "a", false, true), daemon("2", "b", false, true)], &[], &["1"], "one at a time"),
            (vec![leaving(daemon("1", "a", false, true)), daemon("2", "b", false, true)], &[], &[], "wait for the place"),
            (vec![daemon("1", "a", true, false), daemon("2", "b", false, true)], &[], &[], "wait for the new one"),
            (vec![daemon("1", "a", true, false), daemon("2", "b", false, false)], &[], &["2"], "a broken one is no loss"),
            (vec![daemon("1", "a", true, true), daemon("2", "a", true, true), daemon("3", "b", true, true)], &[], &["2"], "two on one node"),
            (vec![finished(daemon("1", "a", true, false)), daemon("2", "b", true, true)], &["a"], &["1"], "one that ended"),
        ];
        for (daemons, create, delete, why) in cases {
            let plan = plan(&nodes, &daemons, Some(1));
            assert_eq!(
                (
                    plan.create.iter().map(String::as_str).collect::<Vec<_>>(),
                    plan.delete.iter().map(String::as_str).collect::<Vec<_>>()
                ),
                (create.to_vec(), delete.to_vec()),
                "{why}"
            );
        }
        let old = [daemon("1", "a", false, true), daemon("2", "b", false, true)];
        assert_eq!(plan(&nodes, &old, None), Plan::default(), "OnDelete");
    }
}
