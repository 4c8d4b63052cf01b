//! Directories of generated files that change as a whole.
//!
//! ```text
//! volume/..1/key      the present content
//! volume/..data       a link to it, replaced in one step
//! volume/key          a link to ..data/key, for each top-level name
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::mount::{MountFlags, mount};

use crate::error::Error;

const DATA: &str = "..data";

/// A file mode as the API has it.
pub(super) fn mode(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or_default() & 0o777
}

/// Files by their path in the volume.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    files: BTreeMap<PathBuf, (Vec<u8>, u32)>,
    /// Who owns which.
    owners: BTreeMap<PathBuf, u32>,
    /// `fsGroup`: the group that may read all of them.
    group: Option<u32>,
}

/// What `fsGroup` lets a group do with files that are not to be written, and with their directories.
const GROUP_READS: u32 = 0o440;
const GROUP_ENTERS: u32 = 0o2550;

impl Files {
    /// None yet, for a pod with this `fsGroup`.
    pub(super) fn of_group(group: Option<u32>) -> Self {
        Self { group, ..Self::default() }
    }

    /// Gives a file that was added to a user.
    pub(super) fn give(&mut self, path: &str, user: u32) {
        self.owners.insert(PathBuf::from(path), user);
    }

    /// The mode a file has on disk.
    fn mode_of(&self, mode: u32) -> u32 {
        if self.group.is_some() { mode | GROUP_READS } else { mode }
    }

    /// Gives what was just made to its owner and group, and then its mode: a new owner takes some of that away.
    fn own(&self, at: &Path, user: Option<u32>, mode: u32) -> io::Result<()> {
        if user.is_some() || self.group.is_some() {
            std::os::unix::fs::chown(at, user, self.group)?;
        }
        fs::set_permissions(at, fs::Permissions::from_mode(mode))
    }

    /// Adds a file; later ones replace earlier ones of the same path.
    pub(super) fn add(&mut self, path: &str, content: Vec<u8>, mode: u32) -> Result<(), Error> {
        let path = Path::new(path);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.as_os_str().is_empty() || path.starts_with(DATA) {
            return Err(Error::Pod(format!(
                "{:?} is not a path inside a volume",
                path.display().to_string()
            )));
        }
        self.files.insert(path.to_owned(), (content, mode));
        Ok(())
    }

    /// Makes the volume in `dir` hold these files and no others, in one step for whoever reads it.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let failed = || Error::file(format!("writing the volume {}", dir.display()));
        if self.is_in(dir) {
            return Ok(());
        }
        fs::create_dir_all(dir).map_err(failed())?;
        let enters = if self.group.is_some() { GROUP_ENTERS } else { 0 };
        self.own(dir, None, 0o755 | enters).map_err(failed())?;
        self.replace(dir).map_err(failed())
    }

    /// Whether the volume holds these files already.
    fn is_in(&self, dir: &Path) -> bool {
        let data = dir.join(DATA);
        let Ok(found) = list(&data) else { return false };
        found.len() == self.files.len()
            && self.files.iter().all(|(path, (content, mode))| {
                let path = data.join(path);
                fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == self.mode_of(*mode))
                    && fs::read(&path).is_ok_and(|found| found == *content)
            })
    }

    fn replace(&self, dir: &Path) -> io::Result<()> {
        let old = fs::read_link(dir.join(DATA)).ok();
        let number =
            old.as_ref().and_then(|old| old.to_str()?.strip_prefix("..")?.parse::<u64>().ok()).unwrap_or(0);
        let new = format!("..{}", number + 1);
        // Left from an attempt that was cut short.
        let _ = fs::remove_dir_all(dir.join(&new));
        fs::create_dir(dir.join(&new))?;
        let enters = if self.group.is_some() { GROUP_ENTERS } else { 0 };
        for (name, (content, mode)) in &self.files {
            let path = dir.join(&new).join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, content)?;
            drop(file);
            self.own(&path, self.owners.get(name).copied(), self.mode_of(*mode))?;
            for parent in name.ancestors().skip(1) {
                self.own(&dir.join(&new).join(parent), None, 0o755 | enters)?;
            }
        }
        self.own(&dir.join(&new), None, 0o755 | enters)?;
        let link = dir.join("..data_new");
        let _ = fs::remove_file(&link);
        symlink(&new, &link)?;
        fs::rename(&link, dir.join(DATA))?;
        let wanted: BTreeSet<_> = self
            .files
            .keys()
            .filter_map(|path| path.components().next())
            .map(|part| part.as_os_str().to_owned())
            .collect();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            if !name.as_encoded_bytes().starts_with(b"..") && !wanted.contains(&name) {
                fs::remove_file(dir.join(&name))?;
            }
        }
        for name in wanted {
            let link = dir.join(&name);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new(DATA).join(&name), link)?;
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(dir.join(old))?;
        }
        Ok(())
    }
}

/// The files below a directory.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(list(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A directory for a pod to write to, in memory if asked for, with no more than `limit` bytes there; for the group of
/// `fsGroup` if there is one.
pub(super) fn empty_dir(
    path: &Path,
    in_memory: bool,
    limit: Option<u64>,
    group: Option<u32>,
) -> Result<(), Error> {
    let failed = || Error::file(format!("making {}", path.display()));
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failed())?;
    if in_memory {
        let size = limit.map_or_else(String::new, |bytes| format!(",size={bytes}"));
        let options =
            std::ffi::CString::new(format!("mode=0777{size}")).map_err(|error| failed()(error.into()))?;
        mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
            .map_err(|errno| failed()(errno.into()))?;
    }
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(failed())?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let mut files = Files::default();
        for (path, content) in list {
            files.add(path, content.as_bytes().to_vec(), 0o640).unwrap();
        }
        files
    }

    #[test]
    fn a_volume_holds_what_was_written_last_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("v");
        for content in [
            &[("a", "1"), ("b", "2"), ("deep/er/c", "3")][..],
            &[("a", "1"), ("b", "2"), ("deep/er/c", "3")],
            &[("a", "new"), ("deep", "now a file")],
            &[],
            &[("b", "2")],
        ] {
            files(content).write(&dir).unwrap();
            for (path, text) in content {
                assert_eq!(fs::read_to_string(dir.join(path)).unwrap(), *text);
                assert_eq!(fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777, 0o640);
            }
            let shown = fs::read_dir(&dir)
                .unwrap()
                .filter(|entry| !entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".."));
            let top: BTreeSet<_> = content.iter().map(|(path, _)| path.split('/').next().unwrap()).collect();
            assert_eq!(shown.count(), top.len(), "{content:?}");
            assert_eq!(fs::read_dir(&dir).unwrap().count(), top.len() + 2, "one version and the link to it");
        }
    }

    #[test]
    fn unchanged_content_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        files(&[("a", "1")]).write(folder.path()).unwrap();
        let before = fs::read_link(folder.path().join(DATA)).unwrap();
        files(&[("a", "1")]).write(folder.path()).unwrap();
        assert_eq!(fs::read_link(folder.path().join(DATA)).unwrap(), before);
        files(&[("a", "2")]).write(folder.path()).unwrap();
        assert_ne!(fs::read_link(folder.path().join(DATA)).unwrap(), before);
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        for path in ["", "/etc/passwd", "../x", "a/../../x", "..data/x", "."] {
            assert!(Files::default().add(path, Vec::new(), 0o644).is_err(), "{path:?}");
        }
    }
}
