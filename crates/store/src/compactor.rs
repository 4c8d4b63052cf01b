//! Forgetting history as time passes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::api::Store;

/// Ends the compaction when dropped.
#[derive(Debug)]
pub struct Compactor(tokio::task::JoinHandle<()>);

impl Drop for Compactor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Compacts `store` every `keep` to the revision it had `keep` ago, so that history reaches back between one and two
/// times `keep`. API servers keep five minutes. Ends with the store or when the answer is dropped.
///
/// # Panics
///
/// Outside a tokio runtime, or if `keep` is zero.
pub fn spawn_compactor(store: &Arc<dyn Store>, keep: Duration) -> Compactor {
    Compactor(tokio::spawn(run(Arc::downgrade(store), keep)))
}

async fn run(store: Weak<dyn Store>, keep: Duration) {
    let mut ticks = tokio::time::interval(keep);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let Some(store) = store.upgrade() else { return };
        if let Some(rev) = before.replace(store.current_rev())
            && let Err(error) = store.compact(rev).await
        {
            // History only grows a little longer; the next round goes further.
            tracing::warn!(%error, rev, "could not compact the store");
        }
    }
}
