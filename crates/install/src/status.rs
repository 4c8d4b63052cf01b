//! How an installation is doing.

use kube::Client;
use serde::Serialize;
use serde_json::Value;

use crate::survey::{get, list};
use crate::{Error, MANAGER, PART_OF, PART_OF_VALUE, kinds, owner, record, rights};

/// The DaemonSet of the agents, and the label of their pods.
const AGENT: &str = "dyad-agent";
/// The annotation: `ebpf`, or `nftables` and why.
const DATAPLANE: &str = "dyad.io/dataplane";
/// The annotation: the ranges of a node's pods, where they are not those of `spec.podCIDRs`.
const POD_RANGES: &str = "dyad.io/pod-ranges";
/// The annotation: the addresses that agents use, with commas between them; kubelets often report one family only.
const ADDRESSES: &str = "dyad.io/node-addresses";
/// The annotation: what is wrong on a node, a JSON list of texts.
const WARNINGS: &str = "dyad.io/warnings";

/// An installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Installation {
    /// Where it is.
    pub namespace: String,
    /// Its version, as it was installed.
    pub version: Option<String>,
    /// Who looks after it: `dyad-install`, `Helm`, `kustomize`, `others`.
    pub managed_by: String,
    /// Whether everything that should run is ready, in the version that was installed.
    pub ready: bool,
    /// What runs once, or a few times.
    pub parts: Vec<Part>,
    /// Nodes.
    pub nodes: Vec<NodeState>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// A DaemonSet or a Deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its name.
    pub name: String,
    /// How many should run.
    pub desired: u64,
    /// How many are ready.
    pub ready: u64,
    /// How many are of the latest version of it.
    pub updated: u64,
    /// Its image.
    pub image: String,
    /// Why its pods can't be made, if they can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// What one of its pods waits for, if they are short and this is no agent, of which nodes tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    #[serde(skip)]
    is_seen: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Whether its agent is ready; `None` where none should run.
    pub agent: Option<bool>,
    /// The last words of its agent, if that has ended and is not ready again.
    pub ended: Option<String>,
    /// What keeps its agent from starting: an image, a node without room.
    pub waiting: Option<String>,
    /// The version of its agent.
    pub version: Option<String>,
    /// What carries Services, and why that.
    pub dataplane: Option<String>,
    /// Addresses of all families, primary first.
    pub addresses: Vec<String>,
    /// Pod ranges, likewise.
    pub pod_cidrs: Vec<String>,
    /// What its agent complains about.
    pub warnings: Vec<String>,
}

/// Looks at the installation in `namespace`; `None` if there is none.
pub async fn status(client: &Client, namespace: &str) -> Result<Option<Installation>, Error> {
    let record = record::read(client, namespace).await?;
    let agents = get(client, kinds::DAEMON_SET, namespace, AGENT).await?;
    let owners = owner::is_here(client, namespace).await?;
    if record.is_none() && agents.is_none() {
        return Ok(None);
    }
    let owner = owners.into_iter().find(|owner| owner.namespace == namespace);
    let mut parts: Vec<Part> = agents.iter().map(daemon_set).collect();
    for name in ["dyad-controllers", "dyad-dns"] {
        parts.extend(get(client, kinds::DEPLOYMENT, namespace, name).await?.iter().map(deployment));
    }
    let nodes = list(client, kinds::NODE, "").await?;
    let events =
        if parts.iter().any(Part::is_short) { list(client, kinds::EVENT, "").await? } else { Vec::new() };
    let pods = list(client, kinds::POD, &format!("{PART_OF}={PART_OF_VALUE}")).await?;
    let of = |name: &str| -> Vec<Value> {
        pods.iter().filter(|pod| pod["metadata"]["labels"]["k8s-app"] == name).cloned().collect()
    };
    for part in &mut parts {
        part.refusal = refusal(namespace, part, &events);
        if part.is_short() && part.name != AGENT {
            part.waiting = of(&part.name).iter().find_map(waiting);
        }
    }
    let agents_pods = of(AGENT);
    let nodes: Vec<NodeState> = nodes.iter().map(|node| of_node(node, &agents_pods)).collect();
    let version = record.map(|record| record.version);
    let version = version.or_else(|| owner.as_ref().and_then(|owner| owner.version.clone()));
    let managed_by = owner.map_or_else(|| MANAGER.to_owned(), |owner| owner.manager);
    Ok(Some(Installation { managed_by, ..judge(namespace, version, parts, nodes, agents.is_some()) }))
}

impl Installation {
    /// Looks for rights that are missing, too: dozens of questions, and so none for every look of who waits.
    pub async fn examine(&mut self, client: &Client) -> Result<(), Error> {
        self.problems.extend(rights::missing(client, &self.namespace).await?);
        self.ready = self.problems.is_empty();
        Ok(())
    }
}

impl Part {
    const fn is_short(&self) -> bool {
        self.ready < self.desired || self.updated < self.desired
    }
}

