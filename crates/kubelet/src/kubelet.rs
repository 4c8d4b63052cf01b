//! The node's loop: registers, watches the node's pods, gives each a worker.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dyad_net::IpNet;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::cni;
use crate::config::Config;
use crate::error::Error;
use crate::event::Events;
use crate::files::Resolver;
use crate::network::{Addresses, Network, Wiring};
use crate::node::{self, Machine};
use crate::sandbox::{Sandbox, Spawner};
use crate::seen::Seen;
use crate::server;
use crate::volumes;
use crate::worker::{Shared, Worker, state_root};

const ADDRESS_FILE: &str = "addresses.json";
/// How long to wait until the API is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often images that nobody needs are looked for.
const COLLECTION: Duration = Duration::from_secs(300);

/// Runs a node's kubelet in the network namespace of the calling thread, until `shutdown` completes or nothing works.
///
/// Pods go on when it ends, and are found again by the next one with the same `root_dir`.
pub async fn run(client: Client, config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    tokio::select! {
        result = serve(client, config) => result,
        () = shutdown => Ok(()),
    }
}

async fn serve(client: Client, config: Config) -> Result<(), Error> {
    let root = state_root(&config);
    let making = || Error::file(format!("making {}", root.display()));
    fs::create_dir_all(&root).map_err(making())?;
    // Sockets to start containers with, and secrets.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).map_err(making())?;
    let machine = Machine::look(&config);
    let program = match &config.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(Error::file("finding this program"))?,
    };
    let (network, unready) = match &config.plugins {
        Some(paths) => {
            let runtime = cni::Runtime::new(paths.clone(), config.node_ips.primary_family());
            (Wiring::Plugins(runtime), cni::Runtime::unknown())
        }
        None => (Wiring::Own(Network::open(config.node_ips.clone(), config.mtu)?), node::without_ranges()),
    };
    let (readiness, ready) = watch::channel(unready);
    let (range_sender, ranges) = watch::channel(Vec::new());
    let (events, write_events) = Events::new(client.clone(), config.node_name.clone());
    let mut masked = config.masked_paths.clone();
    masked.push(config.root_dir.clone());
    let shared = Arc::new(Shared {
        client: client.clone(),
        spawner: Spawner::new(program),
        host_ips: config.node_ips.iter().map(|(_, ip)| *ip).collect(),
        network,
        addresses: Mutex::new(None),
        ready,
        events,
        resolver: Resolver::parse(&fs::read_to_string(&config.resolv_conf).unwrap_or_default()),
        allocatable: machine.capacity.clone(),
        masked,
        seen: Seen::default(),
        before: server::Before::default(),
        config: config.clone(),
    });
    let server = server::Server::open(&shared)?;
    while let Err(error) = node::register(&client, &config, &machine, &readiness).await {
        warn!(error = %error.full(), "registering the node");
        tokio::time::sleep(RETRY).await;
    }
    let images = shared.config.images.clone();
    tokio::join!(
        write_events,
        node::renew_lease(client.clone(), &config.node_name),
        node::keep(client, &config, &machine, range_sender, readiness.clone()),
        follow_configurations(&shared, readiness),
        open_ranges(Arc::clone(&shared), ranges),
        server.run(),
        collect_images(images),
        watch_pods(Arc::clone(&shared)),
    );
    Ok(())
}

/// Where plugins connect pods, the node is ready when there is a configuration for them.
async fn follow_configurations(shared: &Shared, readiness: watch::Sender<cni::Readiness>) {
    if let Wiring::Plugins(runtime) = &shared.network {
        match runtime.follow(readiness).await {}
    }
}

/// Removes images that nobody needs, now and then.
async fn collect_images(store: Option<dyad_images::Store>) {
    let Some(store) = store else { return };
    loop {
        tokio::time::sleep(COLLECTION).await;
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.relieve()).await {
            Ok(Ok(gone)) if gone.is_empty() => {}
            Ok(Ok(gone)) => {
                info!(?gone, "the disk is nearly full: images that no container used were removed")
            }
            Ok(Err(error)) => warn!(%error, "removing images that nobody needs"),
            Err(error) => warn!(%error, "removing images that nobody needs"),
        }
    }
}

/// Opens the pools when the ranges are known, with the addresses of running pods taken.
async fn open_ranges(shared: Arc<Shared>, mut ranges: watch::Receiver<Vec<IpNet>>) {
    if matches!(shared.network, Wiring::Plugins(_)) {
        // Whose addresses pods have is theirs to know.
        return;
    }
    while ranges.changed().await.is_ok() {
        let found = ranges.borrow_and_update().clone();
        let Some(mut addresses) = Addresses::new(&found) else {
            warn!(?found, "the node's pod ranges are not one per family");
            continue;
        };
        for dir in state_dirs(&shared.config) {
            read_addresses(&dir).into_iter().for_each(|ip| addresses.occupy(ip));
        }
        info!(?found, "pod ranges");
        *shared.addresses.lock().unwrap_or_else(PoisonError::into_inner) = Some(addresses);
    }
}

