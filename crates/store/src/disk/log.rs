//! redb as a [`Log`].

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use redb::{TableError, WriteTransaction};

use super::file::{Direct, LockedFile, Overlay, open_locked};
use super::record::Record;
use super::{guarded, io_error, open_error, unusable};
use crate::api::{Event, Kv, StoreError};
use crate::engine::State;
use crate::log::{Log, Revision};
use crate::poison;

/// Marks the file as ours. Rows: [`FORMAT`], [`COMPACTED`], [`SWEPT`].
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("dyad-store");
/// Version of the layout.
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
/// The oldest revision that can be read.
const COMPACTED: &str = "compacted";
/// Superseded records of revisions up to this one have been removed.
const SWEPT: &str = "swept";
/// Revision and position in it: [`Record`]. The newest revision is never removed, so it can be told from here.
const RECORDS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("records");

/// redb's page cache. Small: newest values are in memory, and the kernel caches the file.
const CACHE_BYTES: usize = 8 << 20;
/// What a file of redb begins with.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Files smaller than this are not worth shrinking.
const SHRINK_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// A file this many times the size of what it holds is shrunk when it is opened.
const SHRINK_FACTOR: u64 = 3;
/// Records looked at in one slice of a compaction: a few milliseconds.
const COMPACT_RECORDS: usize = if cfg!(test) { 4 } else { 1000 };
/// Bytes of records after which a read stops at the end of the revision.
const READ_BYTES: usize = if cfg!(test) { 100 } else { 1 << 20 };

pub(super) struct RedbLog {
    path: PathBuf,
    file: Arc<LockedFile>,
    /// `None` after an I/O error, until it can be opened again, and after closing.
    database: RwLock<Option<Database>>,
    closed: AtomicBool,
    /// The newest revision that was acknowledged. After a failed commit the file may hold more.
    acknowledged: AtomicU64,
}

impl RedbLog {
    /// Opens or creates; also returns what the file holds.
    pub(super) fn open(path: &Path) -> Result<(Self, State), StoreError> {
        let opening = |source| io_error(format!("open {}", path.display()), source);
        if !path.try_exists().map_err(opening)? {
            create(path)?;
        }
        let file = Arc::new(open_locked(path, false).map_err(opening)?);
        let mut magic = [0; MAGIC.len()];
        match file.metadata().map_err(opening)?.len() {
            0 => return Err(unusable(path, "it is empty")),
            len if len < MAGIC.len() as u64 => return Err(unusable(path, "it is no store")),
            _ => file.read_exact_at(&mut magic, 0).map_err(opening)?,
        }
        if magic != MAGIC {
            return Err(unusable(path, "it is no store"));
        }
        let (state, held_bytes) = inspect(path, &file)?;
        let log = Self {
            path: path.to_owned(),
            file,
            database: RwLock::new(None),
            closed: AtomicBool::new(false),
            acknowledged: AtomicU64::new(state.rev()),
        };
        log.reopen()?;
        log.shrink(held_bytes);
        Ok((log, state))
    }

    /// Gives space back that compaction has freed: only now is nobody using the file, which this takes.
    fn shrink(&self, held_bytes: u64) {
        let len = self.file.metadata().map_or(0, |metadata| metadata.len());
        if len < SHRINK_BYTES || len / SHRINK_FACTOR < held_bytes {
            return;
        }
        let shrunk = match poison::write(&self.database).as_mut() {
            Some(database) => guarded(|| Ok(database.compact()?)),
            None => return,
        };
        if let Err(error) = shrunk {
            // What it holds is untouched, and it works as large as it is.
            tracing::warn!(path = %self.path.display(), %error, "could not shrink the store");
            if let Err(error) = self.reopen() {
                tracing::warn!(path = %self.path.display(), %error, "the store could not open its file again");
            }
        }
    }

    /// Opens the database anew, forgetting what a failed commit may have left in it.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = poison::write(&self.database);
        discard(database.take());
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let fresh = guarded(|| {
            let fresh = builder().create_with_backend(Direct(Arc::clone(&self.file)))?;
            self.forget_unacknowledged(&fresh)?;
            Ok(fresh)
        });
        *database = Some(fresh.map_err(|error| open_error(&self.path, error))?);
        Ok(())
    }

    fn forget_unacknowledged(&self, database: &Database) -> Result<(), redb::Error> {
        let first = (self.acknowledged.load(Ordering::Acquire) + 1, 0);
        let txn = database.begin_read()?;
        if txn.open_table(RECORDS)?.range(first..)?.next().is_none() {
            return Ok(());
        }
        let txn = database.begin_write()?;
        txn.open_table(RECORDS)?.retain_in(first.., |_, _| false)?;
        txn.commit()?;
        Ok(())
    }

    /// One durable transaction. After a failure the database is opened again, at once if that is possible (redb
    /// answers nothing any more after an I/O error), otherwise before the next write.
    fn write<T>(
        &self,
        what: &str,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        if poison::read(&self.database).is_none() {
            self.reopen()?;
        }
        let result = {
            let database = poison::read(&self.database);
            let Some(database) = database.as_ref() else {
                return Err(StoreError::Closed);
            };
            guarded(|| {
                let txn = database.begin_write()?;
                let done = work(&txn)?;
                txn.commit()?;
                Ok(done)
            })
        };
        result.map_err(|error| {
            tracing::warn!(path = %self.path.display(), %error, "the store could not {what}");
            if let Err(error) = self.reopen() {
                tracing::warn!(path = %self.path.display(), %error, "the store could not open its file again");
            }
            io_error(format!("{what} {}", self.path.display()), error)
        })
    }
}

