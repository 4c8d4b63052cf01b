//! Archives of images: what `docker save` writes, and OCI layouts, as tar files of any compression.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use tar::EntryType;

use crate::manifest::{CONFIG, DOCUMENT_BYTES, Descriptor, Document, ImageConfig, LAYER, MANIFEST};
use crate::store::{NAME, Writer};
use crate::unpack::decompress;
use crate::{Digest, Error, Image, Name, Result, Store};

/// The annotation that names an image in a layout: in full, or its tag alone.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Most files in an archive.
const ENTRIES: usize = 100_000;
/// Longest path in one.
const PATH_BYTES: usize = 1024;

/// One image of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What an archive holds: the digests of its files, which are in the store already.
struct Files<'a> {
    store: &'a Store,
    all: BTreeMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
}

impl Files<'_> {
    fn find(&self, path: &str) -> Option<&(Digest, u64)> {
        let path = clean(path);
        // Docker once wrote a layer that two images share as a link from one to the other.
        let path = self.links.get(&path).map_or(path, Clone::clone);
        self.all.get(&path)
    }

    fn get(&self, path: &str) -> Result<&(Digest, u64)> {
        self.find(path)
            .ok_or_else(|| Error::content(format!("the archive has no file {path:?}, which it speaks of")))
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.find(path).map(|(digest, _)| self.store.document(digest)).transpose()
    }
}

/// Puts all images of an archive into the store: under the names it has for them, or under `name`, if it holds one
/// image. `progress` is told of each file.
pub fn load(
    store: &Store,
    archive: impl Read,
    name: Option<&Name>,
    mut progress: impl FnMut(&str, u64),
) -> Result<Vec<Image>> {
    let _lock = store.hold()?;
    let archive =
        decompress(archive).map_err(|error| Error::content(format!("reading the archive: {error}")))?;
    let files = take_in(store, archive, &mut progress)?;
    let layout = files.read("index.json")?.map(|bytes| Document::read(&bytes)).transpose()?;
    let named =
        |index: &Document| index.manifests.iter().all(|one| names(one).is_some_and(|name| name.is_ok()));
    let found = match (layout, files.read("manifest.json")?) {
        (Some(index), None) => from_layout(store, &index)?,
        (Some(index), Some(_)) if !index.manifests.is_empty() && named(&index) => from_layout(store, &index)?,
        (_, Some(bytes)) => from_docker(&files, &bytes)?,
        (None, None) => {
            return Err(Error::content(
                "this is no image: there is neither a manifest.json as in what `docker save` writes, nor an index.json \
                 as in an OCI layout",
            ));
        }
    };
    let names = match (name, found.len()) {
        (Some(name), 1) => vec![(name.clone(), found[0].1.clone())],
        (Some(_), count) => {
            return Err(Error::content(format!(
                "the archive holds {count} images, which cannot all have one name"
            )));
        }
        (None, _) => found.into_iter().map(|(name, digest)| Ok((name?, digest))).collect::<Result<_>>()?,
    };
    names.iter().map(|(name, digest)| store.name(name, digest, None)).collect()
}

/// A name, or why there is none; and the manifest.
type Found = (Result<Name>, Digest);

/// An error of what reads archives: in its words, which may quote the bytes that it took for a header, only if it is
/// not about the archive.
fn reading(files: usize) -> impl Fn(io::Error) -> Error {
    move |error| match error.kind() {
        kind if error.raw_os_error().is_some() || kind == io::ErrorKind::Interrupted => {
            Error::content(format!("reading the archive: {error}"))
        }
        _ if files == 0 => Error::content(
            "this is no archive of images: that is a tar file, plain or compressed by gzip or zstd, as `docker save` and \
             `skopeo copy` write",
        ),
        _ => Error::content(format!("the archive is damaged or cut off in file {files} or behind it")),
    }
}

