//! The root directory of a container that runs from an image.
//!
//! The unpacked image lies below, what the container writes above (overlayfs), where the kernel can; else the image is
//! copied. Paths in an image are an image's business: mount points are found and made by the kernel with the new root as
//! `/` (`openat2`, `RESOLVE_IN_ROOT`), so that no link leads out of it, and mounts are put onto what was found.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind};

use super::trees::{Tree, Trees};
use super::{NODEV, NOSUID, RDONLY, Result, at, mask, pivot, system, tmpfs};
use crate::sandbox::protocol::{ContainerSpec, ImageRoot, Mount};
use crate::sandbox::sys;

/// Builds the root at `new_root` and moves this process into it.
pub(super) fn enter(spec: &ContainerSpec, image: &ImageRoot, new_root: &Path, trees: &Trees) -> Result<()> {
    lay(image, new_root)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = at("opening", new_root, openat(CWD, new_root, flags, Mode::empty()))?;
    for dir in ["proc", "sys", "dev"] {
        let found = point(&root, new_root, Path::new(dir), false)?;
        // Where the image has a link in its place, what is mounted would be somewhere else.
        let real = at("looking for", Path::new(dir), place_of(&found))?;
        if real != new_root.join(dir) {
            return Err(format!("/{dir} of the image is a link to {}", real.display()));
        }
    }
    system::proc_and_sys(new_root, spec.privileged)?;
    system::control_groups(new_root);
    let dev = new_root.join("dev");
    at("mounting", &dev, tmpfs(&dev, "0755"))?;
    system::devices(&dev)?;
    if spec.privileged {
        system::all_devices(&dev);
    }
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    // Outer mounts first: one may hold the mount point of another.
    mounts.sort_by_key(|mount| mount.target.components().count());
    for one in mounts {
        attach(&root, new_root, one, trees)?;
        hide(&root, one, &spec.masked)?;
    }
    if let Some(dir) = &spec.working_dir {
        // As runtimes do; a read-only image that lacks it says so when it is entered.
        drop(point(&root, new_root, dir, false)?);
    }
    if image.read_only {
        at("protecting", new_root, sys::set_mount_attributes(new_root, RDONLY, false))?;
    }
    at("entering", new_root, pivot(new_root))
}

/// Puts the image at `new_root`, with what the container writes kept apart from it.
fn lay(image: &ImageRoot, new_root: &Path) -> Result<()> {
    let [upper, work] = ["upper", "work"].map(|name| image.scratch.join(name));
    for dir in [&upper, &work] {
        at("making", dir, fs::create_dir_all(dir))?;
    }
    // The uppermost directory is what shows of the root.
    let below = at("looking at", &image.path, fs::metadata(&image.path))?;
    at("protecting", &upper, fs::set_permissions(&upper, below.permissions()))?;
    // Not in every user namespace; there all is root's.
    let _ = std::os::unix::fs::chown(&upper, Some(below.uid()), Some(below.gid()));
    match overlay(&image.path, &upper, &work, new_root) {
        Ok(()) => Ok(()),
        Err(why) => {
            let copy = image.scratch.join("copy");
            eprintln!("no overlay file system here ({why}): {} is copied", image.path.display());
            at("copying", &image.path, copy_tree(&image.path, &copy))?;
            at("binding", &copy, mount_bind(&copy, new_root))
        }
    }
}

fn overlay(lower: &Path, upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| openat(CWD, path, flags, Mode::empty());
    let dirs = [open(lower)?, open(upper)?, open(work)?];
    let [lower, upper, work] = [0, 1, 2].map(|at: usize| format!("/proc/self/fd/{}", dirs[at].as_raw_fd()));
    // Through descriptors: in these options colons and commas mean something, and there is little room. Marks go to
    // attributes that may be written in a user namespace too.
    let own = if sys::in_user_namespace() { ",userxattr" } else { "" };
    let options = CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}{own}"))?;
    Ok(mount("overlay", target, "overlay", MountFlags::NODEV, Some(options.as_c_str()))?)
}

