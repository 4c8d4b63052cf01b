//! Many connections that watch, in one thread: what is measured is the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cluster::api::Access;

const PATIENCE: Duration = Duration::from_secs(120);
/// What every event begins with.
const EVENT: &[u8] = b"{\"type\":";

/// Connections that count the events they read.
pub(super) struct Watchers {
    seen: Arc<AtomicUsize>,
    /// Ends them when dropped.
    _runtime: Runtime,
}

impl Watchers {
    pub(super) fn start(access: &Access, path: &str, count: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let seen = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let stream = runtime.block_on(watch(access, path))?;
            runtime.spawn(follow(stream, Arc::clone(&seen)));
        }
        Ok(Self { seen, _runtime: runtime })
    }

    /// Until they have read so many events, all together.
    pub(super) fn wait_for(&self, events: usize) -> Result<()> {
        let begun = Instant::now();
        while self.seen.load(Ordering::Acquire) < events {
            if begun.elapsed() > PATIENCE {
                bail!("watchers saw {} events of {events}", self.seen.load(Ordering::Acquire));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

/// A connection that asked for a watch and then reads nothing; it stays open until this is dropped.
pub(super) struct Deaf {
    _stream: TlsStream<TcpStream>,
    _runtime: Runtime,
}

impl Deaf {
    pub(super) fn start(access: &Access, path: &str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stream = runtime.block_on(watch(access, path))?;
        Ok(Self { _stream: stream, _runtime: runtime })
    }
}

async fn watch(access: &Access, path: &str) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(access.server()).await?;
    let connector = TlsConnector::from(access.config());
    let mut stream = connector.connect(access.name()?, stream).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\r\n", access.host());
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await.context("asking for a watch")?;
    Ok(stream)
}

/// Counts what comes, until the connection ends.
async fn follow(mut stream: TlsStream<TcpStream>, seen: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 32 << 10];
    // How much of the beginning of an event the bytes before ended with.
    let mut matched = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let mut events = 0;
        for byte in &buffer[..read] {
            matched = if *byte == EVENT[matched] { matched + 1 } else { usize::from(*byte == EVENT[0]) };
            if matched == EVENT.len() {
                (matched, events) = (0, events + 1);
            }
        }
        seen.fetch_add(events, Ordering::Release);
    }
}
