//! Layers onto disk, bounded and inside their directory.
//!
//! Every path is resolved by the kernel with the directory as root (`openat2`, `RESOLVE_IN_ROOT`), so neither `..` nor a
//! link that a layer made before leads out; the last part of a path is never followed. Device nodes are left out (every
//! container has a `/dev` of its own), of extended attributes file capabilities and `user.` ones are kept, and
//! whiteouts (OCI image specification, "layer", Whiteouts) take away what lower layers brought.

mod place;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType, PaxExtensions};

use crate::digest::{Digest, Hasher};
use place::{Attributes, Place};

/// Names a whiteout starts with, and the whole of one that empties its directory.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Most bytes of a long name or of extended headers.
const HEADER_BYTES: u64 = 1 << 20;
/// Longest path.
const PATH_BYTES: usize = 4096;

/// What an image may still take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of all layers, unpacked.
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000 }
    }
}

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Opens a layer or an archive, told by its first bytes: gzip, zstd, or as it is.
pub(crate) fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let start = io::BufRead::fill_buf(&mut input)?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(
            ruzstd::decoding::StreamingDecoder::new(input).map_err(|error| bad(format!("zstd: {error}")))?,
        ),
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] => {
            return Err(bad("compressed by bzip2 or xz: only gzip and zstd are read"));
        }
        _ => Box::new(input),
    })
}

/// Counts and digests what is read.
struct Counted<'a, R> {
    inner: R,
    hasher: Hasher,
    limits: &'a mut Limits,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.limits.bytes = self
            .limits
            .bytes
            .checked_sub(length as u64)
            .ok_or_else(|| bad("it unpacks to more than an image may"))?;
        Ok(length)
    }
}

/// Unpacks one layer over what `dir` holds of the layers below; the digest of what it was before it was compressed.
pub fn unpack(layer: impl Read, dir: &Path, limits: &mut Limits) -> io::Result<Digest> {
    let place = Place::open(dir)?;
    let mut entries = limits.entries;
    let mut counted = Counted { inner: decompress(layer)?, hasher: Hasher::default(), limits };
    let mut archive = Archive::new(&mut counted);
    apply(&mut archive, &place, &mut entries)?;
    // What follows the end of an archive belongs to its digest.
    io::copy(&mut counted, &mut io::sink())?;
    let digest = std::mem::take(&mut counted.hasher).finish();
    limits.entries = entries;
    Ok(digest)
}

/// What entries that only describe say of the next one.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(String, Vec<u8>)>,
}

impl Said {
    fn pax(&self, key: &str) -> Option<&[u8]> {
        self.pax.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    fn number(&self, key: &str) -> Option<u64> {
        // Times may have fractions and signs; what is before them does.
        let text = std::str::from_utf8(self.pax(key)?).ok()?;
        text.split('.').next()?.parse().ok()
    }
}

fn apply<R: Read>(archive: &mut Archive<R>, place: &Place, entries: &mut u64) -> io::Result<()> {
    let mut said = Said::default();
    // What this layer has brought itself, which its whiteouts do not take away.
    let mut own = BTreeSet::new();
    // Writing into a directory changes its time, and some may not be written to.
    let mut directories = Vec::new();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        *entries = entries.checked_sub(1).ok_or_else(|| bad("it has more files than an image may"))?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => said.path = Some(text(&mut entry)?),
            EntryType::GNULongLink => said.link = Some(text(&mut entry)?),
            EntryType::XHeader => {
                let bytes = small(&mut entry)?;
                for extension in PaxExtensions::new(&bytes) {
                    let extension = extension?;
                    let key =
                        extension.key().map_err(|_| bad("an extended header has a key that is no text"))?;
                    said.pax.push((key.to_owned(), extension.value_bytes().to_owned()));
                }
            }
            EntryType::XGlobalHeader => drop(small(&mut entry)?),
            _ => {
                let said = std::mem::take(&mut said);
                let name = said.pax("path").map(<[u8]>::to_vec).or_else(|| said.path.clone());
                let name = name.unwrap_or_else(|| entry.path_bytes().into_owned());
                let path = inside(&name)?;
                if said.number("size").is_some_and(|size| entry.header().entry_size().ok() != Some(size)) {
                    return Err(bad(format!("{} is larger than 8 GiB", path.display())));
                }
                if let Some(attributes) = one(&mut entry, &said, &path, place, &own)? {
                    if kind.is_dir() {
                        directories.push((path.clone(), attributes));
                    }
                    own.insert(path);
                }
            }
        }
    }
    // The deepest first: those above may forbid to look into them.
    for (path, attributes) in directories.iter().rev() {
        place.finish_directory(path, attributes)?;
    }
    Ok(())
}

