//! Images of files of this machine, written as an archive that is an OCI layout and what `docker load` takes at once,
//! without a container engine.
//!
//! The same files make the same bytes: no time and no owner of this machine is in them. Nothing large is held in memory; what
//! an archive has to say before its files come is found out by making them twice.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::digest::Hasher;
use crate::manifest::{CONFIG, DOCUMENT_BYTES, Descriptor, Document, INDEX, LAYER, MANIFEST, Platform};
use crate::store::NAME;
use crate::{Digest, Error, Name, Result};

/// What an image has in one place.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// A directory, with its mode.
    Directory(u32),
    /// A file of this machine, with its mode.
    File(&'a Path, u32),
    /// A small file.
    Text(&'a str),
    /// A symbolic link.
    Link(&'a str),
}

/// An image to be written.
#[derive(Clone, Debug)]
pub struct Build<'a> {
    /// Its name.
    pub name: &'a Name,
    /// What it is for, in Go's words: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// Its content by paths without a leading slash, directories before what is in them.
    pub entries: &'a [(&'a str, Entry<'a>)],
    /// What is run.
    pub entrypoint: &'a [&'a str],
    /// What is said of it, as `org.opencontainers.image.version`.
    pub labels: &'a [(&'a str, &'a str)],
    /// Whether the layer is compressed by gzip.
    pub compress: bool,
}

/// The digest and the bytes of what is written through it.
struct Counter<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Counter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), size: 0 }
    }

    fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A layer as it was made: compressed, and before that.
#[derive(PartialEq, Eq)]
struct Layer {
    digest: Digest,
    size: u64,
    plain: Digest,
}

