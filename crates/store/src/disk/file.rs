//! The file under redb: locked against other processes, and readable without ever being written.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// A file locked against other processes, until it is unlocked or dropped.
#[derive(Debug)]
pub(super) struct LockedFile(File);

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing is not enough: a child that some other thread is starting holds the file, and with it the lock,
        // until it executes its program.
        let _ = self.0.unlock();
    }
}

/// Opens and locks.
///
/// # Errors
///
/// Also when another process has the file open.
pub(super) fn open_locked(path: &Path, create: bool) -> io::Result<LockedFile> {
    let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(LockedFile(file)),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The file itself. redb's own locks are not needed: the whole file is locked already.
#[derive(Debug)]
pub(super) struct Direct(pub(super) Arc<LockedFile>);

impl StorageBackend for Direct {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

const BLOCK_BYTES: usize = 4096;
type Block = Box<[u8; BLOCK_BYTES]>;

/// The file with all writes kept in memory: opening a database marks and may repair it, which must not happen to a
/// file that turns out not to be ours.
#[derive(Debug)]
pub(super) struct Overlay {
    file: Arc<LockedFile>,
    layer: Mutex<Layer>,
}

#[derive(Debug)]
struct Layer {
    len: u64,
    /// How much of the file still shows through; less than its length once it was cut shorter.
    visible: u64,
    blocks: BTreeMap<u64, Block>,
}

impl Overlay {
    pub(super) fn new(file: Arc<LockedFile>) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, layer: Mutex::new(Layer { len, visible: len, blocks: BTreeMap::new() }) })
    }

    /// Reads from the file, with zeros past what is visible of it.
    fn read_below(&self, visible: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(visible.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (from_file, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        self.file.read_exact_at(from_file, offset)
    }

    /// Calls `each` for the part of `offset .. offset+len` in each block: block, range in it, range in the buffer.
    fn by_block(
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % BLOCK_BYTES as u64) as usize;
            let count = (BLOCK_BYTES - within).min(len - done);
            each(at / BLOCK_BYTES as u64, within..within + count, done..done + count)?;
            done += count;
        }
        Ok(())
    }

    fn layer(&self) -> std::sync::MutexGuard<'_, Layer> {
        self.layer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.layer().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let layer = self.layer();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > layer.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::by_block(offset, out.len(), |block, within, part| match layer.blocks.get(&block) {
            Some(bytes) => {
                out[part].copy_from_slice(&bytes[within]);
                Ok(())
            }
            None => {
                let at = block * BLOCK_BYTES as u64 + within.start as u64;
                self.read_below(layer.visible, at, &mut out[part])
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut layer = self.layer();
        layer.visible = layer.visible.min(len);
        layer.len = len;
        layer.blocks.split_off(&len.div_ceil(BLOCK_BYTES as u64));
        if let Some(last) = layer.blocks.get_mut(&(len / BLOCK_BYTES as u64)) {
            last[(len % BLOCK_BYTES as u64) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut layer = self.layer();
        layer.len = layer.len.max(offset + data.len() as u64);
        let visible = layer.visible;
        Self::by_block(offset, data.len(), |block, within, part| {
            let bytes = match layer.blocks.entry(block) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let mut bytes: Block = Box::new([0; BLOCK_BYTES]);
                    self.read_below(visible, block * BLOCK_BYTES as u64, &mut bytes[..])?;
                    entry.insert(bytes)
                }
            };
            bytes[within].copy_from_slice(&data[part]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u16, Vec<u8>),
        SetLen(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..15_000_u16, prop::collection::vec(any::<u8>(), 1..6000)).prop_map(|(at, data)| Step::Write(at, data)),
            1 => (0..20_000_u16).prop_map(Step::SetLen),
        ];
        prop::collection::vec(step, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_overlay_reads_as_the_file_would_and_leaves_it_alone(start in prop::collection::vec(any::<u8>(), 0..9000), steps in steps()) {
            let file = tempfile::tempfile()?;
            file.write_all_at(&start, 0)?;
            let file = Arc::new(LockedFile(file));
            let overlay = Overlay::new(Arc::clone(&file))?;
            let mut model = start.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = at as usize + data.len();
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&data);
                        overlay.write(at.into(), &data)?;
                    }
                    Step::SetLen(len) => {
                        model.resize(len.into(), 0);
                        overlay.set_len(len.into())?;
                    }
                }
            }
            prop_assert_eq!(overlay.len()?, model.len() as u64);
            let mut read = vec![0; model.len()];
            overlay.read(0, &mut read)?;
            prop_assert!(read == model);
            prop_assert!(overlay.read(1, &mut read).is_err() || read.is_empty());
            let mut kept = vec![0; start.len()];
            file.read_exact_at(&mut kept, 0)?;
            prop_assert!(kept == start && file.metadata()?.len() == start.len() as u64);
        }
    }
}
