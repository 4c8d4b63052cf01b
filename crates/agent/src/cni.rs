//! The agent's end of CNI: it connects this node's pods for the plugin `dyad`, which asks over a socket
//! (`dyad_cni::wire`), and lets the container runtime know of the network only once there is one.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dyad_cni::routed::{self, Connected, Settings};
use dyad_cni::{CniError, Code, Command, RangeSet, Request, wire};
use dyad_net::{DualStack, IpFamily, IpNet};
use kube::{Api, Client};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::gate::Gate;
use crate::objects::PodObject;
use crate::{Status, with_causes};
use reaper::Reaper;
use turns::Turns;

mod install;
mod reaper;
mod turns;

pub(crate) use install::{NETWORK, OURS, uninstall};

/// Requests that are worked on at once; further ones wait.
const REQUESTS: usize = 64;
/// How long a plugin may take to say what it wants, and to hear the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the API may take to say what a pod is.
const LOOK_UP: Duration = Duration::from_secs(10);
/// How often is looked for addresses whose pods have gone.
const COLLECT: Duration = Duration::from_secs(300);
/// How long ago those were taken at least: ADD takes a moment from the address to the link.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// How long an agent that has just begun may take to hear what there is, and then to have it in the kernel, before its node
/// is said not to be ready for pods.
const LISTED: Duration = Duration::from_secs(10);
const PROGRAMMED: Duration = Duration::from_secs(2);
/// How soon is tried again what failed.
const RETRY: Duration = Duration::from_secs(2);

/// Where things are that plugin, runtime and agent share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// The socket that the plugin asks at.
    pub socket: PathBuf,
    /// Where the runtime looks for configurations.
    pub conf_dir: PathBuf,
    /// Where it looks for plugins.
    pub bin_dir: PathBuf,
    /// Where addresses are noted.
    pub data_dir: PathBuf,
    /// The executable `dyad-cni` that is installed.
    pub plugin: PathBuf,
}

/// What a request is carried out with.
#[derive(Clone)]
struct Server {
    cni: Arc<Cni>,
    client: Client,
    gate: Gate,
    reaper: Reaper,
    turns: Turns,
    status: watch::Receiver<Status>,
}

