//! Maps: byte strings to byte strings, in the kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::{self, MapInfo};
use crate::{Error, Result};

/// Elements that are read at once, to begin with; a hash bucket with more makes it more.
const READ_BATCH: usize = 4096;
/// Elements that are written at once.
const WRITE_BATCH: usize = 16 * 1024;

/// A map.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    info: MapInfo,
}

impl Map {
    /// Makes a map.
    pub(crate) fn create(info: &MapInfo) -> Result<Self> {
        let create = || match sys::create_map(info) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                sys::lift_memory_limit();
                sys::create_map(info)
            }
            made => made,
        };
        let fd = create().map_err(Error::refused(format!("making the map {}", info.name)))?;
        Self::of(fd)
    }

    /// The map with an identifier; `None` if it has just gone.
    pub(crate) fn by_id(id: u32) -> Result<Option<Self>> {
        match sys::map_by_id(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Self::of(found.map_err(Error::refused("opening a map"))?).map(Some),
        }
    }

    fn of(fd: OwnedFd) -> Result<Self> {
        let info = sys::map_info(&fd).map_err(Error::refused("asking about a map"))?;
        Ok(Self { fd, info })
    }

    pub(crate) fn info(&self) -> &MapInfo {
        &self.info
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn check(&self, key: &[u8], value: &[u8]) {
        let expected = (self.info.key_size as usize, self.value_length());
        assert_eq!((key.len(), value.len()), expected, "sizes of {}", self.info.name);
    }

    /// Bytes in a value as it is read.
    fn value_length(&self) -> usize {
        let one = self.info.value_size as usize;
        if self.info.kind == sys::PERCPU_ARRAY { one.next_multiple_of(8) * possible_cpus() } else { one }
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        Error::refused(format!("{what} the map {}", self.info.name))
    }

    /// The value of a key; all values, one after the other, where every CPU has its own.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_length()];
        self.check(key, &value);
        let found = sys::lookup(self.fd.as_fd(), key, &mut value).map_err(self.failed("reading"))?;
        Ok(found.then_some(value))
    }

    /// Sets one element.
    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.check(key, value);
        sys::update(self.fd.as_fd(), key, value).map_err(self.failed("writing"))
    }

    /// Sets elements in their order.
    pub(crate) fn set_all<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        elements: impl IntoIterator<Item = (K, V)>,
    ) -> Result<usize> {
        let (mut keys, mut values, mut total) = (Vec::new(), Vec::new(), 0);
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            keys.clear();
            values.clear();
            let mut count = 0;
            for (key, value) in elements.by_ref().take(WRITE_BATCH) {
                self.check(key.as_ref(), value.as_ref());
                keys.extend_from_slice(key.as_ref());
                values.extend_from_slice(value.as_ref());
                count += 1;
            }
            match count {
                1 => sys::update(self.fd.as_fd(), &keys, &values),
                _ => sys::update_batch(self.fd.as_fd(), &keys, &values, count),
            }
            .map_err(self.failed("writing"))?;
            total += count as usize;
        }
        Ok(total)
    }

    /// Removes a key; whether it was there.
    pub(crate) fn remove(&self, key: &[u8]) -> Result<bool> {
        assert_eq!(key.len(), self.info.key_size as usize, "key of {}", self.info.name);
        sys::delete(self.fd.as_fd(), key).map_err(self.failed("removing from"))
    }

    /// Tells of every element there is. What changes meanwhile may be missed, or told twice.
    pub(crate) fn for_each(&self, mut tell: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let (key, value) = (self.info.key_size as usize, self.value_length());
        let mut room = READ_BATCH.min(self.info.max_entries as usize).max(1);
        let (mut keys, mut values) = (vec![0; room * key], vec![0; room * value]);
        let mut cursor = None;
        loop {
            let batch = sys::lookup_batch(self.fd.as_fd(), &mut cursor, &mut keys, &mut values, room as u32);
            let (count, is_last) = match batch {
                // One bucket has more elements than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room * key, 0);
                    values.resize(room * value, 0);
                    continue;
                }
                batch => batch.map_err(self.failed("reading"))?,
            };
            let found = keys.chunks_exact(key).zip(values.chunks_exact(value));
            found.take(count as usize).for_each(|(key, value)| tell(key, value));
            if is_last {
                return Ok(());
            }
        }
    }
}

/// How many CPUs the kernel has room for: `0-3,8` means 9.
fn possible_cpus() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    last.unwrap_or(0) + 1
}
