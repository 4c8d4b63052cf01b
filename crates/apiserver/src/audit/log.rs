//! Lines into files: by a thread of its own, so that a slow disk holds up nobody but who has filled the room there is for
//! lines, and that one for a bounded time. Files are begun anew at a size, and old ones removed by number and age.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

/// Lines that wait, in bytes.
const ROOM: usize = 16 << 20;
/// Longest wait for room.
const PATIENCE: Duration = Duration::from_secs(1);
/// How the times in names of old files are written, in UTC.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// The log can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {path} can't be written: choose another `audit-log-path`")]
pub struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// When a new file is begun, and how long old ones are kept; 0 for never and for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    /// In days.
    pub(super) max_age: u32,
    pub(super) max_backups: u32,
    /// In bytes.
    pub(super) max_size: u64,
}

/// Takes lines. Dropped, it writes what it has.
pub(super) struct Log {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or nothing ever again.
    more: Condvar,
    /// There is room again.
    room: Notify,
    lost: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    pub(super) fn open(path: PathBuf, rotation: Rotation) -> Result<Self, LogError> {
        let target = Target::open(&path, rotation).map_err(|source| LogError { path, source })?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let writer = std::thread::Builder::new().name("audit".into()).spawn(move || write(&own, target));
        // Without a thread there is no log; whoever asks for one must hear of it.
        let writer = writer.map_err(|source| LogError { path: "-".into(), source })?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Takes a line if there is room, else gives it back.
    fn try_put(&self, line: Vec<u8>) -> Result<(), Vec<u8>> {
        let mut queue = self.shared.queue();
        if queue.bytes > 0 && queue.bytes + line.len() > ROOM {
            return Err(line);
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        drop(queue);
        self.shared.more.notify_one();
        Ok(())
    }

    /// Takes a line, for which it may have to wait; what finds no room in time is counted and gone.
    pub(super) async fn put(&self, line: Vec<u8>) {
        let mut line = line;
        let waited = async {
            loop {
                let room = self.shared.room.notified();
                match self.try_put(std::mem::take(&mut line)) {
                    Ok(()) => return,
                    Err(back) => line = back,
                }
                room.await;
            }
        };
        if tokio::time::timeout(PATIENCE, waited).await.is_err() {
            self.lose();
        }
    }

    /// Takes a line, or counts it as lost, where nobody can wait.
    pub(super) fn put_now(&self, line: Vec<u8>) {
        if self.try_put(line).is_err() {
            self.lose();
        }
    }

    fn lose(&self) {
        if self.shared.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("the audit log is written too slowly: events are lost");
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.more.notify_one();
        if let Some(writer) = self.writer.take() {
            // A writer that has panicked has said so.
            let _ = writer.join();
        }
    }
}

fn write(shared: &Shared, mut target: Target) {
    let mut complained = false;
    loop {
        let lines = {
            let mut queue = shared.queue();
            while queue.lines.is_empty() {
                if queue.closed {
                    return;
                }
                queue = shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.bytes = 0;
            std::mem::take(&mut queue.lines)
        };
        shared.room.notify_waiters();
        let count = lines.len() as u64;
        match target.write(lines) {
            Ok(()) => complained = false,
            Err(error) => {
                shared.lost.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut complained, true) {
                    tracing::error!(%error, "the audit log can't be written");
                }
            }
        }
    }
}

/// Where lines go.
enum Target {
    Output,
    File {
        path: PathBuf,
        rotation: Rotation,
        file: BufWriter<File>,
        size: u64,
        /// The time in the name of the newest old file: they are in order, however many there are in a moment.
        newest: Timestamp,
    },
}

impl Target {
    fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Output);
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        let newest = Timestamp::UNIX_EPOCH;
        Ok(Self::File { path: path.to_owned(), rotation, file: BufWriter::new(file), size, newest })
    }

    fn write(&mut self, lines: VecDeque<Vec<u8>>) -> io::Result<()> {
        for line in lines {
            match self {
                Self::Output => io::stdout().lock().write_all(&line)?,
                Self::File { size, rotation, .. } => {
                    let length = line.len() as u64;
                    if rotation.max_size > 0 && *size > 0 && *size + length > rotation.max_size {
                        self.rotate()?;
                    }
                    if let Self::File { file, size, .. } = self {
                        file.write_all(&line)?;
                        *size += length;
                    }
                }
            }
        }
        match self {
            Self::Output => io::stdout().lock().flush(),
            Self::File { file, .. } => file.flush(),
        }
    }

    /// Puts the file aside under a name with a time, and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        let Self::File { path, rotation, file, newest, .. } = self else { return Ok(()) };
        let (path, rotation, now) = (path.clone(), *rotation, Timestamp::now());
        file.flush()?;
        let (at, backup) = backup(&path, now.max(*newest + jiff::SignedDuration::from_millis(1)));
        std::fs::rename(&path, backup)?;
        *self = Self::open(&path, rotation)?;
        if let Self::File { newest, .. } = self {
            *newest = at;
        }
        clean(&path, rotation, now)
    }
}

/// Name and extension, between which the time of an old file stands.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    let extension = if extension.is_empty() { extension } else { format!(".{extension}") };
    (text(path.file_stem()) + "-", extension)
}

/// A name that nobody has, and the time in it.
fn backup(path: &Path, mut at: Timestamp) -> (Timestamp, PathBuf) {
    let (stem, extension) = parts(path);
    let name = |at: Timestamp| path.with_file_name(format!("{stem}{}{extension}", at.strftime(STAMP)));
    while name(at).exists() {
        at += jiff::SignedDuration::from_millis(1);
    }
    (at, name(at))
}

/// Removes old files that are too many or too old. The times in their names sort as they are.
fn clean(path: &Path, rotation: Rotation, now: Timestamp) -> io::Result<()> {
    let (stem, extension) = parts(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut old: Vec<(String, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name.strip_prefix(&stem).and_then(|rest| rest.strip_suffix(&extension));
        let looks_so = |stamp: &&str| stamp.len() == 23 && stamp.as_bytes()[10] == b'T';
        if let Some(stamp) = stamp.filter(looks_so) {
            old.push((stamp.to_owned(), entry.path()));
        }
    }
    old.sort();
    let many = match rotation.max_backups {
        0 => 0,
        most => old.len().saturating_sub(most as usize),
    };
    let oldest = jiff::SignedDuration::from_hours(24 * i64::from(rotation.max_age));
    let oldest = (rotation.max_age > 0).then(|| (now - oldest).strftime(STAMP).to_string());
    for (index, (stamp, path)) in old.into_iter().enumerate() {
        if index < many || oldest.as_ref().is_some_and(|oldest| stamp < *oldest) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
