//! The Node object and its Lease.

use std::collections::BTreeMap;
use std::time::Duration;

use dyad_net::IpNet;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cni::Readiness;
use crate::config::Config;
use crate::error::Error;
use crate::pod::status::time;

/// The Kubernetes version whose kubelet this one is like.
const VERSION: &str = "v1.36.0";
/// How often the Lease is renewed, and for how long it is good.
const RENEWAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long to wait until the API is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// What the machine says about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// `status.nodeInfo`.
    info: BTreeMap<&'static str, String>,
    /// `status.capacity`, which is also what can be given to pods.
    pub(crate) capacity: BTreeMap<String, String>,
}

impl Machine {
    /// Looks around; what cannot be found out stays empty.
    pub(crate) fn look(config: &Config) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let quoted = |line: &str| line.trim_matches('"').to_owned();
        let os_release = read("/etc/os-release");
        let os_image = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(quoted);
        let machine_id = read("/etc/machine-id").trim().to_owned();
        let memory = read("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_whitespace().next().map(|number| format!("{number}Ki")));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let disk = rustix::fs::statvfs(&config.root_dir).map(|found| found.f_blocks * found.f_frsize / 1024);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut capacity = BTreeMap::from([
            ("cpu".to_owned(), cpus.to_string()),
            ("pods".to_owned(), config.max_pods.to_string()),
        ]);
        capacity.extend(memory.map(|memory| ("memory".to_owned(), memory)));
        capacity.extend(disk.ok().map(|kib| ("ephemeral-storage".to_owned(), format!("{kib}Ki"))));
        Self {
            info: BTreeMap::from([
                ("architecture", architecture.to_owned()),
                ("bootID", read("/proc/sys/kernel/random/boot_id").trim().to_owned()),
                ("containerRuntimeVersion", format!("dyad://{}", env!("CARGO_PKG_VERSION"))),
                ("kernelVersion", text(uname.release())),
                ("kubeProxyVersion", String::new()),
                ("kubeletVersion", VERSION.to_owned()),
                ("machineID", machine_id.clone()),
                ("operatingSystem", "linux".to_owned()),
                ("osImage", os_image.unwrap_or_else(|| "Linux".to_owned())),
                ("systemUUID", machine_id),
            ]),
            capacity,
        }
    }

    fn architecture(&self) -> &str {
        self.info.get("architecture").map_or("", String::as_str)
    }
}

/// The labels of the Node.
fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), "linux".into());
        labels.insert(format!("{prefix}/arch"), machine.architecture().into());
    }
    labels.insert("kubernetes.io/hostname".into(), config.node_name.clone());
    labels
}

/// `status.addresses`: the node's addresses in order, then its name (B38).
fn addresses(config: &Config) -> Vec<Value> {
    let ips = config.node_ips.iter().map(|(_, ip)| json!({"type": "InternalIP", "address": ip}));
    ips.chain([json!({"type": "Hostname", "address": config.node_name})]).collect()
}

/// The Node's conditions; `old` gives the times of those that did not change.
fn conditions(old: &Node, ready: &Readiness, now: Timestamp) -> Vec<Value> {
    let ready_text = match ready {
        Ok(()) => ("True", "KubeletReady", "kubelet is posting ready status"),
        Err(problem) => ("False", "KubeletNotReady", problem.as_str()),
    };
    let known = old.status.as_ref().and_then(|status| status.conditions.as_ref());
    [
        (
            "MemoryPressure",
            ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        ("DiskPressure", ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")),
        ("PIDPressure", ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available")),
        ("Ready", ready_text),
    ]
    .into_iter()
    .map(|(kind, (status, reason, message))| {
        let before = known.into_iter().flatten().find(|condition| condition.type_ == kind);
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone())
            .unwrap_or_else(|| time(now));
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since, "lastHeartbeatTime": time(now),
        })
    })
    .collect()
}

