//! The nodes' own mount namespaces, where nodes have no built-in network: what CNI plugins, their agents and the kubelet
//! share on a node (`/etc/cni`, `/opt/cni`, `/var/lib/cni`, `/run`, its control groups) are directories of that node.
//!
//! The supervisor holds them, so that a node's process that is started again finds all as it was. They are not pinned by
//! mounts, as network namespaces are: Linux 6.18 takes some that are newer than the supervisor's for older ones, and refuses.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::paths::ClusterDir;
use crate::spec::{ClusterSpec, Shape};
use crate::stop::{cgroup_mount, cgroup_root};

/// Whether a cluster in `dir` can have them: nodes would not find it where they have a directory of their own.
pub(crate) fn check(dir: &Path, shape: Shape) -> Result<()> {
    if shape == Shape::Whole {
        return Ok(());
    }
    // It need not be there yet.
    let existing = dir.ancestors().find_map(|part| part.canonicalize().ok());
    if let Some(own) = dyad_kubelet::host::own()
        .find(|own| [Some(dir), existing.as_deref()].into_iter().flatten().any(|dir| dir.starts_with(own)))
    {
        bail!(
            "{}: nodes without a built-in network have a {} of their own: point XDG_DATA_HOME elsewhere",
            dir.display(),
            own.display()
        );
    }
    Ok(())
}

/// Makes them; runs in the supervisor, before it has a second thread. They live as long as the result.
pub(crate) fn build(dir: &ClusterDir, spec: &ClusterSpec) -> Result<Vec<File>> {
    if spec.shape == Shape::Whole {
        return Ok(Vec::new());
    }
    let build = |name: &str| build_one(dir, spec, name).with_context(|| format!("the directories of {name}"));
    spec.nodes.iter().map(|node| build(&node.name)).collect()
}

fn build_one(dir: &ClusterDir, spec: &ClusterSpec, node: &str) -> Result<File> {
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<File> {
            furnish(dir, spec, node)?;
            File::open("/proc/thread-self/ns/mnt").context("can't take hold of the mount namespace")
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread that makes them panicked"))
    });
    let room = made??;
    // As the cluster's processes see this one.
    let held = format!("/proc/{}/fd/{}", rustix::process::getpid().as_raw_nonzero(), room.as_raw_fd());
    std::os::unix::fs::symlink(held, dir.mounts(node)).context("can't name the mount namespace")?;
    Ok(room)
}

fn furnish(dir: &ClusterDir, spec: &ClusterSpec, node: &str) -> Result<()> {
    // SAFETY: the unsafety is about descriptor tables, which are left alone.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
        .context("can't make a mount namespace")?;
    dyad_kubelet::host::furnish(&dir.node_root(node))?;
    if let (Some(mount), Some(group)) = (cgroup_mount(), cgroup_root(dir, &spec.name)) {
        let group = group.join(node);
        // Not everywhere may one have control groups: the node sees those of the machine then, and uses none.
        if fs::create_dir_all(&group).is_ok() {
            dyad_kubelet::host::enclose(mount, &group)
                .context("can't show the node its own control groups")?;
        }
    }
    Ok(())
}

/// Takes hold of the namespace of a node.
pub(crate) fn open(dir: &ClusterDir, node: &str) -> Result<File> {
    File::open(dir.mounts(node)).context("can't open the node's mount namespace")
}

/// Moves the calling process, which must have one thread, into the namespace of a node.
pub(crate) fn enter(dir: &ClusterDir, node: &str) -> Result<()> {
    move_into_link_name_space(open(dir, node)?.as_fd(), Some(LinkNameSpaceType::Mount))
        .context("can't enter the node's mount namespace")
}

/// Where all pods of a node without a built-in network are, as the node and programs on it see it.
pub fn pods_cgroup() -> Option<PathBuf> {
    cgroup_mount().map(|mount| mount.join("pods"))
}

/// The control group below which a node's pods get theirs, as the node sees it.
pub(crate) fn cgroup(dir: &ClusterDir, spec: &ClusterSpec, node: &str) -> Option<PathBuf> {
    match spec.shape {
        Shape::Whole => cgroup_root(dir, &spec.name).map(|root| root.join(node)),
        Shape::Proxy | Shape::Bare => cgroup_mount().map(PathBuf::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_not_where_its_nodes_have_something_else() {
        for (dir, shape, fits) in [
            ("/run/user/0/dyad/a", Shape::Bare, false),
            ("/run/user/0/dyad/a", Shape::Proxy, false),
            ("/run/user/0/dyad/a", Shape::Whole, true),
            // Which is another name of it.
            ("/var/run/dyad/a", Shape::Bare, false),
            ("/var/lib/cni/dyad/a", Shape::Bare, false),
            ("/root/.local/share/dyad/a", Shape::Bare, true),
            ("/runs/dyad/a", Shape::Bare, true),
        ] {
            let checked = check(Path::new(dir), shape);
            assert_eq!(checked.is_ok(), fits, "{dir}: {checked:?}");
        }
    }
}