fn take_in<'a>(
    store: &'a Store,
    archive: impl Read,
    progress: &mut impl FnMut(&str, u64),
) -> Result<Files<'a>> {
    let mut files = Files { store, all: BTreeMap::new(), links: BTreeMap::new() };
    let mut archive = tar::Archive::new(archive);
    let mut long = None;
    for (count, entry) in archive.entries().map_err(reading(0))?.raw(true).enumerate() {
        if count > ENTRIES {
            return Err(Error::content(format!("the archive has more than {ENTRIES} files")));
        }
        let mut entry = entry.map_err(reading(count))?;
        let name = long.take().unwrap_or_else(|| String::from_utf8_lossy(&entry.path_bytes()).into_owned());
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let mut writer: Writer = store.writer()?;
                io::copy(&mut entry, &mut writer).map_err(reading(count + 1))?;
                let size = writer.size();
                progress(&name, size);
                files.all.insert(clean(&name), (writer.finish(store, None)?, size));
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let link = entry.link_name_bytes().unwrap_or_default();
                let link = String::from_utf8_lossy(&link).into_owned();
                let parent = Path::new(&name).parent().map(|parent| parent.join(&link)).unwrap_or_default();
                let target =
                    if kind == EntryType::Link { link } else { parent.to_string_lossy().into_owned() };
                files.links.insert(clean(&name), clean(&target));
            }
            EntryType::GNULongName => {
                let mut bytes = Vec::new();
                (&mut entry).take(PATH_BYTES as u64).read_to_end(&mut bytes).map_err(reading(count + 1))?;
                long = Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned());
            }
            // Its names are short and its files small enough that these say nothing of interest.
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::Directory => {}
            _ => {}
        }
    }
    Ok(files)
}

/// A path in an archive, which is only ever compared: `./a/../b` is `b`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn names(descriptor: &Descriptor) -> Option<Result<Name>> {
    let full = descriptor.annotations.get(NAME);
    // A tag alone names nothing.
    let other = descriptor.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
    let text = full.or(other)?;
    Some(
        text.parse()
            .map_err(|problem| Error::content(format!("the archive names an image {text:?}: {problem}"))),
    )
}

fn from_layout(store: &Store, index: &Document) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for descriptor in &index.manifests {
        let name = names(descriptor).unwrap_or_else(|| {
            Err(Error::content("the archive has no name for its image: give it one with --as NAME"))
        });
        found.push((name, resolve(store, &descriptor.digest)?));
    }
    Ok(found)
}

/// The manifest for this machine that a digest leads to, with all that it needs there.
pub(crate) fn resolve(store: &Store, digest: &Digest) -> Result<Digest> {
    let mut digest = digest.clone();
    // An index may list indexes, but not for ever.
    for _ in 0..4 {
        let missing = |_| Error::content(format!("the archive lacks {digest}, which it speaks of"));
        let document = Document::read(&store.document(&digest).map_err(missing)?)?;
        if document.config.is_some() {
            check(store, &document)?;
            return Ok(digest);
        }
        digest = document.suiting()?.digest.clone();
    }
    Err(Error::content("the image's indexes lead nowhere"))
}

/// Whether all parts of an image are in the store, and are what they seem.
pub(crate) fn check(store: &Store, manifest: &Document) -> Result<()> {
    for part in manifest.config.iter().chain(&manifest.layers) {
        if !store.has(&part.digest) {
            return Err(Error::content(format!("the archive lacks {}, which it speaks of", part.digest)));
        }
    }
    let config =
        manifest.config.as_ref().ok_or_else(|| Error::content("the manifest has no configuration"))?;
    let diffs = ImageConfig::read(&store.document(&config.digest)?)?.rootfs.diff_ids.len();
    if diffs != manifest.layers.len() {
        return Err(Error::content(format!(
            "this is no container image: its configuration speaks of {diffs} layers, its manifest of {}",
            manifest.layers.len()
        )));
    }
    Ok(())
}

fn from_docker(files: &Files<'_>, bytes: &[u8]) -> Result<Vec<Found>> {
    let saved: Vec<Saved> = serde_json::from_slice(bytes)
        .map_err(|error| Error::content(format!("the archive's manifest.json: {error}")))?;
    let mut found = Vec::new();
    for image in saved {
        let part = |media_type: &str, path: &str| {
            files.get(path).map(|(digest, size)| Descriptor {
                media_type: media_type.into(),
                digest: digest.clone(),
                size: *size,
                annotations: BTreeMap::new(),
                platform: None,
            })
        };
        let config = part(CONFIG, &image.config)?;
        if config.size > DOCUMENT_BYTES {
            return Err(Error::content(format!("{} is too large to be a configuration", image.config)));
        }
        let manifest = Document {
            schema_version: 2,
            media_type: MANIFEST.into(),
            config: Some(config),
            layers: image.layers.iter().map(|path| part(LAYER, path)).collect::<Result<_>>()?,
            ..Document::default()
        };
        check(files.store, &manifest)?;
        let bytes = serde_json::to_vec(&manifest).map_err(|error| Error::content(error.to_string()))?;
        let digest = files.store.put(&bytes)?;
        let tags = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            let none = Error::content("the archive has no name for its image: give it one with --as NAME");
            found.push((Err(none), digest.clone()));
        }
        for tag in tags {
            let name = tag
                .parse()
                .map_err(|problem| Error::content(format!("the archive names an image {tag:?}: {problem}")));
            found.push((name, digest.clone()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
