//! One server: where it is, how it does, and the connection to it.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dyad_net::IpFamily;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::pick::Candidate;
use super::stream::{self, Connection};
use super::{ATTEMPT, Dice, UpstreamCounters};
use crate::corefile::{self, Transport};

/// After how long what is known of a server's speed is old (A.7).
const OUTDATED: Duration = Duration::from_secs(30);

/// Where a server is, and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// How it is spoken to.
    pub transport: Transport,
    /// Where it is.
    pub at: SocketAddr,
    /// The name in its certificate (RFC 8310 §8.1), or its address.
    pub(super) name: ServerName<'static>,
}

/// A server.
pub struct Upstream {
    place: Place,
    tls: Option<Arc<rustls::ClientConfig>>,
    fails: AtomicU32,
    /// Smoothed time of answers in microseconds; 0 is not known.
    srtt: AtomicU64,
    measured: Mutex<Option<Instant>>,
    /// Somebody watches whether it comes back.
    pub(super) watched: AtomicBool,
    /// It does not understand EDNS (RFC 6891 §7).
    pub(super) plain: AtomicBool,
    /// Our cookie, and the one it gave (RFC 7873).
    cookie: [u8; 8],
    server_cookie: Mutex<Box<[u8]>>,
    connection: Mutex<Option<Connection>>,
    counters: UpstreamCounters,
}

impl Place {
    /// Where a configured server is; `None` if its link or name is not there.
    pub(super) fn new(to: &corefile::Upstream, config: &corefile::Forward) -> Option<Self> {
        let corefile::Upstream::Address { transport, at, link, name } = to else { return None };
        let at = match (link, *at) {
            (Some(link), SocketAddr::V6(at)) => {
                let index = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).ok()?;
                SocketAddrV6::new(*at.ip(), at.port(), 0, index.trim().parse().ok()?).into()
            }
            (_, at) => at,
        };
        let name = match name.as_ref().or(config.tls_servername.as_ref()) {
            Some(name) => ServerName::try_from(name.clone()).ok()?,
            None => at.ip().into(),
        };
        Some(Self { transport: *transport, at, name })
    }
}

impl Upstream {
    pub(super) fn new(place: Place, tls: Option<Arc<rustls::ClientConfig>>, dice: &Dice) -> Self {
        Self {
            tls: tls.filter(|_| place.transport == Transport::Tls),
            place,
            fails: AtomicU32::new(0),
            srtt: AtomicU64::new(0),
            measured: Mutex::new(None),
            watched: AtomicBool::new(false),
            plain: AtomicBool::new(false),
            cookie: dice().to_be_bytes(),
            server_cookie: Mutex::default(),
            connection: Mutex::new(None),
            counters: UpstreamCounters::default(),
        }
    }

    /// Where it is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// What was counted of it.
    pub const fn counters(&self) -> &UpstreamCounters {
        &self.counters
    }

    /// Smoothed time of its answers, if there were any.
    pub fn srtt(&self) -> Option<Duration> {
        Some(self.srtt.load(Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }

    /// Failures since the last answer.
    pub fn fails(&self) -> u32 {
        self.fails.load(Relaxed)
    }

    pub(super) fn candidate(&self, config: &corefile::Forward) -> Candidate {
        let measured = *lock(&self.measured);
        Candidate {
            family: IpFamily::from(self.place.at.ip()),
            srtt: self.srtt(),
            down: config.max_fails > 0 && self.fails() >= config.max_fails,
            outdated: measured.is_some_and(|measured| measured.elapsed() > OUTDATED),
        }
    }

    /// It answered.
    pub(super) fn succeeded(&self, after: Duration) {
        self.fails.store(0, Relaxed);
        let sample = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.srtt.load(Relaxed);
        // RFC 6298 §2.3's gain of an eighth.
        self.srtt.store(if old == 0 { sample } else { (7 * old + sample) / 8 }.max(1), Relaxed);
        *lock(&self.measured) = Some(Instant::now());
    }

    /// It did not answer; how often, by now.
    pub(super) fn failed(&self) -> u32 {
        let fails = self.fails.fetch_add(1, Relaxed).saturating_add(1);
        let longest = u64::try_from(ATTEMPT.as_micros()).unwrap_or(u64::MAX);
        let old = self.srtt.load(Relaxed);
        self.srtt.store(if old == 0 { longest } else { (2 * old).min(longest) }, Relaxed);
        *lock(&self.measured) = Some(Instant::now());
        fails
    }

    /// It has come back.
    pub(super) fn revive(&self) {
        self.fails.store(0, Relaxed);
    }

    /// Our cookie, and its own as we know it.
    pub(super) fn cookie(&self) -> ([u8; 8], Box<[u8]>) {
        (self.cookie, lock(&self.server_cookie).clone())
    }

    pub(super) fn learn_cookie(&self, server: &[u8]) {
        *lock(&self.server_cookie) = server.into();
    }

    /// Sends a message over the connection there is, or a new one, and returns what is answered.
    pub(super) async fn ask_stream(&self, packet: &[u8], idle: Duration) -> io::Result<Vec<u8>> {
        loop {
            let (connection, is_new) = self.connection(idle);
            match connection.ask(packet).await {
                Ok(answer) => return Ok(answer),
                // The server may have closed it before it saw the query (RFC 7766 §6.2.4).
                Err(stream::Lost::Closed) if !is_new => {}
                Err(stream::Lost::Closed) => return Err(io::ErrorKind::ConnectionReset.into()),
                Err(stream::Lost::Failed(error)) => return Err(io::Error::other(error)),
            }
        }
    }

    fn connection(&self, idle: Duration) -> (Connection, bool) {
        let mut current = lock(&self.connection);
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            self.counters.reused.fetch_add(1, Relaxed);
            return (connection.clone(), false);
        }
        self.counters.connections.fetch_add(1, Relaxed);
        let tls = self.tls.clone().map(|tls| (tls, self.place.name.clone()));
        let connection = Connection::open(self.place.at, tls, idle);
        *current = Some(connection.clone());
        (connection, true)
    }

    /// Nothing came over the connection for too long: perhaps nobody is at its other end.
    pub(super) fn give_up_stream(&self) {
        *lock(&self.connection) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
