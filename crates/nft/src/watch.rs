//! Watching what others do: the kernel tells of every change of any table to who listens (`NFNLGRP_NFTABLES`).
//!
//! Without it, every change that somebody makes to tables of their own would have us compare all of ours.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, getsockname, recv, socket_with, sockopt,
};

use crate::TABLE;
use crate::attribute::{NFGEN, find_text, find_u32, messages};
use crate::batch::{TABLE_NAME, subsystem};
use crate::layout;
use crate::socket::{GENERATION_ID, NEW_GENERATION, Socket};
use crate::{Error, Result};

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// Room for the news of some thousand changes between two looks.
const WANTED_BYTES: usize = 1 << 20;
/// How often is looked for the news of a generation that the kernel has already: they come right after it.
const LOOKS: usize = 100;

/// What has happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Whether one of our tables has changed, or may have.
    pub(crate) is_ours: bool,
    /// The generation after the last change.
    pub(crate) generation: Option<u32>,
}

/// Listens to changes. It would hear our own, too, and make them slower: it has to stop before, and start again after.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: OwnedFd,
    port: u32,
}

impl Watch {
    /// A watch in the network namespace of the calling thread, where it stays; it does not listen yet.
    pub(crate) fn open() -> Result<Self> {
        Self::try_open().map_err(|errno| Error::Open(errno.into()))
    }

    fn try_open() -> std::result::Result<Self, Errno> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Without real root the system's limit holds, and less is heard at once.
        if sockopt::set_socket_recv_buffer_size_force(&fd, WANTED_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, WANTED_BYTES)?;
        }
        let port = SocketAddrNetlink::try_from(getsockname(&fd)?)?.pid();
        Ok(Self { fd, port })
    }

    /// The socket: readable when something is heard.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.fd
    }

    /// Listens from now on; what it has heard before is forgotten.
    pub(crate) fn start(&self, buffer: &mut [u8]) -> Result<()> {
        self.stop()?;
        while matches!(
            recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT),
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR)
        ) {}
        self.listen_to(GROUP)
    }

    /// Stops listening.
    pub(crate) fn stop(&self) -> Result<()> {
        self.listen_to(0)
    }

    fn listen_to(&self, groups: u32) -> Result<()> {
        bind(&self.fd, &SocketAddrNetlink::new(self.port, groups))
            .map_err(|errno| Error::Exchange { what: "listening to changes", source: errno.into() })
    }

    /// The generation of now, if our tables are as they were at `generation`.
    pub(crate) fn catch_up(&self, socket: &mut Socket, mut generation: u32) -> Result<Option<u32>> {
        for _ in 0..LOOKS {
            let news = self.news(&mut socket.buffer);
            if news.is_ours {
                return Ok(None);
            }
            generation = news.generation.unwrap_or(generation);
            if socket.generation()? == generation {
                return Ok(Some(generation));
            }
            std::thread::yield_now();
        }
        Ok(None)
    }

    /// What has happened since it was started, or since this was last asked.
    pub(crate) fn news(&self, buffer: &mut [u8]) -> News {
        let mut news = News::default();
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => messages(&buffer[..length]).for_each(|message| {
                    let (nfgen, attributes) = message.body.split_at_checked(NFGEN).unwrap_or_default();
                    if message.kind == subsystem(NEW_GENERATION) {
                        news.generation = find_u32(attributes, GENERATION_ID).or(news.generation);
                    } else {
                        let family = nfgen.first().copied().and_then(layout::family);
                        news.is_ours |= family.is_some() && find_text(attributes, TABLE_NAME) == Some(TABLE);
                    }
                }),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return news,
                // More has happened than could be kept.
                Err(_) => return News { is_ours: true, ..news },
            }
        }
    }
}
