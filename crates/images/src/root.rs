//! Images unpacked: one directory each, made when its first container starts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::manifest::Document;
use crate::store::retry;
use crate::unpack::{Limits, unpack};
use crate::{Error, Image, Result, Store};

/// An unpacked image; it stays for as long as this, or a lock like it, is held.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    _held: File,
}

impl Root {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes hold of an unpacked image.
    pub fn hold(path: &Path) -> Result<Self> {
        let held = File::open(path).map_err(Error::file("opening", path))?;
        retry(|| flock(&held, FlockOperation::LockShared)).map_err(Error::file("locking", path))?;
        // Removed between the two, by whoever had it then.
        fs::metadata(path).map_err(Error::file("looking at", path))?;
        Ok(Self { path: path.to_owned(), _held: held })
    }
}

impl Store {
    /// The directory of an image, unpacked now if it is not yet. Blocks for as long as that takes; who asks for the same
    /// image meanwhile waits for this one.
    pub fn root(&self, image: &Image) -> Result<Root> {
        let _lock = self.hold()?;
        let path = self.dir().join("roots").join(image.id.hex());
        if path.exists() {
            return Root::hold(&path);
        }
        let _alone = self.lock(&format!("new/{}.lock", image.id.hex()), FlockOperation::LockExclusive)?;
        if !path.exists() {
            let new = self.dir().join("new").join(image.id.hex());
            // Left by a process that ended.
            remove_tree(&new)?;
            fs::create_dir(&new).map_err(Error::file("making", &new))?;
            let made = self.unpack_into(image, &new);
            let made = made.and_then(|()| fs::rename(&new, &path).map_err(Error::file("keeping", &path)));
            if made.is_err() {
                // What counts is what went wrong first.
                let _ = remove_tree(&new);
            }
            made?;
        }
        Root::hold(&path)
    }

    fn unpack_into(&self, image: &Image, dir: &Path) -> Result<()> {
        let manifest = Document::read(&self.document(&image.manifest)?)?;
        let diffs = self.config(image)?.rootfs.diff_ids;
        if diffs.len() != manifest.layers.len() {
            return Err(Error::content(format!(
                "image {} has {} layers, and its configuration speaks of {}",
                image.name,
                manifest.layers.len(),
                diffs.len()
            )));
        }
        let mut limits = Limits::default();
        for (layer, diff) in manifest.layers.iter().zip(&diffs) {
            let path = self.blob(&layer.digest);
            let file = File::open(&path).map_err(Error::file("opening", &path))?;
            let found = unpack(file, dir, &mut limits).map_err(|error| {
                Error::content(format!("unpacking layer {} of {}: {error}", layer.digest, image.name))
            })?;
            if found != *diff {
                return Err(Error::content(format!(
                    "layer {} of {} unpacks to {found}, not to {diff} as the configuration says",
                    layer.digest, image.name
                )));
            }
        }
        Ok(())
    }
}

/// Removes a file or a directory with all it holds, whatever permissions are in it; nothing is fine too.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let fits = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return fits(fs::remove_file(path)).map_err(Error::file("removing", path)),
        Err(_) => return Ok(()),
    }
    let first = fits(fs::remove_dir_all(path));
    let Err(error) = first else { return Ok(()) };
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        return Err(Error::file("removing", path)(error));
    }
    // Directories that nobody may write to, made by an image for an ordinary user's cluster.
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        let listed =
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).and_then(|()| fs::read_dir(&dir));
        for entry in listed.map_err(Error::file("listing", &dir))?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    fits(fs::remove_dir_all(path)).map_err(Error::file("removing", path))
}
