//! Volumes as trees of mounts that are not mounted yet.
//!
//! Those that shall see later mounts of the node are taken hold of while this process still hears of these, before it
//! shuts itself off; what is taken hold of goes on hearing.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};

use super::{Result, at};
use crate::sandbox::protocol::{Mount, Propagation};

/// One volume.
pub(super) struct Tree {
    tree: OwnedFd,
    propagation: Propagation,
}

impl Tree {
    /// Copies the mounts at the source.
    pub(super) fn open(one: &Mount) -> Result<Self> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = at("opening the volume", &one.source, open_tree(CWD, &one.source, flags))?;
        Ok(Self { tree, propagation: one.propagation })
    }

    /// Mounts it at a path of an open directory, or onto what is open itself if the path is empty.
    pub(super) fn attach(&self, dir: impl AsFd, path: &Path) -> rustix::io::Result<()> {
        let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if path.as_os_str().is_empty() {
            flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        }
        move_mount(self.tree.as_fd(), "", dir.as_fd(), path, flags)?;
        // What is open is the mount, wherever it is now.
        let here = format!("/proc/self/fd/{}", self.tree.as_raw_fd());
        let change = match self.propagation {
            Propagation::None => MountPropagationFlags::PRIVATE,
            Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
            Propagation::Bidirectional => return Ok(()),
        };
        mount_change(here, change | MountPropagationFlags::REC)
    }
}

impl AsRawFd for Tree {
    fn as_raw_fd(&self) -> RawFd {
        self.tree.as_raw_fd()
    }
}

/// The volumes of a container that shall see later mounts.
pub(super) struct Trees(Vec<(Mount, Tree)>);

impl Trees {
    /// Takes hold of them, with the node's mounts still shared.
    pub(super) fn open(mounts: &[Mount]) -> Result<Self> {
        let wanted = mounts.iter().filter(|one| one.propagation != Propagation::None);
        Ok(Self(wanted.map(|one| Ok((one.clone(), Tree::open(one)?))).collect::<Result<_>>()?))
    }

    /// That of a mount, if it is one of them.
    pub(super) fn of(&self, mount: &Mount) -> Option<&Tree> {
        self.0.iter().find(|(known, _)| known == mount).map(|(_, tree)| tree)
    }
}
