//! Taking everything back, from nodes first.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{delete, made_by, park, remove};
use crate::apply::{Step, apply};
use crate::owner::{self, Owner};
use crate::status::waiting;
use crate::survey::{NOWHERE, REPLACED_BY, get, list};
use crate::{
    Chosen, Error, Facts, MANAGED_BY, MANAGER, PART_OF, PART_OF_VALUE, api, kinds, manifests, record,
};

/// The DaemonSet that takes back what agents have left on nodes.
const CLEANUP: &str = "dyad-cleanup";
/// The lease of the controllers.
const LEASE: &str = "dyad-network-controllers";
/// What agents have on nodes while they run.
const RUN_DIR: &str = "/run/dyad";
/// The flags of agents that lead there, and to what.
const FLAGS: [(&str, &str); 2] = [("--run-dir", ""), ("--cni-socket", "/cni.sock")];
/// Where a pod that cleans sees directories of the node.
const HOST: &str = "/host";
/// For how long pods that end are waited for, twice their grace period.
const ENDING: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// What came of an uninstallation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Whether there was something to remove.
    pub found: bool,
    /// What stays on nodes, and what removes it.
    pub left: Vec<String>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// Removes an installation, whoever has made it: from every node what agents have left there, then all objects; definitions
/// of kinds, with the objects of theirs, only with `definitions`. kube-proxy runs again where it was made to run nowhere.
/// `values` are those it had, for when nothing of it is left but what nodes have.
pub async fn uninstall(
    client: &Client,
    namespace: &str,
    values: &Chosen,
    definitions: bool,
    patience: Duration,
    mut progress: impl FnMut(&Step),
) -> Result<Removal, Error> {
    let deadline = Instant::now() + patience;
    let owners = owner::is_here(client, namespace).await?;
    let mut removal =
        Removal { notes: owners.iter().filter_map(Owner::remembered).collect(), ..Removal::default() };
    let cleanup = cleanup(client, namespace, values).await?;
    let managers = [&[MANAGER][..], &owner::OTHERS].concat();
    // First what would make anew what goes. Pods with links end before the agents do: when nodes have no network, runtimes
    // can end no pod, and those that end already hang.
    let has_agents = get(client, kinds::DAEMON_SET, namespace, "dyad-agent").await?.is_some();
    let programs = made_by(client, &managers).await?;
    for (kind, object) in programs.iter().filter(|(kind, _)| *kind == kinds::DEPLOYMENT) {
        delete(client, *kind, object, false, &mut progress).await?;
    }
    if has_agents {
        let linked = format!("{PART_OF}={PART_OF_VALUE},k8s-app notin (dyad-agent,{CLEANUP})");
        let soon = deadline.min(Instant::now() + ENDING);
        // Whoever hangs for another reason must not keep everything else.
        let _ = until_no_pods(client, namespace, &linked, soon).await;
    }
    for (kind, object) in programs.iter().filter(|(kind, _)| *kind == kinds::DAEMON_SET) {
        if object["metadata"]["name"] != CLEANUP {
            delete(client, *kind, object, false, &mut progress).await?;
        }
    }
    until_no_pods(client, namespace, "k8s-app=dyad-agent", deadline).await?;
    for object in list(client, kinds::DAEMON_SET, "").await? {
        let metadata = &object["metadata"];
        if metadata["annotations"][REPLACED_BY] == MANAGER {
            let patch = json!({
                "metadata": {"annotations": {REPLACED_BY: null}},
                "spec": {"template": {"spec": {"nodeSelector": {NOWHERE: null}}}},
            });
            let text = |field: &str| metadata[field].as_str().unwrap_or_default();
            park(client, text("namespace"), text("name"), &patch, false, &mut progress).await?;
        }
    }
    if let Some(object) = cleanup {
        removal.found = true;
        apply(client, &[object], false, &mut progress).await?;
        removal.left = until_clean(client, namespace, deadline).await?;
        remove(client, kinds::DAEMON_SET, namespace, CLEANUP, false, &mut progress).await?;
        until_no_pods(client, namespace, &format!("k8s-app={CLEANUP}"), deadline).await?;
    }
    forget_nodes(client).await?;
    for (kind, object) in made_by(client, &managers).await? {
        let is_record = kind == kinds::CONFIG_MAP && object["metadata"]["name"] == record::NAME;
        if is_record || (kind == kinds::CRD && !definitions) {
            continue;
        }
        removal.found = true;
        delete(client, kind, &object, false, &mut progress).await?;
    }
    remove(client, kinds::LEASE, namespace, LEASE, false, &mut progress).await?;
    // The last: until then, what is left can be found out.
    remove(client, kinds::CONFIG_MAP, namespace, record::NAME, false, &mut progress).await?;
    Ok(removal)
}

