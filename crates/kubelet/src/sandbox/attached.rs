//! Who listens to what containers write, besides their logs.

use std::os::fd::OwnedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;

/// Everyone who is attached to a container of the pod.
#[derive(Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    next: u64,
}

/// One pipe to one of them.
struct Listener {
    id: u64,
    container: String,
    stream: &'static str,
    pipe: OwnedFd,
    /// What the pipe had no room for.
    pending: Vec<u8>,
    /// Nothing more will come: the pipe is closed once it has taken all.
    ended: bool,
}

impl Listener {
    /// Writes what the pipe takes; false when nobody reads it any more, or there will be nothing more to read.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.pipe, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        !self.ended
    }
}

impl Listeners {
    /// Another pipe for a stream of a container.
    pub(super) fn add(
        &mut self,
        container: &str,
        stream: &'static str,
        pipe: OwnedFd,
    ) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let (id, container) = (self.next, container.to_owned());
        self.all.push(Listener { id, container, stream, pipe, pending: Vec::new(), ended: false });
        self.next += 1;
        Ok(())
    }

    /// What to poll for each: its room if something waits for it, and always that nobody reads any more.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, &OwnedFd, PollFlags)> {
        self.all.iter().map(|one| {
            let events = if one.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            (one.id, &one.pipe, events)
        })
    }

    /// Whether someone has not taken yet what a container wrote before.
    pub(super) fn hold_up(&self, container: &str) -> bool {
        self.all.iter().any(|one| one.container == container && !one.ended && !one.pending.is_empty())
    }

    /// Hands what a container wrote to all who listen to that stream.
    pub(super) fn copy(&mut self, container: &str, stream: &str, bytes: &[u8]) {
        self.all.retain_mut(|one| {
            if one.container != container || one.stream != stream || one.ended {
                return true;
            }
            one.pending.extend_from_slice(bytes);
            one.flush()
        });
    }

    /// Something has happened to a pipe: it has room, or no reader.
    pub(super) fn flush(&mut self, id: u64) {
        self.all.retain_mut(|one| {
            // Polled without anything to write, it is ready only for having lost its reader.
            one.id != id || !one.pending.is_empty() && one.flush()
        });
    }

    /// A container has ended.
    pub(super) fn end(&mut self, container: &str) {
        self.all.retain_mut(|one| {
            one.ended |= one.container == container;
            one.container != container || one.flush()
        });
    }
}
