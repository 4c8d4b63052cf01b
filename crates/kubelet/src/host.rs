//! A node's own part of the machine's file system: directories that programs on nodes share with each other, as plugins,
//! their agents and the kubelet do, and that nodes of one machine must not share.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};

use crate::sandbox::root;

/// The directories, as a node has them.
const OWN: [&str; 3] = ["etc/cni", "opt/cni", "var/lib/cni"];
/// What runs keep there, gone with the node.
const RUN: &str = "/run";
/// Where programs find name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The directories that a node has of its own.
pub fn own() -> impl Iterator<Item = PathBuf> {
    OWN.into_iter().chain([RUN]).map(|own| Path::new("/").join(own))
}

/// Puts directories below `root`, made as needed, in place of the machine's, for all in the mount namespace of the
/// calling thread, which must be the node's own. What is mounted below `/run` is seen by whoever asks for it.
pub fn furnish(root: &Path) -> io::Result<()> {
    let said =
        |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    for own in OWN {
        let (source, target) = (root.join(own), Path::new("/").join(own));
        fs::create_dir_all(&source).map_err(said(format!("making {}", source.display())))?;
        if !target.is_dir() {
            open_parent(&root.join(".opened").join(own), &target)
                .map_err(said(format!("making room for {}", target.display())))?;
        }
        mount_bind(&source, &target)
            .map_err(|error| said(format!("mounting {}", target.display()))(error.into()))?;
    }
    // Some machines keep the list of name servers where nothing of theirs will be.
    let resolver = fs::canonicalize(RESOLV_CONF).ok().filter(|path| path.starts_with(RUN));
    let resolver = resolver.and_then(|path| Some((fs::read(&path).ok()?, path)));
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mounted = mount("dyad-run", RUN, "tmpfs", flags, Some(c"mode=0755"))
        .and_then(|()| mount_change(RUN, MountPropagationFlags::SHARED));
    mounted.map_err(|error| said(format!("mounting {RUN}"))(error.into()))?;
    if let Some((text, path)) = resolver {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(RUN)))?;
        fs::write(&path, text)?;
    }
    Ok(())
}

/// Has a part of a hierarchy of control groups stand for the whole of it.
pub fn enclose(hierarchy: &Path, part: &Path) -> io::Result<()> {
    Ok(mount_bind(part, hierarchy)?)
}

/// Replaces the nearest directory above `target` that is there by one with the same entries and room for `target`,
/// put together at `place`: the machine itself stays as it is.
fn open_parent(place: &Path, target: &Path) -> io::Result<()> {
    let existing = target.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    fs::create_dir_all(place)?;
    mount("dyad-opened", place, "tmpfs", MountFlags::NOSUID, Some(c"mode=0755"))?;
    let missing = target.strip_prefix(existing).map_err(io::Error::other)?;
    root::open(existing, place, missing).map_err(io::Error::other)?;
    let mode = fs::metadata(existing)?.permissions().mode();
    fs::set_permissions(place, fs::Permissions::from_mode(mode))?;
    Ok(mount_bind_recursive(place, existing)?)
}

/// Where a node's directories are below its root, for whoever puts something into one.
pub fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