/// The DaemonSet that runs `dyad agent --cleanup` with the flags and mounts of the agents; `None` where there were none.
async fn cleanup(client: &Client, namespace: &str, values: &Chosen) -> Result<Option<Value>, Error> {
    let live = get(client, kinds::DAEMON_SET, namespace, "dyad-agent").await?;
    let agent = match live {
        Some(live) => Some(live),
        // Somebody has removed it; what was installed is known all the same, or can be seen on the nodes.
        None => match record::read(client, namespace).await? {
            Some(record) => {
                let mut before = Chosen::default();
                // Not even what somebody has broken keeps nodes from being cleaned.
                let values =
                    if before.file(&record.values).is_ok() { before.known().0 } else { values.clone() };
                agents(&values, namespace, &record.version)?
            }
            None if list(client, kinds::NODE, "").await?.iter().any(|node| !written(node).is_empty()) => {
                agents(values, namespace, env!("CARGO_PKG_VERSION"))?
            }
            None => None,
        },
    };
    let mut cleanup = agent.map(|agent| cleanup_of(&agent, namespace));
    if let Some(cleanup) = &mut cleanup
        && get(client, kinds::SERVICE_ACCOUNT, namespace, "dyad-agent").await?.is_none()
        && let Some(pod) = cleanup["spec"]["template"]["spec"].as_object_mut()
    {
        // Pods of an account that there is not are not made, and this one asks the API nothing.
        pod.retain(|field, _| field != "serviceAccountName" && field != "serviceAccount");
        pod.insert("automountServiceAccountToken".into(), false.into());
    }
    Ok(cleanup)
}

/// The DaemonSet of the agents with these values.
fn agents(values: &Chosen, namespace: &str, version: &str) -> Result<Option<Value>, Error> {
    let facts = Facts { namespace: namespace.into(), version: version.into(), ..Facts::default() };
    Ok(manifests(&values.values()?, &facts)?.into_iter().find(|object| object["kind"] == "DaemonSet"))
}

fn cleanup_of(agent: &Value, namespace: &str) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": CLEANUP, PART_OF: PART_OF_VALUE, MANAGED_BY: MANAGER, "k8s-app": CLEANUP,
    });
    let mut template = agent["spec"]["template"].clone();
    template["metadata"] = json!({"labels": labels});
    let mut flags = over_parent(&mut template["spec"]);
    let container = &mut template["spec"]["containers"][0];
    container["name"] = "cleanup".into();
    if let Some(args) = container["args"].as_array_mut() {
        flags.push("--cleanup".into());
        args.extend(flags);
    }
    if let Some(container) = container.as_object_mut() {
        for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
            container.remove(probe);
        }
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": CLEANUP, "namespace": namespace, "labels": labels},
        "spec": {"selector": {"matchLabels": {"k8s-app": CLEANUP}}, "template": template},
    })
}