/// The strategic merge patch that brings the Node's status up to date. Addresses are keyed by a type that is not
/// unique, so the list is replaced as a whole (B35).
fn status_patch(config: &Config, machine: &Machine, old: &Node, ready: &Readiness, now: Timestamp) -> Value {
    let mut list = addresses(config);
    list.push(json!({"$patch": "replace"}));
    json!({"status": {
        "addresses": list,
        "capacity": machine.capacity,
        "allocatable": machine.capacity,
        "conditions": conditions(old, ready, now),
        "nodeInfo": machine.info,
        "daemonEndpoints": config.serving.as_ref().map(|serving| json!({"kubeletEndpoint": {"Port": serving.port}})),
    }})
}

/// Creates the Node, or brings an old one up to date.
pub(crate) async fn register(
    client: &Client,
    config: &Config,
    machine: &Machine,
    readiness: &watch::Sender<Readiness>,
) -> Result<(), Error> {
    let api: Api<Node> = Api::all(client.clone());
    let now = Timestamp::now();
    let name = &config.node_name;
    let unready = readiness.borrow().clone();
    let fresh = |old: &Node| {
        let mut status = status_patch(config, machine, old, &unready, now);
        status["status"]["addresses"] = addresses(config).into();
        status["metadata"] = json!({"name": name, "labels": labels(config, machine)});
        if config.control_plane_taint {
            let taint = json!({"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"});
            status["spec"] = json!({"taints": [taint]});
        }
        serde_json::from_value::<Node>(status).map_err(|error| Error::Pod(error.to_string()))
    };
    let node = fresh(&Node::default())?;
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {
            info!(node = %name, "registered");
            return Ok(());
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(Error::api("creating the Node")(error)),
    }
    let old = api.get(name).await.map_err(Error::api("reading the Node"))?;
    let change = json!({"metadata": {"labels": labels(config, machine)}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(change))
        .await
        .map_err(Error::api("labelling the Node"))?;
    note_ranges(config, &old, readiness);
    let ready = readiness.borrow().clone();
    let change = status_patch(config, machine, &old, &ready, now);
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(change))
        .await
        .map(drop)
        .map_err(Error::api("reporting the Node's status"))
}

/// The ranges that were given to a node, primary family first (B30).
fn pod_ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let list = spec.and_then(|spec| spec.pod_cidrs.clone()).filter(|list| !list.is_empty());
    let list = list.or_else(|| spec.and_then(|spec| spec.pod_cidr.clone()).map(|one| vec![one]));
    list.unwrap_or_default().iter().filter_map(|range| range.parse().ok()).collect()
}

/// What a node says that has no pod ranges and needs some.
pub(crate) fn without_ranges() -> Readiness {
    Err("waiting for pod ranges (spec.podCIDRs)".into())
}

/// Where pods get addresses of the node's ranges, it is ready once it has some.
fn note_ranges(config: &Config, node: &Node, readiness: &watch::Sender<Readiness>) {
    if config.plugins.is_none() {
        let now = if pod_ranges(node).is_empty() { without_ranges() } else { Ok(()) };
        readiness.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
    }
}

