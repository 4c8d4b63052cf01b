//! The ends of a path: processes of their own in the namespaces of pods, told what to do line by line.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dyad_links::netns;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::figure::median;

/// What makes this program an end of a path.
pub(crate) const WORKER: &str = "internal-worker";
/// Nothing takes longer here.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much is written at once.
const CHUNK: usize = 128 * 1024;
/// Fits into a frame with both headers.
const DATAGRAM: usize = 1400;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Request and response on one TCP connection.
    TcpRequests,
    /// Connect, request, response, close.
    TcpConnects,
    /// As much as goes through one TCP connection.
    TcpStream,
    /// Request and response on one UDP socket.
    UdpRequests,
    /// The same on a new socket each time.
    UdpSockets,
    /// As many datagrams as get there.
    UdpStream,
    /// Request and response on a TCP connection that stays open from one round to the next.
    Established,
}

impl Load {
    pub(crate) const ALL: [Self; 7] = [
        Self::TcpRequests,
        Self::TcpConnects,
        Self::UdpRequests,
        Self::UdpSockets,
        Self::TcpStream,
        Self::UdpStream,
        Self::Established,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TcpRequests => "tcp-rr",
            Self::TcpConnects => "tcp-crr",
            Self::TcpStream => "tcp-stream",
            Self::UdpRequests => "udp-rr",
            Self::UdpSockets => "udp-crr",
            Self::UdpStream => "udp-stream",
            Self::Established => "established",
        }
    }

    /// Whether it is the time of a request that counts, and not how many bytes there are in a second.
    pub(crate) const fn is_latency(self) -> bool {
        !matches!(self, Self::TcpStream | Self::UdpStream)
    }
}

/// A process at one end.
pub(crate) struct Worker {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one in a namespace, on one CPU; `joins` is told its process before it opens a socket.
    pub(crate) fn start(
        namespace: &OwnedFd,
        cpu: usize,
        joins: impl FnOnce(u32) -> Result<()>,
    ) -> Result<Self> {
        let program = std::env::current_exe()?;
        // Processes are in the namespace of the thread that starts them.
        let mut child = netns::within(namespace.as_fd(), || {
            Command::new(program)
                .args([WORKER, &cpu.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        })??;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a process without its pipes");
        };
        let worker = Self { child, to, from: BufReader::new(from) };
        joins(worker.child.id())?;
        Ok(worker)
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        writeln!(self.to, "{request}")?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        match answer.trim().strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!("{request}: {}", answer.trim()),
        }
    }

    /// Answers requests at an address and port, or takes what comes.
    pub(crate) fn serve(&mut self, at: SocketAddr) -> Result<()> {
        self.ask(&format!("serve {at}")).map(drop)
    }

    /// Microseconds of a request in the median, or bytes in a second.
    pub(crate) fn run(&mut self, load: Load, to: SocketAddr, time: Duration) -> Result<f64> {
        let answer = self.ask(&format!("run {} {to} {}", load.name(), time.as_millis()))?;
        answer.parse().with_context(|| format!("{answer} for a figure"))
    }
}

impl Worker {
    /// Ends it, and waits until it has gone.
    pub(crate) fn stop(&mut self) {
        // It may be waiting for what never comes, or have gone by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Is such a process, on the CPU of this number, until nobody writes any more.
pub(crate) fn work(cpu: &str) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu.parse()?);
    sched_setaffinity(None, &set)?;
    let mut kept = BTreeMap::new();
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words[..] {
            ["serve", at] => at.parse().map_err(Into::into).and_then(serve).map(|()| String::new()),
            ["run", load, to, millis] => run(load, to, millis, &mut kept).map(|figure| figure.to_string()),
            _ => bail!("no such request: {line}"),
        };
        match done {
            Ok(figure) => println!("ok {figure}"),
            Err(error) => println!("{error:#}"),
        }
    }
    Ok(())
}

fn serve(at: SocketAddr) -> Result<()> {
    let (tcp, udp) = (TcpListener::bind(at)?, UdpSocket::bind(at)?);
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            // One that stays open must not keep others from being answered; most do not last as long as a thread takes to
            // start.
            let _ = answer(stream);
        }
    });
    std::thread::spawn(move || count(&udp));
    Ok(())
}

