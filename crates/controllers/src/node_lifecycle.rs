//! Nodes that fall silent: their conditions become Unknown, taints keep pods away and then drive them out, and
//! their pods count as not ready, so that Services leave them out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dyad_model::readiness;
use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::{self, is_finished, node_name};
use crate::queue::{Controller, Error, Key, Next};
use crate::scheduler::tolerates;
use crate::world::NODE_LEASES;
use crate::{Shared, spawn};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "node-controller";

struct NodeLifecycle {
    world: Shared,
    grace: Duration,
    /// The last renewal of each node's lease, with when it was seen by our own clock.
    heard: Mutex<HashMap<String, (Option<MicroTime>, Instant)>>,
}

pub(crate) fn start(world: &Shared, grace: Duration, tasks: &mut JoinSet<()>) {
    let lifecycle = NodeLifecycle { world: world.clone(), grace, heard: Mutex::default() };
    spawn(tasks, lifecycle, |queue| {
        let nodes = queue.clone();
        world.nodes.on_change(move |old, new| {
            if let Some(node) = new.or(old) {
                nodes.add(Key::of(node));
            }
        });
        // Renewals are not watched: every node is looked at again when its time runs out. A lease that comes back
        // after a silence is news, and a pod on a silent node too.
        let (pods, weak) = (queue.clone(), Arc::downgrade(world));
        world.pods.on_change(move |old, new| {
            let (Some(pod), Some(world)) = (new, weak.upgrade()) else { return };
            if old.is_some_and(|old| node_name(old) == node_name(pod)) {
                return;
            }
            let Some(node) = world.nodes.named(node_name(pod)) else { return };
            if health(&node) != Health::Ready || drives_out(&node) {
                pods.add(Key::named(node_name(pod)));
            }
        });
        let (leases, weak) = (queue.clone(), Arc::downgrade(world));
        world.leases.on_change(move |_, new| {
            let (Some(lease), Some(world)) = (new, weak.upgrade()) else { return };
            let name = lease.name_any();
            if world.nodes.named(&name).is_some_and(|node| health(&node) == Health::Unreachable) {
                leases.add(Key::named(name));
            }
        });
    });
}

/// What a node's Ready condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Ready,
    NotReady,
    Unreachable,
    /// The node has never said anything; it may be about to.
    Unheard,
}

fn health(node: &Node) -> Health {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    match conditions.into_iter().flatten().find(|one| one.type_ == "Ready").map(|one| one.status.as_str()) {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unreachable,
        Some(_) => Health::NotReady,
        None => Health::Unheard,
    }
}

