//! UDP sockets that answer from the address that was asked, and listeners.
#![allow(unsafe_code, reason = "rustix has no packet information among its ancillary messages")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};

use dyad_net::IpFamily;
use rustix::net::sockopt::{
    set_ipv6_v6only, set_socket_recv_buffer_size, set_socket_reuseaddr, set_socket_reuseport,
};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

/// Room for one `in6_pktinfo`, aligned as a control message must be.
type Control = [u64; 8];

/// Queries that may wait in a socket, in bytes: bursts come from all pods at once.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Queries are short; what is longer is cut.
const LONGEST: usize = 4096;
/// Datagrams that are taken at once: under load a system call, and waking who waits for an answer, cost more than most
/// answers do.
const BATCH: usize = 32;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A bound UDP socket.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: OwnedFd,
    address: SocketAddr,
}

/// Whence a datagram came, and to which address of ours, in the kernel's form: that of an answer.
#[derive(Clone)]
pub(super) struct Origin {
    peer: libc::sockaddr_storage,
    peer_length: libc::socklen_t,
    control: Control,
    control_length: usize,
}

/// Datagrams that came together.
pub(super) struct Batch {
    packets: Box<[[u8; LONGEST]]>,
    lengths: [usize; BATCH],
    origins: Box<[Origin]>,
    count: usize,
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = match IpFamily::from(address.ip()) {
        IpFamily::V4 => AddressFamily::INET,
        IpFamily::V6 => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// A listener for connections.
pub(super) fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = socket(address, SocketType::STREAM)?;
    set_socket_reuseaddr(&socket, true)?;
    // A successor may listen before we stop.
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    tokio::net::TcpListener::from_std(socket.into())
}

impl Datagrams {
    /// Binds to an address, beside others that do.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket(address, SocketType::DGRAM)?;
        // A port of the kernel's choice must not be one that others share.
        set_socket_reuseport(&socket, address.port() != 0)?;
        // As much as the kernel allows.
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        if address.ip().is_unspecified() {
            let (level, option) = match IpFamily::from(address.ip()) {
                IpFamily::V4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
                IpFamily::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            };
            let yes: libc::c_int = 1;
            let size = size_of_val(&yes) as libc::socklen_t;
            // SAFETY: pointer and length describe `yes`; the socket is open.
            let result = unsafe {
                libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&yes).cast(), size)
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        rustix::net::bind(&socket, &address)?;
        set_socket_reuseport(&socket, true)?;
        let bound = rustix::net::getsockname(&socket)?;
        let address = SocketAddr::try_from(bound).map_err(io::Error::from)?;
        Ok(Self { socket, address })
    }

