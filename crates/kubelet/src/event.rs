//! Events: what happened to a pod, for people.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

/// How many wait to be written; more are dropped, as are those the API does not take: events are a courtesy.
const QUEUE: usize = 256;
/// How many are remembered to be counted instead of repeated.
const REMEMBERED: usize = 512;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Happening {
    /// Namespace, name and uid of the pod.
    pub(crate) pod: (String, String, String),
    /// The container it is about, as a field path; empty for the pod itself.
    pub(crate) field_path: String,
    /// A warning or normal.
    pub(crate) is_warning: bool,
    /// One word.
    pub(crate) reason: &'static str,
    /// A sentence.
    pub(crate) message: String,
}

/// Takes events and never waits.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    queue: mpsc::Sender<Happening>,
}

impl Events {
    /// Events, and the task that writes them.
    pub(crate) fn new(client: Client, node_name: String) -> (Self, impl Future<Output = ()>) {
        let (queue, happenings) = mpsc::channel(QUEUE);
        (Self { queue }, write_all(client, node_name, happenings))
    }

    /// Tells of something.
    pub(crate) fn tell(&self, happening: Happening) {
        debug!(pod = %happening.pod.1, reason = happening.reason, message = %happening.message, "event");
        // Full: whoever is interested in the newest of so many finds them in the log.
        let _ = self.queue.try_send(happening);
    }
}

/// An event that was written.
struct Written {
    name: String,
    count: i32,
    at: Timestamp,
}

type Key = (String, String, &'static str, String);

async fn write_all(client: Client, node_name: String, mut happenings: mpsc::Receiver<Happening>) {
    let mut written: BTreeMap<Key, Written> = BTreeMap::new();
    while let Some(happening) = happenings.recv().await {
        let key: Key = (
            happening.pod.2.clone(),
            happening.field_path.clone(),
            happening.reason,
            happening.message.clone(),
        );
        let api: Api<Event> = Api::namespaced(client.clone(), &happening.pod.0);
        let now = Timestamp::now();
        let stamp = super::pod::status::time(now).0.to_string();
        if let Some(before) = written.get_mut(&key) {
            (before.count, before.at) = (before.count + 1, now);
            let change = json!({"count": before.count, "lastTimestamp": stamp});
            if api.patch(&before.name, &PatchParams::default(), &Patch::Merge(change)).await.is_ok() {
                continue;
            }
            // Expired meanwhile: written anew.
        }
        let name = format!("{}.{:x}", happening.pod.1, now.as_nanosecond());
        let event = event(&happening, &name, &stamp, &node_name);
        match serde_json::from_value(event) {
            Ok(event) => {
                if api.create(&PostParams::default(), &event).await.is_ok() {
                    if written.len() >= REMEMBERED {
                        forget_oldest(&mut written);
                    }
                    written.insert(key, Written { name, count: 1, at: now });
                }
            }
            Err(error) => debug!(%error, "an event could not be built"),
        }
    }
}

fn forget_oldest(written: &mut BTreeMap<Key, Written>) {
    let oldest = written.iter().min_by_key(|(_, written)| written.at).map(|(key, _)| key.clone());
    if let Some(key) = oldest {
        written.remove(&key);
    }
}

fn event(happening: &Happening, name: &str, stamp: &str, node_name: &str) -> serde_json::Value {
    let (namespace, pod, uid) = &happening.pod;
    let mut object = json!({
        "kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": pod, "uid": uid,
    });
    if !happening.field_path.is_empty() {
        object["fieldPath"] = happening.field_path.as_str().into();
    }
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": object,
        "reason": happening.reason,
        "message": happening.message,
        "type": if happening.is_warning { "Warning" } else { "Normal" },
        "source": {"component": "kubelet", "host": node_name},
        "reportingComponent": "kubelet",
        "reportingInstance": node_name,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    })
}
