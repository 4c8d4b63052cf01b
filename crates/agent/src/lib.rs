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
mod gate;
mod health;
mod objects;
mod routes;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use dyad_net::{DualStack, IpFamily, IpNet};
use dyad_program::HealthCheck;
use kube::Client;
use tokio::sync::{mpsc, watch as status};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use engine::Engine;
pub use gate::{Arrivals, Gate, NotReady, gate};

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
    /// Where node ports are served.
    pub node_ports: NodePortAddresses,
    /// Whether policies are carried out.
    pub policy: bool,
    /// Whether pods with global addresses accept what nobody asked for from outside the cluster.
    pub open_pods: bool,
    /// Whether pods that leave the cluster are masqueraded where their addresses mean nothing outside.
    pub masquerade_pods: bool,
    /// Whether routes to the pods of other nodes are kept.
    pub routes: bool,
}

impl Config {
    /// Everything, on the node with this name, in a cluster with these ranges of pods and of Services.
    pub fn new(node_name: &str, pod_ranges: DualStack<IpNet>, service_ranges: DualStack<IpNet>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            pod_ranges,
            service_ranges,
            node_ports: NodePortAddresses::default(),
            policy: true,
            open_pods: false,
            masquerade_pods: true,
            routes: true,
        }
    }
}

/// Addresses of the node that node ports are served on (`--nodeport-addresses`); never loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// Those in these ranges.
    In(Vec<IpNet>),
    /// The first internal address of each family that the Node object has.
    Primary,
}

impl Default for NodePortAddresses {
    /// All of them.
    fn default() -> Self {
        Self::In(IpFamily::BOTH.map(IpFamily::everything).to_vec())
    }
}

/// What an agent is connected to, besides the API.
#[derive(Debug, Default)]
pub struct Wires {
    /// Told how the agent is doing.
    pub status: status::Sender<Status>,
    /// Pods that wait for the kernel before they start.
    pub arrivals: Option<Arrivals>,
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
    run_wired(client, config, Wires::default(), shutdown).await
}

/// Does what [`run`] does, connected to others.
pub async fn run_wired(
    client: Client,
    config: Config,
    wires: Wires,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let (sender, changes) = mpsc::channel(QUEUE);
    let mut watches = JoinSet::new();
    watch::start(&client, &config, &sender, &mut watches);
    let (checks, wanted) = status::channel(BTreeMap::new());
    watches.spawn(health::serve(wanted));
    // Opened here: sockets belong to the namespace of the thread that opens them.
    let engine = Engine::open(config)?;
    tokio::select! {
        () = shutdown => Ok(()),
        ended = keep(engine, changes, wires, checks) => Err(ended.into()),
        Some(Err(ended)) = watches.join_next() => Err(ended.into()),
    }
}

/// Keeps the kernel current for as long as it is polled; ends only by a panic.
async fn keep(
    mut engine: Engine,
    mut changes: mpsc::Receiver<watch::Change>,
    Wires { status, arrivals }: Wires,
    checks: status::Sender<BTreeMap<u16, HealthCheck>>,
) -> JoinError {
    // Without anybody at the other end, nobody ever comes.
    let (_nobody, nothing) = mpsc::channel(1);
    let mut arrivals = arrivals.map_or(nothing, |arrivals| arrivals.0);
    let mut somebody = true;
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
            arrival = arrivals.recv(), if somebody => match arrival {
                Some(arrival) => engine.arrive(arrival),
                None => somebody = false,
            },
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
        checks.send_if_modified(|now| {
            let wanted = engine.health_checks();
            let changed = *now != wanted;
            *now = wanted;
            changed
        });
        status.send_if_modified(|now| {
            let changed = now != engine.status();
            now.clone_from(engine.status());
            changed
        });
    }
}

#[cfg(test)]
mod tests;
