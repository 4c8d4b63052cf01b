//! Pulling for whoever lives in a network namespace that no registry is reached from: a thread that stays where it was
//! started.

use std::io;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Credentials, Settings, pull};
use crate::{Error, Image, Name, Result, Store};

struct Job {
    name: Name,
    credentials: Credentials,
    answer: oneshot::Sender<Result<Image>>,
}

/// Pulls images in the network namespace in which it was started.
#[derive(Clone, Debug)]
pub struct Puller {
    jobs: mpsc::UnboundedSender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(&self.name).finish()
    }
}

impl Puller {
    /// Starts the thread; it ends with the last copy of the result.
    pub fn start(store: Store, settings: Settings) -> io::Result<Self> {
        let (jobs, mut wanted) = mpsc::unbounded_channel::<Job>();
        std::thread::Builder::new().name("images".into()).spawn(move || {
            // Most nodes never pull: nothing is made before the first does.
            let Some(first) = wanted.blocking_recv() else { return };
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let problem = Error::Registry(format!("starting to pull: {error}"));
                    return drop(first.answer.send(Err(problem)));
                }
            };
            let shared = Arc::new((store, settings));
            runtime.block_on(async move {
                let mut next = Some(first);
                while let Some(job) = next {
                    tokio::spawn(work(Arc::clone(&shared), job));
                    next = wanted.recv().await;
                }
            });
        })?;
        Ok(Self { jobs })
    }

    /// Pulls an image into the store.
    pub async fn pull(&self, name: Name, credentials: Credentials) -> Result<Image> {
        let gone = || Error::Registry("the thread that pulls images has ended".into());
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { name, credentials, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn work(shared: Arc<(Store, Settings)>, mut job: Job) {
    let (store, settings) = &*shared;
    tokio::select! {
        result = pull(store, &job.name, settings, &job.credentials, &|_| {}) => {
            // Nobody waits any more.
            let _ = job.answer.send(result);
        }
        () = job.answer.closed() => {}
    }
}
