//! Sockets on all addresses, of both families or of one alone.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use dyad_net::IpFamily;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

/// A socket bound to `port` at all addresses of `only`, or of both families; those of IPv4 on a machine without IPv6.
/// One of IPv6 sees addresses of IPv4 as mapped ones.
pub(super) fn any(kind: SocketType, port: u16, only: Option<IpFamily>) -> io::Result<(OwnedFd, IpFamily)> {
    let make = |family| {
        let kernels = match family {
            IpFamily::V4 => AddressFamily::INET,
            IpFamily::V6 => AddressFamily::INET6,
        };
        socket_with(kernels, kind, SocketFlags::CLOEXEC, None).map(|socket| (socket, family))
    };
    let (socket, family) = match only {
        Some(family) => make(family)?,
        None => make(IpFamily::V6).or_else(|_| make(IpFamily::V4))?,
    };
    if family == IpFamily::V6 {
        set_ipv6_v6only(&socket, only.is_some())?;
    }
    if kind == SocketType::STREAM {
        set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(family.everything().addr(), port))?;
    Ok((socket, family))
}
