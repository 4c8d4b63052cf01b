//! Controllers: node ranges, EndpointSlices, workloads, scheduling, namespaces, garbage, node lifecycle.
//!
//! Each has one shape. [`world::World`] is the shared view of the API; a change in it marks keys in a controller's
//! [`queue::Queue`]; `reconcile` takes a key, lets a pure function compute what should be, and writes the
//! difference through the API. Knowing one is knowing all.
//!
//! They speak the Kubernetes API only, and act only while they hold the Lease `kube-system/dyad-controllers`.
#![forbid(unsafe_code)]

mod cache;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod history;
mod job;
mod leader;
mod namespaces;
mod node_ipam;
mod node_lifecycle;
mod pod_garbage;
mod pods;
mod queue;
mod quota;
mod replica_set;
mod replication_controller;
mod scheduler;
mod service_cidr;
mod stateful_set;
mod volume_protection;
mod world;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::{DualStack, IpFamily, IpNet};
use kube::Client;
use tokio::task::JoinSet;

use world::World;

/// What the cluster was configured with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod ranges, primary family first; nodes get theirs in this order (rule D8).
    pub pod_ranges: DualStack<IpNet>,
    /// Whether nodes get their pod ranges from here; otherwise whoever brings nodes brings their ranges (D1).
    pub allocate_node_ranges: bool,
    /// Prefix length of a node's pod range, by family (rule D2).
    pub node_mask: fn(IpFamily) -> u8,
    /// Service ranges; what overlaps them is not given to nodes (rule D6).
    pub service_ranges: DualStack<IpNet>,
    /// How long a node may be silent before it counts as unreachable.
    pub node_grace: Duration,
    /// Who we are in the election.
    pub identity: String,
}

impl Config {
    /// The defaults of Kubernetes for everything but the ranges.
    pub fn new(pod_ranges: DualStack<IpNet>, service_ranges: DualStack<IpNet>) -> Self {
        Self {
            pod_ranges,
            allocate_node_ranges: true,
            node_mask: |family| match family {
                IpFamily::V4 => 24,
                IpFamily::V6 => 64,
            },
            service_ranges,
            node_grace: Duration::from_secs(40),
            identity: format!("dyad-{:016x}", rand::random::<u64>()),
        }
    }
}

/// Why controllers can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The ranges of the configuration don't fit each other.
    #[error("node ranges: {0}")]
    Ranges(#[from] dyad_net::BlockError),
}

/// Runs all controllers until `shutdown` resolves, waiting for leadership first and again whenever it is lost.
pub async fn run(
    client: Client,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    // The configuration is checked at once, not when this instance comes to lead.
    node_ipam::NodeIpam::new(World::new(client.clone()), &config)?;
    let led = async {
        loop {
            let lease = leader::acquire(&client, &config.identity).await;
            tracing::info!(identity = config.identity, "leading");
            tokio::select! {
                // Work stops with the select: nothing is written after the lease is lost.
                () = leader::keep(&client, lease) => tracing::warn!("leadership lost; stopping all work"),
                () = work(&client, &config) => {}
            }
        }
    };
    tokio::select! {
        () = led => {}
        () = shutdown => leader::release(&client, &config.identity).await,
    }
    Ok(())
}

/// All controllers, for as long as the future is polled.
async fn work(client: &Client, config: &Config) {
    let world = World::new(client.clone());
    let mut tasks = JoinSet::new();
    world.follow(&mut tasks).await;
    node_lifecycle::start(&world, config.node_grace, &mut tasks);
    if config.allocate_node_ranges {
        node_ipam::start(&world, config, &mut tasks);
    }
    endpoints::start(&world, &mut tasks);
    deployment::start(&world, &mut tasks);
    replica_set::start(&world, &mut tasks);
    daemon_set::start(&world, &mut tasks);
    stateful_set::start(&world, &mut tasks);
    replication_controller::start(&world, &mut tasks);
    job::start(&world, &mut tasks);
    cron_job::start(&world, &mut tasks);
    disruption::start(&world, &mut tasks);
    volume_protection::start(&world, &mut tasks);
    quota::start(&world, &mut tasks);
    scheduler::start(&world, &mut tasks);
    namespaces::start(&world, &mut tasks);
    garbage::start(&world, &mut tasks);
    pod_garbage::start(&world, &mut tasks);
    service_cidr::start(&world, &mut tasks);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
            return;
        }
    }
}

/// What `start` of every controller does: wires changes to a queue and lets it be worked.
fn spawn<C: queue::Controller>(tasks: &mut JoinSet<()>, controller: C, wire: impl FnOnce(&queue::Queue)) {
    let queue = queue::Queue::default();
    wire(&queue);
    tasks.spawn(async move { queue.work(controller).await });
}

/// The world, as controllers hold it.
type Shared = Arc<World>;