impl Build<'_> {
    /// Writes the archive; returns the digest of the image's manifest.
    pub fn write(&self, to: impl Write) -> Result<Digest> {
        let layer = self.layer(io::sink())?;
        let config = self.config(&layer.plain)?;
        let part = |media_type: &str, digest: &Digest, size: u64| Descriptor {
            media_type: media_type.into(),
            digest: digest.clone(),
            size,
            annotations: Default::default(),
            platform: None,
        };
        let layer_type = if self.compress { format!("{LAYER}+gzip") } else { LAYER.to_owned() };
        let config_digest = Digest::of(&config);
        let manifest = json(&Document {
            schema_version: 2,
            media_type: MANIFEST.into(),
            config: Some(part(CONFIG, &config_digest, config.len() as u64)),
            layers: vec![part(&layer_type, &layer.digest, layer.size)],
            ..Document::default()
        })?;
        let digest = Digest::of(&manifest);
        let mut top = part(MANIFEST, &digest, manifest.len() as u64);
        top.platform =
            Some(Platform { architecture: self.architecture.into(), os: "linux".into(), variant: None });
        top.annotations.insert(NAME.into(), self.name.to_string());
        if let Some(tag) = &self.name.tag {
            top.annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
        }
        let index = json(&Document {
            schema_version: 2,
            media_type: INDEX.into(),
            manifests: vec![top],
            ..Document::default()
        })?;
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let docker = json(&json!([{
            "Config": blob(&config_digest), "RepoTags": [self.name.to_string()], "Layers": [blob(&layer.digest)],
        }]))?;

        let mut archive = Builder::new(to);
        let writing = |error: io::Error| Error::content(format!("can't write the archive: {error}"));
        for folder in ["blobs", "blobs/sha256"] {
            add(&mut archive, folder, EntryType::Directory, 0o755, 0, io::empty()).map_err(writing)?;
        }
        let mut file = |name: &str, bytes: &[u8]| {
            add(&mut archive, name, EntryType::Regular, 0o644, bytes.len() as u64, bytes).map_err(writing)
        };
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        file("index.json", &index)?;
        file("manifest.json", &docker)?;
        file(&blob(&config_digest), &config)?;
        file(&blob(&digest), &manifest)?;
        let mut header = header(EntryType::Regular, 0o644, layer.size);
        header.set_path(blob(&layer.digest)).map_err(writing)?;
        header.set_cksum();
        let out = archive.get_mut();
        out.write_all(header.as_bytes()).map_err(writing)?;
        if self.layer(&mut *out)? != layer {
            return Err(Error::content("a file of the image has changed while it was written: try again"));
        }
        let padding = (512 - layer.size % 512) % 512;
        out.write_all(&vec![0; padding as usize]).map_err(writing)?;
        archive.finish().map_err(writing)?;
        archive.into_inner().and_then(|mut out| out.flush()).map_err(writing)?;
        Ok(digest)
    }

    fn config(&self, plain: &Digest) -> Result<Vec<u8>> {
        let labels: serde_json::Map<String, serde_json::Value> =
            self.labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        json(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint, "Env": ["PATH=/"], "WorkingDir": "/", "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [plain]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "dyad"}],
        }))
    }

    fn layer(&self, to: impl Write) -> Result<Layer> {
        let mut packed = Counter::new(to);
        let plain = if self.compress {
            let mut plain = Counter::new(GzEncoder::new(&mut packed, Compression::default()));
            self.files(&mut plain)?;
            let Counter { inner, hasher, .. } = plain;
            inner.finish().map_err(|error| Error::content(format!("can't write a layer: {error}")))?;
            hasher.finish()
        } else {
            let mut plain = Counter::new(&mut packed);
            self.files(&mut plain)?;
            plain.finish().0
        };
        let (digest, size) = packed.finish();
        Ok(Layer { digest, size, plain })
    }

    fn files(&self, to: impl Write) -> Result<()> {
        let mut layer = Builder::new(to);
        for (path, entry) in self.entries {
            let writing =
                |error: io::Error| Error::content(format!("can't write /{path} of the image: {error}"));
            match entry {
                Entry::Directory(mode) => {
                    add(&mut layer, path, EntryType::Directory, *mode, 0, io::empty()).map_err(writing)?;
                }
                Entry::Text(text) => {
                    let size = text.len() as u64;
                    add(&mut layer, path, EntryType::Regular, 0o644, size, text.as_bytes())
                        .map_err(writing)?;
                }
                Entry::Link(target) => {
                    let mut header = header(EntryType::Symlink, 0o777, 0);
                    layer.append_link(&mut header, path, target).map_err(writing)?;
                }
                Entry::File(source, mode) => {
                    let file = File::open(source).map_err(Error::file("opening", source))?;
                    let size = file.metadata().map_err(Error::file("looking at", source))?.len();
                    // A file that grows meanwhile is cut; that it has changed is noticed.
                    add(&mut layer, path, EntryType::Regular, *mode, size, file.take(size))
                        .map_err(writing)?;
                }
            }
        }
        layer.into_inner().and_then(|mut to| to.flush()).map_err(|error| Error::content(error.to_string()))
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn add(
    archive: &mut Builder<impl Write>,
    path: &str,
    kind: EntryType,
    mode: u32,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    archive.append_data(&mut header(kind, mode, size), path, content)
}

fn json(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(document).map_err(|error| Error::content(error.to_string()))?;
    if bytes.len() as u64 > DOCUMENT_BYTES {
        return Err(Error::content("a document of the image is larger than others take"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Root, Store, archive};

    fn write(folder: &Path, name: &Name, compress: bool) -> (Vec<u8>, Digest) {
        let program = folder.join("program");
        std::fs::write(&program, vec![7; 1_000_003]).unwrap();
        let entries = [
            ("bin", Entry::Directory(0o755)),
            ("bin/program", Entry::File(&program, 0o755)),
            ("etc", Entry::Directory(0o755)),
            ("etc/motd", Entry::Text("hello\n")),
            ("etc/program", Entry::Link("../bin/program")),
        ];
        let build = Build {
            name,
            architecture: &Platform::own().architecture,
            entries: &entries,
            entrypoint: &["/bin/program"],
            labels: &[("org.opencontainers.image.version", "1")],
            compress,
        };
        let mut bytes = Vec::new();
        let digest = build.write(&mut bytes).unwrap();
        (bytes, digest)
    }

    #[test]
    fn what_is_written_can_be_loaded_and_is_all_there() {
        for compress in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let name: Name = "dyad:1".parse().unwrap();
            let (bytes, digest) = write(folder.path(), &name, compress);
            let store = Store::open(&folder.path().join("images")).unwrap();
            let images = archive::load(&store, bytes.as_slice(), None, |_, _| {}).unwrap();
            assert_eq!(images.len(), 1);
            assert_eq!((images[0].name.as_str(), &images[0].manifest), ("docker.io/library/dyad:1", &digest));
            let run = store.config(&images[0]).unwrap().run();
            assert_eq!(run.entrypoint.unwrap(), ["/bin/program"]);
            let root: Root = store.root(&images[0]).unwrap();
            let path = root.path();
            assert_eq!(std::fs::read(path.join("etc/program")).unwrap(), vec![7; 1_000_003]);
            assert_eq!(std::fs::read_to_string(path.join("etc/motd")).unwrap(), "hello\n");
        }
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let folder = tempfile::tempdir().unwrap();
        let name: Name = "dyad:1".parse().unwrap();
        let one = write(folder.path(), &name, true);
        assert_eq!(one, write(folder.path(), &name, true));
        assert_eq!(one.0.len() % 512, 0, "whole blocks");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let name: Name = "dyad:1".parse().unwrap();
        let build = Build {
            name: &name,
            architecture: "amd64",
            entries: &[("a", Entry::File(Path::new("/nowhere/a"), 0o755))],
            entrypoint: &["/a"],
            labels: &[],
            compress: false,
        };
        let error = build.write(io::sink()).unwrap_err().to_string();
        assert_eq!(error, "opening /nowhere/a");
    }
}
