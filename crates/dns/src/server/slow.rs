//! The way of queries that take time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Client, Handler};
use crate::respond::{Transport, udp_limit};
use crate::wire::{Message, Rcode};

/// What a handler answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The response.
    pub bytes: Vec<u8>,
    /// Who answered, by the name of CoreDNS' plugin, for the metrics.
    pub plugin: &'static str,
}

/// A handler, and how much it is given at once.
#[derive(Debug)]
pub(super) struct Slow<H> {
    handler: H,
    permits: Arc<Semaphore>,
    in_flight: usize,
}

impl<H> Slow<H> {
    pub(super) fn new(handler: H, in_flight: usize) -> Self {
        let in_flight = in_flight.clamp(1, u32::MAX as usize >> 4);
        Self { handler, permits: Arc::new(Semaphore::new(in_flight)), in_flight }
    }

    /// A place for a query, if there is one.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Waits until nothing is under way.
    pub(super) async fn finish(&self) {
        // It fails only when closed, which nobody does.
        let _ = self.permits.acquire_many(self.in_flight as u32).await;
    }
}

impl<H: Handler> Slow<H> {
    pub(super) const fn handler(&self) -> &H {
        &self.handler
    }

    /// The answer to a query, no longer than the client takes, and its code.
    pub(super) async fn answer(&self, query: &[u8], client: Client) -> Option<(Answered, Rcode)> {
        let limit = match client.transport {
            Transport::Udp => udp_limit(query),
            Transport::Tcp => crate::wire::MAX_MESSAGE,
        };
        let mut answered = self.handler.handle(query.to_vec(), client).await?;
        if answered.bytes.len() > limit {
            let message = Message::parse(&answered.bytes).ok()?;
            message.encode(&mut answered.bytes, limit);
        }
        let rcode = rcode(&answered.bytes);
        Some((answered, rcode))
    }
}

/// The code of a response.
pub(super) fn rcode(response: &[u8]) -> Rcode {
    response.get(3).map_or(Rcode::SERVFAIL, |flags| Rcode(u16::from(flags & 0xf)))
}
