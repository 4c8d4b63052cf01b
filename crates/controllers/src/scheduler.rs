//! The scheduler: a node for each pod that has none. Filters as kube-scheduler's, then spreads.

mod fit;
mod relations;

use std::collections::HashMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::pods::{self, is_finished, node_name};
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};
use fit::{Load, choose};
pub(crate) use fit::{selected, tolerates, untolerated};
use relations::{Relations, has_relations};

/// The scheduler name of pods that name none.
const NAME: &str = "default-scheduler";

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "default-scheduler";

struct Scheduler {
    world: Shared,
    /// Pods bound by us that the cache does not show as bound yet, with their node, by UID.
    assumed: Mutex<HashMap<String, String>>,
}

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    let scheduler = Scheduler { world: world.clone(), assumed: Mutex::default() };
    spawn(tasks, scheduler, |queue| {
        let (mine, weak) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.pods.on_change(move |old, new| {
            match new.filter(|pod| is_waiting(pod)) {
                Some(pod) => mine.add(Key::of(pod)),
                // A pod that ends or goes makes room.
                None if old.is_some_and(|pod| !node_name(pod).is_empty()) && new.is_none_or(is_finished) => {
                    if let Some(world) = weak.upgrade() {
                        world
                            .pods
                            .all()
                            .iter()
                            .filter(|pod| is_waiting(pod))
                            .for_each(|pod| mine.add(Key::of(&**pod)));
                    }
                }
                // One that comes to a node, or to other labels, is company that others wait for.
                None if old.is_some_and(|old| {
                    new.is_some_and(|new| {
                        node_name(old) != node_name(new) || old.metadata.labels != new.metadata.labels
                    })
                }) =>
                {
                    if let Some(world) = weak.upgrade() {
                        let waiting = world.pods.all();
                        let waiting = waiting.iter().filter(|pod| is_waiting(pod) && has_relations(pod));
                        waiting.for_each(|pod| mine.add(Key::of(&**pod)));
                    }
                }
                None => {}
            }
        });
        let (all, weak) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.nodes.on_change(move |old, new| {
            let same = matches!((old, new), (Some(old), Some(new)) if !fit::differs(old, new));
            if let Some(world) = weak.upgrade().filter(|_| !same) {
                world
                    .pods
                    .all()
                    .iter()
                    .filter(|pod| is_waiting(pod))
                    .for_each(|pod| all.add(Key::of(&**pod)));
            }
        });
    });
}

fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ours = spec
        .and_then(|spec| spec.scheduler_name.as_deref())
        .is_none_or(|name| name == NAME || name.is_empty());
    let gated = spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
    ours && !gated
        && node_name(pod).is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

impl Controller for Scheduler {
    const NAME: &'static str = "scheduler";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.world.pods.get(key).filter(|pod| is_waiting(pod)) else { return Ok(None) };
        let uid = pod.uid().unwrap_or_default();
        let chosen = {
            let pods = self.world.pods.all();
            let mut assumed = self.assumed.lock().expect("nothing panics here");
            // What the cache shows as bound, or no longer has, need not be assumed.
            assumed.retain(|uid, _| {
                pods.iter().any(|pod| pod.uid().as_ref() == Some(uid) && node_name(pod).is_empty())
            });
            if assumed.contains_key(&uid) {
                return Ok(None);
            }
            let nodes = self.world.nodes.all();
            let nodes: Vec<&Node> = nodes.iter().map(|node| &**node).collect();
            let mut load = Load::default();
            let mut placed = Vec::new();
            for other in pods.iter().filter(|pod| !is_finished(pod)) {
                let bound = node_name(other);
                let uid = other.uid().unwrap_or_default();
                let node = if bound.is_empty() { assumed.get(&uid).map(String::as_str) } else { Some(bound) };
                if let Some(node) = node {
                    load.add(node, other);
                    placed.extend(
                        nodes.iter().find(|one| one.name_any() == node).map(|node| (*node, &**other)),
                    );
                }
            }
            let namespaces = self.world.namespaces.all();
            let namespaces = namespaces.iter().map(|one| (one.name_any(), one.metadata.clone())).collect();
            let relations = Relations::of(&pod, &nodes, &placed, &namespaces);
            let chosen = choose(&pod, &nodes, &load, &relations);
            if let Ok(node) = &chosen {
                assumed.insert(uid.clone(), node.clone());
            }
            chosen
        };
        match chosen {
            Ok(node) => {
                let bound = self.bind(&pod, &node).await;
                if bound.is_err() {
                    self.assumed.lock().expect("nothing panics here").remove(&uid);
                }
                bound.map(|()| None)
            }
            Err(why) => self.refuse(&pod, &why).await,
        }
    }
}

impl Scheduler {
    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name_any()),
                namespace: pod.namespace(),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        let namespace = pod.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(self.world.client.clone(), &namespace);
        let _: serde_json::Value =
            api.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await?;
        let message = format!("Successfully assigned {namespace}/{} to {node}", pod.name_any());
        pods::event(&self.world.client, COMPONENT, pod, "Normal", "Scheduled", &message).await;
        Ok(())
    }

    async fn refuse(&self, pod: &Pod, why: &str) -> Result<Next, Error> {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let told = conditions.is_some_and(|list| {
            list.iter().any(|one| {
                one.type_ == "PodScheduled" && one.status == "False" && one.message.as_deref() == Some(why)
            })
        });
        if !told {
            let now = Timestamp::now();
            let now = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastTransitionTime": now});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            let api = Api::<Pod>::namespaced(self.world.client.clone(), &pod.namespace().unwrap_or_default());
            let params =
                PatchParams { field_manager: Some("kube-scheduler".to_owned()), ..PatchParams::default() };
            api.patch_status(&pod.name_any(), &params, &Patch::Strategic(patch)).await?;
            pods::event(&self.world.client, COMPONENT, pod, "Warning", "FailedScheduling", why).await;
        }
        Ok(None)
    }
}
