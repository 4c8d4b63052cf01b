//! Starting a cluster and waiting until it can be used.

mod choose;
mod wait;

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::config::ClusterConfig;
use crate::paths::{ClusterDir, remove_tree, write_atomically};
use crate::rooms;
use crate::spec::{ClusterSpec, Shape};
use crate::status::{self, Running, Status};
use crate::stop::{self, Lock, MERGED_INTO, halt};
use crate::{control_plane, dns, fabric, kubeconfig, process};
use choose::{check_overlaps, choose, free_port};
use wait::{is_installed, wait_for_api, wait_for_nodes};

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
    rooms::check(dir.path(), config.shape)?;
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

/// Starts a stopped cluster; its objects are those it had. What was not [installed](up) then is installed now, also in a
/// cluster that runs.
pub async fn start(
    name: &str,
    wait: Duration,
    install: impl AsyncFnOnce(Site<'_>) -> Result<()>,
    progress: impl FnMut(Progress),
) -> Result<Started> {
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
    let runs = supervisor.is_some() && Running::load(&dir).is_some_and(|running| running.api_ready);
    if runs && !spec.lacks_install(&dir) {
        bail!("cluster {name:?} is running: see it with `dyad status --name {name}`");
    }
    if !runs {
        // What a crash has left would stand in the way.
        halt(&dir, name)?;
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
        launch(&dir)?;
    }
    tokio::select! {
        started = run(&dir, &spec, wait, begun, install, progress) => started,
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
    let since = Timestamp::now() - begun.elapsed();
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
    if spec.lacks_install(dir) {
        let failed =
            || format!("the cluster runs without a network: `dyad start --name {}` installs it", spec.name);
        install(Site { dir, spec, client: &client }).await.with_context(failed)?;
        write_atomically(&dir.is_installed(), b"")?;
    }
    let has_network = spec.shape == Shape::Whole || is_installed(&client).await?;
    let not_ready = wait_for_nodes(&client, spec, has_network, since, wait, &mut progress).await?;
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

/// The administrator's access, as the control plane wrote it.
fn access(dir: &ClusterDir) -> Result<kubeconfig::Access> {
    let text = std::fs::read_to_string(dir.kubeconfig()).context("can't read the cluster's kubeconfig")?;
    kubeconfig::Access::read(&text)
}
