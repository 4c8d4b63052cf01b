//! A directory that what is made in it does not lead out of.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::bad;

/// How deep directories may lie in each other: removing them takes a step of the stack each.
const DEPTH: usize = 512;

/// What a file has besides its content.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    /// Permissions with set-user-ID and the like.
    pub(super) mode: u32,
    /// Owner.
    pub(super) user: u32,
    /// Group.
    pub(super) group: u32,
    /// Seconds since 1970.
    pub(super) changed: u64,
    /// Extended attributes.
    pub(super) extended: Vec<(String, Vec<u8>)>,
}

/// The directory.
pub(super) struct Place {
    dir: OwnedFd,
    /// Whether files can be given to everybody: not in a user namespace, which has few users.
    gives_away: bool,
}

impl Place {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let maps = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let all = maps.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
        Ok(Self {
            dir: openat(CWD, dir, flags, Mode::empty())?,
            gives_away: all && rustix::process::geteuid().is_root(),
        })
    }

    /// Opens the directory at a path, following links as if this one were `/`.
    fn directory_at(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            match openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                // Something was renamed elsewhere meanwhile, says the kernel, and it may work now.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The directory that `path` is in, made with those above if it is missing; and the last part of the path.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = path.file_name().ok_or_else(|| bad("an entry for the root is no directory"))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        if path.components().count() > DEPTH {
            return Err(bad(format!("a path has more than {DEPTH} parts")));
        }
        match self.directory_at(parent) {
            Ok(found) => return Ok((found, name)),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(bad(format!("{}: {}", parent.display(), io::Error::from(error)))),
        }
        let (mut at, mut done) = (self.directory_at(Path::new(""))?, PathBuf::new());
        for part in parent.components() {
            done.push(part);
            at = match self.directory_at(&done) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                    self.directory_at(&done)?
                }
                Err(error) => return Err(bad(format!("{}: {}", done.display(), io::Error::from(error)))),
            };
        }
        Ok((at, name))
    }

    /// Removes whatever is at a path; nothing is fine.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let Some(name) = path.file_name() else { return Ok(()) };
        match self.directory_at(path.parent().unwrap_or(Path::new(""))) {
            Ok(parent) => remove_at(parent.as_fd(), name, 0),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Empties a directory, but for what this layer brought.
    pub(super) fn empty(&self, path: &Path, own: &BTreeSet<PathBuf>) -> io::Result<()> {
        let dir = match self.directory_at(path) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for (name, _) in entries(dir.as_fd())? {
            let inside = path.join(&name);
            if own.contains(&inside) {
                let is_dir = self.directory_at(&inside).is_ok();
                if is_dir && statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_directory) {
                    self.empty(&inside, own)?;
                }
            } else if own.range(inside.clone()..).next().is_some_and(|next| next.starts_with(&inside)) {
                self.empty(&inside, own)?;
            } else {
                remove_at(dir.as_fd(), &name, 0)?;
            }
        }
        Ok(())
    }

    /// Makes a directory, or keeps the one that is there.
    pub(super) fn directory(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        if statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_directory) {
            return Ok(());
        }
        remove_at(parent.as_fd(), name, 0)?;
        // Ours alone until it is finished.
        Ok(mkdirat(&parent, name, Mode::from_raw_mode(0o700))?)
    }

    /// Gives a directory its attributes; gone again is fine.
    pub(super) fn finish_directory(&self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        if path.as_os_str().is_empty() {
            return self.finish(self.dir.as_fd(), OsStr::new("."), attributes, true);
        }
        let (parent, name) = self.parent(path)?;
        if !statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_directory) {
            return Ok(());
        }
        self.finish(parent.as_fd(), name, attributes, true)
    }

    pub(super) fn symlink(&self, path: &Path, target: &OsStr, attributes: &Attributes) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        remove_at(parent.as_fd(), name, 0)?;
        symlinkat(target, &parent, name)?;
        self.finish(parent.as_fd(), name, attributes, false)
    }

    pub(super) fn hard_link(&self, path: &Path, target: &Path) -> io::Result<()> {
        let missing = |error: Errno| {
            bad(format!(
                "{} is a hard link to {}: {}",
                path.display(),
                target.display(),
                io::Error::from(error)
            ))
        };
        let name_of = target.file_name().ok_or_else(|| bad("a hard link to the root"))?;
        let from = self.directory_at(target.parent().unwrap_or(Path::new(""))).map_err(missing)?;
        let (parent, name) = self.parent(path)?;
        if path != target {
            remove_at(parent.as_fd(), name, 0)?;
            linkat(&from, name_of, &parent, name, AtFlags::empty()).map_err(missing)?;
        }
        Ok(())
    }

    pub(super) fn fifo(&self, path: &Path, attributes: &Attributes) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        remove_at(parent.as_fd(), name, 0)?;
        mknodat(&parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        self.finish(parent.as_fd(), name, attributes, true)
    }

    pub(super) fn file(
        &self,
        path: &Path,
        content: &mut impl Read,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        remove_at(parent.as_fd(), name, 0)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
        io::copy(content, &mut file)?;
        drop(file);
        self.finish(parent.as_fd(), name, attributes, true)
    }

    /// Owner first: changing it takes set-user-ID bits and capabilities away.
    fn finish(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        attributes: &Attributes,
        is_plain: bool,
    ) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(attributes.user), Gid::from_raw(attributes.group));
        match chownat(parent, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
            // A user namespace without that user: everything is root's there.
            Err(_) if !self.gives_away => {}
            other => other?,
        }
        if is_plain {
            chmodat(parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
            self.set_extended(parent, name, attributes)?;
        }
        let at = Timespec { tv_sec: i64::try_from(attributes.changed).unwrap_or(0), tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        Ok(utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_extended(&self, parent: BorrowedFd<'_>, name: &OsStr, attributes: &Attributes) -> io::Result<()> {
        if attributes.extended.is_empty() {
            return Ok(());
        }
        let path = format!("/proc/self/fd/{}/", parent.as_raw_fd());
        let path = Path::new(&path).join(name);
        for (key, value) in &attributes.extended {
            let key = CString::new(key.as_str()).map_err(|_| bad("an attribute's name has a NUL"))?;
            match rustix::fs::lsetxattr(&path, key.as_c_str(), value, XattrFlags::empty()) {
                // Not every file system has them, nor every user namespace the right to.
                Err(Errno::NOTSUP) => {}
                Err(_) if !self.gives_away => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn is_directory(found: rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

/// What is in a directory, and whether each is one.
fn entries(dir: BorrowedFd<'_>) -> io::Result<Vec<(std::ffi::OsString, bool)>> {
    let mut found = Vec::new();
    let again = openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::new(again)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            found.push((
                name.to_owned(),
                statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_directory),
            ));
        }
    }
    Ok(found)
}

/// Removes a file, or a directory with all it holds; following no link.
fn remove_at(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if depth > DEPTH {
        return Err(bad("directories lie too deep in each other"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(parent, name, flags, Mode::empty())?;
    for (inside, _) in entries(dir.as_fd())? {
        remove_at(dir.as_fd(), &inside, depth + 1)?;
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
