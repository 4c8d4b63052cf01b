//! Links of pods that have gone are deleted together: the kernel takes tens of milliseconds for one, and no longer for many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dyad_cni::{CniError, Code, routed};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::blocking;

/// How long is waited for the next of those that are coming.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the first one waits at most.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many may wait to be heard.
const QUEUE: usize = 64;

type Answer = oneshot::Sender<dyad_cni::Result<()>>;

/// Where links that wait are told of.
#[derive(Clone)]
pub(super) struct Reaper {
    waiting: mpsc::Sender<Answer>,
    coming: Arc<AtomicUsize>,
}

/// A pod that is being taken off: others wait for it for a moment.
pub(super) struct Coming(Reaper);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reaper {
    /// Another one is coming.
    pub(super) fn coming(&self) -> Coming {
        self.coming.fetch_add(1, Ordering::Relaxed);
        Coming(self.clone())
    }
}

impl Coming {
    /// It has been taken off: waits until its link has gone.
    pub(super) async fn reaped(self) -> dyad_cni::Result<()> {
        let ended = |_| CniError::new(Code::TryAgainLater, "the agent is ending");
        let (answer, heard) = oneshot::channel();
        let waiting = self.0.waiting.clone();
        // No more is coming than those that are heard later.
        drop(self);
        waiting.send(answer).await.map_err(|_| ended(()))?;
        heard.await.map_err(|_| ended(()))?
    }
}

/// A reaper, and its work, which is to be polled for ever.
pub(super) fn start() -> (Reaper, impl Future<Output = ()>) {
    let (waiting, queue) = mpsc::channel(QUEUE);
    let coming = Arc::new(AtomicUsize::new(0));
    (Reaper { waiting, coming: Arc::clone(&coming) }, work(queue, coming))
}

async fn work(mut queue: mpsc::Receiver<Answer>, coming: Arc<AtomicUsize>) {
    while let Some(first) = queue.recv().await {
        let (mut answers, latest) = (vec![first], Instant::now() + PATIENCE);
        loop {
            while let Ok(answer) = queue.try_recv() {
                answers.push(answer);
            }
            if coming.load(Ordering::Relaxed) == 0 {
                break;
            }
            let until = latest.min(Instant::now() + PAUSE);
            match timeout_at(until, queue.recv()).await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) | Err(_) => break,
            }
        }
        let done = blocking(routed::reap).await;
        for answer in answers {
            // Who has gone does not mind.
            let _ = answer.send(done.clone());
        }
    }
}
