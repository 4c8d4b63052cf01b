//! The root directory of a container: an [`image`], or the host's, read-only, with private and mounted parts.
//!
//! ```text
//! /            tmpfs holding one bind mount (recursive, read-only) per entry of the host's root
//! /tmp /run /var/tmp   private and empty
//! /proc /sys /dev      of the container's own namespaces
//! /run/dyad/bin        this program and its applets
//! volumes, /etc/hosts, /etc/resolv.conf, /etc/hostname     bind mounts
//! ```
//!
//! A bind mount of the whole root cannot get new mount points, and an overlay over it is refused inside user
//! namespaces (its submounts are locked), so a directory that lacks a mount point is *opened*: replaced by a
//! directory of the tmpfs that holds one bind mount per entry.

pub(super) mod image;
mod system;
mod trees;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    unmount,
};

use super::protocol::{ContainerSpec, Mount};
use super::sys;
use trees::Trees;

/// Where this program is inside a container.
pub const PROGRAM: &str = "/run/dyad/bin/dyad";
/// The directory of this program and its applets, last in `PATH`.
pub const PROGRAM_DIR: &str = "/run/dyad/bin";

/// Directories that are made new for every container and never show the host's.
const PRIVATE: [&str; 6] = ["proc", "sys", "dev", "tmp", "run", "var/tmp"];
/// How many symbolic links a mount point's path may go through.
const LINKS: usize = 40;

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;

/// An error with the path it is about.
type Result<T> = std::result::Result<T, String>;

fn at<T, E: Into<io::Error>>(what: &str, path: &Path, result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| format!("{what} {}: {}", path.display(), error.into()))
}

/// Builds the root under `new_root` (an empty directory) and moves this process into it. The process must be in a
/// mount namespace of its own, and in the pid and network namespaces that `/proc` and `/sys` shall show.
pub(super) fn enter(spec: &ContainerSpec, new_root: &Path) -> Result<()> {
    let slash = Path::new("/");
    let trees = Trees::open(&spec.mounts)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    at("unsharing mounts below", slash, mount_change("/", private))?;
    if let Some(image) = &spec.image {
        return image::enter(spec, image, new_root, &trees);
    }
    at("mounting a root at", new_root, tmpfs(new_root, "0755"))?;

    let mut targets = Points::default();
    for path in PRIVATE {
        targets.add(Path::new(path), false);
    }
    let mut mounts: Vec<(PathBuf, &Mount)> = Vec::new();
    for mount in &spec.mounts {
        let target = resolve(slash, &mount.target)?;
        let is_file = at("looking at volume", &mount.source, fs::metadata(&mount.source))?.is_file();
        if !is_private(&target) {
            targets.add(&target, is_file);
        }
        mounts.push((target, mount));
    }
    open_directory(slash, new_root, &targets)?;
    at("protecting", new_root, sys::set_mount_attributes(new_root, RDONLY | NOSUID | NODEV, true))?;

    mount_private(new_root, spec.privileged)?;
    // Outer mounts first: one may hold the mount point of another.
    mounts.sort_by_key(|(target, _)| target.components().count());
    for (target, mount) in &mounts {
        let inside = new_root.join(target);
        make_point(&inside, mount.source.is_file())?;
        match trees.of(mount) {
            Some(tree) => at("mounting a volume at", &mount.target, tree.attach(CWD, &inside))?,
            None => at("mounting a volume at", &mount.target, mount_bind_recursive(&mount.source, &inside))?,
        }
        let attributes = NOSUID | NODEV | if mount.read_only { RDONLY } else { 0 };
        at("protecting the volume at", &mount.target, sys::set_mount_attributes(&inside, attributes, true))?;
    }
    // A path that does not exist needs no hiding; links to it lead to the same place.
    for path in spec.masked.iter().filter_map(|path| fs::canonicalize(path).ok()) {
        mask(&new_root.join(path.strip_prefix("/").unwrap_or(&path)))?;
        // A volume that holds the path shows it again below its mount point.
        for (target, mount) in &mounts {
            let source = fs::canonicalize(&mount.source).unwrap_or_else(|_| mount.source.clone());
            if let Ok(below) = path.strip_prefix(&source).map(Path::to_owned) {
                mask(&new_root.join(target).join(below))?;
            }
        }
    }
    at("entering", new_root, pivot(new_root))
}

