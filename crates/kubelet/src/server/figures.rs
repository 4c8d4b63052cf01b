//! `/stats/summary` and `/metrics`: what the node's pods use.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Body, full, json};
use crate::figures::{self, Link, Processes, Usage};
use crate::sandbox::Sandbox;
use crate::seen;
use crate::worker::Shared;

/// Processor time per time is told between two looks that are at least and at most so far apart.
const NEAREST: Duration = Duration::from_millis(500);
const FARTHEST: Duration = Duration::from_secs(120);

/// A pod as one look found it.
struct PodFigures {
    pod: Arc<Pod>,
    usage: Usage,
    containers: BTreeMap<String, Usage>,
    links: Vec<Link>,
}

/// The node as one look found it.
struct Look {
    at: Instant,
    time: Timestamp,
    node: Usage,
    pods: BTreeMap<String, PodFigures>,
}

/// The look before, to tell the difference from; nobody looks unless somebody asks.
#[derive(Default)]
pub(crate) struct Before(Mutex<Option<Arc<Look>>>);

fn look(shared: &Shared) -> Look {
    let (at, time) = (Instant::now(), Timestamp::now());
    let processes = Processes::look();
    let mut pods = BTreeMap::new();
    // The node's own process, which is agent and kubelet.
    let mut node = processes.one(std::process::id());
    for pod in shared.seen.all() {
        let Some(uid) = pod.metadata.uid.clone() else { continue };
        let Ok(Some(sandbox)) = Sandbox::adopt(&shared.state_dir(&uid)) else { continue };
        let usage = processes.below(sandbox.pid());
        node.add(usage);
        let states = sandbox.watch().ok().and_then(|watch| watch.read().ok().flatten()).unwrap_or_default();
        let running = states.into_iter().filter(|state| state.exit.is_none());
        let containers = running.filter_map(|state| {
            let first = processes.child(sandbox.pid(), u32::try_from(state.pid).ok()?)?;
            Some((state.name, processes.below(first)))
        });
        let host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        let links = if host { Vec::new() } else { figures::links(sandbox.pid()) };
        pods.insert(uid, PodFigures { pod, usage, containers: containers.collect(), links });
    }
    Look { at, time, node, pods }
}

/// Two looks, the second one now.
async fn looks(shared: &Arc<Shared>) -> (Arc<Look>, Arc<Look>) {
    let again = || async {
        let own = Arc::clone(shared);
        let found = tokio::task::spawn_blocking(move || look(&own)).await;
        Arc::new(found.unwrap_or_else(|_| Look {
            at: Instant::now(),
            time: Timestamp::now(),
            node: Usage::default(),
            pods: BTreeMap::new(),
        }))
    };
    let known = shared.before.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let before = match known.filter(|before| (NEAREST..FARTHEST).contains(&before.at.elapsed())) {
        Some(before) => before,
        None => {
            let before = again().await;
            tokio::time::sleep(NEAREST).await;
            before
        }
    };
    let now = again().await;
    *shared.before.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&now));
    (before, now)
}

