//! The netlink socket of netfilter in one network namespace.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with, sockopt,
};

use crate::attribute::{
    NFGEN, NLM_F_DUMP, NLM_F_DUMP_INTR, Received, Writer, find_text, find_u32, messages, native_u32,
};
use crate::batch::{Sealed, subsystem};
use crate::{Error, Result};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel's answers fit: listings come in 32 KiB, errors repeat a message of at most 64 KiB.
const BUFFER_BYTES: usize = 160 * 1024;
/// What is asked for so that a batch of all Services fits into one send; twice that counts, and only as needed.
const WANTED_SEND_BYTES: usize = 64 << 20;
/// The kernel keeps that much of the send buffer to itself.
const SEND_OVERHEAD: usize = 32;

pub(crate) const GET_TABLE: u16 = 1;
pub(crate) const GET_CHAIN: u16 = 4;
pub(crate) const GET_RULE: u16 = 7;
pub(crate) const GET_SET: u16 = 10;
pub(crate) const GET_ELEMENT: u16 = 13;
pub(crate) const NEW_GENERATION: u16 = 15;
const GET_GENERATION: u16 = 16;
pub(crate) const GENERATION_ID: u16 = 1;
const UNSPECIFIED: u8 = 0;

/// Where a listing came to nothing.
#[derive(Debug)]
pub(crate) enum ListError {
    /// Tables of somebody changed meanwhile: something may be missing, or be listed twice, if it was these.
    Interrupted,
    /// What was listed went away meanwhile.
    Gone,
    /// It failed.
    Failed(Error),
}

impl From<Error> for ListError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The socket. It keeps the namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    pub(crate) buffer: Vec<u8>,
    /// No batch may be longer.
    pub(crate) batch_limit: usize,
}

