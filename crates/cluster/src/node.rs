//! The process of one node: agent and kubelet, inside the node's network namespace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use dyad_apiserver::tls;
use dyad_images::registry::{Puller, Settings};
use dyad_program::policy::{Pod, wire::pod_from_value};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::control_plane::{
    KUBELET_AUTHORITY, KUBELET_CERTIFICATE, KUBELET_KEY, log_to_stderr, until_terminated,
};
use crate::labels::is_reserved;
use crate::paths::ClusterDir;
use crate::renewal::{Renewing, Served, Serving};
use crate::rooms;
use crate::spec::{ClusterSpec, Dataplane, Place, Shape};
use crate::stop::{MERGED_INTO, cgroup_controllers};

/// Where kubelets are asked, as everywhere.
const KUBELET_PORT: u16 = 10250;
/// How long the agent may take to lead queries to the cluster's DNS again.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// How long answers of the node's DNS cache may be on their way then.
const ANSWERS: Duration = Duration::from_millis(100);

/// `dyad internal node DIR NAME`.
pub(crate) fn main(dir: &Path, name: &str) -> Result<()> {
    log_to_stderr();
    let dir = ClusterDir::at(dir);
    let spec = ClusterSpec::load(&dir)?;
    let index =
        spec.nodes.iter().position(|node| node.name == name).context("no such node in cluster.json")?;
    if spec.shape != Shape::Whole {
        rooms::enter(&dir, name)?;
    }
    let store = dyad_images::Store::open(&dir.images())?;
    // Registries are reached from where this process was started, and perhaps from nowhere else.
    let puller = Puller::start(store.clone(), Settings::of_user()).context("can't start a thread")?;
    let netns = std::fs::File::open(dir.netns(name)).context("can't open the node's network namespace")?;
    use std::os::fd::AsFd;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .context("can't enter the node's network namespace")?;
    drop(netns);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&dir, &spec, index, (store, puller)))
}