fn tmpfs(path: &Path, mode: &str) -> rustix::io::Result<()> {
    let options = std::ffi::CString::new(format!("mode={mode}")).expect("a mode has no NUL");
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID, Some(options.as_c_str()))
}

fn is_private(relative: &Path) -> bool {
    PRIVATE.iter().any(|private| relative.starts_with(private))
}

/// Where a path inside the container leads, relative to the root, following the host's symbolic links.
fn resolve(root: &Path, path: &Path) -> Result<PathBuf> {
    follow(root, path, is_private)
}

/// Where a path leads, relative to the root, also where nothing is yet; the links that `stays` says are taken as they are.
fn follow(root: &Path, path: &Path, stays: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut rest: Vec<OsString> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let (mut done, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop() {
        match Path::new(&part).components().next() {
            None | Some(Component::RootDir | Component::CurDir | Component::Prefix(_)) => continue,
            Some(Component::ParentDir) => {
                done.pop();
                continue;
            }
            Some(Component::Normal(_)) => {}
        }
        let next = done.join(&part);
        match fs::read_link(root.join(&next)) {
            Ok(target) if !stays(&next) => {
                links += 1;
                if links > LINKS {
                    return Err(format!(
                        "mount point {} goes through too many symbolic links",
                        path.display()
                    ));
                }
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                rest.extend(target.components().rev().map(|part| part.as_os_str().to_owned()));
            }
            _ => done = next,
        }
    }
    if done.as_os_str().is_empty() {
        return Err(format!("mount point {} is the root directory", path.display()));
    }
    Ok(done)
}

/// Mount points below a directory.
#[derive(Debug, Default)]
struct Points {
    below: BTreeMap<OsString, Self>,
    is_file: bool,
}

impl Points {
    fn add(&mut self, path: &Path, is_file: bool) {
        let mut node = self;
        for part in path {
            node = node.below.entry(part.to_owned()).or_default();
        }
        node.is_file = is_file;
    }

    /// Whether all points exist in the host's directory.
    fn exist_in(&self, host: &Path) -> bool {
        self.below.iter().all(|(name, point)| {
            let path = host.join(name);
            fs::symlink_metadata(&path).is_ok_and(|found| {
                if point.is_file { found.is_file() } else { found.is_dir() && point.exist_in(&path) }
            })
        })
    }
}

/// Fills `target` with the entries of `host` and a directory at the relative path `missing`.
pub(crate) fn open(host: &Path, target: &Path, missing: &Path) -> Result<()> {
    let mut points = Points::default();
    points.add(missing, false);
    open_directory(host, target, &points)
}

/// Fills `target`, a directory of the new root, with the entries of `host` and the missing mount points.
fn open_directory(host: &Path, target: &Path, points: &Points) -> Result<()> {
    for entry in at("listing", host, fs::read_dir(host))? {
        let entry = at("listing", host, entry)?;
        let name = entry.file_name();
        let (from, to) = (entry.path(), target.join(&name));
        match points.below.get(&name) {
            Some(point) if point.below.is_empty() => {}
            // A point below something that is no directory is a directory of our own.
            Some(point) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                at("making", &to, fs::create_dir(&to))?;
                if point.exist_in(&from) {
                    at("binding", &from, mount_bind_recursive(&from, &to))?;
                } else {
                    open_directory(&from, &to, point)?;
                }
            }
            Some(_) => {}
            None => place(&from, &to),
        }
    }
    for (name, point) in &points.below {
        let to = target.join(name);
        if fs::symlink_metadata(&to).is_err() {
            make_point(&to, point.is_file)?;
            if !point.below.is_empty() {
                open_missing(&to, point)?;
            }
        }
    }
    Ok(())
}

/// Makes mount points in a directory that the host has not.
fn open_missing(target: &Path, points: &Points) -> Result<()> {
    for (name, point) in &points.below {
        let to = target.join(name);
        make_point(&to, point.is_file)?;
        open_missing(&to, point)?;
    }
    Ok(())
}