/// Why pods of a part are not made: quota, levels of pod security, webhooks.
fn refusal(namespace: &str, part: &Part, events: &[Value]) -> Option<String> {
    let is_of = |event: &&Value| {
        // Pods of a Deployment are made by a ReplicaSet, whose name begins with its.
        let object = &event["involvedObject"];
        let name = object["name"].as_str().and_then(|name| name.strip_prefix(part.name.as_str()));
        event["reason"] == "FailedCreate"
            && object["namespace"] == namespace
            && name.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let time = |event: &&Value| event["lastTimestamp"].as_str().map(str::to_owned);
    let last = events.iter().filter(is_of).max_by_key(time).filter(|_| part.is_short())?;
    last["message"].as_str().map(str::to_owned)
}

fn judge(
    namespace: &str,
    version: Option<String>,
    parts: Vec<Part>,
    nodes: Vec<NodeState>,
    has_agents: bool,
) -> Installation {
    let mut problems = Vec::new();
    if !has_agents {
        problems.push("there is no daemonset dyad-agent: `dyad upgrade` makes it anew".to_owned());
    }
    for part in &parts {
        let Part { name, desired, ready, updated, .. } = part;
        if !part.is_seen {
            problems.push(format!("{name}: its controller has not looked at its latest version yet"));
        } else if updated < desired {
            problems.push(format!("{name}: {updated} of {desired} are of its latest version"));
        } else if ready < desired {
            problems.push(format!("{name}: {ready} of {desired} are ready"));
        }
        problems.extend(part.refusal.iter().chain(&part.waiting).map(|why| format!("{name}: {why}")));
    }
    let behind = nodes
        .iter()
        .filter(|node| node.agent == Some(false))
        .map(|node| node.name.as_str())
        .collect::<Vec<_>>();
    if !behind.is_empty() {
        problems.push(format!("agents are not ready on {}", behind.join(", ")));
    }
    let ended = nodes.iter().filter(|node| node.agent == Some(false));
    let why = |node: &'_ NodeState| node.ended.clone().or_else(|| node.waiting.clone());
    let ended = ended.filter_map(|node| Some(format!("agent on {}: {}", node.name, why(node)?)));
    problems.extend(ended);
    Installation {
        namespace: namespace.into(),
        version,
        managed_by: MANAGER.into(),
        ready: problems.is_empty(),
        parts,
        nodes,
        problems,
    }
}

fn daemon_set(object: &Value) -> Part {
    let status = |field: &str| object["status"][field].as_u64().unwrap_or_default();
    Part {
        desired: status("desiredNumberScheduled"),
        ready: status("numberReady"),
        updated: status("updatedNumberScheduled"),
        ..part(object)
    }
}

fn deployment(object: &Value) -> Part {
    let status = |field: &str| object["status"][field].as_u64().unwrap_or_default();
    Part {
        desired: object["spec"]["replicas"].as_u64().unwrap_or(1),
        ready: status("readyReplicas"),
        updated: status("updatedReplicas"),
        ..part(object)
    }
}

fn part(object: &Value) -> Part {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let generation = |value: &Value| value.as_u64().unwrap_or_default();
    Part {
        name: text(&object["metadata"]["name"]),
        desired: 0,
        ready: 0,
        updated: 0,
        image: text(&object["spec"]["template"]["spec"]["containers"][0]["image"]),
        refusal: None,
        waiting: None,
        is_seen: generation(&object["status"]["observedGeneration"])
            >= generation(&object["metadata"]["generation"]),
    }
}

/// The tag of a pod's image, which may be another than that of the installation; its label where it has none.
fn version(pod: &Value) -> Option<String> {
    let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let tag =
        image.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/') && !image.contains('@'));
    tag.or_else(|| pod["metadata"]["labels"]["app.kubernetes.io/version"].as_str()).map(str::to_owned)
}

fn of_node(node: &Value, pods: &[Value]) -> NodeState {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let annotation = |key: &str| node["metadata"]["annotations"][key].as_str().map(str::to_owned);
    // While one is replaced, there are two: the one that stays counts.
    let is_of =
        |pod: &&Value| pod["spec"]["nodeName"] == name && pod["metadata"]["deletionTimestamp"].is_null();
    let agent = pods.iter().find(is_of);
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    let said = |key: &str| -> Vec<String> {
        let text = annotation(key).unwrap_or_default();
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal = addresses.filter(|one| one["type"] == "InternalIP");
    let reported = internal.filter_map(|one| one["address"].as_str().map(str::to_owned)).collect();
    let (chosen, ranges) = (said(ADDRESSES), said(POD_RANGES));
    NodeState {
        name: name.into(),
        agent: agent.map(is_ready),
        ended: agent.and_then(last_words),
        waiting: agent.and_then(waiting),
        version: agent.and_then(version),
        dataplane: annotation(DATAPLANE),
        addresses: if chosen.is_empty() { reported } else { chosen },
        pod_cidrs: if ranges.is_empty() { texts(&node["spec"]["podCIDRs"]) } else { ranges },
        warnings: annotation(WARNINGS).map(|text| warnings(&text)).unwrap_or_default(),
    }
}

/// What the container of a pod has said last before it ended.
fn last_words(pod: &Value) -> Option<String> {
    let status = &pod["status"]["containerStatuses"][0];
    let said = |state: &str| status[state]["terminated"]["message"].as_str();
    let line =
        |text: &str| text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
    ["state", "lastState"].into_iter().filter_map(said).find_map(line)
}

/// What keeps a pod from starting, as the kubelet or the scheduler say it; not that it takes its time.
pub(crate) fn waiting(pod: &Value) -> Option<String> {
    let text = |state: &Value| {
        let (reason, message) = (state["reason"].as_str()?, state["message"].as_str().unwrap_or_default());
        Some(format!("{reason} {message}").trim().to_owned())
    };
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let is_stuck = |state: &&Value| {
        !["ContainerCreating", "PodInitializing", "CrashLoopBackOff"]
            .map(Value::from)
            .contains(&state["reason"])
    };
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let unscheduled =
        conditions.into_iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
    let mut waits = containers.map(|status| &status["state"]["waiting"]).filter(is_stuck);
    waits.find_map(text).or_else(|| text(unscheduled?))
}

/// What an agent complains about; what is no list is shown as it is.
fn warnings(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| vec![text.to_owned()])
}

#[cfg(test)]
mod tests;
