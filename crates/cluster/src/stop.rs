//! Ending a cluster: `stop` keeps its objects, `down` leaves nothing behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::fabric;
use crate::kubeconfig;
use crate::paths::ClusterDir;
use crate::process;
use crate::spec::ClusterSpec;

/// How long processes get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps two commands from changing one cluster at the same time; released when dropped, or by the kernel.
pub(crate) struct Lock {
    _file: std::fs::File,
}

impl Lock {
    /// Takes the cluster's lock, making its directory if need be.
    pub(crate) fn take(dir: &ClusterDir) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir.path())
            .with_context(|| format!("can't create {}", dir.path().display()))?;
        let file = std::fs::File::create(dir.lock()).context("can't create the cluster's lock file")?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("another dyad command is changing this cluster: wait for it to end and try again")
            }
            Err(error) => Err(error).context("can't lock the cluster"),
        }
    }
}

/// Stops a cluster's processes; its objects stay. Stopping a stopped cluster is no error.
pub fn stop(name: &str) -> Result<()> {
    let dir = ClusterDir::of(name)?;
    if !dir.spec().exists() {
        bail!("there is no cluster {name:?}");
    }
    let _lock = Lock::take(&dir)?;
    halt(&dir, name)
}

/// Ends the processes and sees to it that what they had in the kernel is gone.
pub(crate) fn halt(dir: &ClusterDir, name: &str) -> Result<()> {
    process::end_all(dir.path(), PATIENCE)?;
    fabric::remove_from_host(name)?;
    remove_cgroups(name)?;
    match std::fs::remove_file(dir.running()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("can't remove the running state")
        }
        _ => Ok(()),
    }
}

/// Removes a cluster with all it has. Returns whether there was one.
pub fn down(name: &str) -> Result<bool> {
    let dir = ClusterDir::of(name)?;
    let existed = dir.path().exists();
    if !existed && process::of_cluster(dir.path()).is_empty() {
        // The context may be there still, when the directory was removed by hand.
        kubeconfig::remove(&kubeconfig::user_file()?, &format!("dyad-{name}"))?;
        return Ok(false);
    }
    let lock = Lock::take(&dir)?;
    halt(&dir, name)?;
    let context = ClusterSpec::load(&dir).map_or_else(|_| format!("dyad-{name}"), |spec| spec.context());
    let recorded = std::fs::read_to_string(dir.path().join(MERGED_INTO)).ok().map(PathBuf::from);
    for file in recorded.into_iter().chain([kubeconfig::user_file()?]) {
        kubeconfig::remove(&file, &context)?;
    }
    std::fs::remove_dir_all(dir.path()).with_context(|| format!("can't remove {}", dir.path().display()))?;
    drop(lock);
    Ok(true)
}

/// Name of the file that says which kubeconfig the context was merged into.
pub(crate) const MERGED_INTO: &str = "kubeconfig.path";

/// The cgroups of a cluster's pods, in whichever hierarchy of version 2 there is.
pub(crate) fn cgroup_root(name: &str) -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(Path::new)
        .find(|mount| mount.join("cgroup.controllers").exists())
        .map(|mount| mount.join(format!("dyad-{name}")))
}

fn remove_cgroups(name: &str) -> Result<()> {
    let Some(root) = cgroup_root(name).filter(|root| root.exists()) else { return Ok(()) };
    // A cgroup stays busy for a moment after its last process has ended.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match remove_tree(&root) {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                return Err(error).with_context(|| format!("can't remove the cgroup {}", root.display()));
            }
        }
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}
