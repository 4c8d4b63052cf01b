//! A socket for one query: its port is the kernel's random choice (RFC 5452 §9.2), and it hears only whom it asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dyad_net::IpFamily;
use tokio::net::UdpSocket;

/// Bytes of the largest datagram we look at; we ask for less.
pub(super) const LARGEST: usize = 4096;
/// Datagrams from the upstream's address that are not its answer, before we stop to listen.
pub(super) const GUESSES: usize = 8;

pub(super) struct Socket(UdpSocket);

impl Socket {
    pub(super) async fn connect(to: SocketAddr) -> io::Result<Self> {
        let any = match IpFamily::from(to.ip()) {
            IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(to).await?;
        Ok(Self(socket))
    }

    pub(super) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).await.map(drop)
    }

    pub(super) async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = self.0.recv(buffer).await?;
        Ok(&buffer[..length])
    }
}