impl Socket {
    pub(crate) fn open() -> Result<Self> {
        let open = |errno: Errno| Error::Open(errno.into());
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
            .map_err(open)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(open)?;
        // Without real root the system's limit holds, and large loads go in several batches.
        if sockopt::set_socket_send_buffer_size_force(&fd, WANTED_SEND_BYTES).is_err() {
            sockopt::set_socket_send_buffer_size(&fd, WANTED_SEND_BYTES).map_err(open)?;
        }
        let granted = sockopt::socket_send_buffer_size(&fd).map_err(open)?;
        let batch_limit = granted.saturating_sub(SEND_OVERHEAD);
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER_BYTES], batch_limit })
    }

    /// Reserves `count` sequence numbers; the first of them.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// The number of the tables' generation: it changes with every change of anybody in the namespace.
    pub(crate) fn generation(&mut self) -> Result<u32> {
        const WHAT: &str = "asking for the generation";
        let sequence = self.send(WHAT, subsystem(GET_GENERATION), 0, UNSPECIFIED, |_| {})?;
        loop {
            let length = self.receive(RecvFlags::empty()).map_err(exchange(WHAT))?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == subsystem(NEW_GENERATION) {
                    let body = message.body.get(NFGEN..).unwrap_or_default();
                    return find_u32(body, GENERATION_ID).ok_or(Error::Malformed { what: WHAT });
                }
                if let Some(errno) = refusal(message) {
                    return Err(Error::Exchange { what: WHAT, source: errno.into() });
                }
            }
        }
    }

    /// Lists objects of nf_tables: calls `read` with family and attributes of each.
    pub(crate) fn list(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        fill: impl FnOnce(&mut Writer),
        read: impl FnMut(u8, &[u8]),
    ) -> std::result::Result<(), ListError> {
        self.dump(what, subsystem(kind), family, fill, read)
    }

    /// Lists objects of any subsystem, whose number is part of `kind`.
    pub(crate) fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        fill: impl FnOnce(&mut Writer),
        mut read: impl FnMut(u8, &[u8]),
    ) -> std::result::Result<(), ListError> {
        let sequence = self.send(what, kind, NLM_F_DUMP, family, fill)?;
        let mut whole = true;
        loop {
            let length = self.receive(RecvFlags::empty()).map_err(exchange(what))?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                if message.kind == NLMSG_DONE {
                    return if whole { Ok(()) } else { Err(ListError::Interrupted) };
                }
                match refusal(message) {
                    // What was there when the listing began has gone.
                    Some(Errno::NOENT) => return Err(ListError::Gone),
                    Some(errno) => {
                        return Err(Error::Exchange { what, source: errno.into() }.into());
                    }
                    None => {}
                }
                if message.kind != NLMSG_ERROR
                    && let Some((nfgen, attributes)) = message.body.split_at_checked(NFGEN)
                {
                    read(nfgen[0], attributes);
                }
            }
        }
    }

    /// Sends messages that stand each for itself, the last of which, with the number `last`, asks for an answer. What was
    /// refused, by number.
    pub(crate) fn exchange(
        &mut self,
        what: &'static str,
        bytes: &[u8],
        last: u32,
    ) -> Result<BTreeMap<u32, Errno>> {
        send(&self.fd, bytes, SendFlags::empty()).map_err(exchange(what))?;
        let mut refused = BTreeMap::new();
        loop {
            let length = self.receive(RecvFlags::empty()).map_err(exchange(what))?;
            for message in messages(&self.buffer[..length]) {
                if let Some(errno) = refusal(message) {
                    refused.insert(message.sequence, errno);
                }
                if message.kind == NLMSG_ERROR && message.sequence == last {
                    return Ok(refused);
                }
            }
        }
    }

    /// Sends a batch and waits for the kernel's answer.
    pub(crate) fn commit(&mut self, batch: &Sealed) -> Result<()> {
        // What an earlier batch left behind is of no interest.
        while self.receive(RecvFlags::DONTWAIT).is_ok() {}
        loop {
            match send(&self.fd, &batch.bytes, SendFlags::empty()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(exchange("sending a batch")(errno)),
            }
        }
        // The kernel works while it is sent to: all answers are there now.
        let (mut first, mut acknowledged) = (None, false);
        loop {
            let length = match self.receive(RecvFlags::DONTWAIT) {
                Ok(length) => length,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(exchange("reading the answer to a batch")(errno)),
            };
            for message in messages(&self.buffer[..length]) {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                match refusal(message) {
                    Some(errno) if first.is_none() => first = Some((message.sequence, errno)),
                    Some(_) => {}
                    None => acknowledged |= message.sequence == batch.acknowledged,
                }
            }
        }
        match first {
            Some((sequence, errno)) => {
                Err(Error::Refused { what: describe(&batch.bytes, sequence), source: errno.into() })
            }
            None if acknowledged => Ok(()),
            None => Err(Error::Malformed { what: "a batch" }),
        }
    }

    fn send(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        family: u8,
        fill: impl FnOnce(&mut Writer),
    ) -> Result<u32> {
        let sequence = self.sequences(1);
        let mut writer = Writer::default();
        writer.message(kind, flags, sequence, [family, 0, 0, 0], fill);
        send(&self.fd, writer.as_bytes(), SendFlags::empty()).map_err(exchange(what))?;
        Ok(sequence)
    }

    fn receive(&mut self, flags: RecvFlags) -> std::result::Result<usize, Errno> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], flags) {
                Ok((length, _)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn exchange(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Exchange { what, source: io::Error::from(errno) }
}

/// The error in an `NLMSG_ERROR`; `None` in an acknowledgement and in everything else.
fn refusal(message: Received<'_>) -> Option<Errno> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = native_u32(message.body)? as i32;
    (code != 0).then(|| Errno::from_raw_os_error(code.saturating_neg()))
}

/// What the message with this number in a batch wants, for an error.
fn describe(bytes: &[u8], sequence: u32) -> String {
    let Some(message) = messages(bytes).find(|message| message.sequence == sequence) else {
        return "a batch".into();
    };
    let [_, kind] = message.kind.to_be_bytes();
    let what = match u16::from(kind) {
        0 => "to add a table",
        2 => "to delete a table",
        3 => "to add chain",
        5 => "to delete chain",
        6 => "to add a rule to chain",
        9 => "to add set",
        12 => "to add elements to set",
        14 => "to delete elements of set",
        _ => "a batch",
    };
    // Table first, then the name of chain or set: third in chains, second in all else.
    let attribute = if matches!(kind, 3 | 5) { 3 } else { 2 };
    let name = message.body.get(NFGEN..).and_then(|body| find_text(body, attribute));
    match name.filter(|_| kind > 2) {
        Some(name) => format!("{what} {name}"),
        None => what.into(),
    }
}