/// Has a pod of agents see [`RUN_DIR`] by the directory that it is in, as nobody can remove what is mounted for him; the flags
/// that say so to an agent. Nothing is changed of agents that were told of another one.
fn over_parent(pod: &mut Value) -> Vec<Value> {
    let parent_and_name = RUN_DIR.rsplit_once('/');
    let args = pod["containers"][0]["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let is_told =
        args.map(|arg| arg.split('=').next()).any(|flag| FLAGS.map(|(flag, _)| Some(flag)).contains(&flag));
    let volumes = pod["volumes"].as_array_mut().into_iter().flatten();
    let of_agents = volumes.into_iter().find(|volume| volume["hostPath"]["path"] == RUN_DIR);
    let (Some((parent, name)), Some(volume), false) = (parent_and_name, of_agents, is_told) else {
        return Vec::new();
    };
    volume["hostPath"] = json!({"path": parent, "type": "Directory"});
    let volume = volume["name"].clone();
    let mounts = pod["containers"][0]["volumeMounts"].as_array_mut().into_iter().flatten();
    for mount in mounts.filter(|mount| mount["name"] == volume) {
        mount["mountPath"] = format!("{HOST}{parent}").into();
    }
    FLAGS.map(|(flag, file)| format!("{flag}={HOST}{parent}/{name}{file}").into()).to_vec()
}

async fn pods(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Value>, Error> {
    let pods = list(client, kinds::POD, selector).await?;
    Ok(pods.into_iter().filter(|pod| pod["metadata"]["namespace"] == namespace).collect())
}

/// Pods of nodes that are gone stay until somebody forces them: nobody waits for those.
async fn until_no_pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    deadline: Instant,
) -> Result<(), Error> {
    loop {
        let unreachable = nodes(client).await?.1;
        let pods = pods(client, namespace, selector).await?;
        let is_awaited =
            |pod: &&Value| !unreachable.iter().any(|node| pod["spec"]["nodeName"] == node.as_str());
        let Some(pod) = pods.iter().find(is_awaited) else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(Error::Refused(format!(
                "pod {} on {} does not end: run `dyad uninstall` again when it has",
                pod["metadata"]["name"], pod["spec"]["nodeName"]
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Names of nodes that are ready, and of those that are not.
async fn nodes(client: &Client) -> Result<(Vec<String>, Vec<String>), Error> {
    let name = |node: &Value| node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let is_known = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        // A node without a network is not ready, and yet runs pods of the host's: only one that nobody hears of does not.
        !conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "Unknown")
            && node["status"]["conditions"].is_array()
    };
    let all = list(client, kinds::NODE, "").await?;
    let (known, unknown): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|node| is_known(node));
    Ok((known.into_iter().map(name).collect(), unknown.into_iter().map(name).collect()))
}

/// Waits until every node that is heard of has been cleaned; names the others.
async fn until_clean(client: &Client, namespace: &str, deadline: Instant) -> Result<Vec<String>, Error> {
    loop {
        let (known, unknown) = nodes(client).await?;
        let daemon_set = get(client, kinds::DAEMON_SET, namespace, CLEANUP).await?.unwrap_or_default();
        let is_seen = daemon_set["status"]["observedGeneration"] == daemon_set["metadata"]["generation"];
        let pods = pods(client, namespace, &format!("k8s-app={CLEANUP}")).await?;
        let wanted = daemon_set["status"]["desiredNumberScheduled"].as_u64().unwrap_or_default();
        let on = |node: &str| -> Vec<&Value> {
            pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).collect()
        };
        let is_dirty = |node: &&String| !on(node).is_empty() && !on(node).into_iter().any(is_done);
        let dirty: Vec<&String> = known.iter().filter(is_dirty).collect();
        if is_seen && dirty.is_empty() && pods.len() as u64 >= wanted {
            let left =
                |node: String| format!("node {node} can't be reached: run `dyad agent --cleanup` there");
            return Ok(unknown.into_iter().map(left).collect());
        }
        if Instant::now() > deadline {
            let why = dirty.iter().map(|node| match on(node).first().and_then(|pod| trouble(pod)) {
                Some(trouble) => format!("{node} ({trouble})"),
                None => (*node).clone(),
            });
            let why = why.collect::<Vec<_>>().join(", ");
            return Err(Error::Refused(format!(
                "not cleaned in time: {why}; `kubectl -n {namespace} logs -l k8s-app={CLEANUP}` says why, and `dyad uninstall` goes on"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the container of a pod has ended well, now or before it was started again.
fn is_done(pod: &Value) -> bool {
    let status = &pod["status"]["containerStatuses"][0];
    ["state", "lastState"].iter().any(|state| status[state]["terminated"]["exitCode"] == 0)
}

/// What keeps a pod from its work.
fn trouble(pod: &Value) -> Option<String> {
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    let ended =
        || Some(format!("{} {}", last["reason"].as_str()?, last["message"].as_str().unwrap_or_default()));
    waiting(pod).or_else(|| Some(ended()?.trim().to_owned()))
}

/// What only agents and controllers write on Nodes.
const WRITTEN: [&str; 6] = [
    "dyad.io/dataplane",
    "dyad.io/dns-cache",
    "dyad.io/pod-cidrs",
    "dyad.io/warnings",
    "dyad.io/wireguard-port",
    "dyad.io/wireguard-public-key",
];

/// Takes away what agents have written on Nodes, as its names and the owners of fields tell it.
async fn forget_nodes(client: &Client) -> Result<(), Error> {
    for node in list(client, kinds::NODE, "").await? {
        let keys = written(&node);
        if keys.is_empty() {
            continue;
        }
        let nothing: serde_json::Map<String, Value> =
            keys.into_iter().map(|key| (key, Value::Null)).collect();
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let patch = json!({"metadata": {"annotations": nothing}});
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patched = kinds::NODE.api(client, "").patch(name, &params, &Patch::Merge(&patch)).await;
        patched.map_err(api(format!("take annotations from node {name}")))?;
    }
    Ok(())
}

/// The annotations that are theirs.
fn written(node: &Value) -> BTreeSet<String> {
    let is_ours = |entry: &&Value| {
        entry["manager"].as_str().is_some_and(|name| name.starts_with("dyad-") && name != MANAGER)
    };
    let entries = node["metadata"]["managedFields"].as_array().into_iter().flatten().filter(is_ours);
    let owned = entries.filter_map(|entry| entry["fieldsV1"]["f:metadata"]["f:annotations"].as_object());
    let owned = owned.flat_map(|keys| keys.keys().filter_map(|key| key.strip_prefix("f:")));
    let is_there = |key: &&str| !node["metadata"]["annotations"][key].is_null();
    let all = owned.filter(|key| key.starts_with("dyad.io/")).chain(WRITTEN);
    all.filter(is_there).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
