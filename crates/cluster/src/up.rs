//! Starting a cluster and waiting until it can be used.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dyad_net::IpFamily;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

use crate::config::ClusterConfig;
use crate::paths::{ClusterDir, remove_tree};
use crate::spec::{ClusterSpec, NodeSpec, Shape, choose_node_ranges};
use crate::status::{self, Running, Status};
use crate::stop::{self, Lock, MERGED_INTO, halt};
use crate::{control_plane, dns, fabric, kubeconfig, process};

/// The longest the control plane may take to answer.
const API_PATIENCE: Duration = Duration::from_secs(60);
/// So many looks in a row must miss the supervisor before it counts as gone.
const MISSES: u32 = 20;
/// Between two looks at what the start has come to.
const LOOK: Duration = Duration::from_millis(10);

/// The agents of an installation, where `dyad install` puts them.
const AGENTS: &str = "dyad-agent";
const AGENTS_NAMESPACE: &str = "kube-system";
/// The flag by which they connect pods.
const CONNECTS: &str = "--cni";

/// A step of the start, for whoever shows progress.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The cluster's network stands.
    Network,
    /// The API answers.
    Api,
    /// So many of all nodes are ready.
    Nodes(usize, usize),
    /// All nodes are there, so many; they are ready when somebody has brought a network.
    Bare(usize),
    /// The cluster DNS answers.
    Dns,
}

/// What a start came to.
#[derive(Debug)]
pub struct Started {
    /// The cluster as it is now.
    pub status: Status,
    /// Whether its context is kubectl's current one.
    pub context_is_current: bool,
    /// Steps with milliseconds since the command began.
    pub phases: Vec<(String, u64)>,
    /// Nodes that were not ready when the wait was over; or the DNS, if they were.
    pub not_ready: Vec<String>,
}

/// The command was asked to end before the cluster was ready, and has taken back what it began.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub struct Interrupted(&'static str);

/// A cluster whose API answers, for who has something to do before its nodes are waited for.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Its files.
    pub dir: &'a ClusterDir,
    /// What it was asked to be.
    pub spec: &'a ClusterSpec,
    /// The administrator's client.
    pub client: &'a kube::Client,
}