/// A connection says by its first byte what it wants: one answer, an answer to each byte, or none at all.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match byte {
        [b'1'] => stream.write_all(&byte),
        [b'+'] => {
            std::thread::spawn(move || echo(&mut stream));
            Ok(())
        }
        [b'*'] => echo(&mut stream),
        _ => {
            let mut bytes = vec![0; CHUNK];
            while stream.read(&mut bytes)? > 0 {}
            Ok(())
        }
    }
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.write_all(&byte)?;
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Answers datagrams of one byte, those of two by how many bytes of others came since the last of them.
fn count(socket: &UdpSocket) -> io::Result<()> {
    let mut bytes = [0; 2048];
    let mut counted = 0_u64;
    loop {
        let (length, from) = socket.recv_from(&mut bytes)?;
        match length {
            1 => drop(socket.send_to(&bytes[..1], from)),
            2 => drop(socket.send_to(&std::mem::take(&mut counted).to_be_bytes(), from)),
            _ => counted += length as u64,
        }
    }
}

fn run(load: &str, to: &str, millis: &str, kept: &mut BTreeMap<SocketAddr, TcpStream>) -> Result<f64> {
    let load = Load::ALL.into_iter().find(|known| known.name() == load).context("no such load")?;
    let (to, time) = (to.parse::<SocketAddr>()?, Duration::from_millis(millis.parse()?));
    let mut byte = [0];
    match load {
        Load::TcpRequests => {
            let mut stream = open(to, b'*')?;
            repeat(time, || exchange(&mut stream))
        }
        Load::Established => {
            let stream = match kept.entry(to) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(none) => none.insert(open(to, b'+')?),
            };
            repeat(time, || exchange(stream))
        }
        Load::TcpConnects => repeat(time, || {
            let mut stream = connect(to)?;
            stream.write_all(b"1")?;
            stream.read_exact(&mut byte)?;
            // The server closes first: its end is the one that lingers.
            match stream.read(&mut byte)? {
                0 => Ok(()),
                _ => Err(ErrorKind::InvalidData.into()),
            }
        }),
        Load::UdpRequests => {
            let socket = udp(to)?;
            repeat(time, || exchange_datagrams(&socket))
        }
        Load::UdpSockets => repeat(time, || exchange_datagrams(&udp(to)?)),
        Load::TcpStream => {
            let mut stream = connect(to)?;
            stream.write_all(b"-")?;
            let (chunk, begun, mut written) = (vec![0; CHUNK], Instant::now(), 0);
            while begun.elapsed() < time {
                stream.write_all(&chunk)?;
                written += CHUNK;
            }
            Ok(written as f64 / begun.elapsed().as_secs_f64())
        }
        Load::UdpStream => {
            let socket = udp(to)?;
            let count = || -> io::Result<u64> {
                socket.send(b"??")?;
                let mut bytes = [0; 8];
                socket.recv_exact(&mut bytes)?;
                Ok(u64::from_be_bytes(bytes))
            };
            count()?;
            let begun = Instant::now();
            while begun.elapsed() < time {
                socket.send(&[0; DATAGRAM])?;
            }
            let took = begun.elapsed();
            Ok(count()? as f64 / took.as_secs_f64())
        }
    }
}

/// Microseconds in the median.
fn repeat(time: Duration, mut exchange: impl FnMut() -> io::Result<()>) -> Result<f64> {
    let (begun, mut all) = (Instant::now(), Vec::with_capacity(65_536));
    while begun.elapsed() < time {
        let start = Instant::now();
        exchange()?;
        all.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&all))
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn open(to: SocketAddr, kind: u8) -> io::Result<TcpStream> {
    let mut stream = connect(to)?;
    stream.write_all(&[kind])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    Ok(socket)
}

fn exchange_datagrams(socket: &UdpSocket) -> io::Result<()> {
    socket.send(b"?")?;
    socket.recv_exact(&mut [0])
}

trait ReceiveExact {
    fn recv_exact(&self, bytes: &mut [u8]) -> io::Result<()>;
}

impl ReceiveExact for UdpSocket {
    fn recv_exact(&self, bytes: &mut [u8]) -> io::Result<()> {
        match self.recv(bytes)? {
            length if length == bytes.len() => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}
