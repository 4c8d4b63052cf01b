//! Controllers: node ranges, EndpointSlices, workloads, scheduling, namespaces, garbage, node lifecycle.
//!
//! Each has one shape. [`world::World`] is the shared view of the API; a change in it marks keys in a controller's
//! [`queue::Queue`]; `reconcile` takes a key, lets a pure function compute what should be, and writes the
//! difference through the API. Knowing one is knowing all.
//!
//! Each acts under a name of its own ([`Clients`]), so that it can be held to what it needs.
//!
//! They speak the Kubernetes API only, and act only while they hold the Lease `kube-system/dyad-controllers`.
#![forbid(unsafe_code)]

mod bootstrap;
mod cache;
mod certificates;
mod clients;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod grants;
mod history;
mod job;
mod leader;
mod namespaces;
mod node_ipam;
mod node_lifecycle;
mod pod_garbage;
mod pods;
mod pool;
mod queue;
mod quota;
mod replica_set;
mod replication_controller;
mod scheduler;
mod selection;
mod service_cidr;
mod stateful_set;
mod volume_protection;
mod world;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::{DualStack, IpFamily, IpNet};
use tokio::task::JoinSet;

pub use certificates::{Authority, Signer, Wanted};
pub use clients::{Clients, MANAGER, SCHEDULER};
pub use grants::{Grants, Standing, run_grants};
use leader::CONTROLLERS;
pub use pool::{Pool, PoolTextError};
pub use selection::{NAMES, Selection, UnknownController};
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
    /// Which controllers run.
    pub controllers: Selection,
    /// Who signs certificates; nobody if not given.
    pub authority: Option<Authority>,
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
            controllers: Selection::default(),
            authority: None,
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
    clients: impl Into<Clients>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    // The configuration is checked at once, not when this instance comes to lead.
    let clients = clients.into();
    let client = clients.of(MANAGER);
    if config.controllers.is_empty() {
        shutdown.await;
        return Ok(());
    }
    node_ipam::NodeIpam::new(World::new(clients.clone()), &config)?;
    let led = async {
        loop {
            let lease = leader::acquire(&client, CONTROLLERS, &config.identity).await;
            tracing::info!(identity = config.identity, "leading");
            tokio::select! {
                // Work stops with the select: nothing is written after the lease is lost.
                () = leader::keep(&client, CONTROLLERS, lease) => tracing::warn!("leadership lost; stopping all work"),
                () = work(&clients, &config) => {}
            }
        }
    };
    tokio::select! {
        () = led => {}
        () = shutdown => leader::release(&client, CONTROLLERS, &config.identity).await,
    }
    Ok(())
}

/// All controllers, for as long as the future is polled.
async fn work(clients: &Clients, config: &Config) {
    let world = World::new(clients.clone());
    let mut tasks = JoinSet::new();
    world.follow(&mut tasks).await;
    let has = |name: &str| config.controllers.has(name);
    let as_ = |name: &str| world.acting(name);
    if has("node-lifecycle-controller") {
        node_lifecycle::start(&as_("node-controller"), config.node_grace, &mut tasks);
    }
    if config.allocate_node_ranges && has("node-ipam-controller") {
        node_ipam::start(&as_("node-controller"), config, &mut tasks);
    }
    let all: [(&str, &str, Start); 15] = [
        ("endpointslice-controller", "endpointslice-controller", endpoints::start),
        ("deployment-controller", "deployment-controller", deployment::start),
        ("replicaset-controller", "replicaset-controller", replica_set::start),
        ("daemonset-controller", "daemon-set-controller", daemon_set::start),
        ("statefulset-controller", "statefulset-controller", stateful_set::start),
        ("replicationcontroller-controller", "replication-controller", replication_controller::start),
        ("job-controller", "job-controller", job::start),
        ("cronjob-controller", "cronjob-controller", cron_job::start),
        ("disruption-controller", "disruption-controller", disruption::start),
        ("resourcequota-controller", "resourcequota-controller", quota::start),
        (SCHEDULER, SCHEDULER, scheduler::start),
        ("namespace-controller", "namespace-controller", namespaces::start),
        ("garbage-collector-controller", "generic-garbage-collector", garbage::start),
        ("pod-garbage-collector-controller", "pod-garbage-collector", pod_garbage::start),
        ("service-cidr-controller", "service-cidrs-controller", service_cidr::start),
    ];
    for (name, account, start) in all {
        if has(name) {
            start(&as_(account), &mut tasks);
        }
    }
    if has("persistentvolume-protection-controller") {
        volume_protection::start(&world, &mut tasks);
    }
    if let Some(authority) = &config.authority {
        if has("bootstrap-signer-controller") {
            bootstrap::start(&world, authority, &mut tasks);
        }
        if has("certificatesigningrequest-signing-controller") {
            certificates::start(&as_("certificate-controller"), authority, &mut tasks);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
            return;
        }
    }
}

/// Starts a controller that acts as this world says.
type Start = fn(&Shared, &mut JoinSet<()>);

/// What `start` of every controller does: wires changes to a queue and lets it be worked.
fn spawn<C: queue::Controller>(tasks: &mut JoinSet<()>, controller: C, wire: impl FnOnce(&queue::Queue)) {
    let queue = queue::Queue::default();
    wire(&queue);
    tasks.spawn(async move { queue.work(controller).await });
}

/// The world, as controllers hold it.
type Shared = Arc<World>;
