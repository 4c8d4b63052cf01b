//! The node agent: what the API says about Services and nodes becomes rules and routes of the node it runs on.
//!
//! Watches tell one engine of every change; it compiles what should be with `dyad-program`, lets
//! `dyad-nft` write the difference to the kernel, and keeps the routes to the other nodes. Desired, diff, apply: the
//! cost of a change follows the change. While the API is away, and while no agent runs at all, the kernel goes on
//! with what it has; an agent that starts adopts what it finds. What somebody else breaks is mended within a second.
//!
//! The agent works in the network namespace of the thread that polls [`run`] for the first time.
#![forbid(unsafe_code)]

mod engine;
mod objects;
mod routes;
mod watch;

use std::future::Future;
use std::time::Duration;

use dyad_net::{DualStack, IpNet};
use kube::Client;
use tokio::sync::{mpsc, watch as status};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use engine::Engine;

/// How often the kernel is asked whether somebody else has changed it, and how soon what failed is tried again.
const LOOK: Duration = Duration::from_millis(500);
/// How long is waited after a change, so that several that come together are one.
const SETTLE: Duration = Duration::from_millis(2);
/// How many changes may wait; the watches wait then.
const QUEUE: usize = 4096;

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node it runs on.
    pub node_name: String,
    /// The cluster's pod ranges: where pods come from, and what is never masqueraded. Their families are those the
    /// agent works on.
    pub pod_ranges: DualStack<IpNet>,
    /// The cluster's Service ranges: addresses in them without a Service are refused.
    pub service_ranges: DualStack<IpNet>,
}

/// How an agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether everything has been heard from the API once. Until then the kernel keeps what it has.
    pub synced: bool,
    /// Whether the kernel holds all that has been heard of Services.
    pub programmed: bool,
    /// Whether the kernel holds all routes to other nodes.
    pub routed: bool,
    /// How many Services there are on this node's view, those without cluster IP left out.
    pub services: usize,
    /// How many times somebody else's changes of our tables were undone.
    pub repairs: u64,
    /// What went wrong last, if it still does.
    pub last_error: Option<String>,
}

impl Status {
    /// Whether the node forwards as the cluster wants it.
    pub const fn is_ready(&self) -> bool {
        self.synced && self.programmed && self.routed
    }
}

/// What ends an agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The kernel does not let us program Services.
    #[error("can't program Services")]
    Rules(#[from] dyad_nft::Error),
    /// The kernel does not let us see links and routes.
    #[error("can't work on routes")]
    Routes(#[from] dyad_links::Error),
    /// A part of the agent ended, which is a bug.
    #[error("a part of the agent ended")]
    Ended(#[from] JoinError),
}

/// Runs until `shutdown` resolves. What is in the kernel stays there.
pub async fn run(
    client: Client,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    run_reporting(client, config, status::Sender::default(), shutdown).await
}

/// Does what [`run`] does, and tells `status` how it goes.
pub async fn run_reporting(
    client: Client,
    config: Config,
    status: status::Sender<Status>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    // Opened here: sockets belong to the namespace of the thread that opens them.
    let engine = Engine::open(config)?;
    let (sender, changes) = mpsc::channel(QUEUE);
    let mut watches = JoinSet::new();
    watch::start(&client, &sender, &mut watches);
    tokio::select! {
        () = shutdown => Ok(()),
        ended = keep(engine, changes, status) => Err(ended.into()),
        Some(Err(ended)) = watches.join_next() => Err(ended.into()),
    }
}

/// Keeps the kernel current for as long as it is polled; ends only by a panic.
async fn keep(
    mut engine: Engine,
    mut changes: mpsc::Receiver<watch::Change>,
    status: status::Sender<Status>,
) -> JoinError {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The watches hold senders as long as this runs.
            Some(change) = changes.recv() => {
                engine.hear(change);
                tokio::time::sleep(SETTLE).await;
                while let Ok(change) = changes.try_recv() {
                    engine.hear(change);
                }
            }
            _ = look.tick() => engine.look(),
        }
        // Netlink blocks, and a large load takes its time.
        let worked = tokio::task::spawn_blocking(move || {
            engine.work();
            engine
        });
        engine = match worked.await {
            Ok(engine) => engine,
            Err(ended) => return ended,
        };
        status.send_if_modified(|now| {
            let changed = now != engine.status();
            now.clone_from(engine.status());
            changed
        });
    }
}

#[cfg(test)]
mod tests;