/// Applies one entry; what it has brought, if it is there now.
fn one<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    said: &Said,
    path: &Path,
    place: &Place,
    own: &BTreeSet<PathBuf>,
) -> io::Result<Option<Attributes>> {
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let parent = path.parent().unwrap_or(Path::new(""));
    if name == OPAQUE {
        place.empty(parent, own)?;
        return Ok(None);
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        let gone = parent.join(OsStr::from_bytes(gone));
        // Notes of other file systems to themselves look like it; and this layer's own files stay.
        let is_name = inside(gone.as_os_str().as_bytes()).is_ok_and(|clean| clean == gone)
            && gone.parent() == Some(parent);
        if is_name
            && !gone.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT))
            && !own.contains(&gone)
        {
            place.remove(&gone)?;
        }
        return Ok(None);
    }
    let header = entry.header();
    let kind = header.entry_type();
    // A field that is empty is zero.
    let number = |key: &str, own: io::Result<u64>| said.number(key).or(own.ok()).unwrap_or_default();
    let id = |key: &str, own: io::Result<u64>| {
        let number = number(key, own);
        u32::try_from(number).map_err(|_| {
            bad(format!("{} belongs to {key} {number}, which is no number of one", path.display()))
        })
    };
    let attributes = Attributes {
        mode: header.mode()? & 0o7777,
        user: id("uid", header.uid())?,
        group: id("gid", header.gid())?,
        changed: number("mtime", header.mtime()),
        extended: extended(said),
    };
    let link = || {
        let link = said.pax("linkpath").map(<[u8]>::to_vec).or_else(|| said.link.clone());
        link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default()
    };
    match kind {
        EntryType::Directory => place.directory(path)?,
        EntryType::Symlink => place.symlink(path, OsStr::from_bytes(&link()), &attributes)?,
        EntryType::Link => {
            place.hard_link(path, &inside(&link())?)?;
            return Ok(Some(attributes));
        }
        EntryType::Fifo => place.fifo(path, &attributes)?,
        EntryType::Regular | EntryType::Continuous => place.file(path, entry, &attributes)?,
        EntryType::Char | EntryType::Block => {
            place.remove(path)?;
            return Ok(None);
        }
        other => {
            return Err(bad(format!("{} is of a kind that layers do not have ({other:?})", path.display())));
        }
    }
    Ok(Some(attributes))
}

/// The extended attributes that are kept. Others mean something to file systems and security modules, and an image must
/// not speak to those.
fn extended(said: &Said) -> Vec<(String, Vec<u8>)> {
    let all = said.pax.iter().filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?, value)));
    let kept = all.filter(|(name, _)| {
        *name == "security.capability" || name.starts_with("user.") && !name.starts_with("user.overlay.")
    });
    kept.map(|(name, value)| (name.to_owned(), value.clone())).collect()
}

fn small(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(HEADER_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > HEADER_BYTES { Err(bad("an extended header is too long")) } else { Ok(bytes) }
}

fn text(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = small(entry)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// A path in a layer without what means nothing; one that leads upward is refused.
fn inside(name: &[u8]) -> io::Result<PathBuf> {
    let shown = || String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned();
    if name.len() > PATH_BYTES || name.contains(&0) {
        return Err(bad(format!("{:?} is no path", shown())));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Err(bad(format!("{:?} leads out of the image", shown()))),
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests;