impl Log for RedbLog {
    fn append(&self, group: &[Arc<Revision>]) -> Result<(), StoreError> {
        self.write("write", |txn| {
            let mut records = txn.open_table(RECORDS)?;
            let mut bytes = Vec::new();
            for revision in group {
                for (position, event) in (0_u32..).zip(&revision.events) {
                    Record::of(event).encode(&mut bytes);
                    records.insert((revision.rev, position), &bytes[..])?;
                }
            }
            Ok(())
        })?;
        if let Some(last) = group.last() {
            self.acknowledged.store(last.rev, Ordering::Release);
        }
        Ok(())
    }

    fn read(&self, after: u64, upto: u64) -> Result<Vec<Arc<Revision>>, StoreError> {
        let database = poison::read(&self.database);
        let Some(database) = database.as_ref() else {
            return Err(if self.closed.load(Ordering::Acquire) {
                StoreError::Closed
            } else {
                io_error(
                    format!("read {}", self.path.display()),
                    "it could not be opened again after an I/O error",
                )
            });
        };
        guarded(|| read(database, after, upto))
            .map_err(|error| io_error(format!("read {}", self.path.display()), error))
    }

    fn compact(&self, rev: u64, current: u64) -> Result<bool, StoreError> {
        // The newest revision stays whole: it is what tells the current revision.
        let upto = rev.min(current.saturating_sub(1));
        self.write("compact", |txn| sweep(txn, rev, upto))
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut database = poison::write(&self.database);
        discard(database.take());
        // Streams may keep this alive, but nothing touches the file any more.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "could not unlock the store's file");
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Drops a database, which writes if it is healthy and may trip over itself if it is not.
fn discard(database: Option<Database>) {
    // Failing to close cleanly only means that the next open takes longer.
    let _ = guarded(|| {
        drop(database);
        Ok(())
    });
}

/// Makes an empty store under another name first: a crash must not leave half a store behind, and a file that
/// appears meanwhile must not be replaced.
fn create(path: &Path) -> Result<(), StoreError> {
    let creating = |source| io_error(format!("create {}", path.display()), source);
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let file = open_locked(&draft, true).map_err(creating)?;
    file.set_len(0).map_err(creating)?;
    let file = Arc::new(file);
    guarded(|| {
        let database = builder().create_with_backend(Direct(Arc::clone(&file)))?;
        let txn = database.begin_write()?;
        txn.open_table(META)?.insert(FORMAT, FORMAT_VERSION)?;
        txn.open_table(RECORDS)?;
        txn.commit()?;
        Ok(())
    })
    .map_err(|error| io_error(format!("create {}", path.display()), error))?;
    file.sync_all().map_err(creating)?;
    match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(creating(error)),
        _ => std::fs::remove_file(&draft).map_err(creating)?,
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(creating)
}

/// Checks the whole file and loads what it holds, without changing it; also says how many bytes that is.
fn inspect(path: &Path, file: &Arc<LockedFile>) -> Result<(State, u64), StoreError> {
    let overlay = Overlay::new(Arc::clone(file))
        .map_err(|source| io_error(format!("open {}", path.display()), source))?;
    let loaded = guarded(|| {
        let repaired = Arc::new(AtomicBool::new(false));
        let mut builder = builder();
        let seen = Arc::clone(&repaired);
        builder.set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
        let mut database = builder.create_with_backend(overlay)?;
        // After a crash opening has verified every page already.
        if !repaired.load(Ordering::Relaxed) && !database.check_integrity()? {
            return Err(redb::Error::Corrupted("a checksum does not match".into()));
        }
        load(&database)
    });
    loaded.map_err(|error| open_error(path, error))?.map_err(|why| unusable(path, why))
}

/// The outer error is redb's; the inner one says why this is not a store of ours.
fn load(database: &Database) -> Result<Result<(State, u64), String>, redb::Error> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Err("it is another program's database".into())),
    };
    match meta.get(FORMAT)?.map(|version| version.value()) {
        Some(FORMAT_VERSION) => {}
        Some(other) => {
            return Ok(Err(format!("it has format {other}, this version reads format {FORMAT_VERSION}")));
        }
        None => return Ok(Err("its format is not given".into())),
    }
    let compacted = meta.get(COMPACTED)?.map_or(0, |rev| rev.value());
    let records = txn.open_table(RECORDS)?;
    let mut newest: BTreeMap<Bytes, Kv> = BTreeMap::new();
    let mut current = compacted;
    let (mut count, mut held_bytes) = (0, 0);
    for entry in records.iter()? {
        let (place, bytes) = entry?;
        let (rev, position) = place.value();
        if rev > compacted && rev != current && rev != current + 1 {
            return Ok(Err(format!("it is damaged (revision {} is missing)", current + 1)));
        }
        let Some(record) = Record::decode(bytes.value()) else {
            return Ok(Err(format!("it is damaged (record {position} of revision {rev} is none)")));
        };
        match record.to_kv(rev) {
            Some(kv) => newest.insert(kv.key.clone(), kv),
            None => newest.remove(record.key),
        };
        current = current.max(rev);
        count += 1;
        held_bytes += bytes.value().len() as u64;
    }
    if compacted > 0 && records.last()?.is_none_or(|(place, _)| place.value().0 < compacted) {
        return Ok(Err(format!("it is damaged (revision {compacted} is missing)")));
    }
    if count != records.len()? {
        return Ok(Err(format!("it is damaged ({count} of {} records are there)", records.len()?)));
    }
    Ok(Ok((State::restored(newest, current, compacted), held_bytes)))
}