/// The taints a node should have for its health; those of others stay. `None` if they are as they should be.
fn taints(present: &[Taint], health: Health, now: Timestamp) -> Option<Vec<Taint>> {
    let key = match health {
        Health::Unheard => return None,
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unreachable => Some(UNREACHABLE),
    };
    let ours = |taint: &Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
    let mut wanted: Vec<Taint> =
        present.iter().filter(|taint| !ours(taint) || Some(taint.key.as_str()) == key).cloned().collect();
    for effect in key.iter().flat_map(|_| ["NoSchedule", "NoExecute"]) {
        let key = key.unwrap_or_default();
        if !wanted.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added =
                (effect == "NoExecute").then(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
            wanted.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    (wanted != present).then_some(wanted)
}

/// The taints that pods on the node have to tolerate to stay.
fn driving(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute")
}

fn drives_out(node: &Node) -> bool {
    driving(node).next().is_some()
}

/// Whether a pod must leave a node with these taints, and if later, in how long.
fn must_leave(
    tolerations: &[Toleration],
    node: &Node,
    (came, now): (Timestamp, Timestamp),
) -> Result<(), Option<Duration>> {
    let mut soonest: Option<Duration> = None;
    for taint in driving(node) {
        match leaves_for(tolerations, taint, (came, now)) {
            Ok(()) => return Ok(()),
            Err(Some(left)) => soonest = Some(soonest.map_or(left, |soonest| soonest.min(left))),
            Err(None) => {}
        }
    }
    Err(soonest)
}

fn leaves_for(
    tolerations: &[Toleration],
    taint: &Taint,
    (came, now): (Timestamp, Timestamp),
) -> Result<(), Option<Duration>> {
    let covering: Vec<&Toleration> = tolerations.iter().filter(|one| tolerates(one, taint)).collect();
    if covering.is_empty() {
        return Ok(());
    }
    // One without a time tolerates for ever; of several times the shortest counts.
    let Some(seconds) = covering.iter().filter_map(|one| one.toleration_seconds).min() else {
        return Err(None);
    };
    // A pod's patience does not run out before it came.
    let since = taint.time_added.as_ref().map_or(now, |time| time.0).max(came);
    let left = seconds - (now.as_second() - since.as_second());
    if left <= 0 { Ok(()) } else { Err(Some(Duration::from_secs(left.unsigned_abs()))) }
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(node) = self.world.nodes.named(&key.name) else {
            self.heard.lock().expect("nothing panics here").remove(&key.name);
            return Ok(None);
        };
        let renewed = self
            .world
            .leases
            .get(&Key::new(NODE_LEASES, &key.name))
            .and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let silence = {
            let mut heard = self.heard.lock().expect("nothing panics here");
            let entry = heard.entry(key.name.clone()).or_insert_with(|| (renewed.clone(), Instant::now()));
            if entry.0 != renewed {
                *entry = (renewed, Instant::now());
            }
            entry.1.elapsed()
        };
        let mut health = health(&node);
        if silence >= self.grace && health != Health::Unreachable {
            self.declare_unreachable(&node).await?;
            health = Health::Unreachable;
        }
        let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if let Some(wanted) = taints(&present, health, Timestamp::now()) {
            // The resourceVersion guards the taints of others.
            let patch =
                json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": wanted}});
            let api = Api::<Node>::all(self.world.client.clone());
            let params = PatchParams::default();
            if silence < self.grace || health == Health::Unreachable {
                match api.patch(&key.name, &params, &Patch::Merge(patch)).await {
                    // The change comes back as a change of the node.
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        return Ok(Some(Duration::from_millis(50)));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        let mut next = self.grace.saturating_sub(silence).max(Duration::from_millis(500));
        if matches!(health, Health::NotReady | Health::Unreachable) {
            self.mark_pods(&node, health).await?;
        }
        if drives_out(&node)
            && let Some(sooner) = self.drive_out(&node).await?
        {
            next = next.min(sooner);
        }
        Ok(Some(next))
    }
}

impl NodeLifecycle {
    async fn declare_unreachable(&self, node: &Node) -> Result<(), Error> {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
        let present = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut types: Vec<&str> = present.into_iter().flatten().map(|one| one.type_.as_str()).collect();
        if !types.contains(&"Ready") {
            types.push("Ready");
        }
        let conditions: Vec<_> = types
            .iter()
            .map(|type_| {
                json!({"type": type_, "status": "Unknown", "reason": "NodeStatusUnknown",
                       "message": "Kubelet stopped posting node status.", "lastTransitionTime": now})
            })
            .collect();
        let patch = json!({"status": {"conditions": conditions}});
        let api = Api::<Node>::all(self.world.client.clone());
        api.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        pods::event(
            &self.world.client,
            COMPONENT,
            node,
            "Normal",
            "NodeNotReady",
            "Node status is now: NodeNotReady",
        )
        .await;
        Ok(())
    }

    /// The node's pods that have not ended.
    fn pods_on(&self, node: &Node) -> Vec<Arc<Pod>> {
        let name = node.name_any();
        let mut pods = self.world.pods.all();
        pods.retain(|pod| node_name(pod) == name && !is_finished(pod));
        pods
    }

    /// Marks the node's pods as not ready. A node that still speaks may say otherwise afterwards, and is believed.
    async fn mark_pods(&self, node: &Node, health: Health) -> Result<(), Error> {
        let since = |conditions: Option<&Vec<NodeCondition>>| {
            let ready = conditions?.iter().find(|one| one.type_ == "Ready")?;
            ready.last_transition_time.as_ref().map(|time| time.0)
        };
        let fell = since(node.status.as_ref().and_then(|status| status.conditions.as_ref()));
        let now = Timestamp::now();
        let stamp = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        let claims = IpFamily::BOTH.map(readiness::condition);
        for pod in self.pods_on(node) {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let conditions: Vec<_> = conditions
                .filter(|one| one.type_ == "Ready" || claims.contains(&one.type_))
                .filter(|one| one.status == "True")
                .filter(|one| {
                    let said = one.last_transition_time.as_ref().map(|time| time.0);
                    health != Health::NotReady || said <= fell
                })
                .map(|one| {
                    json!({"type": one.type_, "status": "False", "reason": "NodeNotReady", "lastTransitionTime": stamp})
                })
                .collect();
            if conditions.is_empty() {
                continue;
            }
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": conditions}});
            let api = Api::<Pod>::namespaced(self.world.client.clone(), &pod.namespace().unwrap_or_default());
            api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        }
        Ok(())
    }

    /// Deletes the pods whose patience with the node's taints is over; when the next one's will be.
    async fn drive_out(&self, node: &Node) -> Result<Option<Duration>, Error> {
        let now = Timestamp::now();
        let mut next: Option<Duration> = None;
        for pod in self.pods_on(node).iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let api = Api::<Pod>::namespaced(self.world.client.clone(), &pod.namespace().unwrap_or_default());
            let tolerations =
                pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
            let came = pod.creation_timestamp().map_or(now, |created| created.0);
            match must_leave(tolerations, node, (came, now)) {
                Ok(()) => {
                    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
                    let params =
                        DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                    pods::event(
                        &self.world.client,
                        COMPONENT,
                        &**pod,
                        "Normal",
                        "TaintManagerEviction",
                        &format!("Marking for deletion Pod {}", pod.name_any()),
                    )
                    .await;
                    match api.delete(&pod.name_any(), &params).await {
                        Err(kube::Error::Api(status)) if status.code == 404 => {}
                        result => drop(result?),
                    }
                }
                Err(Some(left)) => next = Some(next.map_or(left, |next| next.min(left))),
                Err(None) => {}
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSpec;

    fn taint(key: &str, effect: &str, second: i64) -> Taint {
        Taint {
            key: key.into(),
            effect: effect.into(),
            time_added: Timestamp::from_second(second).ok().map(Time),
            value: None,
        }
    }

    #[test]
    fn taints_follow_the_health_and_leave_others_alone() {
        let other = taint("mine", "NoSchedule", 0);
        let now = Timestamp::from_second(100).unwrap();
        let silent = taints(std::slice::from_ref(&other), Health::Unreachable, now).unwrap();
        let keys: Vec<_> = silent.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
        assert_eq!(keys, [("mine", "NoSchedule"), (UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]);
        assert_eq!(
            taints(&silent, Health::Unreachable, Timestamp::from_second(200).unwrap()),
            None,
            "the time added stays"
        );
        assert_eq!(taints(&silent, Health::Ready, now), Some(vec![other]));
    }

    #[test]
    fn pods_leave_when_their_patience_is_over() {
        let now = Timestamp::from_second(400).unwrap();
        let spec = NodeSpec {
            taints: Some(vec![taint("x", "NoSchedule", 0), taint(UNREACHABLE, "NoExecute", 100)]),
            ..NodeSpec::default()
        };
        let node = Node { spec: Some(spec), ..Node::default() };
        let tolerates = |seconds: Option<i64>| Toleration {
            key: Some(UNREACHABLE.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            value: None,
        };
        #[rustfmt::skip]
        let cases = [
            (vec![],                                             Ok(())),
            (vec![tolerates(None)],                              Err(None)),
            (vec![tolerates(Some(300))],                         Ok(())),
            (vec![tolerates(Some(310))],                         Err(Some(Duration::from_secs(10)))),
            (vec![tolerates(Some(310)), tolerates(Some(350))],   Err(Some(Duration::from_secs(10)))),
        ];
        let came = Timestamp::from_second(50).unwrap();
        for (tolerations, leaves) in cases {
            assert_eq!(must_leave(&tolerations, &node, (came, now)), leaves, "{tolerations:?}");
        }
        let late = (Timestamp::from_second(390).unwrap(), now);
        assert_eq!(
            must_leave(&[tolerates(Some(300))], &node, late),
            Err(Some(Duration::from_secs(290))),
            "a pod that came when the taint was there"
        );
    }
}