/// Copies a directory with owners, permissions and links.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut open = vec![(from.to_owned(), to.to_owned())];
    fs::create_dir_all(to)?;
    while let Some((from, to)) = open.pop() {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
            if kind.is_dir() {
                fs::create_dir(&target)?;
                open.push((source, target));
                continue;
            }
            let found = entry.metadata()?;
            if kind.is_symlink() {
                symlink(fs::read_link(&source)?, &target)?;
            } else if kind.is_fifo() {
                let mode = Mode::from_raw_mode(found.mode() & 0o7777);
                rustix::fs::mknodat(CWD, &target, rustix::fs::FileType::Fifo, mode, 0)?;
            } else {
                fs::copy(&source, &target)?;
            }
            own(&target, &found)?;
        }
        own(&to, &fs::metadata(&from)?)?;
    }
    Ok(())
}

fn own(path: &Path, found: &fs::Metadata) -> io::Result<()> {
    match std::os::unix::fs::lchown(path, Some(found.uid()), Some(found.gid())) {
        Err(_) if sys::in_user_namespace() => {}
        other => other?,
    }
    if found.is_symlink() {
        return Ok(());
    }
    // Again: a new owner takes set-user-ID bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(found.mode() & 0o7777))
}

/// What is at a path with `root` as `/`.
fn resolve(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The mount point at a path of the root at `new_root`, made with the directories above it if it is missing, also where
/// links lead to what is not there.
fn point(root: &OwnedFd, new_root: &Path, path: &Path, is_file: bool) -> Result<OwnedFd> {
    match resolve(root, path) {
        Err(Errno::NOENT) => {}
        other => return at("looking for", path, other),
    }
    let real = super::follow(new_root, path, |_| false)?;
    let mut done = PathBuf::new();
    let mut dir = at("looking for", path, resolve(root, Path::new("")))?;
    for part in &real {
        let is_last = done.join(part) == real;
        done.push(part);
        let found = match resolve(root, &done) {
            Err(Errno::NOENT) => {
                if is_file && is_last {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                    at("making", path, openat(&dir, part, flags, Mode::from_raw_mode(0o644)))?;
                } else {
                    at("making", path, mkdirat(&dir, part, Mode::from_raw_mode(0o755)))?;
                }
                resolve(root, &done)
            }
            found => found,
        };
        dir = at("looking for", path, found)?;
    }
    Ok(dir)
}

/// Mounts a volume or a file.
fn attach(root: &OwnedFd, new_root: &Path, one: &Mount, trees: &Trees) -> Result<()> {
    let is_file = !at("looking at volume", &one.source, fs::metadata(&one.source))?.is_dir();
    let target = point(root, new_root, &one.target, is_file)?;
    let own;
    let tree = match trees.of(one) {
        Some(tree) => tree,
        None => {
            own = Tree::open(one)?;
            &own
        }
    };
    let attributes = NOSUID | NODEV | if one.read_only { RDONLY } else { 0 };
    at("protecting the volume at", &one.target, sys::set_tree_attributes(tree, attributes))?;
    at("mounting a volume at", &one.target, tree.attach(&target, Path::new("")))
}

/// Hides what a directory of the host has that no container may see.
fn hide(root: &OwnedFd, one: &Mount, masked: &[PathBuf]) -> Result<()> {
    let source = fs::canonicalize(&one.source).unwrap_or_else(|_| one.source.clone());
    for path in masked.iter().filter_map(|path| fs::canonicalize(path).ok()) {
        let Ok(below) = path.strip_prefix(&source) else { continue };
        let inside = one.target.join(below);
        let found = at("hiding", &inside, resolve(root, &inside))?;
        mask(&at("hiding", &inside, place_of(&found))?)?;
    }
    Ok(())
}

/// Where an open file or directory is.
fn place_of(found: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Takes hold of the image for as long as the result lives, so that nobody removes it.
pub(crate) fn hold(image: &ImageRoot) -> Result<File> {
    let file = at("opening", &image.path, File::open(&image.path))?;
    at("holding", &image.path, rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared))?;
    Ok(file)
}