/// The directories of pods that run, or did.
fn state_dirs(config: &Config) -> Vec<PathBuf> {
    let entries = fs::read_dir(state_root(config)).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// By a pod's uid, where its worker learns of changes.
type Workers = BTreeMap<String, watch::Sender<Option<Pod>>>;

/// Gives every pod of the node a worker, and every worker its pod's changes.
async fn watch_pods(shared: Arc<Shared>) {
    let api: Api<Pod> = Api::all(shared.client.clone());
    let own = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.config.node_name));
    let mut pods = std::pin::pin!(watcher(api, own));
    let mut workers = Workers::new();
    // They end with this function.
    let mut tasks = JoinSet::new();
    let mut listed: Option<Vec<String>> = None;
    while let Some(event) = pods.next().await {
        while tasks.try_join_next().is_some() {}
        match event {
            Ok(watcher::Event::Init) => listed = Some(Vec::new()),
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(listed) = &mut listed {
                    listed.extend(pod.metadata.uid.clone());
                }
                apply(&shared, &mut workers, &mut tasks, pod);
            }
            Ok(watcher::Event::InitDone) => {
                let listed = listed.take().unwrap_or_default();
                // Deleted while nobody watched.
                workers.retain(|uid, sender| listed.contains(uid) || sender.send(None).is_err());
                remove_orphans(&shared, &listed, &workers).await;
            }
            Ok(watcher::Event::Apply(pod)) => apply(&shared, &mut workers, &mut tasks, pod),
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(sender) = pod.metadata.uid.and_then(|uid| workers.remove(&uid)) {
                    // Ended by itself: nothing left to tell.
                    let _ = sender.send(None);
                }
            }
            Err(error) => {
                warn!(%error, "watching pods");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn apply(shared: &Arc<Shared>, workers: &mut Workers, tasks: &mut JoinSet<()>, pod: Pod) {
    let Some(uid) = pod.metadata.uid.clone() else { return };
    let pod = match workers.get(&uid) {
        // A worker that has ended has deleted its pod; this is news from before.
        Some(sender) => return sender.send(Some(pod)).unwrap_or_default(),
        None => pod,
    };
    let (sender, receiver) = watch::channel(Some(pod));
    if let Some(worker) = Worker::new(Arc::clone(shared), receiver) {
        tasks.spawn(worker.run());
        workers.insert(uid, sender);
    }
}

/// Ends sandboxes whose pods are gone, and removes links that belong to nobody.
async fn remove_orphans(shared: &Arc<Shared>, listed: &[String], workers: &Workers) {
    let known = |uid: &str| listed.iter().any(|one| one == uid) || workers.contains_key(uid);
    let uid_of =
        |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut dirs = state_dirs(&shared.config);
    dirs.retain(|dir| !known(&uid_of(dir)));
    let keys: Vec<String> = listed.iter().cloned().chain(workers.keys().cloned()).collect();
    if let Wiring::Plugins(runtime) = &shared.network {
        for dir in &dirs {
            if let Err(error) = runtime.detach(dir).await {
                warn!(dir = %dir.display(), error = %error.full(), "taking a pod that is gone off the network");
                runtime.abandon(dir);
            }
        }
    }
    let own = Arc::clone(shared);
    let removed = tokio::task::spawn_blocking(move || {
        for dir in dirs {
            if let Ok(Some(sandbox)) = Sandbox::adopt(&dir) {
                info!(dir = %dir.display(), "ending the sandbox of a pod that is gone");
                if let Err(error) = sandbox.kill() {
                    warn!(%error, "ending a sandbox");
                }
                sandbox.wait(Duration::from_secs(10));
            }
            for ip in read_addresses(&dir) {
                own.with_addresses(|addresses| addresses.release(ip));
            }
            volumes::release(&dir);
            if let Err(error) = fs::remove_dir_all(&dir) {
                warn!(dir = %dir.display(), %error, "removing the state of a pod that is gone");
            }
        }
        match &own.network {
            Wiring::Own(network) => network.remove_others(&keys),
            Wiring::Plugins(_) => Ok(()),
        }
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %error.full(), "removing links of pods that are gone"),
        Err(error) => warn!(%error, "removing what is left of pods that are gone"),
    }
}

/// The addresses that the pod in `dir` has, none if it has none.
pub(crate) fn read_addresses(dir: &Path) -> Vec<IpAddr> {
    let text = fs::read(dir.join(ADDRESS_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes down which addresses a pod has; whole or not at all.
pub(crate) fn write_addresses(dir: &Path, ips: &[IpAddr]) -> Result<(), Error> {
    let failed = || Error::file(format!("writing down the addresses of {}", dir.display()));
    let text = serde_json::to_vec(ips).map_err(|error| Error::Pod(error.to_string()))?;
    let new = dir.join("addresses.new");
    fs::write(&new, text).map_err(failed())?;
    fs::rename(new, dir.join(ADDRESS_FILE)).map_err(failed())
}

/// The pod has no addresses any more.
pub(crate) fn forget_addresses(dir: &Path) {
    // Not there: there were none.
    let _ = fs::remove_file(dir.join(ADDRESS_FILE));
}

/// The last bytes of a text file, empty if there is none.
pub(crate) fn read_end(path: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut end = Vec::new();
        file.take(bytes).read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
