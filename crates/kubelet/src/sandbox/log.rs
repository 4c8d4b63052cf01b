//! Container output in the format that Kubernetes tools read (CRI): `TIME STREAM F|P TEXT`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most bytes of a line; longer ones are written in parts marked `P`.
const LINE_BYTES: usize = 16 * 1024;
/// When a log is put aside. One older one is kept, so a container's output takes at most twice this.
const LOG_BYTES: u64 = 10 * 1024 * 1024;

/// A log file that is put aside when it is full.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
}

impl LogFile {
    /// Opens a log for appending.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > LOG_BYTES {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// One stream of a container, cut into lines.
pub(super) struct Lines {
    stream: &'static str,
    rest: Vec<u8>,
}

impl Lines {
    /// Of `stdout` or `stderr`.
    pub(super) const fn of(stream: &'static str) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes output that came at `time` (RFC 3339) and gives what is to be written.
    pub(super) fn push(&mut self, output: &[u8], time: &str) -> Vec<u8> {
        let mut entries = Vec::with_capacity(output.len() + 64);
        let mut output = output;
        while let Some(end) = output.iter().position(|&byte| byte == b'\n') {
            self.take(&output[..end], time, &mut entries);
            self.entry('F', time, &mut entries);
            output = &output[end + 1..];
        }
        self.take(output, time, &mut entries);
        entries
    }

    /// What is left when the stream ends without a line break.
    pub(super) fn finish(&mut self, time: &str) -> Vec<u8> {
        let mut entries = Vec::new();
        if !self.rest.is_empty() {
            self.entry('F', time, &mut entries);
        }
        entries
    }

    /// Adds part of a line, writing what exceeds the limit.
    fn take(&mut self, mut part: &[u8], time: &str, entries: &mut Vec<u8>) {
        while self.rest.len() + part.len() > LINE_BYTES {
            let (now, later) = part.split_at(LINE_BYTES - self.rest.len());
            self.rest.extend_from_slice(now);
            self.entry('P', time, entries);
            part = later;
        }
        self.rest.extend_from_slice(part);
    }

    fn entry(&mut self, tag: char, time: &str, entries: &mut Vec<u8>) {
        entries.extend_from_slice(format!("{time} {} {tag} ", self.stream).as_bytes());
        entries.append(&mut self.rest);
        entries.push(b'\n');
    }
}

/// Writes what `lines` made of it. A full disk must not stop the container: what cannot be written is lost.
pub(super) fn write(log: &mut LogFile, entries: &[u8]) {
    if !entries.is_empty() {
        let _ = log.write(entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut lines = Lines::of("stdout");
        assert_eq!(text(lines.push(b"one\ntw", "T")), "T stdout F one\n");
        assert_eq!(text(lines.push(b"o\n\nthree", "T")), "T stdout F two\nT stdout F \n");
        assert_eq!(text(lines.finish("T")), "T stdout F three\n");
        assert_eq!(text(lines.finish("T")), "");
    }

    #[test]
    fn a_line_without_end_is_written_in_parts() {
        let mut lines = Lines::of("stderr");
        let written = text(lines.push(&vec![b'x'; 2 * LINE_BYTES + 1], "T"));
        let parts: Vec<_> = written.lines().collect();
        assert_eq!(parts.len(), 2);
        assert!(parts.iter().all(|part| part.starts_with("T stderr P x") && part.len() == LINE_BYTES + 11));
        assert_eq!(text(lines.push(b"\n", "T")), "T stderr F x\n");
    }

    #[test]
    fn a_full_log_is_put_aside_and_one_older_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        for _ in 0..25 {
            write(&mut log, &vec![b'x'; 1024 * 1024]);
        }
        let sizes: u64 =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(path.exists() && folder.path().join("0.log.1").exists());
        assert!(sizes <= 2 * (LOG_BYTES + 1024 * 1024), "{sizes} bytes");
    }
}
