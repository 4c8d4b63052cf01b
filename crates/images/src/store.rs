//! The store: content by digest, and which name means what.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::digest::Hasher;
use crate::manifest::{DOCUMENT_BYTES, Descriptor, Document, INDEX, ImageConfig, MANIFEST};
use crate::{Digest, Error, Name, Result};

/// The annotation that names an image in full, as containerd writes it.
pub(crate) const NAME: &str = "io.containerd.image.name";
/// The digest by which a registry knows it, where that is another than its manifest's.
const SOURCE: &str = "io.dyad.image.source";

/// Where a cluster's images are.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its name in full.
    pub name: String,
    /// Its ID: the digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest by which a registry knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
    /// Bytes of its manifest, configuration and layers.
    pub size: u64,
    /// When it was built, as it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The digests of its layers, the lowest first.
    pub layers: Vec<Digest>,
}

impl Image {
    /// By what a pod's status names it: where it is from, or its ID.
    pub fn reference(&self) -> String {
        match (&self.source, self.name.parse::<Name>()) {
            (Some(source), Ok(name)) => name.at(source).to_string(),
            _ => self.id.to_string(),
        }
    }
}

/// Keeps collectors away while content is not named yet; or everybody, from one file.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

impl Store {
    /// The store in `dir`, made if it is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        for part in ["", "blobs/sha256", "roots", "new"] {
            let path = dir.join(part);
            let mut builder = fs::DirBuilder::new();
            // Secrets of images are nobody else's business, and set-user-ID programs least of all.
            builder.recursive(true).mode(0o700);
            builder.create(&path).map_err(Error::file("making", &path))?;
        }
        let layout = dir.join("oci-layout");
        if !layout.exists() {
            replace(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// To be held from before content is looked for until what needs it has a name.
    pub fn hold(&self) -> Result<Lock> {
        self.lock("lock", FlockOperation::LockShared)
    }

    pub(crate) fn lock(&self, name: &str, operation: FlockOperation) -> Result<Lock> {
        let path = self.dir.join(name);
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(Error::file("opening", &path))?;
        retry(|| flock(&file, operation)).map_err(Error::file("locking", &path))?;
        Ok(Lock(file))
    }

    /// Where a blob is, or would be.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Whether a blob is there.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.blob(digest).exists()
    }

    /// Content to be written; in the store once it is [finished](Writer::finish).
    pub(crate) fn writer(&self) -> Result<Writer> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("new").join(format!("{}-{number}", std::process::id()));
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(Error::file("making", &path))?;
        Ok(Writer { file, path, hasher: Hasher::default(), size: 0 })
    }

    /// Keeps a small document.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(Error::file("writing", &writer.path))?;
        writer.finish(self, None)
    }

    /// A small document.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob(digest);
        let file = File::open(&path).map_err(Error::file("opening", &path))?;
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(Error::file("reading", &path))?;
        if bytes.len() as u64 > DOCUMENT_BYTES {
            return Err(Error::content(format!("{digest} is larger than a manifest may be")));
        }
        if Digest::of(&bytes) != *digest {
            return Err(Error::content(format!(
                "{} is damaged: remove it and load the image again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    fn index(&self) -> Result<Document> {
        match fs::read(self.dir.join("index.json")) {
            Ok(bytes) => Document::read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Document::default()),
            Err(error) => Err(Error::file("reading", &self.dir.join("index.json"))(error)),
        }
    }

    fn write_index(&self, manifests: Vec<Descriptor>) -> Result<()> {
        let index =
            Document { schema_version: 2, media_type: INDEX.into(), manifests, ..Document::default() };
        let bytes = serde_json::to_vec_pretty(&index).map_err(|error| Error::content(error.to_string()))?;
        replace(&self.dir.join("index.json"), &bytes)
    }

    /// All images, by name.
    pub fn images(&self) -> Result<Vec<Image>> {
        let mut all = Vec::new();
        for descriptor in self.index()?.manifests {
            all.push(self.describe(&descriptor)?);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The manifests that are named.
    pub(crate) fn manifests(&self) -> Result<Vec<Digest>> {
        Ok(self.index()?.manifests.into_iter().map(|descriptor| descriptor.digest).collect())
    }

    fn describe(&self, descriptor: &Descriptor) -> Result<Image> {
        let manifest = Document::read(&self.document(&descriptor.digest)?)?;
        let config = manifest.config.as_ref().ok_or_else(|| {
            Error::content(format!("{} is a manifest without a configuration", descriptor.digest))
        })?;
        let created = ImageConfig::read(&self.document(&config.digest)?)?.created;
        let layers = manifest.layers.iter().map(|layer| layer.size);
        Ok(Image {
            name: descriptor.annotations.get(NAME).cloned().unwrap_or_default(),
            id: config.digest.clone(),
            manifest: descriptor.digest.clone(),
            source: descriptor.annotations.get(SOURCE).and_then(|text| text.parse().ok()),
            size: descriptor.size + config.size + layers.sum::<u64>(),
            created,
            layers: manifest.layers.into_iter().map(|layer| layer.digest).collect(),
        })
    }

    /// The image of this name. A digest counts more than a tag, and may also be that of its manifest or its ID.
    pub fn find(&self, name: &Name) -> Result<Option<Image>> {
        let (exact, base) = (name.to_string(), format!("{}:", name.base()));
        for descriptor in self.index()?.manifests {
            let Some(known) = descriptor.annotations.get(NAME) else { continue };
            let fits = match &name.digest {
                None => *known == exact,
                Some(digest) => {
                    let source = descriptor.annotations.get(SOURCE);
                    let same = descriptor.digest == *digest
                        || source.is_some_and(|source| *source == digest.to_string());
                    same && (known.starts_with(&base) || known.starts_with(&format!("{}@", name.base())))
                }
            };
            if fits {
                return self.describe(&descriptor).map(Some);
            }
        }
        Ok(None)
    }

    /// The image with this ID, in full (`sha256:...`) or the first digits of it.
    pub fn find_id(&self, id: &str) -> Result<Option<Image>> {
        let hex = id.strip_prefix("sha256:").unwrap_or(id);
        let all = self.images()?.into_iter().filter(|image| image.id.hex().starts_with(hex));
        let mut found: Vec<Image> = if hex.len() < 6 { Vec::new() } else { all.collect() };
        found.dedup_by(|a, b| a.id == b.id);
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    /// Gives a manifest that is in the store with all it needs a name, which means it alone from now on.
    pub fn name(&self, name: &Name, manifest: &Digest, source: Option<&Digest>) -> Result<Image> {
        let _lock = self.lock("index.lock", FlockOperation::LockExclusive)?;
        let size =
            fs::metadata(self.blob(manifest)).map_err(Error::file("looking at", &self.blob(manifest)))?;
        let mut annotations = BTreeMap::from([(NAME.to_owned(), name.to_string())]);
        annotations.extend(source.map(|digest| (SOURCE.to_owned(), digest.to_string())));
        let descriptor = Descriptor {
            media_type: MANIFEST.into(),
            digest: manifest.clone(),
            size: size.len(),
            annotations,
            platform: None,
        };
        let image = self.describe(&descriptor)?;
        let mut all = self.index()?.manifests;
        all.retain(|one| one.annotations.get(NAME) != Some(&image.name));
        all.push(descriptor);
        self.write_index(all)?;
        Ok(image)
    }

    /// Takes a name away; whether there was one. What nobody needs any more goes with [`collect`](Self::collect).
    pub fn forget(&self, name: &str) -> Result<bool> {
        let _lock = self.lock("index.lock", FlockOperation::LockExclusive)?;
        let mut all = self.index()?.manifests;
        let before = all.len();
        all.retain(|one| one.annotations.get(NAME).is_none_or(|known| known != name));
        let found = all.len() < before;
        if found {
            self.write_index(all)?;
        }
        Ok(found)
    }

    /// How an image is to be run, and what its layers unpack to.
    pub fn config(&self, image: &Image) -> Result<ImageConfig> {
        ImageConfig::read(&self.document(&image.id)?)
    }
}

/// Content on its way into the store.
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl Writer {
    /// How many bytes have come.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Gives the content its place, if it is what was `wanted`.
    pub(crate) fn finish(mut self, store: &Store, wanted: Option<&Digest>) -> Result<Digest> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if let Some(wanted) = wanted.filter(|wanted| **wanted != digest) {
            return Err(Error::content(format!(
                "the content of {wanted} is not what its digest says: {digest} came"
            )));
        }
        let to = store.blob(&digest);
        let placed = self.file.sync_data().and_then(|()| fs::rename(&self.path, &to));
        placed.map_err(Error::file("keeping", &to))?;
        Ok(digest)
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Given its place already, most likely.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes a file so that readers see the old or the new content.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(Error::file("writing", path))
}

/// Tries again what a signal interrupted.
pub(crate) fn retry(mut work: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match work() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}
