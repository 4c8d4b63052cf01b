//! Removing what no name leads to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::manifest::Document;
use crate::root::remove_tree;
use crate::{Digest, Error, Image, Result, Store};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Files by digest.
    pub blobs: usize,
    /// Unpacked images.
    pub roots: usize,
    /// Bytes of the former.
    pub bytes: u64,
}

impl Store {
    /// Removes content that no image needs and unpacked images that no container runs from. Does nothing while somebody
    /// brings content in, which has no name yet.
    pub fn collect(&self) -> Result<Collected> {
        let _lock = match self.lock("lock", FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => lock,
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {
                return Ok(Collected::default());
            }
            Err(error) => return Err(error),
        };
        let mut needed = BTreeSet::new();
        let mut roots = BTreeSet::new();
        for digest in self.manifests()? {
            let manifest = Document::read(&self.document(&digest)?)?;
            roots.extend(manifest.config.iter().map(|config| config.digest.hex().to_owned()));
            let parts = manifest.config.iter().chain(&manifest.layers).map(|part| part.digest.clone());
            needed.extend(parts.chain([digest]));
        }
        let mut collected = Collected::default();
        each(&self.dir().join("blobs/sha256"), |name, path| {
            let digest = format!("sha256:{name}").parse::<Digest>();
            if !digest.is_ok_and(|digest| needed.contains(&digest)) {
                collected.bytes += fs::metadata(path).map_or(0, |found| found.len());
                collected.blobs += 1;
                fs::remove_file(path).map_err(Error::file("removing", path))?;
            }
            Ok(())
        })?;
        // Left by processes that ended: whoever writes holds the lock.
        each(&self.dir().join("new"), |_, path| remove_tree(path))?;
        each(&self.dir().join("roots"), |name, path| {
            if !roots.contains(name) && !in_use(path) {
                collected.roots += 1;
                remove_tree(path)?;
            }
            Ok(())
        })?;
        Ok(collected)
    }
}

/// How full a disk may be, in percent, before images that nobody uses go, and how full it is to be then; as kubelets have it.
const FULL: u64 = 85;
const RELIEVED: u64 = 80;
/// What came less than this ago may be about to be used.
const YOUNG: Duration = Duration::from_secs(120);

impl Store {
    /// [Collects](Self::collect); and where the disk is nearly full, forgets images that no container runs from, those that
    /// came first first. Names of those that went.
    pub fn relieve(&self) -> Result<Vec<String>> {
        self.collect()?;
        let mut gone = Vec::new();
        if used(self.dir())? < FULL {
            return Ok(gone);
        }
        let mut images: Vec<(SystemTime, Image)> = Vec::new();
        for image in self.images()? {
            let path = self.blob(&image.manifest);
            let came = fs::metadata(&path).and_then(|found| found.modified());
            images.push((came.map_err(Error::file("looking at", &path))?, image));
        }
        images.sort_by_key(|(came, _)| *came);
        for (came, image) in images {
            let young = came.elapsed().is_ok_and(|age| age < YOUNG);
            if young || in_use(&self.dir().join("roots").join(image.id.hex())) {
                continue;
            }
            self.forget(&image.name)?;
            gone.push(image.name);
            self.collect()?;
            if used(self.dir())? < RELIEVED {
                break;
            }
        }
        Ok(gone)
    }
}

/// How full the disk is that a directory is on, in percent.
fn used(dir: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(dir).map_err(|errno| Error::file("looking at", dir)(errno.into()))?;
    let all = found.f_blocks.max(1);
    Ok(all.saturating_sub(found.f_bavail) * 100 / all)
}

/// Whether a container runs from an unpacked image, or is about to.
fn in_use(root: &Path) -> bool {
    File::open(root).is_ok_and(|root| flock(root, FlockOperation::NonBlockingLockExclusive).is_err())
}

fn each(dir: &Path, mut work: impl FnMut(&str, &Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::file("listing", dir))? {
        let entry = entry.map_err(Error::file("listing", dir))?;
        work(&entry.file_name().to_string_lossy(), &entry.path())?;
    }
    Ok(())
}
