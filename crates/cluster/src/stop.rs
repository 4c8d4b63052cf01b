//! Ending a cluster: `stop` keeps its objects, `down` leaves nothing behind.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

use crate::fabric;
use crate::kubeconfig;
use crate::paths::{self, ClusterDir};
use crate::process;

/// How long processes get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps two commands from changing one cluster at the same time: a lock on its directory, released when dropped,
/// or by the kernel.
pub(crate) struct Lock {
    _file: std::fs::File,
}

impl Lock {
    /// Takes the cluster's lock, making its directory if need be.
    pub(crate) fn take(dir: &ClusterDir) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        use std::os::unix::fs::MetadataExt;
        let path = dir.path();
        loop {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .with_context(|| format!("can't create {}", path.display()))?;
            let file = match std::fs::File::open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                result => result.with_context(|| format!("can't open {}", path.display()))?,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                    "another dyad command is changing this cluster: wait for it to end, or interrupt it, and try again"
                ),
                Err(error) => return Err(error).context("can't lock the cluster's directory"),
            }
            // Whoever held the lock before may have removed the directory: then this one is nobody's any more.
            let held = file.metadata().context("can't look at the cluster's directory")?;
            if std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
                return Ok(Self { _file: file });
            }
        }
    }

    /// Waits for the lock of all clusters of this user: held while ranges and ports are chosen.
    pub(crate) fn of_all(dir: &ClusterDir) -> Result<Self> {
        let home = dir.home();
        let file = std::fs::File::open(home).with_context(|| format!("can't open {}", home.display()))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("can't lock {}", home.display()))?;
        Ok(Self { _file: file })
    }
}

/// Stops a cluster's processes; its objects stay. Stopping a stopped cluster is no error.
pub fn stop(name: &str) -> Result<()> {
    let dir = ClusterDir::of(name)?;
    if !dir.spec().exists() {
        bail!("there is no cluster {name:?}");
    }
    let _lock = Lock::take(&dir)?;
    // The wait for the lock may have been for a `down`.
    if !dir.spec().exists() {
        bail!("there is no cluster {name:?}");
    }
    halt(&dir, name)
}

/// Ends the processes and sees to it that what they had in the kernel is gone.
pub(crate) fn halt(dir: &ClusterDir, name: &str) -> Result<()> {
    process::end_all(dir.path(), PATIENCE)?;
    fabric::remove_from_host(dir, name)?;
    remove_cgroups(dir, name)?;
    match std::fs::remove_file(dir.running()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
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
        forget(&dir, name)?;
        return Ok(false);
    }
    let lock = Lock::take(&dir)?;
    halt(&dir, name)?;
    // A kubeconfig that can't be written is no reason to keep the rest.
    let forgotten = forget(&dir, name);
    paths::remove_tree(dir.path()).with_context(|| format!("can't remove {}", dir.path().display()))?;
    drop(lock);
    forgotten.context("the cluster is gone, but not its kubeconfig entry")?;
    Ok(true)
}

/// Takes the cluster's context out of the kubeconfig it was merged into, and out of the one that is used now.
pub(crate) fn forget(dir: &ClusterDir, name: &str) -> Result<()> {
    let recorded = std::fs::read_to_string(dir.path().join(MERGED_INTO)).ok().map(PathBuf::from);
    // Without HOME there is no other file than the recorded one.
    let files: Vec<PathBuf> = recorded.into_iter().chain(kubeconfig::user_file().ok()).collect();
    let context = format!("dyad-{name}");
    let results: Vec<Result<()>> = files.iter().map(|file| kubeconfig::remove(file, &context)).collect();
    results.into_iter().collect()
}

/// Name of the file that says which kubeconfig the context was merged into.
pub(crate) const MERGED_INTO: &str = "kubeconfig.path";

/// The hierarchy of control groups of version 2, if there is one.
pub(crate) fn cgroup_mount() -> Option<&'static Path> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    mounts.into_iter().find(|mount| mount.join("cgroup.controllers").exists())
}

/// The cgroups of a cluster's pods in it.
pub(crate) fn cgroup_root(dir: &ClusterDir, name: &str) -> Option<PathBuf> {
    cgroup_mount().map(|mount| mount.join(cgroup_name(dir, name)))
}

/// Controllers of version 1, as far as there are hierarchies of theirs, with the cluster's cgroup in each.
pub(crate) fn cgroup_controllers(dir: &ClusterDir, name: &str) -> Vec<(String, PathBuf)> {
    let mounts = ["cpu", "memory", "pids"].map(|one| (one.to_owned(), Path::new("/sys/fs/cgroup").join(one)));
    let there = mounts.into_iter().filter(|(_, mount)| mount.join("cgroup.procs").exists());
    there.map(|(one, mount)| (one, mount.join(cgroup_name(dir, name)))).collect()
}

fn cgroup_name(dir: &ClusterDir, name: &str) -> String {
    format!("dyad-{name}-{}", dir.tag())
}

fn remove_cgroups(dir: &ClusterDir, name: &str) -> Result<()> {
    let single = cgroup_controllers(dir, name).into_iter().map(|(_, root)| root);
    let mut roots: Vec<PathBuf> = cgroup_root(dir, name).into_iter().chain(single).collect();
    roots.retain(|root| root.exists());
    roots.iter().try_for_each(|root| remove_cgroup(root))
}

fn remove_cgroup(root: &Path) -> Result<()> {
    // A cgroup stays busy for a moment after its last process has ended.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match remove_cgroup_tree(root) {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                return Err(error).with_context(|| format!("can't remove the cgroup {}", root.display()));
            }
        }
    }
}

fn remove_cgroup_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.filter_map(Result::ok) {
        if entry.file_type()?.is_dir() {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}
