//! What a cluster is doing: the supervisor's own word, the processes that are there, and the API's view.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use crate::paths::{ClusterDir, write_atomically};
use crate::spec::{ClusterSpec, Place, Shape};
use crate::{control_plane, process};

/// What the supervisor writes for others to read, whenever it changes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Running {
    /// Steps of the start with the milliseconds since the supervisor's first moment.
    pub phases: Vec<(String, u64)>,
    /// Whether the API has answered.
    pub api_ready: bool,
    /// Why the start was given up.
    pub failed: Option<String>,
    /// How often each process had to be started again.
    pub restarts: BTreeMap<String, u32>,
}

impl Running {
    /// Reads it; `None` before the supervisor has written anything.
    pub fn load(dir: &ClusterDir) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.running()).ok()?).ok()
    }

    pub(crate) fn save(&self, dir: &ClusterDir) -> Result<()> {
        write_atomically(&dir.running(), &serde_json::to_vec(self)?)
    }
}

/// One cluster as `dyad status` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The cluster's name.
    pub name: String,
    /// `running`, `stopped`, or `degraded` when a process is missing or the API does not answer.
    pub state: &'static str,
    /// Why it is degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The kubeconfig context.
    pub context: String,
    /// URL of the API server on this machine.
    pub server: String,
    /// The API server's addresses inside the cluster.
    pub api_addresses: Vec<String>,
    /// Pod ranges, primary family first.
    pub pod_ranges: Vec<String>,
    /// Service ranges, primary family first.
    pub service_ranges: Vec<String>,
    /// What nodes bring along: `whole`, `proxy` or `bare`.
    pub shape: Shape,
    /// What was installed on them when the cluster was made, as values of `dyad install`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The cluster's processes.
    pub processes: Vec<ProcessStatus>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `Ready`, `NotReady`, or `Unknown` when the API does not tell.
    pub status: String,
    /// Its addresses, primary family first.
    pub addresses: Vec<String>,
    /// Its pod ranges, primary family first.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// What carries Services there; absent until the node has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane: Option<Dataplane>,
}

/// What carries Services on a node, as the node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dataplane {
    /// `nftables` or `ebpf`.
    pub mode: String,
    /// Why it is that and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Where nodes write it: the mode, and behind a colon the reason.
const DATAPLANE_ANNOTATION: &str = "dyad.io/dataplane";

impl Dataplane {
    fn of(node: &Node) -> Option<Self> {
        let text = node.metadata.annotations.as_ref()?.get(DATAPLANE_ANNOTATION)?;
        Some(match text.split_once(':') {
            Some((mode, why)) => Self { mode: mode.trim().into(), why: Some(why.trim().into()) },
            None => Self { mode: text.trim().into(), why: None },
        })
    }
}

/// One process.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// `supervisor`, `control-plane`, `outside`, or a node's name.
    pub name: String,
    /// Its number on this machine; `None` when it is not running.
    pub pid: Option<i32>,
    /// How often it had to be started again.
    pub restarts: u32,
}

/// Looks at one cluster.
pub async fn status(name: &str) -> Result<Status> {
    let dir = ClusterDir::of(name)?;
    if !dir.spec().exists() {
        anyhow::bail!("there is no cluster {name:?}: `dyad up --name {name}` makes one");
    }
    let spec = ClusterSpec::load(&dir)?;
    let running = Running::load(&dir).unwrap_or_default();
    let processes = processes(&dir, &spec, &running);
    let mut problems: Vec<String> = processes
        .iter()
        .filter(|process| process.pid.is_none())
        .map(|process| format!("process {} is not running", process.name))
        .collect();
    let stopped = processes.iter().all(|process| process.pid.is_none());
    let nodes = if stopped {
        Err(anyhow::anyhow!("stopped"))
    } else {
        let view = async { api_nodes(&control_plane::admin_client(&dir).await?).await };
        tokio::time::timeout(std::time::Duration::from_secs(5), view)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the API does not answer within 5 s")))
    };
    let found = match nodes {
        Ok(found) => found,
        Err(error) => {
            problems.push(format!("{error:#}"));
            Vec::new()
        }
    };
    let nodes = spec
        .nodes
        .iter()
        .enumerate()
        .map(|(index, node)| node_status(&spec, index, &node.name, &found))
        .collect::<Vec<_>>();
    if spec.lacks_install(&dir) {
        problems.push(format!("nothing was installed yet: `dyad start --name {name}` goes on"));
    }
    problems.extend(
        nodes
            .iter()
            .filter(|node| !stopped && node.status != "Ready")
            .map(|node| format!("node {} is not ready", node.name)),
    );
    Ok(Status {
        name: spec.name.clone(),
        state: match (stopped, problems.is_empty()) {
            (true, _) => "stopped",
            (false, true) => "running",
            (false, false) => "degraded",
        },
        problems: if stopped { Vec::new() } else { problems },
        context: spec.context(),
        server: spec.server(),
        api_addresses: spec.addresses(Place::Api).iter().map(|net| net.addr().to_string()).collect(),
        pod_ranges: spec.pod_ranges.iter().map(ToString::to_string).collect(),
        service_ranges: spec.service_ranges.iter().map(ToString::to_string).collect(),
        shape: spec.shape,
        install: spec.install.clone(),
        nodes,
        processes,
    })
}

