//! A netlink socket of one network namespace.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink,
    netlink::SocketAddrNetlink, recv, send, socket_with,
};
use zeroize::Zeroize;

use crate::wire::{self, Message, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use crate::{Error, Result, netns};

/// The kernel fills at most this much in one datagram of a listing.
const BUFFER_BYTES: usize = 32 * 1024;
/// How often a listing is taken again when the kernel says that it changed meanwhile.
const DUMP_ATTEMPTS: usize = 16;

/// Links, addresses, routes and neighbours of one network namespace.
///
/// One request at a time, each answered before the next; a request takes some ten microseconds. All deletions are
/// idempotent, and everything called `replace` also creates.
#[derive(Debug)]
pub struct Handle {
    socket: OwnedFd,
    sequence: u32,
    pub(crate) buffer: Vec<u8>,
}

impl Handle {
    /// A handle to the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Self::open_with(None)
    }

    /// One for what has no netlink family of its own.
    pub(crate) fn open_generic() -> Result<Self> {
        Self::open_with(Some(netlink::GENERIC))
    }

    fn open_with(protocol: Option<Protocol>) -> Result<Self> {
        let opening = || Error::system("opening a netlink socket");
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(opening())?;
        bind(&socket, &SocketAddrNetlink::new(0, 0)).map_err(opening())?;
        options::explain_errors(&socket);
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// A handle to the namespace `netns`, wherever the caller is.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self> {
        netns::within(netns, Self::open)?
    }

    /// Sends a request and waits for the acknowledgement. `what` is the phrase for the error.
    pub(crate) fn request(&mut self, what: impl What, build: impl FnOnce(u16) -> Message) -> Result<()> {
        let sequence = self.send(build(NLM_F_ACK)).map_err(Error::io("sending to netlink"))?;
        self.acknowledged(what, sequence)
    }

    /// The same, with nothing left in memory of what was sent.
    pub(crate) fn request_secretly(
        &mut self,
        what: impl What,
        build: impl FnOnce(u16) -> Message,
    ) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = build(NLM_F_ACK).finish(self.sequence);
        let sent = send(&self.socket, &bytes, SendFlags::empty());
        bytes.zeroize();
        sent.map_err(Error::system("sending to netlink"))?;
        self.acknowledged(what, self.sequence)
    }

    fn acknowledged(&mut self, what: impl What, sequence: u32) -> Result<()> {
        loop {
            let length = self.receive().map_err(Error::io("receiving from netlink"))?;
            for message in wire::messages(&self.buffer[..length]) {
                if message.sequence != sequence || message.kind != NLMSG_ERROR {
                    continue;
                }
                return refusal(what, message).map_or(Ok(()), Err);
            }
        }
    }

    /// Asks for one thing and reads the answer with `read`; `None` when there is no such thing.
    pub(crate) fn get<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        build: impl FnOnce(u16) -> Message,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let sequence = self.send(build(NLM_F_ACK)).map_err(Error::io(what))?;
        let mut found = None;
        loop {
            let length = self.receive().map_err(Error::io(what))?;
            for message in wire::messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == kind {
                    found = read(message.body);
                } else if message.kind == NLMSG_ERROR {
                    return match refusal(what, message) {
                        None => Ok(found),
                        Some(error) if error.is_not_found() => Ok(None),
                        Some(error) => Err(error),
                    };
                }
            }
        }
    }

    /// Asks for a listing and reads every message of type `kind` with `read`; what `read` does not want is left out.
    pub(crate) fn dump<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        build: impl Fn(u16) -> Message,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(what, kind, build(NLM_F_DUMP), &mut read)? {
                return Ok(found);
            }
        }
        Err(Error::Interrupted { what: what.into() })
    }

    /// One attempt at a listing; `None` when it changed while it was read.
    fn dump_once<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        message: Message,
        read: &mut impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let sequence = self.send(message).map_err(Error::io(what))?;
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            let length = self.receive().map_err(Error::io(what))?;
            for message in wire::messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                if message.kind == NLMSG_DONE {
                    return Ok(whole.then_some(found));
                } else if message.kind == kind {
                    found.extend(read(message.body));
                } else if message.kind == NLMSG_ERROR
                    && let Some(error) = refusal(what, message)
                {
                    return Err(error);
                }
            }
        }
    }

    fn send(&mut self, message: Message) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(self.sequence)
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) if length > self.buffer.len() => {
                    return Err(io::Error::other(format!(
                        "netlink datagram of {length} bytes was cut short"
                    )));
                }
                Ok((_, length)) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The phrase for an error, made only when there is one.
pub(crate) trait What {
    fn phrase(self) -> String;
}

impl What for &str {
    fn phrase(self) -> String {
        self.to_owned()
    }
}

impl<F: FnOnce() -> String> What for F {
    fn phrase(self) -> String {
        self()
    }
}

/// The error in an `NLMSG_ERROR`; `None` when it is an acknowledgement.
fn refusal(what: impl What, message: wire::Received<'_>) -> Option<Error> {
    match wire::error(message) {
        Some((0, _)) => None,
        Some((code, hint)) => {
            Some(Error::Netlink { what: what.phrase(), hint, source: io::Error::from_raw_os_error(code) })
        }
        None => Some(Error::Malformed { what: what.phrase() }),
    }
}

#[allow(unsafe_code, reason = "rustix has no netlink socket options")]
mod options {
    use std::os::fd::{AsRawFd, OwnedFd};

    /// Asks for error texts and for short error messages. Old kernels know neither; nothing depends on them.
    pub(super) fn explain_errors(socket: &OwnedFd) {
        let yes: libc::c_int = 1;
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            // SAFETY: the pointer and the length describe `yes`, which outlives the call; the socket is open.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    std::ptr::from_ref(&yes).cast(),
                    size_of_val(&yes) as libc::socklen_t,
                );
            }
        }
    }
}
