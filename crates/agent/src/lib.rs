//! The node agent: what the API says about Services and nodes becomes rules and routes of the node it runs on.
//!
//! Watches tell one engine of every change; it compiles what should be with `dyad-program`, lets
//! `dyad-nft` write the difference to the kernel, and keeps the routes to the other nodes. Desired, diff, apply: the
//! cost of a change follows the change. While the API is away, and while no agent runs at all, the kernel goes on
//! with what it has; an agent that starts adopts what it finds. What somebody else breaks in tables is mended at once, for the
//! kernel tells of it; detached programs and lost routes are looked for every few seconds.
//!
//! The agent works in the network namespace of the thread that polls [`run`] for the first time. It serves kube-proxy's
//! health and metrics there, and what load balancers ask.
#![forbid(unsafe_code)]

mod addresses;
mod announce;
mod cgroup;
mod checks;
mod claim;
mod cleanup;
mod cni;
mod config;
mod dataplane;
mod engine;
mod gate;
mod health;
mod ipam;
mod metrics;
mod objects;
mod routes;
pub mod server;
pub mod settings;
mod switches;
mod sysctl;
mod uplinks;
mod warnings;
mod watch;

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::IpNet;
use kube::Client;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch as status};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

pub use announce::{
    Announcement, DATAPLANE, DNS_CACHE, NODE_ADDRESS_OVERRIDE, NODE_ADDRESSES, POD_CIDRS, POD_CIDRS_WANTED,
    POD_RANGES, WARNINGS, WIREGUARD_LISTEN_PORT, WIREGUARD_PUBLIC_KEY,
};
pub use cgroup::{NoCgroup, pods_cgroup};
use checks::Checks;
pub use claim::claim;
pub use cleanup::cleanup;
pub use cni::Cni;
pub use config::{
    Config, ConntrackLimits, Dataplane, HEALTHZ_PORT, Ipam, METRICS_PORT, NodePorts, OwnPods, Routing,
    Tunnels, VXLAN_ID, VXLAN_PORT, WIREGUARD_KEY, WIREGUARD_PORT,
};
pub use dyad_program::Egress;
use engine::Engine;
pub use gate::{Arrivals, Gate, NotReady, gate};
use health::Health;
use metrics::Metrics;
pub use routes::wireguard::KeyError;

/// How often the kernel is asked whether somebody else has changed what it does not tell of.
const LOOK: Duration = Duration::from_secs(3);
/// How long is waited after somebody else has changed tables, so that their next changes are looked at together.
const FOREIGN: Duration = Duration::from_millis(50);
/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long is waited after a change, so that several that come together are one.
const SETTLE: Duration = Duration::from_millis(2);
/// How many changes may wait; the watches wait then.
const QUEUE: usize = 4096;

/// What an agent is connected to, besides the API.
#[derive(Default)]
pub struct Wires {
    /// Told how the agent is doing.
    pub status: status::Sender<Status>,
    /// Pods that wait for the kernel before they start.
    pub arrivals: Option<Arrivals>,
    /// Whether a DNS server of this node listens on all of [`Config::intercept`]. When the sender is dropped, none does. A
    /// server that is about to go loses no query if it waits for [`Status::intercepts`] to follow, and answers what it has.
    pub intercept: Option<status::Receiver<bool>>,
    /// Who says on the Node what runs there: who may write this Node need not see others. Without it, the agent itself.
    pub announcer: Option<Client>,
}

