//! The back end on disk: redb as an append log under the in-memory index.
//!
//! One table holds a record per write, keyed by revision and position, so that writes append instead of landing in
//! random pages. The index is rebuilt from it when the file is opened. Compaction removes what was superseded or
//! deleted up to a revision; what stood there at that revision stays where it was written.
//!
//! The file is opened in two steps: first everything is read and checked with all writes going to memory, so that a
//! file which is not ours, or is damaged, is refused without a byte of it changing; then for real.

mod file;
mod log;
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::StoreError;
use crate::engine::Engine;
use log::RedbLog;

/// A store in one file. One process at a time can open it.
pub struct RedbStore(Engine);

impl RedbStore {
    /// Opens the store at `path`, or creates an empty one if there is no file. Blocks while it reads the file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] if the file is not ours, of a newer format, or damaged: it is left as it was.
    /// [`StoreError::Io`] if it cannot be read or written, or another process has it open.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path: PathBuf = path.into();
        let (log, state) = RedbLog::open(&path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self(Engine::start(state, Arc::new(log), &name)))
    }
}

crate::engine::delegate_store!(RedbStore);

/// Runs `work` on redb, whose panics (a damaged page can cause one) become errors.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown reason");
        Err(redb::Error::Corrupted(format!("reading it panicked: {text}")))
    })
}

fn io_error(what: String, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Io { what, source: source.into() }
}

/// An error met while opening: damage is told apart from trouble with the disk.
fn open_error(path: &Path, error: redb::Error) -> StoreError {
    use std::io::ErrorKind;
    match error {
        redb::Error::Io(source)
            if !matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            io_error(format!("open {}", path.display()), source)
        }
        redb::Error::Io(source) => unusable(path, format!("it is damaged ({source})")),
        redb::Error::UpgradeRequired(version) => {
            unusable(path, format!("it is in redb's file format {version}, which is too old"))
        }
        other => unusable(path, format!("it is damaged ({other})")),
    }
}

fn unusable(path: &Path, why: impl Into<String>) -> StoreError {
    StoreError::Unusable { path: path.display().to_string(), why: why.into() }
}