/// Shows one entry of the host. What cannot be shown (a broken network file system, a file that went meanwhile) is
/// left out: a container that needs it will say so.
fn place(from: &Path, to: &Path) {
    let Ok(found) = fs::symlink_metadata(from) else { return };
    let kind = found.file_type();
    let shown = if kind.is_symlink() {
        fs::read_link(from).and_then(|link| symlink(link, to))
    } else if kind.is_dir() {
        fs::create_dir(to).and_then(|()| Ok(mount_bind_recursive(from, to)?))
    } else if kind.is_socket() || kind.is_fifo() {
        // A read-only mount does not keep anyone from talking to a service of the host.
        Ok(())
    } else {
        fs::File::create(to).and_then(|_| Ok(mount_bind(from, to)?))
    };
    drop(shown);
}

/// Makes a mount point where there is none, with its parents.
fn make_point(path: &Path, is_file: bool) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let parent = if is_file { path.parent().unwrap_or(path) } else { path };
    at("making mount point", path, fs::create_dir_all(parent))?;
    if is_file {
        at("making mount point", path, fs::File::create(path))?;
    }
    Ok(())
}

fn mount_private(root: &Path, privileged: bool) -> Result<()> {
    for (path, mode) in [("tmp", "1777"), ("var/tmp", "1777"), ("run", "0755"), ("dev", "0755")] {
        let path = root.join(path);
        at("mounting", &path, tmpfs(&path, mode))?;
    }
    system::proc_and_sys(root, privileged)?;
    system::devices(&root.join("dev"))?;
    programs(root)
}

/// Puts this program, under each name it answers to, where `PATH` finds it.
fn programs(root: &Path) -> Result<()> {
    let inside = root.join(PROGRAM.trim_start_matches('/'));
    make_point(&inside, true)?;
    let program = own_program()?;
    at("binding this program from", &program, mount_bind(&program, &inside))?;
    at("protecting", &inside, sys::set_mount_attributes(&inside, RDONLY | NOSUID | NODEV, false))?;
    for name in crate::applet::NAMES {
        let script = inside.with_file_name(name);
        at(
            "writing",
            &script,
            fs::write(&script, format!("#!/bin/sh\nexec {PROGRAM} internal {name} \"$@\"\n")),
        )?;
        at("writing", &script, fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))?;
    }
    Ok(())
}

/// The file of this program, or the one that has taken its place since. The link itself cannot be bound: it leads to
/// a mount of another namespace.
fn own_program() -> Result<PathBuf> {
    let link = Path::new("/proc/self/exe");
    let path = at("reading", link, fs::read_link(link))?;
    Ok(match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(replaced) => PathBuf::from(replaced),
        None => path,
    })
}

/// Hides a file or directory behind an empty one.
fn mask(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            at("hiding", path, tmpfs(path, "0555"))?;
            at("hiding", path, sys::set_mount_attributes(path, RDONLY, false))
        }
        Ok(found) if !found.file_type().is_symlink() => at("hiding", path, mount_bind("/dev/null", path)),
        _ => Ok(()),
    }
}

/// Makes `root` the root and lets go of the old one.
fn pivot(root: &Path) -> io::Result<()> {
    rustix::process::chdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies on top of the new one now.
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Finds a program as a shell would.
pub(super) fn find_program(name: &str, path: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let runnable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(OsStr::new(name)))
        .find(runnable)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "executable file not found in $PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_through_the_hosts_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("usr/share")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("usr/share", root.join("share")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, want) in [
            ("/data", "data"),
            ("/usr/share/new/deep", "usr/share/new/deep"),
            ("/share/new", "usr/share/new"),
            ("/var/run/secrets/x", "run/secrets/x"),
            ("/var/../data/./x", "data/x"),
            ("/../../data", "data"),
        ] {
            assert_eq!(resolve(root, Path::new(path)), Ok(PathBuf::from(want)), "{path}");
        }
        for path in ["/", "/usr/..", "/loop/x"] {
            assert!(resolve(root, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_directory_is_opened_only_where_a_mount_point_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/hosts"), "").unwrap();
        let mut points = Points::default();
        points.add(Path::new("etc/hosts"), true);
        assert!(points.exist_in(root));
        points.add(Path::new("etc/config"), false);
        assert!(!points.exist_in(root));
    }
}
