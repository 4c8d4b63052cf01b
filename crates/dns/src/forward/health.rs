//! Whether an upstream that is down comes back.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use super::exchange::exchange;
use super::upstream::Upstream;
use super::{ATTEMPT, Dice};
use crate::corefile::Forward;
use crate::wire::{Header, Message, Name, Question, Rtype};

/// Asks the upstream from time to time, until it answers; any answer will do.
pub(super) fn watch(upstream: Arc<Upstream>, config: Forward, dice: Dice) {
    if upstream.watched.swap(true, AcqRel) {
        return;
    }
    // When nobody forwards any more, nobody needs to know.
    let upstream = Arc::downgrade(&upstream);
    tokio::spawn(async move {
        let name = config.health_domain.parse().unwrap_or_else(|_| Name::root());
        let header = Header { recursion_desired: config.health_recursion, ..Header::query(0) };
        let query = Message::new(header, Some(Question::new(name, Rtype::NS)));
        loop {
            tokio::time::sleep(config.health_check).await;
            let Some(upstream) = upstream.upgrade() else { return };
            let answered = tokio::time::timeout(ATTEMPT, exchange(&upstream, &config, &query, &dice)).await;
            if matches!(answered, Ok(Ok(_))) {
                upstream.watched.store(false, Release);
                upstream.revive();
                tracing::info!(upstream = %upstream.place().at, "upstream is back");
                return;
            }
            upstream.give_up_stream();
            upstream.counters().health_failures.fetch_add(1, Relaxed);
        }
    });
}
