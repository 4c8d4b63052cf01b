//! Reads what containers have written: files in the CRI format, one for each run and an older part of it beside it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// How much is read at once.
const PIECE_BYTES: usize = 128 * 1024;
/// A line without an end that is longer than this is no line of ours.
const LINE_BYTES: usize = 1024 * 1024;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Only what was written then or later.
    pub(crate) since: Option<Timestamp>,
    /// Only so many lines, the last ones.
    pub(crate) tail: Option<u64>,
    /// No more bytes than this.
    pub(crate) limit: Option<u64>,
    /// Each line behind its time.
    pub(crate) timestamps: bool,
    /// Only `stdout` or `stderr`.
    pub(crate) stream: Option<&'static str>,
}

/// A log from its beginning, or from where the last lines begin, and what is added to it.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    /// The parts to read, the last of them first.
    files: Vec<File>,
    options: Options,
    /// What is left, if not everything is wanted.
    left: Option<u64>,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
    /// The next entry continues a line.
    continues: bool,
}

/// The file that a log is put aside in when it is full.
fn aside(path: &Path) -> PathBuf {
    let mut aside = path.to_owned().into_os_string();
    aside.push(".1");
    aside.into()
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

impl LogReader {
    /// The log at `path`.
    pub(crate) fn open(path: &Path, options: Options) -> io::Result<Self> {
        let mut files = vec![File::open(path)?];
        // Opened second: if the log is put aside in between, this is the same file again.
        if let Ok(older) = File::open(aside(path))
            && !is_same(&older, &files[0])?
        {
            files.push(older);
        }
        if let Some(lines) = options.tail {
            let mut left = lines;
            let mut kept = Vec::new();
            for mut file in files {
                let whole = seek_to_last(&mut file, &mut left)?;
                kept.push(file);
                if !whole {
                    break;
                }
            }
            files = kept;
        }
        let (left, path) = (options.limit, path.to_owned());
        Ok(Self { path, files, options, left, rest: Vec::new(), continues: false })
    }

    /// The next part of what is wanted; empty if there is no more for now. Blocks for as long as a disk takes.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut buffer = vec![0; PIECE_BYTES];
        while out.is_empty() && !self.is_over() {
            let Some(file) = self.files.last_mut() else { return Ok(out) };
            let length = file.read(&mut buffer)?;
            if length > 0 {
                let part = &buffer[..length];
                self.take(part, &mut out);
            } else if self.files.len() > 1 {
                self.files.pop();
            } else if !self.follow_rotation(&mut buffer, &mut out)? {
                break;
            }
        }
        Ok(out)
    }

    /// All that was wanted has been read.
    pub(crate) fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    /// Goes on with the new file if the log was put aside; false if it was not.
    fn follow_rotation(&mut self, buffer: &mut [u8], out: &mut Vec<u8>) -> io::Result<bool> {
        let fresh = match File::open(&self.path) {
            Ok(fresh) => fresh,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(file) = self.files.last_mut() else { return Ok(false) };
        if is_same(&fresh, file)? {
            return Ok(false);
        }
        // Something may have been written between the last read and then; the next time it is done.
        let length = file.read(buffer)?;
        if length > 0 {
            let part = buffer[..length].to_vec();
            self.take(&part, out);
        } else {
            self.files = vec![fresh];
        }
        Ok(true)
    }

    /// Takes whole entries out of what was read.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.rest.is_empty() {
                self.entry(&bytes[..end], out);
            } else {
                let mut line = std::mem::take(&mut self.rest);
                line.extend_from_slice(&bytes[..end]);
                self.entry(&line, out);
            }
            bytes = &bytes[end + 1..];
        }
        if self.rest.len() + bytes.len() <= LINE_BYTES {
            self.rest.extend_from_slice(bytes);
        }
    }

    /// `TIME STREAM F|P TEXT`.
    fn entry(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            // Cut off where the disk was full.
            return;
        };
        if self.options.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if at.is_none_or(|at| at < since) {
                return;
            }
        }
        if self.options.timestamps && !self.continues {
            self.put(time, out);
            self.put(b" ", out);
        }
        self.put(text, out);
        self.continues = tag == b"P";
        if !self.continues {
            self.put(b"\n", out);
        }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let now = match self.left {
            Some(left) => bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)),
            None => bytes.len(),
        };
        out.extend_from_slice(&bytes[..now]);
        self.left = self.left.map(|left| left - now as u64);
    }
}

/// Moves to where the last `left` lines of a file begin, and takes those that it has off; whether all of it is wanted.
fn seek_to_last(file: &mut File, left: &mut u64) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut at = length;
    let mut buffer = vec![0; PIECE_BYTES];
    while at > 0 {
        let part = usize::try_from(at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        at -= part as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut buffer[..part])?;
        for (offset, _) in buffer[..part].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The end of a line: before it begins one more, behind it nothing is missing any more.
            if *left == 0 {
                file.seek(SeekFrom::Start(at + offset as u64 + 1))?;
                return Ok(false);
            }
            *left -= 1;
        }
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(true)
}

#[cfg(test)]
mod tests;