/// Serves the socket and keeps what the runtime sees current, for ever.
pub(crate) async fn keep(cni: Cni, client: Client, gate: Gate, status: watch::Receiver<Status>) {
    let cni = Arc::new(cni);
    let (reaper, reaping) = reaper::start();
    let turns = Turns::default();
    let server = Server { cni: Arc::clone(&cni), client, gate, reaper, turns, status: status.clone() };
    let mut has_complained = false;
    let listener = loop {
        match listen(&cni.socket) {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut has_complained, true) {
                    let at = cni.socket.display();
                    warn!(socket = %at, %error, "can't listen for the CNI plugin; will try again");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    info!(socket = %cni.socket.display(), "the CNI plugin is answered");
    tokio::join!(server.serve(listener), reaping, collect(&cni), install::keep(&cni, status));
}

/// Gives back addresses of pods that have gone without a word, for ever.
async fn collect(cni: &Cni) {
    loop {
        let data_dir = cni.data_dir.clone();
        match blocking(move || routed::forget(NETWORK, &data_dir, FORGOTTEN)).await {
            Ok(ips) if ips.is_empty() => {}
            Ok(ips) => info!(?ips, "addresses given back: their pods have gone without a word"),
            // Pods that can't be connected for it say so.
            Err(error) => debug!(%error, "looking for addresses of pods that have gone"),
        }
        tokio::time::sleep(COLLECT).await;
    }
}

/// A socket in place of whatever has the name, without a moment in which nobody has it.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let draft = socket.with_extension(format!("{}", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&draft, socket)?;
    Ok(listener)
}

impl Server {
    async fn serve(self, listener: UnixListener) {
        let slots = Arc::new(Semaphore::new(REQUESTS));
        let mut requests = JoinSet::new();
        loop {
            while requests.try_join_next().is_some() {}
            // It is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Running out of descriptors passes.
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let server = self.clone();
            requests.spawn(async move {
                server.talk(stream).await;
                drop(slot);
            });
        }
    }

    /// One request and its answer. A plugin that breaks off is its runtime's affair, which asks again.
    async fn talk(&self, mut stream: UnixStream) {
        let mut asked = Vec::new();
        let mut limited = (&mut stream).take(wire::LIMIT + 1);
        match tokio::time::timeout(PATIENCE, limited.read_to_end(&mut asked)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
        let answer = if asked.len() as u64 > wire::LIMIT {
            Err(CniError::new(Code::Decode, format!("the request has more than {} bytes", wire::LIMIT)))
        } else {
            match wire::decode_request(&asked) {
                Ok(request) => self.answer(request).await,
                Err(error) => Err(error),
            }
        };
        let bytes = wire::encode_answer(&answer);
        let written = async {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(PATIENCE, written).await;
    }

    async fn answer(&self, mut request: Request) -> dyad_cni::Result<Option<Value>> {
        request.netns = reachable(request.netns);
        let (command, container) = (request.command.as_str(), request.container_id.clone());
        let pod = pod_of(&request);
        let _turn = self.turns.take(request.owner()).await;
        let answer = match request.command {
            Command::Add => self.add(request).await.map(Some),
            _ => self.others(request).await.map(|()| None),
        };
        match &answer {
            Ok(_) => debug!(command, container, pod, "done for the CNI plugin"),
            Err(error) => warn!(command, container, pod, %error, "refused to the CNI plugin"),
        }
        answer
    }

    /// What pods are made with, once there is something to make them with.
    fn settings(&self, request: &Request, code: Code) -> dyad_cni::Result<Settings> {
        let status = self.status.borrow();
        let not_yet = |why: &str| CniError::new(code, format!("the node is not ready for pods: {why}"));
        if !status.is_ready() {
            let why = status.last_error.as_deref().unwrap_or("not everything is in the kernel yet");
            return Err(not_yet(why));
        }
        let ranges = range_sets(&status.pod_ranges);
        if ranges.is_empty() {
            let unknown = "it has no pod ranges; see --ipam for where they come from";
            return Err(not_yet(status.range_problem.as_deref().unwrap_or(unknown)));
        }
        let of_node = |family: &IpFamily| {
            let ip = status.node_ips.iter().copied().find(|ip| IpFamily::from(*ip) == *family);
            ip.map(|ip| (*family, ip))
        };
        let said = Settings::of(request)?;
        Ok(Settings {
            ranges,
            data_dir: self.cni.data_dir.clone(),
            node: DualStack::from_ordered(IpFamily::BOTH.iter().filter_map(of_node)),
            mtu: said.mtu.or(status.mtu),
            ..said
        })
    }

    async fn add(&self, request: Request) -> dyad_cni::Result<Value> {
        let settings = self.settings(&request, Code::TryAgainLater)?;
        let arriving = self.look_up(&request).await?;
        let (version, same) = (request.config.version, request.clone());
        let Connected { result, is_new } = blocking(move || routed::add(&request, &settings)).await?;
        if let Some((name, uid, pod)) = arriving {
            let ips = result.ips.iter().map(|ip| ip.address.addr()).collect::<Vec<IpAddr>>();
            let pod = dyad_program::policy::Pod { ips, ..pod };
            if let Err(error) = self.gate.pass(&name.0, &name.1, &uid, pod).await {
                // Nothing of it stays: not every runtime takes back what has failed.
                if is_new && let Err(error) = self.del(same).await {
                    warn!(pod = name.1, %error, "can't take back a link; the runtime's DEL or GC does");
                }
                return Err(CniError::new(Code::TryAgainLater, error.to_string()));
            }
        }
        Ok(result.to_json(version))
    }

    async fn del(&self, request: Request) -> dyad_cni::Result<()> {
        let (coming, data_dir) = (self.reaper.coming(), self.cni.data_dir.clone());
        blocking(move || routed::take_off(&request, &data_dir)).await?;
        coming.reaped().await
    }

    /// The pod that is to be connected, by what the API says of it: policies ask for its labels. `None` for what is no
    /// pod of Kubernetes.
    async fn look_up(
        &self,
        request: &Request,
    ) -> dyad_cni::Result<Option<((String, String), String, dyad_program::policy::Pod)>> {
        let arg = |key| request.arg(key).filter(|value| !value.is_empty());
        let (Some(namespace), Some(name)) = (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) else {
            return Ok(None);
        };
        let failed = |why: String| {
            let msg = format!("can't learn from the API what pod {namespace}/{name} is: try again later");
            CniError::new(Code::TryAgainLater, msg).because(why)
        };
        let pods: Api<PodObject> = Api::namespaced(self.client.clone(), namespace);
        let found = tokio::time::timeout(LOOK_UP, pods.get(name)).await;
        let found = found.map_err(|_| failed("it does not answer".into()))?;
        let pod = found.map_err(|error| failed(with_causes(&error)))?.meaning();
        if let Some(uid) = arg("K8S_POD_UID").filter(|uid| *uid != pod.uid) {
            return Err(failed(format!("its uid is {}, not {uid}: it is another one", pod.uid)));
        }
        Ok(pod.pod.map(|meaning| ((namespace.to_owned(), name.to_owned()), pod.uid, meaning)))
    }

    /// Gives an agent that has just begun the time to learn what there is, so that a node does not look as if it had no network
    /// whenever its agent is replaced.
    async fn begin(&self) {
        let mut status = self.status.clone();
        let _ = tokio::time::timeout(LISTED, status.wait_for(|status| status.synced)).await;
        let _ = tokio::time::timeout(PROGRAMMED, status.wait_for(Status::is_ready)).await;
    }

    async fn others(&self, request: Request) -> dyad_cni::Result<()> {
        let data_dir = self.cni.data_dir.clone();
        match request.command {
            // Answered where it is not an error.
            Command::Add => Ok(()),
            Command::Del => self.del(request).await,
            Command::Check => blocking(move || routed::check(&request, &data_dir)).await,
            Command::Gc => {
                let valid = request.valid()?;
                blocking(move || routed::gc(&request.config.name, &valid, &data_dir)).await
            }
            Command::Status => {
                self.begin().await;
                let settings = self.settings(&request, Code::NotAvailable)?;
                blocking(move || routed::status(&request.config.name, &settings)).await
            }
        }
    }
}

/// Runtimes name what is below `/run` by its old name, which containers need not have.
fn reachable(netns: PathBuf) -> PathBuf {
    match netns.strip_prefix("/var/run") {
        Ok(below) if !netns.exists() => Path::new("/run").join(below),
        Ok(_) | Err(_) => netns,
    }
}

fn pod_of(request: &Request) -> String {
    let arg = |key| request.arg(key).unwrap_or_default();
    format!("{}/{}", arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME"))
}

/// One set per family, in the order in which families come.
fn range_sets(ranges: &[IpNet]) -> Vec<RangeSet> {
    let mut sets: Vec<RangeSet> = Vec::new();
    for range in ranges {
        let family = Some(IpFamily::from(*range));
        let set = RangeSet::routed(*range);
        match sets.iter_mut().find(|set| set.family() == family) {
            Some(same) => same.0.extend(set.0),
            None => sets.push(set),
        }
    }
    sets
}

/// Does what blocks away from the runtime's thread; in the same namespaces, as threads inherit them.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> dyad_cni::Result<T> + Send + 'static,
) -> dyad_cni::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|ended| Err(CniError::new(Code::Failed, "the agent failed").because(ended)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_family_are_one_choice_and_families_keep_their_order() {
        let ranges = ["fd00:1::/64", "10.1.0.0/24", "fd00:2::/72", "10.9.0.0/28"];
        let sets = range_sets(&ranges.map(|range| range.parse().unwrap()));
        let texts: Vec<Vec<String>> =
            sets.iter().map(|set| set.0.iter().map(|range| range.subnet.to_string()).collect()).collect();
        assert_eq!(texts, [["fd00:1::/64", "fd00:2::/72"], ["10.1.0.0/24", "10.9.0.0/28"]]);
        assert!(range_sets(&[]).is_empty());
    }
}
