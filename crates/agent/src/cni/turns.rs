//! What is asked about one attachment is done one after the other: a runtime that has lost its patience with an ADD asks for
//! DEL while that is still at it, and what comes last must be what stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dyad_cni::store::Owner;
use tokio::sync::OwnedMutexGuard;

type Turn = tokio::sync::Mutex<()>;

/// Who is at it, by attachment.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<BTreeMap<Owner, Arc<Turn>>>>);

impl Turns {
    /// Waits for all who have come before about the same attachment.
    pub(super) async fn take(&self, of: Owner) -> OwnedMutexGuard<()> {
        let turn = {
            // Every change is a whole one.
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(of).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn only_those_about_the_same_wait() {
        let owner = |name: &str| Owner { container: name.into(), ifname: Some("eth0".into()) };
        let turns = Turns::default();
        let first = turns.take(owner("a")).now_or_never().unwrap();
        assert!(turns.take(owner("a")).now_or_never().is_none());
        let other = turns.take(owner("b")).now_or_never().unwrap();
        drop(first);
        let second = turns.take(owner("a")).now_or_never().unwrap();
        drop((second, other));
        let third = turns.take(owner("c")).now_or_never().unwrap();
        assert_eq!(turns.0.lock().unwrap().len(), 1, "nobody is remembered");
        drop(third);
    }
}