fn read(database: &Database, after: u64, upto: u64) -> Result<Vec<Arc<Revision>>, redb::Error> {
    let damaged = |rev: u64| redb::Error::Corrupted(format!("revision {rev} is not whole"));
    let txn = database.begin_read()?;
    let records = txn.open_table(RECORDS)?;
    let mut revisions: Vec<Revision> = Vec::new();
    let mut bytes_read = 0;
    for entry in records.range((after + 1, 0)..=(upto, u32::MAX))? {
        let (place, bytes) = entry?;
        let (rev, _) = place.value();
        let record = Record::decode(bytes.value()).ok_or_else(|| damaged(rev))?;
        let prev = match record.prev_rev {
            0 => None,
            prev_rev => {
                let (_, prev) = find(&records, prev_rev, record.key)?.ok_or_else(|| damaged(prev_rev))?;
                prev
            }
        };
        let value = record.to_kv(rev);
        let key = value.as_ref().or(prev.as_ref()).map(|kv| kv.key.clone()).ok_or_else(|| damaged(rev))?;
        let event = Event { rev, key, value, prev };
        match revisions.last_mut() {
            Some(last) if last.rev == rev => last.events.push(event),
            _ if bytes_read >= READ_BYTES => break,
            _ => revisions.push(Revision { rev, events: vec![event] }),
        }
        bytes_read += bytes.value().len();
    }
    Ok(revisions.into_iter().map(Arc::new).collect())
}

/// The record that wrote `key` at `rev`: its position and the value.
fn find(
    records: &impl ReadableTable<(u64, u32), &'static [u8]>,
    rev: u64,
    key: &[u8],
) -> Result<Option<(u32, Option<Kv>)>, redb::Error> {
    for entry in records.range((rev, 0)..=(rev, u32::MAX))? {
        let (place, bytes) = entry?;
        if let Some(record) = Record::decode(bytes.value())
            && record.key == key
        {
            return Ok(Some((place.value().1, record.to_kv(rev))));
        }
    }
    Ok(None)
}

/// Removes some of what revisions up to `upto` superseded or deleted; `true` when all of it is gone.
fn sweep(txn: &WriteTransaction, compacted: u64, upto: u64) -> Result<bool, redb::Error> {
    let mut meta = txn.open_table(META)?;
    meta.insert(COMPACTED, compacted)?;
    let swept = meta.get(SWEPT)?.map_or(0, |rev| rev.value());
    let mut records = txn.open_table(RECORDS)?;
    let mut gone = Vec::new();
    let mut reached = swept;
    let mut finished = true;
    for (seen, entry) in records.range((swept + 1, 0)..=(upto, u32::MAX))?.enumerate() {
        let (place, bytes) = entry?;
        let (rev, position) = place.value();
        if seen >= COMPACT_RECORDS && rev != reached {
            finished = false;
            break;
        }
        reached = rev;
        let Some(record) = Record::decode(bytes.value()) else { continue };
        if record.prev_rev != 0
            && let Some((position, _)) = find(&records, record.prev_rev, record.key)?
        {
            gone.push((record.prev_rev, position));
        }
        if record.value.is_none() {
            gone.push((rev, position));
        }
    }
    for place in gone {
        records.remove(place)?;
    }
    meta.insert(SWEPT, if finished { upto.max(swept) } else { reached })?;
    Ok(finished)
}
