//! The sockets of a network namespace, through `sock_diag`: listed, and ended.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use dyad_net::IpFamily;
use dyad_program::Protocol;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
};

use crate::{Error, Result};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST`, with `NLM_F_DUMP` and `NLM_F_ACK`.
const LIST: u16 = 0x301;
const ACKNOWLEDGE: u16 = 0x5;

const HEADER: usize = 16;
/// `inet_diag_sockid`, the same in requests and answers.
const ID: usize = 48;
/// `inet_diag_msg` up to the end of its `inet_diag_sockid`.
const ANSWER: usize = 4 + ID;
/// All states but those without a peer that matters: `TCP_LISTEN`, `TCP_CLOSE` and `TCP_TIME_WAIT`.
const WITH_PEER: u32 = 0xfff & !(1 << 10 | 1 << 7 | 1 << 6);
const BUFFER: usize = 64 * 1024;

/// A socket that has a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// What the kernel has under this number in BPF maps as well.
    pub(crate) cookie: u64,
    /// Of an IPv4-mapped address, the IPv4 one.
    pub(crate) remote: SocketAddr,
    pub(crate) protocol: Protocol,
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    id: [u8; ID],
}

impl Socket {
    #[cfg(test)]
    pub(crate) fn local_port(&self) -> u16 {
        u16::from_be_bytes([self.id[0], self.id[1]])
    }

    fn read(protocol: Protocol, body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let id = <[u8; ID]>::try_from(body.get(4..ANSWER)?).ok()?;
        let ip: IpAddr = match i32::from(family) {
            libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(&id[20..24]).ok()?).into(),
            libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(&id[20..36]).ok()?).to_canonical(),
            _ => return None,
        };
        let word = |at: usize| Some(u32::from_ne_bytes(id.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            cookie: u64::from(word(40)?) | u64::from(word(44)?) << 32,
            remote: SocketAddr::new(ip, u16::from_be_bytes([id[2], id[3]])),
            protocol,
            family,
            id,
        })
    }
}

/// Asks about the sockets of the namespace it was opened in.
#[derive(Debug)]
pub(crate) struct Diagnostics {
    netlink: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diagnostics {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC;
            let socket =
                socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
            bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let netlink = open().map_err(Error::refused("opening a sock_diag socket"))?;
        Ok(Self { netlink, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// All TCP and UDP sockets that have a peer.
    pub(crate) fn connected(&mut self) -> Result<Vec<Socket>> {
        let mut found = Vec::new();
        for family in IpFamily::BOTH {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let listed = self.list(family, protocol, &mut found);
                listed.map_err(Error::refused(format!("listing {} sockets", protocol.as_str())))?;
            }
        }
        Ok(found)
    }

    fn list(&mut self, family: IpFamily, protocol: Protocol, found: &mut Vec<Socket>) -> io::Result<()> {
        let family = match family {
            IpFamily::V4 => libc::AF_INET,
            IpFamily::V6 => libc::AF_INET6,
        };
        self.request(SOCK_DIAG_BY_FAMILY, LIST, family as u8, protocol, &[0; ID])?;
        self.answers(|kind, body| {
            if kind == SOCK_DIAG_BY_FAMILY {
                found.extend(Socket::read(protocol, body));
            }
            Ok(kind == NLMSG_DONE)
        })
    }

    /// Ends a socket's connection; whether it was still there.
    pub(crate) fn end(&mut self, socket: &Socket) -> Result<bool> {
        let mut end = || {
            self.request(SOCK_DESTROY, ACKNOWLEDGE, socket.family, socket.protocol, &socket.id)?;
            self.answers(|kind, _| Ok(kind == NLMSG_ERROR))
        };
        match end() {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            ended => {
                ended.map(|()| true).map_err(Error::refused("ending a connection (CONFIG_INET_DIAG_DESTROY)"))
            }
        }
    }

    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        protocol: Protocol,
        id: &[u8; ID],
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(HEADER + 8 + ID);
        bytes.extend_from_slice(&((HEADER + 8 + ID) as u32).to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        // inet_diag_req_v2: family, protocol, extensions, padding, states
        bytes.extend_from_slice(&[family, protocol.number(), 0, 0]);
        bytes.extend_from_slice(&WITH_PEER.to_ne_bytes());
        bytes.extend_from_slice(id);
        send(&self.netlink, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Reads messages until `tell`, given their types and bodies, has seen the last one.
    fn answers(&mut self, mut tell: impl FnMut(u16, &[u8]) -> io::Result<bool>) -> io::Result<()> {
        loop {
            let length = match recv(&self.netlink, &mut self.buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                received => received?.1.min(BUFFER),
            };
            let mut rest = &self.buffer[..length];
            while let Some((kind, sequence, body, next)) = message(rest) {
                rest = next;
                if sequence != self.sequence {
                    continue;
                }
                if kind == NLMSG_ERROR
                    && let Some(code) = body.first_chunk().map(|code| i32::from_ne_bytes(*code))
                    && code != 0
                {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                if tell(kind, body)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The first netlink message: type, sequence number, body, and what comes behind it.
fn message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, sequence, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_forever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut rest, mut count) = (&bytes[..], 0);
            while let Some((_, _, body, next)) = message(rest) {
                let _ = Socket::read(Protocol::Tcp, body);
                rest = next;
                count += 1;
            }
            prop_assert!(count <= bytes.len());
        }
    }
}
