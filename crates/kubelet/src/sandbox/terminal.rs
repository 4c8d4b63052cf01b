//! Terminals of containers: made inside, where their names mean something, and handed out through a socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::Winsize;

use super::shim;

/// A socket for each side, to hand a terminal through.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Makes a terminal in the mount namespace of the caller, sends its outer side through `socket` and gives its inner one.
pub(super) fn open(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = openpt(flags)?;
    unlockpt(&outer)?;
    let inner = ioctl_tiocgptpeer(&outer, flags)?;
    super::send_bytes(socket, b"t", &[outer.as_fd()]).map_err(io::Error::other)?;
    Ok(inner)
}

/// The outer side of a terminal that was sent through `socket`; it does not block.
pub(super) fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut buffer = [0];
    let received = shim::receive(socket, &mut buffer)?;
    let terminal = received.and_then(|(_, mut descriptors)| descriptors.pop());
    let terminal = terminal.ok_or_else(|| io::Error::other("no terminal was handed out"))?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal)
}

/// Makes the inner side the controlling terminal of the caller's session.
pub(super) fn control(inner: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(inner)?)
}

/// Sets the size of a terminal, and tells those who use it.
pub(crate) fn resize(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