/// Watches the Node: tells its pod ranges, and says how it is whenever the API says something else.
pub(crate) async fn keep(
    client: Client,
    config: &Config,
    machine: &Machine,
    ranges: watch::Sender<Vec<IpNet>>,
    readiness: watch::Sender<Readiness>,
) {
    let api: Api<Node> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", config.node_name));
    let mut nodes = std::pin::pin!(watcher(api.clone(), only));
    let mut changes = readiness.subscribe();
    let mut last = None;
    let mut failed = false;
    loop {
        tokio::select! {
            event = nodes.next() => match event {
                None => return,
                Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => last = Some(node),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    warn!(%error, "watching the Node");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            },
            // Its sender lives as long as this.
            _ = changes.changed() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
        let Some(node) = &last else { continue };
        let found = pod_ranges(node);
        note_ranges(config, node, &readiness);
        ranges.send_if_modified(|known| {
            let changed = *known != found && !found.is_empty();
            if changed {
                *known = found;
            }
            changed
        });
        let ready = changes.borrow_and_update().clone();
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let shown = conditions.into_iter().flatten().find(|condition| condition.type_ == "Ready");
        let says = |condition: &NodeCondition| match &ready {
            Ok(()) => condition.status == "True",
            Err(problem) => condition.status == "False" && condition.message.as_ref() == Some(problem),
        };
        failed = false;
        if !shown.is_some_and(says) {
            let change = status_patch(config, machine, node, &ready, Timestamp::now());
            let patched =
                api.patch_status(&config.node_name, &PatchParams::default(), &Patch::Strategic(change)).await;
            match patched {
                Ok(node) => last = Some(node),
                Err(error) => {
                    warn!(%error, "reporting the Node's status");
                    failed = true;
                }
            }
        }
    }
}

/// Renews the Lease by which others know that this node lives.
pub(crate) async fn renew_lease(client: Client, node_name: &str) {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let mut ticks = tokio::time::interval(RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A renewal that comes late is as good as the next one.
        let renewed = tokio::time::timeout(RENEWAL, renew_once(&client, &api, node_name)).await;
        if let Ok(Err(error)) = renewed {
            warn!(%error, "renewing the node's Lease");
        }
    }
}

async fn renew_once(client: &Client, api: &Api<Lease>, node_name: &str) -> kube::Result<()> {
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now());
    let spec = json!({"holderIdentity": node_name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
    let change = Patch::Merge(json!({"spec": spec}));
    match api.patch(node_name, &PatchParams::default(), &change).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        other => return other.map(drop),
    }
    let node = Api::<Node>::all(client.clone()).get(node_name).await?;
    let owner = json!([{
        "apiVersion": "v1", "kind": "Node", "name": node_name, "uid": node.metadata.uid.unwrap_or_default(),
    }]);
    let lease = json!({
        "metadata": {"name": node_name, "namespace": LEASE_NAMESPACE, "ownerReferences": owner}, "spec": spec,
    });
    let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use dyad_net::{DualStack, IpFamily};

    use super::*;

    #[test]
    fn b35_b38_addresses_stand_in_order_and_replace_what_was() {
        let node_ips =
            DualStack::dual(IpFamily::V6, "2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let config = Config { node_name: "n1".into(), node_ips, ..Config::default() };
        let patch =
            status_patch(&config, &Machine::default(), &Node::default(), &Ok(()), Timestamp::UNIX_EPOCH);
        assert_eq!(
            patch["status"]["addresses"],
            json!([
                {"type": "InternalIP", "address": "2001:db8::1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "Hostname", "address": "n1"},
                {"$patch": "replace"},
            ])
        );
    }

    #[test]
    fn b30_ranges_come_from_the_list_or_the_single_field() {
        let ranges = |spec: Value| {
            let node: Node = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            pod_ranges(&node).iter().map(IpNet::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            ranges(json!({"podCIDRs": ["fd00::/64", "10.0.0.0/24"], "podCIDR": "fd00::/64"})),
            ["fd00::/64", "10.0.0.0/24"]
        );
        assert_eq!(ranges(json!({"podCIDR": "10.0.0.0/24"})), ["10.0.0.0/24"]);
        assert!(ranges(json!({})).is_empty());
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let status = json!({"conditions": conditions(&Node::default(), &without_ranges(), at(1))});
        let old: Node = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        let now = conditions(&old, &Ok(()), at(9));
        let of =
            |kind: &str| now.iter().find(|one| one["type"] == kind).unwrap()["lastTransitionTime"].clone();
        assert_eq!(of("Ready"), json!(time(at(9))));
        assert_eq!(of("DiskPressure"), json!(time(at(1))));
    }
}