impl std::fmt::Debug for Wires {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wires").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
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
    /// Whether queries to the cluster's DNS are taken to this node's server.
    pub intercepts: bool,
    /// How many Services there are on this node's view, those without cluster IP left out.
    pub services: usize,
    /// How many times somebody else's changes of our tables were undone.
    pub repairs: u64,
    /// What went wrong last, if it still does.
    pub last_error: Option<String>,
    /// The largest packet of pods in bytes, as far as it is known.
    pub mtu: Option<u32>,
    /// The ranges this node's pods have their addresses from, those of the primary family first.
    pub pod_ranges: Vec<IpNet>,
    /// Why it has none, if there is something wrong with those it was given.
    pub range_problem: Option<String>,
    /// How many ranges the node asks for.
    pub wanted: Option<String>,
    /// The node's addresses, the first of a family being the one that counts.
    pub node_ips: Vec<IpAddr>,
    /// Those of them that are to be announced.
    pub chosen: Vec<IpAddr>,
    /// What on the machine stands in the way.
    pub warnings: Vec<String>,
    /// The public key and the port of who is sent what is encrypted, if that is how nodes talk.
    pub wireguard: Option<(String, u16)>,
    /// What executes the program: `ebpf`, or `nftables` and why.
    pub dataplane: String,
    /// What the Node object says of that, and of [`intercepts`](Self::intercepts).
    pub announced: Announcement,
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
    /// The kernel does not let us program sockets.
    #[error("can't work on sockets (--dataplane nftables does without)")]
    Sockets(#[from] dyad_ebpf::Error),
    /// There are no pods whose sockets could be programmed.
    #[error("can't work on sockets (--dataplane nftables does without)")]
    NoCgroup(#[from] NoCgroup),
    /// The kernel can't encrypt.
    #[error(
        "--routing wireguard: this kernel has no WireGuard. Load or install its module `wireguard` \
         (CONFIG_WIREGUARD, Linux 5.6 and later), or use --routing auto or vxlan, which do not encrypt"
    )]
    NoWireguard,
    /// There is no key to encrypt with.
    #[error("--wireguard-key")]
    Key(#[from] KeyError),
    /// The kernel's word of changes can't be waited for.
    #[error("can't wait for changes of tables")]
    Wait(#[source] std::io::Error),
    /// Files that agents leave on purpose can't be deleted.
    #[error("can't delete what the container runtime sees")]
    Uninstall(#[source] std::io::Error),
    /// Pods are started by a kubelet in this process, and connected for others.
    #[error(
        "a kubelet in this process connects pods: it can't be done for CNI plugins, too (leave out --cni)"
    )]
    TwoGates,
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
    mut wires: Wires,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let metrics = Arc::new(Metrics::new(&config.pod_ranges));
    let health = Arc::new(Health::new(config.pod_ranges.families(), config.health_timeout));
    let (sender, changes) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    // Opened here: sockets belong to the namespace of the thread that opens them.
    let engine = Engine::open(config.clone(), Arc::clone(&metrics), Arc::clone(&health))?;
    #[expect(
        deprecated,
        reason = "an OwnedFd is what it says; the successor is unsafe for types that are not"
    )]
    let foreign = AsyncFd::with_interest(engine.changes()?, Interest::READABLE).map_err(AgentError::Wait)?;
    watch::start(&client, &config, &sender, &mut tasks);
    let (checks, wanted) = status::channel(Checks::default());
    tasks.spawn(checks::serve(wanted, Arc::clone(&health)));
    if let Some(cni) = &config.cni {
        // Whoever else starts pods here has a gate of its own.
        let gate = match wires.arrivals.take() {
            None => {
                let (gate, arrivals) = gate();
                wires.arrivals = Some(arrivals);
                gate
            }
            Some(_) => return Err(AgentError::TwoGates),
        };
        tasks.spawn(cni::keep(cni.clone(), client.clone(), gate, wires.status.subscribe()));
    }
    let announcer = wires.announcer.clone().unwrap_or(client);
    tasks.spawn(announce::keep(
        announcer,
        config.node_name.clone(),
        config.intercept.clone(),
        config.ipam,
        wires.status.subscribe(),
    ));
    for at in config.healthz.into_iter().flat_map(server::in_both_families) {
        tasks.spawn(server::serve(at, "health".into(), health::handler(&health, &metrics)));
    }
    for at in config.metrics.into_iter().flat_map(server::in_both_families) {
        tasks.spawn(server::serve(
            at,
            "metrics".into(),
            health::metrics_handler(&health, &metrics, PROXY_MODE),
        ));
    }
    tokio::select! {
        () = shutdown => Ok(()),
        ended = keep(engine, changes, foreign, wires, checks) => Err(ended.into()),
        ended = first_panic(&mut tasks) => Err(ended.into()),
    }
}

/// What `/proxyMode` says: of the modes kube-proxy has, the one whose rules ours are most like.
const PROXY_MODE: &str = "nftables";

/// Waits until a task has panicked.
async fn first_panic(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(ended)) => return ended,
            None => return std::future::pending().await,
        }
    }
}

/// An error with what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Waits until somebody else has changed tables.
async fn heard(foreign: &AsyncFd<OwnedFd>) {
    match foreign.readable().await {
        // What there is to read is read with the look.
        Ok(mut guard) => guard.clear_ready(),
        // The kernel is asked now and then in any case.
        Err(_) => std::future::pending().await,
    }
}

/// Keeps the kernel current for as long as it is polled; ends only by a panic.
async fn keep(
    mut engine: Engine,
    mut changes: mpsc::Receiver<watch::Change>,
    foreign: AsyncFd<OwnedFd>,
    Wires { status, arrivals, intercept, announcer: _ }: Wires,
    checks: status::Sender<Checks>,
) -> JoinError {
    // Without anybody at the other end, nobody ever comes.
    let (_nobody, nothing) = mpsc::channel(1);
    let mut arrivals = arrivals.map_or(nothing, |arrivals| arrivals.0);
    let mut somebody = true;
    let mut dns = intercept.unwrap_or_else(|| status::channel(false).1);
    dns.mark_changed();
    let mut has_dns = true;
    let mut look_at = Instant::now();
    loop {
        let mut look = false;
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
            heard = dns.changed(), if has_dns => {
                has_dns = heard.is_ok();
                engine.set_dns(has_dns && *dns.borrow_and_update());
            }
            () = heard(&foreign) => {
                look = true;
                tokio::time::sleep(FOREIGN).await;
            }
            () = tokio::time::sleep_until(look_at) => look = true,
        }
        if look {
            engine.look();
            look_at = Instant::now() + LOOK;
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
        if engine.is_behind() {
            look_at = look_at.min(Instant::now() + RETRY);
        }
        checks.send_if_modified(|now| {
            let wanted = engine.checks();
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
