//! Listeners over UDP and TCP (A.1, A.9): what the snapshot knows is answered on the spot, the rest by a [`Handler`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::metrics::Requests;
use crate::respond::{Client, Rules, Transport};
use crate::zone::Published;

mod clock;
mod connections;
mod limit;
mod slow;
mod socket;
mod tcp;
mod udp;

pub use limit::{RateLimit, Verdict as RateVerdict};
pub use slow::Answered;

use slow::Slow;
use socket::Datagrams;

/// How often the kernel is asked for a port.
const PORT_ATTEMPTS: u32 = 16;

/// Answers what the snapshot cannot.
pub trait Handler: Send + Sync + 'static {
    /// Whether a query is for this handler, though the snapshot has an answer: something goes before the cluster's
    /// names. Asked for every query, and so must cost next to nothing.
    fn claims(&self, _packet: &[u8]) -> bool {
        false
    }

    /// Writes an answer to `out` that there is nothing to wait for, and says who gave it.
    fn recall(
        &self,
        _packet: &[u8],
        _client: &Client,
        _now: Instant,
        _out: &mut Vec<u8>,
    ) -> Option<&'static str> {
        None
    }

    /// Is told of every answer.
    fn answered(&self, _packet: &[u8], _response: &[u8], _client: &Client, _took: Duration) {}

    /// Answers a query that was well formed; nothing is sent if there is no answer. Over UDP, what is too long for
    /// the client is cut.
    fn handle(&self, query: Vec<u8>, client: Client) -> impl Future<Output = Option<Answered>> + Send;
}

/// Where to listen, and how much to take.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of any family. An unspecified one is every address of its family; answers leave from the one asked.
    pub listen: Vec<SocketAddr>,
    /// Threads for each address.
    pub workers: usize,
    /// Queries that handlers may be busy with at once; more are answered with SERVFAIL.
    pub in_flight: usize,
    /// Connections at once.
    pub connections: usize,
    /// Connections of one client at once: an IPv4 address, or an IPv6 /64.
    pub connections_per_client: usize,
    /// Queries of one connection that handlers may be busy with at once (RFC 7766 section 6.2.1.1).
    pub pipelined: usize,
    /// How long a connection may idle.
    pub idle: Duration,
    /// How long a client may take to read what it asked for.
    pub write: Duration,
    /// Responses per second over UDP to one source prefix; `None` for no limit.
    pub rate: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            in_flight: 1000,
            connections: 1024,
            connections_per_client: 128,
            pipelined: 100,
            idle: Duration::from_secs(10),
            write: Duration::from_secs(5),
            rate: None,
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be had.
    #[error("listening on {address} ({}){}", transport.name(), if source.kind() == io::ErrorKind::PermissionDenied {
        ": ports below 1024 need CAP_NET_BIND_SERVICE"
    } else {
        ""
    })]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Over what.
        transport: Transport,
        /// The kernel's error.
        source: io::Error,
    },
    /// No thread could be had.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// What all listeners share.
#[derive(Debug)]
struct Shared<H> {
    published: Arc<Published>,
    rules: Rules,
    config: Config,
    requests: Requests,
    slow: Slow<H>,
    rate: Option<RateLimit>,
    stopping: AtomicBool,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server<H> {
    shared: Arc<Shared<H>>,
    addresses: Vec<SocketAddr>,
    sockets: Vec<Arc<Datagrams>>,
    threads: Vec<JoinHandle<()>>,
    listeners: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl<H: Handler> Server<H> {
    /// Listens. Must be called within a runtime, which serves connections and runs the handler.
    pub fn start(
        config: Config,
        published: Arc<Published>,
        rules: Rules,
        requests: Requests,
        handler: H,
    ) -> Result<Self, Error> {
        connections::allow_descriptors();
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            published,
            rules,
            slow: Slow::new(handler, config.in_flight),
            rate: config.rate.map(RateLimit::new),
            requests,
            stopping: AtomicBool::new(false),
            config,
        });
        let mut server = Self {
            shared: shared.clone(),
            addresses: Vec::new(),
            sockets: Vec::new(),
            threads: Vec::new(),
            listeners: JoinSet::new(),
            stop,
        };
        let connections = connections::Connections::new(&shared.config);
        for address in &shared.config.listen {
            let (address, listener) = server.bind(*address)?;
            server.addresses.push(address);
            let serving = tcp::serve(listener, shared.clone(), connections.clone(), stopped.clone());
            server.listeners.spawn(serving);
        }
        // Nobody is served before all addresses are there.
        let runtime = tokio::runtime::Handle::current();
        for socket in &server.sockets {
            let worker = udp::Worker::new(shared.clone(), socket.clone(), runtime.clone());
            let name = format!("dns {}", socket.address());
            let thread = std::thread::Builder::new().name(name).spawn(move || worker.run());
            server.threads.push(thread.map_err(Error::Thread)?);
        }
        Ok(server)
    }

    /// Binds the sockets of an address. A port of the kernel's choice may be free over UDP and not over TCP; then it
    /// chooses again.
    fn bind(&mut self, address: SocketAddr) -> Result<(SocketAddr, tokio::net::TcpListener), Error> {
        let failed = |transport| move |source| Error::Listen { address, transport, source };
        for attempt in 1.. {
            let first = Datagrams::bind(address).map_err(failed(Transport::Udp))?;
            let bound = first.address();
            let listener = match socket::listen(bound) {
                Ok(listener) => listener,
                Err(_) if address.port() == 0 && attempt < PORT_ATTEMPTS => continue,
                Err(source) => return Err(failed(Transport::Tcp)(source)),
            };
            self.sockets.push(Arc::new(first));
            for _ in 1..self.shared.config.workers {
                self.sockets.push(Arc::new(Datagrams::bind(bound).map_err(failed(Transport::Udp))?));
            }
            return Ok((bound, listener));
        }
        unreachable!("the last attempt returns")
    }

    /// The addresses it listens on, over UDP and TCP.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops: no more queries are taken, those that were are answered, if they can be within `patience`.
    pub async fn stop(mut self, patience: Duration) {
        self.halt();
        let threads = std::mem::take(&mut self.threads);
        let mut listeners = std::mem::take(&mut self.listeners);
        let shared = self.shared.clone();
        let finished = async {
            let joined =
                tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join())));
            // Panics were reported where they happened.
            let _ = joined.await;
            while listeners.join_next().await.is_some() {}
            shared.slow.finish().await;
        };
        let _ = tokio::time::timeout(patience, finished).await;
    }
}

impl<H> Server<H> {
    fn halt(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.stop.send_replace(true);
        self.sockets.iter().for_each(|socket| socket.shut());
    }
}

impl<H> Drop for Server<H> {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Transport {
    /// The name as metrics and messages have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// The prefix that stands for a client: its address, or the /64 it may choose addresses in.
fn client_prefix(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests;