/// Nanoseconds of processor time per second.
fn rate(before: u64, now: u64, between: Duration) -> u64 {
    let nanos = u128::from(now.saturating_sub(before)) * 1_000_000_000 / between.as_nanos().max(1);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

pub(super) async fn summary(shared: &Arc<Shared>) -> Response<Body> {
    let (before, now) = looks(shared).await;
    let between = now.at.duration_since(before.at);
    let time = now.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let part = |old: Usage, new: Usage| {
        json!({
            "cpu": {"time": time, "usageNanoCores": rate(old.cpu, new.cpu, between), "usageCoreNanoSeconds": new.cpu},
            "memory": {"time": time, "usageBytes": new.memory, "workingSetBytes": new.memory, "rssBytes": new.memory},
        })
    };
    let with = |mut base: Value, more: Value| {
        if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
            base.extend(more);
        }
        base
    };
    let mut pods = Vec::new();
    for (uid, found) in &now.pods {
        let old = before.pods.get(uid);
        let containers: Vec<Value> = found
            .containers
            .iter()
            .map(|(name, usage)| {
                let old = old.and_then(|old| old.containers.get(name)).copied().unwrap_or(*usage);
                let status = seen::container(&found.pod, name).and_then(|status| status.state.clone());
                let since = status.and_then(|state| state.running).and_then(|running| running.started_at);
                with(part(old, *usage), json!({"name": name, "startTime": since}))
            })
            .collect();
        let meta = &found.pod.metadata;
        let links: Vec<Value> = found.links.iter().map(|(name, counts)| link(name, counts)).collect();
        let more = json!({
            "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": uid},
            "startTime": found.pod.status.as_ref().and_then(|status| status.start_time.clone()),
            "containers": containers,
            "process_stats": {"process_count": found.usage.processes},
            "network": {"time": time, "interfaces": links},
        });
        pods.push(with(part(old.map_or(found.usage, |old| old.usage), found.usage), more));
    }
    let node = with(part(before.node, now.node), json!({"nodeName": shared.config.node_name}));
    json(&json!({"node": node, "pods": pods}))
}

fn link(name: &str, [rx_bytes, rx_errors, tx_bytes, tx_errors]: &[u64; 4]) -> Value {
    json!({
        "name": name, "rxBytes": rx_bytes, "rxErrors": rx_errors, "txBytes": tx_bytes, "txErrors": tx_errors,
    })
}

fn exposition(text: String) -> Response<Body> {
    full(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
}

/// What metrics servers read.
pub(super) async fn resource_metrics(shared: &Arc<Shared>) -> Response<Body> {
    let own = Arc::clone(shared);
    let Ok(now) = tokio::task::spawn_blocking(move || look(&own)).await else {
        return super::text(StatusCode::INTERNAL_SERVER_ERROR, "the figures can't be had");
    };
    let mut rows: [Vec<(String, Usage)>; 3] = [vec![(String::new(), now.node)], Vec::new(), Vec::new()];
    for found in now.pods.values() {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &found.pod.metadata;
        let pod = format!("namespace=\"{}\",pod=\"{}\"", part(&meta.namespace), part(&meta.name));
        let containers = found.containers.iter();
        rows[2].extend(containers.map(|(name, usage)| (format!("{{container=\"{name}\",{pod}}}"), *usage)));
        rows[1].push((format!("{{{pod}}}"), found.usage));
    }
    let at = now.time.as_millisecond();
    let mut text = String::new();
    for (what, rows) in ["node", "pod", "container"].into_iter().zip(&rows) {
        let _ = writeln!(text, "# TYPE {what}_cpu_usage_seconds_total counter");
        for (labels, usage) in rows {
            let seconds = usage.cpu as f64 / 1e9;
            let _ = writeln!(text, "{what}_cpu_usage_seconds_total{labels} {seconds} {at}");
        }
        let _ = writeln!(text, "# TYPE {what}_memory_working_set_bytes gauge");
        for (labels, usage) in rows {
            let _ = writeln!(text, "{what}_memory_working_set_bytes{labels} {} {at}", usage.memory);
        }
    }
    text += "# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n";
    exposition(text)
}

pub(super) fn metrics(shared: &Shared) -> Response<Body> {
    let all = shared.seen.all();
    let statuses = all.iter().filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        let lists = [&status.container_statuses, &status.init_container_statuses];
        lists.into_iter().flatten().flatten().filter_map(|status| status.state.as_ref())
    });
    let running = statuses.filter(|state| state.running.is_some()).count();
    let node = &shared.config.node_name;
    let count = all.len();
    exposition(format!(
        "# TYPE kubelet_node_name gauge\nkubelet_node_name{{node=\"{node}\"}} 1\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {count}\n\
         # TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n"
    ))
}
