//! A UDP socket of both families that knows which of its addresses was asked, and answers from it.
//!
//! IPv4 packets show up with mapped addresses, in the peer as in `IPV6_PKTINFO` (RFC 3542 §6), so one path serves both
//! families. A machine without IPv6 gets a plain IPv4 socket, which answers from the address the route prefers.
#![allow(unsafe_code, reason = "rustix has no packet information among its ancillary messages")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use dyad_net::IpFamily;
use rustix::net::SocketType;

use super::listen;

/// Room for one `in6_pktinfo`, aligned as a control message must be.
type Control = [u64; 8];

/// A bound UDP socket.
pub(super) struct DatagramSocket {
    socket: UdpSocket,
    /// Whether the kernel tells the address that was asked.
    tells: bool,
}

impl DatagramSocket {
    /// Listens on all addresses, or on those of one family.
    pub(super) fn bind(port: u16, only: Option<IpFamily>) -> io::Result<Self> {
        let (socket, family) = listen::any(SocketType::DGRAM, port, only)?;
        if family == IpFamily::V4 {
            return Ok(Self { socket: socket.into(), tells: false });
        }
        let yes: libc::c_int = 1;
        // SAFETY: pointer and length describe `yes`; the socket is open.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IPV6,
                libc::IPV6_RECVPKTINFO,
                std::ptr::from_ref(&yes).cast(),
                size_of_val(&yes) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket: socket.into(), tells: true })
    }

    /// The port it listens on.
    #[cfg(test)]
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// A datagram: its length, who sent it, and the address it was sent to.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        let local = self.socket.local_addr()?;
        if !self.tells {
            let (length, peer) = self.socket.recv_from(buffer)?;
            return Ok((length, peer, local));
        }
        let mut peer = MaybeUninit::<libc::sockaddr_in6>::zeroed();
        let mut control = Control::default();
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_name = peer.as_mut_ptr().cast();
        message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: every pointer in `message` is to memory of the given length that outlives the call.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: zeroed is a valid value, and the kernel wrote an IPv6 address, the only kind on such a socket.
        let peer = unsafe { peer.assume_init() };
        let peer = SocketAddrV6::new(
            Ipv6Addr::from(peer.sin6_addr.s6_addr),
            u16::from_be(peer.sin6_port),
            peer.sin6_flowinfo,
            peer.sin6_scope_id,
        );
        let mut asked = local.ip();
        // SAFETY: walks the control messages that the kernel wrote into `control`; the data of an IPV6_PKTINFO is an
        // in6_pktinfo, read without assuming its alignment.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while let Some(found) = header.as_ref() {
                if found.cmsg_level == libc::IPPROTO_IPV6 && found.cmsg_type == libc::IPV6_PKTINFO {
                    let info: libc::in6_pktinfo =
                        libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned();
                    asked = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        Ok((length, peer.into(), SocketAddr::new(asked, local.port())))
    }

    /// Sends a datagram from the address `from`.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
        let (SocketAddr::V6(to), IpAddr::V6(from)) = (to, from) else {
            return self.socket.send_to(bytes, to).map(drop);
        };
        // SAFETY: all-zero is a valid value of these plain structures.
        let (mut name, mut info, mut message): (libc::sockaddr_in6, libc::in6_pktinfo, libc::msghdr) = unsafe {
            (
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
            )
        };
        name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        name.sin6_port = to.port().to_be();
        name.sin6_addr.s6_addr = to.ip().octets();
        name.sin6_scope_id = to.scope_id();
        info.ipi6_addr.s6_addr = from.octets();
        let mut control = Control::default();
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = size_of_val(&name) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: computes sizes only.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of_val(&info) as u32) } as _;
        // SAFETY: `control` has room for one header and an in6_pktinfo, whose lengths are the ones given; sendmsg does
        // not write to what `message` points to.
        let sent = unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::IPPROTO_IPV6;
            (*header).cmsg_type = libc::IPV6_PKTINFO;
            (*header).cmsg_len = libc::CMSG_LEN(size_of_val(&info) as u32) as _;
            libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
            libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
