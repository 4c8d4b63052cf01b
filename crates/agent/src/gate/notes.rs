//! Pods whose addresses the API may not tell of yet, noted for the agent that comes next: it would take the policies of those
//! that have just started away until then (H15).

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// The file's name.
const FILE: &str = "arrivals.json";

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) ips: Vec<IpAddr>,
}

/// Where they are, in a directory of what is forgotten when the machine restarts.
pub(super) fn file(run_dir: &Path) -> PathBuf {
    run_dir.join(FILE)
}

/// What an agent before has noted. What can't be read is nothing: the API tells of it within seconds.
pub(super) fn read(file: &Path) -> Vec<Note> {
    let read = match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        warn!(file = %file.display(), %error, "pods that have just started are not known; the API will tell");
        Vec::new()
    })
}

/// Notes these and no others, in one step.
pub(super) fn write(file: &Path, notes: &[Note]) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = serde_json::to_vec(notes).map_err(io::Error::from);
    let written = written.and_then(|text| fs::write(&draft, text)).and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

/// Forgets all.
pub(crate) fn cleanup(run_dir: &Path) {
    // There may be none.
    let _ = fs::remove_file(file(run_dir));
}
