//! Pipes and terminals of processes, without threads that wait for them.
#![allow(unsafe_code, reason = "the runtime has to be told that a descriptor stays the same and open")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Most bytes read at once.
const PIECE_BYTES: usize = 32 * 1024;

/// One end of a pipe, or the outer side of a terminal.
#[derive(Clone)]
pub(super) struct Fd(Arc<AsyncFd<OwnedFd>>);

impl Fd {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an OwnedFd is open, and nothing here replaces or closes it while the AsyncFd has it.
        Ok(Self(Arc::new(unsafe { AsyncFd::register(fd) }?)))
    }

    pub(super) fn inner(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// The next bytes; `None` at the end, and when nobody is at a terminal's inner side any more.
    pub(super) async fn read(&self) -> Option<Bytes> {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let mut guard = self.0.readable().await.ok()?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer[..])?)) {
                Ok(Ok(0)) => return None,
                Ok(Ok(length)) => {
                    buffer.truncate(length);
                    return Some(buffer.into());
                }
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(Err(_)) => return None,
                Err(_) => {}
            }
        }
    }

    /// Writes all; waits while nobody reads.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.0.writable().await?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Ok(length)) => bytes = &bytes[length..],
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }
}
