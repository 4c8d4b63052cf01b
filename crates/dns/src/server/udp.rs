//! One thread, one socket: all queries that have come, and then all answers that there are.

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
use super::socket::{Batch, Datagrams, Origin};
use super::{Handler, Shared};
use crate::metrics::{PLUGIN, Request};
use crate::respond::{Client, Outcome, Transport, Verdict, refuse, respond};
use crate::wire::Rcode;
use crate::zone::SnapshotReader;

/// Room of an answer to begin with: more than any over UDP takes.
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
        let mut batch = Batch::new();
        // Buffers are used again and again.
        let (mut answers, mut spare) = (Vec::new(), Vec::new());
        let mut counted = Vec::new();
        loop {
            match self.socket.receive(&mut batch) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    warn!(%error, address = %self.socket.address(), "receiving failed");
                    std::thread::sleep(PAUSE);
                    continue;
                }
            }
            let start = Instant::now();
            let mut is_over = false;
            for number in 0..batch.count() {
                let (packet, origin) = batch.packet(number);
                // A socket that is shut gives empty ones without end.
                is_over |= packet.is_empty() && self.shared.stopping.load(Ordering::Acquire);
                let mut out = spare.pop().unwrap_or_else(|| Vec::with_capacity(LONGEST));
                match self.serve(packet, origin, start, &mut out) {
                    Some(request) => {
                        counted.extend(request.map(|request| (answers.len(), request)));
                        answers.push((number, out));
                    }
                    None => spare.push(out),
                }
            }
            self.socket.send_all(&batch, &answers);
            let took = start.elapsed();
            for (at, (client, request)) in counted.drain(..) {
                let (number, out) = &answers[at];
                self.shared.requests.count(&Request { took, ..request });
                self.shared.slow.handler().answered(batch.packet(*number).0, out, &client, took);
            }
            spare.extend(answers.drain(..).map(|(_, out)| out));
            if is_over {
                return;
            }
        }
    }

    /// Writes the answer to `out`, if there is one now, with what is to be counted of it.
    fn serve(
        &mut self,
        packet: &[u8],
        origin: &Origin,
        start: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Option<(Client, Request)>> {
        let peer = origin.peer()?;
        let random = self.clock.roll();
        let client = Client { peer, transport: Transport::Udp, now: self.clock.seconds(start), random };
        let handler = self.shared.slow.handler();
        let mut outcome = respond(self.reader.snapshot(), &self.shared.rules, packet, &client, out);
        match outcome.verdict {
            Verdict::Drop => return None,
            Verdict::Reply if handler.claims(packet) => outcome.verdict = Verdict::Slow,
            Verdict::Reply | Verdict::Slow => {}
        }
        // Whoever has a cookie of ours is no victim of somebody else's queries (RFC 7873 section 1).
        if let Some(rate) = self.shared.rate.as_ref().filter(|_| !outcome.is_known) {
            match rate.take(peer.ip(), self.clock.milliseconds(start), random) {
                RateVerdict::Send => {}
                RateVerdict::Drop => return None,
                RateVerdict::Slip => return refuse(packet, Rcode::NOERROR, true, out).then_some(None),
            }
        }
        let mut plugin = PLUGIN;
        if outcome.verdict == Verdict::Slow {
            if let Some(by) = handler.recall(packet, &client, start, out) {
                plugin = by;
                outcome.rcode = rcode(out);
            } else if self.pass_on(packet, client, outcome, origin, start) {
                return None;
            } else {
                outcome.rcode = Rcode::SERVFAIL;
                if !refuse(packet, outcome.rcode, false, out) {
                    return None;
                }
            }
        }
        let request = request(&client, &outcome, packet.len(), out.len(), Duration::ZERO);
        Some(Some((client, Request { plugin, ..request })))
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
                let request = request(&client, &outcome, size, answered.bytes.len(), start.elapsed());
                // A datagram that is lost is asked for again.
                let _ = socket.send(&answered.bytes, &origin);
                shared.requests.count(&Request { plugin: answered.plugin, ..request });
                shared.slow.handler().answered(&query, &answered.bytes, &client, request.took);
            }
            drop(permit);
        });
        true
    }
}

/// What is counted of a query.
pub(super) fn request(
    client: &Client,
    outcome: &Outcome,
    request_size: usize,
    response_size: usize,
    took: Duration,
) -> Request {
    Request {
        zone: outcome.zone,
        transport: client.transport,
        family: IpFamily::from(client.peer.ip()),
        rtype: outcome.rtype,
        rcode: outcome.rcode,
        request_size,
        response_size,
        took,
        plugin: PLUGIN,
    }
}