fn node_status(spec: &ClusterSpec, index: usize, name: &str, found: &[Node]) -> NodeStatus {
    let node = found.iter().find(|node| node.metadata.name.as_deref() == Some(name));
    NodeStatus {
        name: name.to_owned(),
        status: node.map_or("Unknown", |node| if is_ready(node) { "Ready" } else { "NotReady" }).to_owned(),
        addresses: spec.addresses(Place::Node(index)).iter().map(|net| net.addr().to_string()).collect(),
        pod_cidrs: node.and_then(|node| node.spec.as_ref()?.pod_cidrs.clone()).unwrap_or_default(),
        dataplane: node.and_then(Dataplane::of),
    }
}

fn processes(dir: &ClusterDir, spec: &ClusterSpec, running: &Running) -> Vec<ProcessStatus> {
    let found = process::of_cluster(dir.path());
    let fixed = [("supervisor", "supervise"), ("control-plane", "control-plane"), ("outside", "outside")];
    let one = |name: &str, role: &str, node: &str| ProcessStatus {
        name: name.to_owned(),
        pid: found
            .iter()
            .find(|process| process.role == role && process.name == node)
            .map(|process| process.pid),
        restarts: running.restarts.get(name).copied().unwrap_or_default(),
    };
    let fixed = fixed.into_iter().map(|(name, role)| one(name, role, ""));
    fixed.chain(spec.nodes.iter().map(|node| one(&node.name, "node", &node.name))).collect()
}

/// The nodes as the API has them.
pub(crate) async fn api_nodes(client: &Client) -> Result<Vec<Node>> {
    let list = Api::<Node>::all(client.clone()).list(&kube::api::ListParams::default()).await;
    Ok(list.context("can't list the nodes")?.items)
}

/// Whether a node is ready and the taint that it began with is gone, so that pods go there.
pub(crate) fn is_usable(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    is_ready(node) && !taints.into_iter().flatten().any(|taint| taint.key == "node.kubernetes.io/not-ready")
}

/// Whether a node carries these labels.
pub(crate) fn has_labels(node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let found = node.metadata.labels.as_ref();
    labels.iter().all(|(label, value)| found.is_some_and(|found| found.get(label) == Some(value)))
}

/// Whether a node's kubelet has told of it since then, to the second. What the API has may be from before a stop.
pub(crate) fn is_heard_since(node: &Node, since: Timestamp) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let heartbeat =
        conditions.filter(|one| one.type_ == "Ready").find_map(|one| one.last_heartbeat_time.as_ref());
    heartbeat.is_some_and(|heard| heard.0.as_second() >= since.as_second())
}

/// Whether a node's Ready condition is true.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_heard_when_its_kubelet_has_spoken_since() {
        let since: Timestamp = "2026-01-02T03:04:05.9Z".parse().unwrap();
        for (heard, expected) in
            [(None, false), (Some("2026-01-02T03:04:04Z"), false), (Some("2026-01-02T03:04:05Z"), true)]
        {
            let conditions = serde_json::json!([
                {"type": "DiskPressure", "status": "False", "lastHeartbeatTime": "2027-01-01T00:00:00Z"},
                {"type": "Ready", "status": "True", "lastHeartbeatTime": heard},
            ]);
            let node = serde_json::json!({"metadata": {}, "status": {"conditions": conditions}});
            let node: Node = serde_json::from_value(node).unwrap();
            assert_eq!(is_heard_since(&node, since), expected, "{heard:?}");
        }
    }

    #[test]
    fn nodes_tell_their_data_plane_and_why() {
        let of = |text: &str| {
            let annotations = [(DATAPLANE_ANNOTATION.to_owned(), text.to_owned())].into();
            let mut node = Node::default();
            node.metadata.annotations = Some(annotations);
            Dataplane::of(&node).map(|plane| (plane.mode, plane.why))
        };
        assert_eq!(of("ebpf"), Some(("ebpf".into(), None)));
        let why = "no BPF: permission denied".to_owned();
        assert_eq!(of("nftables: no BPF: permission denied"), Some(("nftables".into(), Some(why))));
        assert_eq!(Dataplane::of(&Node::default()), None);
    }
}
