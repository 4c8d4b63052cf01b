//! Connections (RFC 7766): queries in a row, answers as they come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::warn;

use super::clock::Clock;
use super::connections::{Connections, Held};
use super::udp::request;
use super::{Handler, Shared};
use crate::metrics::Request;
use crate::respond::{Client, Outcome, Transport, Verdict, refuse, respond};
use crate::wire::Rcode;
use crate::zone::SnapshotReader;

/// The longest query that is read; whoever sends a longer one wants nothing good.
const LONGEST: usize = 4096;
/// What is read at once.
const CHUNK: usize = 4096;
/// Answers are sent when there are so many bytes of them, at the latest.
const ENOUGH: usize = 64 * 1024;
/// How long to wait after accepting failed, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until told to stop, and then waits for those that are busy.
pub(super) async fn serve<H: Handler>(
    listener: TcpListener,
    shared: Arc<Shared<H>>,
    connections: Connections,
    mut stop: watch::Receiver<bool>,
) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Beyond its limit a client finds the connection closed.
                    let Some(held) = connections.take(peer.ip()) else { continue };
                    let connection = Connection::new(shared.clone(), stream, peer, held);
                    open.spawn(connection.run(stop.clone()));
                }
                Err(error) => {
                    warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

struct Connection<H> {
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    peer: std::net::SocketAddr,
    reader: SnapshotReader,
    clock: Clock,
    /// What was read, and not yet looked at.
    input: Vec<u8>,
    /// What is to be sent.
    output: Vec<u8>,
    /// The response in the making.
    out: Vec<u8>,
    /// Queries that the handler is busy with.
    pending: usize,
    answers: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    _held: Held,
}

/// A client that must be given up.
struct Gone;

impl<H: Handler> Connection<H> {
    fn new(shared: Arc<Shared<H>>, stream: TcpStream, peer: std::net::SocketAddr, held: Held) -> Self {
        let pipelined = shared.config.pipelined.max(1);
        Self {
            reader: shared.published.reader(),
            clock: Clock::new(),
            input: Vec::new(),
            output: Vec::new(),
            out: Vec::new(),
            pending: 0,
            answers: mpsc::channel(pipelined),
            shared,
            stream,
            peer,
            _held: held,
        }
    }

    /// Serves the client until it is done, too slow, or idle for too long.
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        // What can be coalesced is, here; the rest must not wait.
        let _ = self.stream.set_nodelay(true);
        let mut open = true;
        let mut last = Instant::now();
        while open || self.pending > 0 {
            // A client with as many queries as it may have is not read from until there are answers.
            let may_read = open && self.pending < self.shared.config.pipelined;
            // From the last query or answer on: bytes that never become a query don't count.
            let end = tokio::time::Instant::from_std(last + self.shared.config.idle);
            self.input.reserve(CHUNK);
            tokio::select! {
                () = stopped(&mut stop), if open => {
                    open = false;
                    self.read_rest();
                }
                Some(answer) = self.answers.1.recv() => {
                    self.pending -= 1;
                    self.put(&answer);
                    while let Ok(answer) = self.answers.1.try_recv() {
                        self.pending -= 1;
                        self.put(&answer);
                    }
                    last = Instant::now();
                }
                read = self.stream.read_buf(&mut self.input), if may_read => {
                    open = read.is_ok_and(|length| length > 0);
                }
                () = sleep_until(end), if open => {
                    // What waits for an answer is not idle.
                    open = self.pending > 0;
                    last = Instant::now();
                }
            }
            match self.serve().await {
                Ok(0) => {}
                Ok(_) => last = Instant::now(),
                Err(Gone) => return,
            }
            if self.flush().await.is_err() {
                return;
            }
        }
        // The client may have gone first.
        let _ = self.stream.shutdown().await;
    }

    /// Takes what has come and was not read: whoever sent it before the end is served.
    fn read_rest(&mut self) {
        let mut chunk = [0; CHUNK];
        while self.input.len() < ENOUGH
            && let Ok(length @ 1..) = self.stream.try_read(&mut chunk)
        {
            self.input.extend_from_slice(&chunk[..length]);
        }
    }

    /// Serves all queries that are complete, and says how many bytes those were.
    async fn serve(&mut self) -> Result<usize, Gone> {
        let mut at = 0;
        while let Some((length, rest)) = self.input[at..].split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length > LONGEST {
                return Err(Gone);
            }
            if rest.len() < length || self.pending >= self.shared.config.pipelined {
                break;
            }
            let query = at + 2..at + 2 + length;
            at = query.end;
            self.answer(query);
            if self.output.len() >= ENOUGH {
                self.flush().await?;
            }
        }
        self.input.drain(..at);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(at)
    }

    fn answer(&mut self, query: std::ops::Range<usize>) {
        let packet = &self.input[query];
        let start = Instant::now();
        let random = self.clock.roll();
        let client =
            Client { peer: self.peer, transport: Transport::Tcp, now: self.clock.seconds(start), random };
        let mut outcome = respond(self.reader.snapshot(), &self.shared.rules, packet, &client, &mut self.out);
        let handler = self.shared.slow.handler();
        match outcome.verdict {
            Verdict::Drop => return,
            Verdict::Reply if !handler.claims(packet) => {}
            Verdict::Reply | Verdict::Slow => {
                if let Some(permit) = self.shared.slow.admit() {
                    let (shared, answers, query) =
                        (self.shared.clone(), self.answers.0.clone(), packet.to_vec());
                    self.pending += 1;
                    let answering = tokio::spawn(async move {
                        let bytes = answer_slowly(&shared, query, client, outcome, start).await;
                        // A client that does not read shall not hold a place with the handler.
                        drop(permit);
                        bytes
                    });
                    // Whatever becomes of the handler, the query is no longer pending.
                    tokio::spawn(async move { answers.send(answering.await.unwrap_or_default()).await });
                    return;
                }
                outcome.rcode = Rcode::SERVFAIL;
                if !refuse(packet, outcome.rcode, false, &mut self.out) {
                    return;
                }
            }
        }
        let request = request(&client, &outcome, packet.len(), self.out.len(), start.elapsed());
        self.shared.requests.count(&request);
        self.shared.slow.handler().answered(packet, &self.out, &client, request.took);
        let out = std::mem::take(&mut self.out);
        self.put(&out);
        self.out = out;
    }

    /// Adds an answer to what is to be sent; an empty one is none.
    fn put(&mut self, answer: &[u8]) {
        if let Some(length) = u16::try_from(answer.len()).ok().filter(|length| *length > 0) {
            self.output.extend_from_slice(&length.to_be_bytes());
            self.output.extend_from_slice(answer);
        }
    }

    /// Sends what there is. A client that takes too long to read it is given up, so nothing piles up.
    async fn flush(&mut self) -> Result<(), Gone> {
        if !self.output.is_empty() {
            let written = timeout(self.shared.config.write, self.stream.write_all(&self.output)).await;
            self.output.clear();
            self.output.shrink_to(ENOUGH);
            written.map_err(|_| Gone)?.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

/// Waits until the server stops, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn answer_slowly<H: Handler>(
    shared: &Shared<H>,
    query: Vec<u8>,
    client: Client,
    outcome: Outcome,
    start: Instant,
) -> Vec<u8> {
    let size = query.len();
    let Some((answered, rcode)) = shared.slow.answer(&query, client).await else { return Vec::new() };
    let request =
        request(&client, &Outcome { rcode, ..outcome }, size, answered.bytes.len(), start.elapsed());
    shared.requests.count(&Request { plugin: answered.plugin, ..request });
    shared.slow.handler().answered(&query, &answered.bytes, &client, request.took);
    answered.bytes
}
