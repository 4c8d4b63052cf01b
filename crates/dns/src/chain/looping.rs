//! Whether what is forwarded comes back.

use std::sync::atomic::Ordering::Relaxed;

use super::{Chain, lock};
use crate::wire::{Header, Message, Name, Question, Rcode, Rtype};

impl Chain {
    /// Sends a question that nobody else asks to other servers, and says whether it came back to this one. Then queries
    /// would go round until they are too many: the server must not be ready.
    pub async fn find_loop(&self) -> bool {
        for forward in &self.forwards {
            let random = || format!("{:016x}", (self.world.dice)());
            let probe = forward.from.child(random()).and_then(|name| name.child(random()));
            let Ok(probe) = probe else { continue };
            *lock(&self.probe) = Some(probe.clone());
            let query = Message::new(Header::query(0), Some(Question::new(probe, Rtype::HINFO)));
            if let Err(error) = forward.forwarder.ask(&query).await {
                // Nobody there is no loop.
                tracing::debug!(%error, "the probe for loops is not answered");
            }
            *lock(&self.probe) = None;
        }
        self.is_looping.load(Relaxed)
    }

    /// The answer to our own probe, which should never come.
    pub(super) fn probed(&self, query: &Message) -> Option<Message> {
        let question = query.question().filter(|question| question.rtype == Rtype::HINFO)?;
        let is_probe = |probe: &Name| *probe == question.name;
        if !lock(&self.probe).as_ref().is_some_and(is_probe) {
            return None;
        }
        self.is_looping.store(true, Relaxed);
        Some(query.response(Rcode::NXDOMAIN))
    }
}