/// Makes a new cluster and starts it; `install` brings what its nodes do not bring along.
pub async fn up(
    config: ClusterConfig,
    wait: Duration,
    install: impl AsyncFnOnce(Site<'_>) -> Result<()>,
    progress: impl FnMut(Progress),
) -> Result<Started> {
    let begun = Instant::now();
    let name = config.name.clone();
    let dir = ClusterDir::of(&name)?;
    refuse_existing(&dir, &name)?;
    let interrupted = interruption()?;
    kubeconfig::check(&kubeconfig::user_file()?)?;
    let _lock = Lock::take(&dir)?;
    // The look before was without the lock.
    refuse_existing(&dir, &name)?;
    let prepared = prepare(&dir, config).and_then(|spec| launch(&dir).map(|()| spec));
    let spec = match prepared {
        Ok(spec) => spec,
        Err(error) => {
            // Nothing has been started: nothing stays.
            remove_tree(dir.path()).with_context(|| format!("can't remove {}", dir.path().display()))?;
            return Err(error);
        }
    };
    tokio::select! {
        started = run(&dir, &spec, wait, begun, install, progress) => started,
        () = interrupted => {
            halt(&dir, &name)?;
            stop::forget(&dir, &name)?;
            remove_tree(dir.path()).with_context(|| format!("can't remove {}", dir.path().display()))?;
            Err(Interrupted("the cluster is removed again").into())
        }
    }
}

fn refuse_existing(dir: &ClusterDir, name: &str) -> Result<()> {
    if dir.spec().exists() {
        let what =
            if process::supervisor(dir.path()).is_some() { "is running" } else { "exists and is stopped" };
        bail!(
            "cluster {name:?} {what}: see it with `dyad status --name {name}`, start it with `dyad start --name {name}`, \
               or remove it with `dyad down --name {name}`"
        );
    }
    Ok(())
}

/// Chooses what is to be chosen and writes it down.
fn prepare(dir: &ClusterDir, config: ClusterConfig) -> Result<ClusterSpec> {
    // A start that was cut short before it wrote anything may have left something.
    halt(dir, &config.name)?;
    for directory in ["logs", "nodes"] {
        std::fs::create_dir_all(dir.path().join(directory))
            .context("can't create the cluster's directory")?;
    }
    let _choosing = Lock::of_all(dir)?;
    let spec = choose(config)?;
    spec.save(dir)?;
    Ok(spec)
}

/// Resolves when the user or the system wants this command to end.
fn interruption() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).context("can't listen for signals");
    let (mut interrupt, mut terminate, mut hangup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// Starts a stopped cluster; its objects are those it had.
pub async fn start(name: &str, wait: Duration, progress: impl FnMut(Progress)) -> Result<Started> {
    let begun = Instant::now();
    let dir = ClusterDir::of(name)?;
    let known = || -> Result<()> {
        if !dir.spec().exists() {
            bail!("there is no cluster {name:?}: make it with `dyad up --name {name}`");
        }
        Ok(())
    };
    known()?;
    let interrupted = interruption()?;
    kubeconfig::check(&kubeconfig::user_file()?)?;
    let _lock = Lock::take(&dir)?;
    known()?;
    let mut spec = ClusterSpec::load(&dir)?;
    let supervisor = process::supervisor(dir.path());
    if supervisor.is_some() && Running::load(&dir).is_some_and(|running| running.api_ready) {
        bail!("cluster {name:?} is running: see it with `dyad status --name {name}`");
    }
    // What a crash has left would stand in the way.
    halt(&dir, name)?;
    {
        let _choosing = Lock::of_all(&dir)?;
        check_overlaps(&spec)?;
        fabric::check_host(&spec)?;
        // A port that was free when it was chosen may be somebody else's now.
        let wanted = spec.api_port_is_fixed.then_some(spec.api_port);
        let port = match free_port(&spec.api_addresses, Some(spec.api_port)) {
            Err(_) if wanted.is_none() => free_port(&spec.api_addresses, None),
            result => result,
        }?;
        if port != spec.api_port {
            spec.api_port = port;
            spec.save(&dir)?;
        }
    }
    launch(&dir)?;
    tokio::select! {
        started = run(&dir, &spec, wait, begun, async |_: Site<'_>| Ok(()), progress) => started,
        () = interrupted => {
            halt(&dir, name)?;
            Err(Interrupted("the cluster is stopped again").into())
        }
    }
}

async fn run(
    dir: &ClusterDir,
    spec: &ClusterSpec,
    wait: Duration,
    begun: Instant,
    install: impl AsyncFnOnce(Site<'_>) -> Result<()>,
    mut progress: impl FnMut(Progress),
) -> Result<Started> {
    let launched = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Err(error) = wait_for_api(dir, &mut progress).await {
        // The files tell what happened; processes that try again and again don't help anybody.
        halt(dir, &spec.name)?;
        return Err(error);
    }
    let file = kubeconfig::user_file()?;
    std::fs::write(dir.path().join(MERGED_INTO), file.as_os_str().as_encoded_bytes())
        .context("can't write into the cluster's directory")?;
    let context_is_current = kubeconfig::merge(&file, &spec.context(), &access(dir)?)?;
    let client = control_plane::admin_client(dir).await?;
    install(Site { dir, spec, client: &client }).await?;
    let has_network = spec.shape == Shape::Whole || is_installed(&client).await?;
    let not_ready = wait_for_nodes(&client, spec, has_network, wait, &mut progress).await?;
    let waits = has_network && !dns::addresses(spec).is_empty();
    let ready = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let not_ready = match not_ready.is_empty() && waits {
        true => dns::wait(&client, wait.saturating_sub(begun.elapsed()), &mut progress).await?,
        false => not_ready,
    };
    let answers = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut phases = vec![("launch".to_owned(), launched)];
    let inside = Running::load(dir).unwrap_or_default().phases;
    phases.extend(inside.into_iter().map(|(name, at)| (name, at + launched)));
    phases.push(("nodes ready".into(), ready));
    phases.push(("DNS ready".into(), answers));
    Ok(Started { status: status::status(&spec.name).await?, context_is_current, phases, not_ready })
}

/// The configuration with every free choice made.
fn choose(config: ClusterConfig) -> Result<ClusterSpec> {
    let ClusterConfig {
        name,
        pod_ranges,
        service_ranges,
        nodes,
        api_addresses,
        api_port,
        dns_search,
        dataplane,
        shape,
        install,
        audit,
        controllers,
    } = config;
    let api_addresses = available(api_addresses);
    let families: Vec<IpFamily> = service_ranges.iter().map(|range| (*range).into()).collect();
    let mut taken = fabric::host_ranges()?;
    for (_, other) in others(&name)? {
        taken.extend(other.ranges().map(|(_, range)| range));
    }
    taken.extend(pod_ranges.iter().chain(&service_ranges));
    let spec = ClusterSpec {
        node_ranges: choose_node_ranges(&name, &families, &taken)?,
        name,
        pod_ranges,
        service_ranges,
        nodes,
        api_port: free_port(&api_addresses, api_port)?,
        api_port_is_fixed: api_port.is_some(),
        api_addresses,
        dns_search,
        dataplane,
        shape,
        install,
        audit,
        controllers: controllers.to_string(),
        host_is_joined: rustix::process::geteuid().is_root(),
    };
    check_overlaps(&spec)?;
    fabric::check_host(&spec)?;
    Ok(spec)
}

fn others(name: &str) -> Result<Vec<(String, ClusterSpec)>> {
    let all = ClusterDir::all()?.into_iter().filter(|(other, _)| other != name);
    // A directory without a readable description belongs to a cluster that never came up.
    Ok(all.filter_map(|(other, dir)| Some((other, ClusterSpec::load(&dir).ok()?))).collect())
}

fn check_overlaps(spec: &ClusterSpec) -> Result<()> {
    for (_, other) in others(&spec.name)? {
        if let Some(message) = spec.overlap(&other) {
            bail!(message);
        }
    }
    Ok(())
}

/// Those of the addresses that this machine has: one without one family's loopback still has the other's.
fn available(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let is_missing = |ip: &IpAddr| {
        TcpListener::bind(SocketAddr::new(*ip, 0))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
    };
    let found: Vec<IpAddr> = addresses.iter().copied().filter(|ip| !is_missing(ip)).collect();
    // Without any, what is wrong is told of the first one.
    if found.is_empty() { addresses } else { found }
}

/// The wanted port, or one that is free on every address now.
fn free_port(addresses: &[IpAddr], wanted: Option<u16>) -> Result<u16> {
    let first = addresses.first().copied().context("the API server has no address to listen on")?;
    for _ in 0..64 {
        let at = SocketAddr::new(first, wanted.unwrap_or(0));
        let listener = TcpListener::bind(at).with_context(|| match wanted {
            Some(_) => format!("networking.apiServerPort: can't listen on {at}"),
            None => format!("networking.apiServerAddress: can't listen on {first}"),
        })?;
        let port = listener.local_addr()?.port();
        let in_use = |ip: &IpAddr| {
            TcpListener::bind(SocketAddr::new(*ip, port))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        };
        match (addresses[1..].iter().find(|ip| in_use(ip)), wanted) {
            (None, _) => return Ok(port),
            (Some(ip), Some(_)) => bail!("networking.apiServerPort: port {port} of {ip} is in use"),
            (Some(_), None) => {}
        }
    }
    bail!("no port is free on all of {addresses:?}")
}

fn launch(dir: &ClusterDir) -> Result<()> {
    let output = Command::new(std::env::current_exe().context("can't find this program")?)
        .args(["internal", "launch"])
        .arg(dir.path())
        .stdin(Stdio::null())
        // What the terminal sends to this command must not cut it in half.
        .process_group(0)
        .output()
        .context("can't start the cluster's first process")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{}", text.trim().trim_start_matches("error: "));
    }
    Ok(())
}

async fn wait_for_api(dir: &ClusterDir, progress: &mut impl FnMut(Progress)) -> Result<()> {
    let deadline = Instant::now() + API_PATIENCE;
    let (mut network, mut missed) = (false, 0);
    loop {
        let running = Running::load(dir).unwrap_or_default();
        let failed = |why: String| {
            let logs = dir.path().join("logs");
            anyhow::anyhow!(
                "the cluster did not start: {why} (more in {}; `dyad down --name {}` removes what there is)",
                logs.display(),
                dir.path().file_name().unwrap_or_default().to_string_lossy()
            )
        };
        if let Some(why) = running.failed {
            return Err(failed(why));
        }
        if !network && !running.phases.is_empty() {
            network = true;
            progress(Progress::Network);
        }
        if running.api_ready {
            progress(Progress::Api);
            return Ok(());
        }
        // A process that is just becoming another program has no command line for a moment.
        missed = if process::supervisor(dir.path()).is_some() { 0 } else { missed + 1 };
        if missed > MISSES {
            // Its last word may have come after the look above.
            let last = Running::load(dir).and_then(|running| running.failed);
            return Err(failed(last.unwrap_or_else(|| "its supervisor ended without a word".into())));
        }
        if Instant::now() > deadline {
            bail!(
                "the API server did not answer within {API_PATIENCE:?}: see {}",
                dir.log("control-plane").display()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether agents that connect pods are installed on a cluster whose nodes bring none along.
async fn is_installed(client: &kube::Client) -> Result<bool> {
    let found = Api::<DaemonSet>::namespaced(client.clone(), AGENTS_NAMESPACE).get_opt(AGENTS).await;
    let template =
        found.context("can't look for installed agents")?.and_then(|agents| agents.spec?.template.spec);
    let mut words =
        template.iter().flat_map(|spec| &spec.containers).flat_map(|one| one.args.iter().flatten());
    Ok(words.any(|word| word == CONNECTS))
}

/// Waits for every node; those that are missing at the end are returned by name.
async fn wait_for_nodes(
    client: &kube::Client,
    spec: &ClusterSpec,
    has_network: bool,
    wait: Duration,
    progress: &mut impl FnMut(Progress),
) -> Result<Vec<String>> {
    let deadline = Instant::now() + wait;
    let mut shown = usize::MAX;
    loop {
        let nodes = status::api_nodes(client).await?;
        let is_ready = |wanted: &NodeSpec| {
            let node = nodes.iter().find(|node| node.metadata.name.as_ref() == Some(&wanted.name));
            // Without a network of ours they are ready some time after this, or never.
            let is_there = |node| !has_network || status::is_usable(node);
            node.is_some_and(|node| is_there(node) && status::has_labels(node, &wanted.labels))
        };
        let missing: Vec<String> =
            spec.nodes.iter().filter(|node| !is_ready(node)).map(|node| node.name.clone()).collect();
        let count = spec.nodes.len() - missing.len();
        if count != shown {
            shown = count;
            progress(match has_network {
                false if missing.is_empty() && count > 0 => Progress::Bare(count),
                _ => Progress::Nodes(count, spec.nodes.len()),
            });
        }
        if missing.is_empty() || Instant::now() >= deadline {
            return Ok(missing);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The administrator's access, as the control plane wrote it.
fn access(dir: &ClusterDir) -> Result<kubeconfig::Access> {
    let text = std::fs::read_to_string(dir.kubeconfig()).context("can't read the cluster's kubeconfig")?;
    kubeconfig::Access::read(&text)
}
