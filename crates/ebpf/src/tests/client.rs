//! A process that does with sockets what it is told: programs of a cgroup are about processes, so the tests need some.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use dyad_links::netns;
use dyad_program::Protocol;

use super::cgroup::Cgroup;
use crate::sockets::Diagnostics;

/// Longer than anything takes here, even on a busy machine, but what is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long is waited for what must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// Comes before every answer, for the test harness has things to say, too.
const ANSWER: &str = "> ";

/// A connection or exchange as the application sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whom the application believes to talk to.
    pub(super) peer: SocketAddr,
    /// The server that has answered.
    pub(super) server: IpAddr,
    /// What the server took for the client.
    pub(super) client: IpAddr,
}

/// The process, seen from its test.
pub(super) struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    /// In a network namespace, and in a cgroup or that of the test itself.
    pub(super) fn start(namespace: &OwnedFd, cgroup: Option<&Cgroup>) -> Self {
        let start = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::client::serve", "--ignored", "--nocapture"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut child = netns::within(namespace.as_fd(), start).unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        if let Some(cgroup) = cgroup {
            cgroup.admit(child.id());
        }
        Self { child, input, output: BufReader::new(output) }
    }

    /// Has a command carried out; its answer, or the name of the error's kind.
    pub(super) fn tell(&mut self, command: &str) -> Result<String, String> {
        writeln!(self.input, "{command}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the client died at {command}");
            if let Some((_, answer)) = line.trim_end().split_once(ANSWER) {
                return match answer.split_once(' ').unwrap() {
                    ("ok", answer) => Ok(answer.into()),
                    (_, error) => Err(error.into()),
                };
            }
        }
    }

    fn seen(&mut self, command: &str) -> Result<Seen, String> {
        let answer = self.tell(command)?;
        let [peer, server, client] = answer.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let [server, client] = [server, client].map(|ip: &str| ip.parse().unwrap());
        Ok(Seen { peer: peer.parse().unwrap(), server, client })
    }

    /// Connects a socket, sends something and gets an answer.
    pub(super) fn connect(&mut self, protocol: Protocol, to: SocketAddr) -> Result<Seen, String> {
        self.seen(&format!("connect {} {to}", protocol.number()))
    }

    /// Sends a datagram with a socket that is not connected, the same at every time, and gets an answer.
    pub(super) fn exchange(&mut self, to: SocketAddr) -> Result<Seen, String> {
        self.seen(&format!("exchange {to}"))
    }

    /// Where a connection attempt really goes to; nobody needs to be there.
    pub(super) fn route(&mut self, to: SocketAddr) -> SocketAddr {
        self.tell(&format!("route {to}")).unwrap().parse().unwrap()
    }

    /// Opens a connection that stays; the server that greets.
    pub(super) fn open(&mut self, name: &str, to: SocketAddr) -> IpAddr {
        self.tell(&format!("open {name} {to}")).unwrap().parse().unwrap()
    }

    /// Sends a datagram; whether no answer comes.
    pub(super) fn is_silent(&mut self, to: SocketAddr) -> bool {
        self.tell(&format!("silence {to}")).is_err()
    }

    /// Sends something over an open connection; whether its echo does not come.
    pub(super) fn is_stuck(&mut self, name: &str) -> bool {
        self.tell(&format!("stuck {name}")).is_err()
    }

    /// Sends something over an open connection and waits for its echo.
    pub(super) fn echo(&mut self, name: &str) -> Result<(), String> {
        self.tell(&format!("echo {name}")).map(drop)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bound to nothing, in the socket family of `to`.
fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn connect_tcp(to: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok((stream, String::from_utf8_lossy(&text).into_owned()));
        }
        text.extend(byte);
    }
}

#[derive(Default)]
struct Sockets {
    streams: BTreeMap<String, TcpStream>,
    unconnected: BTreeMap<bool, UdpSocket>,
}

impl Sockets {
    fn carry_out(&mut self, command: &str) -> io::Result<String> {
        let words: Vec<_> = command.split(' ').collect();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mut bytes = [0; 128];
        Ok(match words[..] {
            ["connect", "6", to] => {
                let (stream, greeting) = connect_tcp(address(to))?;
                format!("{} {greeting}", stream.peer_addr()?)
            }
            ["connect" | "silence", ref protocol @ .., to] => {
                let socket = udp_socket(address(to))?;
                socket.set_read_timeout(Some(if protocol.is_empty() { SILENCE } else { PATIENCE }))?;
                socket.connect(address(to))?;
                socket.send(b"who?")?;
                let (length, from) = socket.recv_from(&mut bytes)?;
                assert_eq!(from, socket.peer_addr()?, "the kernel's two ways to say it");
                format!("{from} {}", String::from_utf8_lossy(&bytes[..length]))
            }
            ["exchange", to] => {
                let to = address(to);
                let socket = match self.unconnected.entry(to.is_ipv4()) {
                    Entry::Occupied(socket) => socket.into_mut(),
                    Entry::Vacant(place) => place.insert(udp_socket(to)?),
                };
                socket.send_to(b"who?", to)?;
                let (length, from) = socket.recv_from(&mut bytes)?;
                format!("{from} {}", String::from_utf8_lossy(&bytes[..length]))
            }
            ["route", to] => {
                let socket = udp_socket(address(to))?;
                socket.connect(address(to))?;
                let port = socket.local_addr()?.port();
                let sockets = Diagnostics::open().unwrap().connected().unwrap();
                let is_it =
                    |of: &&crate::sockets::Socket| (of.protocol, of.local_port()) == (Protocol::Udp, port);
                sockets.iter().find(is_it).unwrap().remote.to_string()
            }
            ["open", name, to] => {
                let (stream, greeting) = connect_tcp(address(to))?;
                self.streams.insert(name.into(), stream);
                greeting.split_once(' ').unwrap().0.into()
            }
            [how @ ("echo" | "stuck"), name] => {
                let stream = self.streams.get_mut(name).unwrap();
                stream.set_read_timeout(Some(if how == "stuck" { SILENCE } else { PATIENCE }))?;
                stream.write_all(b"still there?")?;
                stream.read_exact(&mut bytes[..12])?;
                "echo".into()
            }
            _ => panic!("{command}"),
        })
    }
}

#[test]
#[ignore = "not a test: the process that other tests start"]
fn serve() {
    let mut sockets = Sockets::default();
    for command in io::stdin().lines() {
        match sockets.carry_out(&command.unwrap()) {
            Ok(answer) => println!("{ANSWER}ok {answer}"),
            Err(error) => println!("{ANSWER}error {:?}", error.kind()),
        }
    }
}