async fn run(
    dir: &ClusterDir,
    spec: &ClusterSpec,
    index: usize,
    (store, puller): (dyad_images::Store, Puller),
) -> Result<()> {
    let node = &spec.nodes[index];
    let own = wait_for_api(dir, &node.name).await?;
    let client = own.client();
    let certificate = serving(&dir.node(&node.name))?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let shutdown = || {
        let mut stopped = stopped.clone();
        async move {
            // A dropped sender means the same.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let mut config = kubelet_config(dir, spec, index, &certificate)?;
    (config.images, config.puller) = (Some(store), Some(puller));
    let carried = match spec.shape {
        Shape::Bare => None,
        Shape::Whole | Shape::Proxy => Some(Carried::start(dir, spec, index, &client, shutdown()).await?),
    };
    let mut carried = carried.map(|(carried, gate)| {
        config.gate = gate.map(network_gate);
        carried
    });
    // Tasks of their own: what wakes one is no work for the others.
    let kubelet = tokio::spawn(dyad_kubelet::run(client, config, shutdown()));
    println!("ready");
    let serve = async {
        match &mut carried {
            Some(carried) => carried.run(spec, shutdown()).await,
            None => {
                until_terminated().await;
                Ok(())
            }
        }
    };
    tokio::select! {
        result = serve => result?,
        result = kubelet => result.context("the kubelet ended")?.context("kubelet")?,
        never = own.keep() => match never {},
        never = certificate.keep() => match never {},
    }
    // Pods and packets go on without this process; what it was writing is dropped with it.
    drop(stop);
    Ok(())
}

/// What carries Services and policies on a node, and its DNS cache.
struct Carried {
    agent: tokio::task::JoinHandle<Result<(), dyad_agent::AgentError>>,
    access: Option<Renewing>,
    intercepts: tokio::sync::watch::Sender<bool>,
    watched: tokio::sync::watch::Receiver<dyad_agent::Status>,
}

impl Carried {
    async fn start(
        dir: &ClusterDir,
        spec: &ClusterSpec,
        index: usize,
        announcer: &kube::Client,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(Self, Option<dyad_agent::Gate>)> {
        let access = Renewing::open(&dir.agent_kubeconfig(&spec.nodes[index].name), "dyad-agent").await?;
        // Plugins connect pods before anybody else knows their addresses.
        let (gate, arrivals) = (spec.shape == Shape::Whole).then(dyad_agent::gate).unzip();
        let (intercepts, intercept) = tokio::sync::watch::channel(false);
        let status = tokio::sync::watch::Sender::new(dyad_agent::Status::default());
        let watched = status.subscribe();
        if let Err(error) = dyad_agent::claim(&crate::dns::addresses(spec)) {
            tracing::warn!("this node has no DNS cache: {error:#}");
        }
        let agent = tokio::spawn(dyad_agent::run_wired(
            access.client(),
            agent_config(dir, spec, index)?,
            dyad_agent::Wires {
                status,
                arrivals,
                intercept: Some(intercept),
                announcer: Some(announcer.clone()),
            },
            shutdown,
        ));
        Ok((Self { agent, access: Some(access), intercepts, watched }, gate))
    }

    /// Until this process is told to end, or the agent does.
    async fn run(&mut self, spec: &ClusterSpec, shutdown: impl Future<Output = ()>) -> Result<()> {
        let cache = crate::node_cache::serve(spec, self.intercepts.clone(), shutdown);
        let access = self.access.take();
        let keep = async {
            match access {
                Some(access) => access.keep().await,
                None => std::future::pending().await,
            }
        };
        let (intercepts, watched) = (&self.intercepts, &mut self.watched);
        let ended = async {
            until_terminated().await;
            // Nobody's query is lost: the agent gives them back before the server that answers them goes.
            intercepts.send_replace(false);
            let given_back = watched.wait_for(|status| !status.intercepts);
            let _ = tokio::time::timeout(GIVE_BACK, given_back).await;
            tokio::time::sleep(ANSWERS).await;
        };
        tokio::select! {
            result = &mut self.agent => result.context("the agent ended")?.context("agent"),
            () = cache => Ok(()),
            never = keep => match never {},
            () = ended => Ok(()),
        }
    }
}

fn agent_config(dir: &ClusterDir, spec: &ClusterSpec, index: usize) -> Result<dyad_agent::Config> {
    let node = &spec.nodes[index];
    Ok(dyad_agent::Config {
        dataplane: match spec.dataplane {
            Dataplane::Auto => dyad_agent::Dataplane::Auto,
            Dataplane::Nftables => dyad_agent::Dataplane::Nftables,
            Dataplane::Ebpf => dyad_agent::Dataplane::Ebpf,
        },
        // Where the kubelet puts pods that have not opted out.
        cgroup: rooms::cgroup(dir, spec, &node.name).map(|root| root.join("pods")),
        intercept: crate::dns::addresses(spec),
        ..match spec.shape {
            Shape::Whole => dyad_agent::Config::new(&node.name, spec.pods()?, spec.services()?),
            Shape::Proxy | Shape::Bare => dyad_agent::Config::beside_cni(&node.name, spec.pods()?),
        }
    })
}

/// Pods start when the agent has what concerns them in the kernel.
fn network_gate(gate: dyad_agent::Gate) -> dyad_kubelet::NetworkGate {
    dyad_kubelet::NetworkGate::new(move |pod, ips| {
        let read = serde_json::to_value(pod).and_then(|object| pod_from_value(&object));
        let (gate, ips) = (gate.clone(), ips.to_vec());
        let meta = &pod.metadata;
        let [namespace, name, uid] =
            [&meta.namespace, &meta.name, &meta.uid].map(|text| text.clone().unwrap_or_default());
        Box::pin(async move {
            let Some((_, pod)) = read.map_err(|error| error.to_string())? else { return Ok(()) };
            let pod = Pod { ips, ..pod };
            gate.pass(&namespace, &name, &uid, pod).await.map_err(|error| error.to_string())
        })
    })
}

/// The kubeconfig appears when the control plane has made its keys, a moment after this process has started.
async fn wait_for_api(dir: &ClusterDir, name: &str) -> Result<Renewing> {
    let path = dir.node_kubeconfig(name);
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let own = Renewing::open(&path, "kubelet").await?;
    let client = own.client();
    while client.apiserver_version().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(own)
}

fn kubelet_config(
    dir: &ClusterDir,
    spec: &ClusterSpec,
    index: usize,
    serving: &Serving,
) -> Result<dyad_kubelet::Config> {
    let node = &spec.nodes[index];
    Ok(dyad_kubelet::Config {
        node_name: node.name.clone(),
        node_ips: spec.addresses_by_family(Place::Node(index))?,
        root_dir: dir.node(&node.name),
        cgroup_root: rooms::cgroup(dir, spec, &node.name),
        plugins: (spec.shape != Shape::Whole).then(dyad_kubelet::Plugins::default),
        cgroup_controllers: cgroup_controllers(dir, &spec.name)
            .into_iter()
            .map(|(controller, root)| (controller, root.join(&node.name)))
            .collect(),
        cluster_dns: crate::dns::addresses(spec),
        cluster_domain: "cluster.local".into(),
        dns_search: spec.dns_search.clone(),
        labels: node.labels.clone().into_iter().filter(|(label, _)| !is_reserved(label)).collect(),
        control_plane_taint: node.control_plane_taint,
        masked_paths: secrets(dir),
        serving: Some(served(serving)?),
        ..dyad_kubelet::Config::default()
    })
}

/// What the kubelet serves with; the control plane has put it there before the kubeconfig.
fn serving(dir: &Path) -> Result<Serving> {
    Serving::open(Served {
        certificate: dir.join(KUBELET_CERTIFICATE),
        key: dir.join(KUBELET_KEY),
        authorities: dir.join(KUBELET_AUTHORITY),
    })
}

fn served(serving: &Serving) -> Result<dyad_kubelet::Serving> {
    let (authorities, certificate) = (Arc::clone(&serving.authorities), Arc::clone(&serving.certificate));
    Ok(dyad_kubelet::Serving {
        port: KUBELET_PORT,
        tls: Arc::new(tls::server_config_of(authorities, certificate)?),
        identify: dyad_kubelet::Identify::new(|chain| {
            tls::peer_user(chain).map(|user| dyad_kubelet::Caller { name: user.name, groups: user.groups })
        }),
    })
}

/// Places of this machine's user that no pod may read: keys of every cluster, and what pods of other nodes have.
fn secrets(dir: &ClusterDir) -> Vec<PathBuf> {
    let mut secrets = vec![dir.home().to_path_buf()];
    secrets.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube")));
    let merged_into = std::fs::read_to_string(dir.path().join(MERGED_INTO)).ok().map(PathBuf::from);
    let listed = std::env::var_os("KUBECONFIG").map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
    for file in merged_into.into_iter().chain(listed.into_iter().flatten()) {
        let file = std::fs::canonicalize(&file).unwrap_or(file);
        // A file that is replaced comes out from under its cover; a directory stays, where it can be spared.
        let parent = file.parent().filter(|parent| parent.components().count() > 2);
        secrets.push(parent.unwrap_or(&file).to_path_buf());
    }
    secrets.retain(|path| path.is_absolute());
    secrets
}
