//! DaemonSets: one pod on each node that takes it, renewed a few at a time.

mod plan;

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
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

use crate::history::Subject;
use crate::pods::{
    self, Selector, controller_of, is_active, is_available, is_controlled_by, is_finished, is_ready,
    node_name,
};
use crate::queue::{Controller, Error, Key, Next};
use crate::replica_set::{adopt, delete, release};
use crate::scheduler::{selected, tolerates, untolerated};
use crate::{Shared, spawn};
use plan::{Daemon, Place, Update, plan};

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

/// How old pods are replaced on this many nodes.
fn update(set: &DaemonSet, nodes: usize) -> Update {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return Update::OnDelete;
    }
    let count = |value: Option<IntOrString>| match value {
        Some(IntOrString::Int(number)) => usize::try_from(number).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            (text.trim_end_matches('%').parse::<usize>().unwrap_or(0) * nodes).div_ceil(100)
        }
        None => 0,
    };
    let rolling = strategy.rolling_update.unwrap_or_default();
    match count(rolling.max_surge) {
        0 => Update::Unavailable(count(rolling.max_unavailable).max(1)),
        surge => Update::Surge(surge),
    }
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemon-set";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(set) = self.0.daemon_sets.get(key).filter(|set| set.metadata.deletion_timestamp.is_none())
        else {
            return Ok(None);
        };
        let Some(spec) = set.spec.as_ref() else { return Ok(None) };
        let api = Api::<Pod>::namespaced(self.0.client.clone(), &key.namespace);
        let selector = Selector::of(&spec.selector);
        let mut mine = Vec::new();
        // Read from the API and not from the cache: a pod just created must count.
        for pod in api.list(&ListParams::default()).await?.items {
            if is_controlled_by(&pod.metadata, &*set) {
                if selector.matches(&pod.metadata) {
                    mine.push(pod);
                } else {
                    release(&api, &pod).await?;
                }
            } else if controller_of(&pod.metadata).is_none()
                && selector.matches(&pod.metadata)
                && is_active(&pod)
            {
                mine.push(adopt(&api, &*set, &pod).await?);
            }
        }
        let subject = Subject {
            client: &self.0.client,
            owner: &*set,
            template: Some(&spec.template),
            keep: spec.revision_history_limit.unwrap_or(10),
            collisions: set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0),
            label: HASH,
        };
        let is_used = |one: &ControllerRevision| {
            mine.iter().any(|pod| pod.labels().get(HASH) == one.labels().get(HASH))
        };
        let (current, _) = subject.sync(is_used).await?;
        let hash = current.labels().get(HASH).cloned().unwrap_or_default();
        let places: Vec<Place> = self.0.nodes.all().iter().filter_map(|node| place(&set, node)).collect();
        let nodes: Vec<String> =
            places.iter().filter(|place| place.takes).map(|place| place.node.clone()).collect();
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
        let plan = plan(&places, &daemons, update(&set, nodes.len()));
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

/// Whether a node gets a pod, or may at least keep the one it has.
fn place(set: &DaemonSet, node: &Node) -> Option<Place> {
    let pod = pod_of(set, &node.name_any(), "")?;
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let driven_out = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| {
        taint.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    });
    if node.metadata.deletion_timestamp.is_some() || !selected(&pod, node) || driven_out {
        return None;
    }
    Some(Place { node: node.name_any(), takes: untolerated(node, tolerations).is_none() })
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
        let collision_count = set.status.as_ref().and_then(|status| status.collision_count);
        let status = DaemonSetStatus { collision_count, ..status };
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