    /// The address it is bound to.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more datagrams: who waits for one gets those that came, and then empty ones.
    pub(super) fn shut(&self) {
        // A socket without a peer says so, but does what it is told.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }

    /// Waits for datagrams, and takes all that have come, as far as there is room for them.
    pub(super) fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        // Headers cost something, too: a few more than were needed last time.
        let room = (2 * batch.count).clamp(1, BATCH);
        batch.count = 0;
        // SAFETY: all-zero is a valid iovec and a valid mmsghdr.
        let (mut parts, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init()) };
        let slots = batch.packets.iter_mut().zip(&mut batch.origins).zip(&mut parts).zip(&mut messages);
        for (((packet, origin), part), message) in slots.take(room) {
            *part = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut origin.peer).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut *part;
            header.msg_iovlen = 1;
            header.msg_control = origin.control.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // Its type is not the same everywhere.
        #[allow(clippy::unnecessary_cast, reason = "musl and glibc differ")]
        let flags = libc::MSG_WAITFORONE as _;
        // SAFETY: every pointer in the first `room` messages is to memory of the given length that outlives the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                room as _,
                flags,
                std::ptr::null_mut(),
            )
        };
        batch.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let is_v6 = self.address.ip().is_ipv6();
        let received = batch.origins.iter_mut().zip(&mut batch.lengths).zip(&messages);
        for ((origin, length), message) in received.take(batch.count) {
            *length = message.msg_len as usize;
            origin.peer_length = message.msg_hdr.msg_namelen;
            #[allow(clippy::unnecessary_cast, reason = "musl and glibc differ")]
            let control_length = message.msg_hdr.msg_controllen as usize;
            origin.control_length = control_length;
            if control_length > 0 {
                origin.forget_link(is_v6);
            }
        }
        Ok(())
    }

    /// Answers some of a batch, by their numbers, without waiting: what the kernel has no room for is lost, as on any
    /// network.
    pub(super) fn send_all(&self, batch: &Batch, answers: &[(usize, Vec<u8>)]) {
        // SAFETY: all-zero is a valid iovec and a valid mmsghdr.
        let (mut parts, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (MaybeUninit::zeroed().assume_init(), MaybeUninit::zeroed().assume_init()) };
        for (((number, bytes), part), message) in answers.iter().zip(&mut parts).zip(&mut messages) {
            message.msg_hdr = header(bytes, &batch.origins[*number], part);
        }
        let mut left = &mut messages[..answers.len().min(BATCH)];
        while !left.is_empty() {
            // SAFETY: every pointer in the messages is to memory of the given length that outlives the call, and is
            // only read.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    left.as_mut_ptr(),
                    left.len() as _,
                    libc::MSG_DONTWAIT as _,
                )
            };
            // One that cannot be sent is no reason to lose those behind it.
            left = &mut left[usize::try_from(sent).unwrap_or(1).max(1)..];
        }
    }

    /// Answers one, without waiting.
    pub(super) fn send(&self, bytes: &[u8], origin: &Origin) -> io::Result<()> {
        // SAFETY: all-zero is a valid iovec.
        let mut part = unsafe { MaybeUninit::zeroed().assume_init() };
        let message = header(bytes, origin, &mut part);
        // SAFETY: every pointer in `message` is to memory of the given length that outlives the call, and is only
        // read.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The header of an answer, which points to all of these.
fn header(bytes: &[u8], origin: &Origin, part: &mut libc::iovec) -> libc::msghdr {
    *part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw const origin.peer).cast_mut().cast();
    message.msg_namelen = origin.peer_length;
    message.msg_iov = &raw mut *part;
    message.msg_iovlen = 1;
    if origin.control_length > 0 {
        message.msg_control = origin.control.as_ptr().cast_mut().cast();
        message.msg_controllen = origin.control_length as _;
    }
    message
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            packets: vec![[0; LONGEST]; BATCH].into(),
            lengths: [0; BATCH],
            origins: vec![Origin::new(); BATCH].into(),
            count: 0,
        }
    }

    /// How many came.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// One of them. What was too long is cut, and then malformed.
    pub(super) fn packet(&self, number: usize) -> (&[u8], &Origin) {
        (&self.packets[number][..self.lengths[number]], &self.origins[number])
    }
}

impl Origin {
    pub(super) const fn new() -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage.
        let peer = unsafe { MaybeUninit::zeroed().assume_init() };
        Self { peer, peer_length: 0, control: [0; 8], control_length: 0 }
    }

    /// Leaves the link of an answer to the routes, but for link-local addresses, which are nothing without it.
    fn forget_link(&mut self, is_v6: bool) {
        // SAFETY: only computes.
        let at = unsafe { libc::CMSG_LEN(0) } as usize;
        let mut bytes = [0; size_of::<Control>()];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(self.control) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        // `in_pktinfo` begins with the link's index, `in6_pktinfo` ends with it.
        let (ip, index) = if is_v6 { (Some(&bytes[at..at + 16]), at + 16) } else { (None, at) };
        if ip.is_some_and(|ip| ip[0] == 0xfe && ip[1] & 0xc0 == 0x80) {
            return;
        }
        bytes[index..index + 4].fill(0);
        for (word, bytes) in self.control.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
    }

    /// Who sent it; `None` for what is neither IPv4 nor IPv6.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match i32::from(self.peer.ss_family) {
            libc::AF_INET => {
                // SAFETY: the kernel wrote an address of this family, and the storage is aligned for any.
                let peer = unsafe { &*(&raw const self.peer).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(peer.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(peer.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the kernel wrote an address of this family, and the storage is aligned for any.
                let peer = unsafe { &*(&raw const self.peer).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(peer.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(peer.sin6_port), 0, peer.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}
