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

    /// Waits for a datagram. What is longer than `buffer` is cut.
    pub(super) fn receive(&self, buffer: &mut [u8], origin: &mut Origin) -> io::Result<usize> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_name = (&raw mut origin.peer).cast();
        message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = origin.control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: every pointer in `message` is to memory of the given length that outlives the call.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        origin.peer_length = message.msg_namelen;
        // Its type is not the same everywhere.
        #[allow(clippy::unnecessary_cast, reason = "musl and glibc differ")]
        let control_length = message.msg_controllen as usize;
        origin.control_length = control_length;
        if origin.control_length > 0 {
            origin.forget_link(self.address.ip().is_ipv6());
        }
        Ok(length)
    }

    /// Answers, without waiting: what the kernel has no room for is lost, as on any network.
    pub(super) fn send(&self, bytes: &[u8], origin: &Origin) -> io::Result<()> {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_name = (&raw const origin.peer).cast_mut().cast();
        message.msg_namelen = origin.peer_length;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if origin.control_length > 0 {
            message.msg_control = origin.control.as_ptr().cast_mut().cast();
            message.msg_controllen = origin.control_length as _;
        }
        // SAFETY: every pointer in `message` is to memory of the given length that outlives the call, and is only
        // read.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
