//! One thread, one socket: a query after the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dyad_net::IpFamily;
use tokio::runtime::Handle;
use tracing::warn;

use super::clock::Clock;
use super::limit::Verdict as RateVerdict;
use super::slow::rcode;
use super::socket::{Datagrams, Origin};
use super::{Handler, Shared};
use crate::metrics::{PLUGIN, Request};
use crate::respond::{Client, Outcome, Transport, Verdict, refuse, respond};
use crate::wire::Rcode;
use crate::zone::SnapshotReader;

/// Queries are short; what is longer is cut, and then malformed.
const LONGEST: usize = 4096;
/// How long to wait after the socket failed.
const PAUSE: Duration = Duration::from_millis(10);

/// A thread's part of the server.
pub(super) struct Worker<H> {
    shared: Arc<Shared<H>>,
    socket: Arc<Datagrams>,
    runtime: Handle,
    reader: SnapshotReader,
    clock: Clock,
}

impl<H: Handler> Worker<H> {
    pub(super) fn new(shared: Arc<Shared<H>>, socket: Arc<Datagrams>, runtime: Handle) -> Self {
        let reader = shared.published.reader();
        Self { shared, socket, runtime, reader, clock: Clock::new() }
    }

    /// Serves until the socket is shut and all that came has been answered.
    pub(super) fn run(mut self) {
        // What is renewed behind an answer goes on there.
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        let mut buffer = [0; LONGEST];
        let (mut origin, mut out) = (Origin::new(), Vec::with_capacity(LONGEST));
        loop {
            match self.socket.receive(&mut buffer, &mut origin) {
                Ok(0) if self.shared.stopping.load(Ordering::Acquire) => return,
                Ok(length) => self.serve(&buffer[..length], &origin, &mut out),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!(%error, address = %self.socket.address(), "receiving failed");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn serve(&mut self, packet: &[u8], origin: &Origin, out: &mut Vec<u8>) {
        let Some(peer) = origin.peer() else { return };
        let start = Instant::now();
        let random = self.clock.roll();
        let client = Client { peer, transport: Transport::Udp, now: self.clock.seconds(start), random };
        let handler = self.shared.slow.handler();
        let mut outcome = respond(self.reader.snapshot(), &self.shared.rules, packet, &client, out);
        match outcome.verdict {
            Verdict::Drop => return,
            Verdict::Reply if handler.claims(packet) => outcome.verdict = Verdict::Slow,
            Verdict::Reply | Verdict::Slow => {}
        }
        // Whoever has a cookie of ours is no victim of somebody else's queries (RFC 7873 section 1).
        if let Some(rate) = self.shared.rate.as_ref().filter(|_| !outcome.is_known) {
            match rate.take(peer.ip(), self.clock.milliseconds(start), random) {
                RateVerdict::Send => {}
                RateVerdict::Drop => return,
                RateVerdict::Slip => {
                    if refuse(packet, Rcode::NOERROR, true, out) {
                        self.send(out, origin);
                    }
                    return;
                }
            }
        }
        let mut plugin = PLUGIN;
        if outcome.verdict == Verdict::Slow {
            if let Some(by) = handler.recall(packet, &client, out) {
                plugin = by;
                outcome.rcode = rcode(out);
            } else if self.pass_on(packet, client, outcome, origin, start) {
                return;
            } else {
                outcome.rcode = Rcode::SERVFAIL;
                if !refuse(packet, outcome.rcode, false, out) {
                    return;
                }
            }
        }
        let request = Request { plugin, ..request(&client, &outcome, packet.len(), out.len(), start) };
        self.send(out, origin);
        self.shared.requests.count(&request);
        self.shared.slow.handler().answered(packet, out, &client, request.took);
    }

    /// Gives a query to the handler; `false` if that has enough to do.
    fn pass_on(
        &self,
        packet: &[u8],
        client: Client,
        outcome: Outcome,
        origin: &Origin,
        start: Instant,
    ) -> bool {
        let Some(permit) = self.shared.slow.admit() else { return false };
        let (shared, socket, origin) = (self.shared.clone(), self.socket.clone(), origin.clone());
        let query = packet.to_vec();
        self.runtime.spawn(async move {
            let size = query.len();
            if let Some((answered, rcode)) = shared.slow.answer(&query, client).await {
                let outcome = Outcome { rcode, ..outcome };
                let request = request(&client, &outcome, size, answered.bytes.len(), start);
                // A datagram that is lost is asked for again.
                let _ = socket.send(&answered.bytes, &origin);
                shared.requests.count(&Request { plugin: answered.plugin, ..request });
                shared.slow.handler().answered(&query, &answered.bytes, &client, request.took);
            }
            drop(permit);
        });
        true
    }

    fn send(&self, bytes: &[u8], origin: &Origin) {
        // The client may be gone, or there may be no room: a datagram that is lost is asked for again.
        let _ = self.socket.send(bytes, origin);
    }
}

/// What is counted of a query.
pub(super) fn request(
    client: &Client,
    outcome: &Outcome,
    request_size: usize,
    response_size: usize,
    start: Instant,
) -> Request {
    Request {
        zone: outcome.zone,
        transport: client.transport,
        family: IpFamily::from(client.peer.ip()),
        rtype: outcome.rtype,
        rcode: outcome.rcode,
        request_size,
        response_size,
        took: start.elapsed(),
        plugin: PLUGIN,
    }
}
