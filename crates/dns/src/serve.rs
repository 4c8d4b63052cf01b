//! A name server from a Corefile: listeners, chains, the cluster's names, health and metrics; read again while it runs,
//! without a lost query.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::chain::{Chains, SetupError, World};
use crate::corefile::{At, Corefile, CorefileError, Disk};
use crate::forward::Dice;
use crate::metrics::{Registry, Requests};
use crate::respond::Rules;
use crate::server::{self, Server};
use crate::wire::Name;
use crate::zone::ObjectName;

mod handler;
mod http;
mod log;
mod names;
mod node_cache;
mod report;
mod text;
mod translators;

use handler::{Current, Handler};
use names::Names;
use node_cache::NodeCache;
pub use text::Source;
use translators::Translators;

/// How long queries that were taken may go on after the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the first names of a cluster are waited for.
const FIRST: Duration = Duration::from_secs(5);
/// How long idle connections are kept, in units of 100 ms, as clients are told (RFC 7828).
const KEEPALIVE: u16 = 100;

/// Is told of addresses.
pub type Listening = Box<dyn Fn(&[SocketAddr]) + Send + Sync>;

/// What a name server is made of.
pub struct Settings {
    /// Where the Corefile is.
    pub source: Source,
    /// Variables of the Corefile besides those of the environment.
    pub variables: BTreeMap<String, String>,
    /// The API of the cluster whose names are served, for blocks with `kubernetes`.
    pub client: Option<Client>,
    /// Where blocks without `bind` listen; everywhere if there is nothing.
    pub listen: Vec<IpAddr>,
    /// The Service in front of this server.
    pub service: Option<ObjectName>,
    /// Threads for each address.
    pub workers: usize,
    /// Responses per second over UDP to one source prefix; `None` for no limit.
    pub rate: Option<u32>,
    /// Told of the addresses, when queries are taken.
    pub listening: Listening,
}

/// Why there is no name server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The Corefile can't be read.
    #[error("can't read the Corefile {0}")]
    Read(String, #[source] std::io::Error),
    /// The Corefile says what can't be done.
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    /// An upstream can't be asked as the Corefile says.
    #[error(transparent)]
    Forward(#[from] SetupError),
    /// A port can't be had.
    #[error(transparent)]
    Listen(#[from] server::Error),
    /// The names of a cluster are asked for, and there is none.
    #[error(
        "{0}: kubernetes needs an API server: give --kubeconfig, or run it in a pod with a service account"
    )]
    NoCluster(String),
    /// Several blocks serve different clusters, or one several domains.
    #[error("{0}")]
    Kubernetes(String),
    /// Two blocks differ only in where they listen.
    #[error("{at}: {key} has a block at {earlier} already: give them different ports, or run two servers")]
    Binds {
        /// The second block.
        at: At,
        /// Zone and port.
        key: String,
        /// The first block.
        earlier: At,
    },
    /// Addresses that `nodecache` names can't be had.
    #[error("nodecache: its addresses can't be had: it needs CAP_NET_ADMIN in the node's network")]
    NodeCache(#[from] dyad_links::Error),
    /// There is no API to read the Corefile from.
    #[error("the Corefile is in a ConfigMap, and there is no API server: give --kubeconfig")]
    NoApi,
}

/// Serves until `shutdown` resolves.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let (mut texts, first) = text::open(&settings.source, settings.client.as_ref()).await?;
    let registry = Arc::new(Registry::new());
    let mut serving = Serving::new(&settings, registry);
    serving.take(&settings, &first).await?;
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(text) = texts.recv() => match serving.take(&settings, &text).await {
                Ok(()) => info!(%settings.source, "read again"),
                // What runs goes on: a mistake must not take the names away.
                Err(why) => {
                    serving.failed_reloads.increment();
                    error!(%settings.source, %why, "not taken; the server goes on as it was");
                }
            },
        }
    }
    serving.end().await;
    Ok(())
}

/// Listeners of one port, and what they were started with.
struct Port {
    listen: BTreeSet<IpAddr>,
    server: Server<Handler>,
}

/// A name server at work.
struct Serving {
    registry: Arc<Registry>,
    failed_reloads: crate::metrics::Counter,
    current: Arc<Current>,
    names: Names,
    ports: BTreeMap<u16, Port>,
    /// Tasks that keep the chains' files up to date.
    files: JoinSet<()>,
    http: http::Servers,
    node_cache: NodeCache,
    lameduck: Duration,
    dice: Dice,
}

impl Serving {
    fn new(settings: &Settings, registry: Arc<Registry>) -> Self {
        let help = "Counter of the number of failed reload attempts.";
        Self {
            failed_reloads: registry.counter("coredns_reload_failed_total", help, &[]),
            current: Arc::new(Current::default()),
            names: Names::new(settings.client.clone(), settings.service.clone(), registry.clone()),
            ports: BTreeMap::new(),
            files: JoinSet::new(),
            http: http::Servers::default(),
            node_cache: NodeCache::default(),
            lameduck: Duration::ZERO,
            dice: Arc::new(rand::random),
            registry,
        }
    }

    /// Does what a Corefile says from now on. On an error everything goes on as before.
    async fn take(&mut self, settings: &Settings, text: &str) -> Result<(), ServeError> {
        let disk = Disk { variables: settings.variables.clone() };
        let corefile = Corefile::parse(&settings.source.to_string(), text, &disk)?;
        check_binds(&corefile)?;
        let names = self.names.plan(&corefile)?;
        let translators = Translators::new(&corefile);
        let world = World { cluster: names.cluster(), usable: translators.usable(), dice: self.dice.clone() };
        let chains = Chains::new(&corefile, &world, Some(&self.current.chains()))?;
        let intercepted = node_cache::wanted(&corefile);
        NodeCache::claim(&intercepted)?;
        let (domain, zones) = (names.domain(), names.zones());
        let mut names = Some(names);
        if self.ports.is_empty()
            && let Some(names) = names.take()
        {
            // Resolvers go on to another server where nobody listens, and not always where the names are not known yet.
            self.names.take(names);
            self.http.set(http::wanted(&corefile, &self.registry, &self.current, &self.names));
            self.names.wait(FIRST).await;
        }
        // Ports come before anything is changed: one that can't be had leaves all as it was.
        let wanted = ports(&corefile, &settings.listen);
        let mut started = BTreeMap::new();
        for (port, listen) in &wanted {
            if self.ports.get(port).is_none_or(|running| running.listen != *listen) {
                started.insert(*port, self.start(settings, *port, listen, &domain)?);
            }
        }
        for note in &corefile.notes {
            info!("{}: {}", note.at, note.what);
        }
        // The names first: without them, what is the cluster's would be asked of others, who say that there is no such name.
        if let Some(names) = names.take() {
            self.names.take(names);
        }
        self.current.set(chains, &corefile, &zones);
        self.watch(&corefile);
        translators.watch(&mut self.files);
        self.lameduck = corefile
            .servers
            .iter()
            .filter_map(|server| server.health.as_ref())
            .map(|health| health.lameduck)
            .max()
            .unwrap_or_default();
        self.http.set(http::wanted(&corefile, &self.registry, &self.current, &self.names));
        let gone: Vec<u16> = self.ports.keys().filter(|port| !wanted.contains_key(port)).copied().collect();
        let old = gone.into_iter().filter_map(|port| self.ports.remove(&port)).collect::<Vec<_>>();
        let replaced = started.into_iter().filter_map(|(port, new)| self.ports.insert(port, new));
        for port in old.into_iter().chain(replaced.collect::<Vec<_>>()) {
            port.server.stop(PATIENCE).await;
        }
        let addresses: Vec<_> =
            self.ports.values().flat_map(|port| port.server.addresses()).copied().collect();
        info!(?addresses, "listening");
        self.node_cache.take(intercepted);
        (settings.listening)(&addresses);
        Ok(())
    }

    fn start(
        &self,
        settings: &Settings,
        port: u16,
        listen: &BTreeSet<IpAddr>,
        domain: &Name,
    ) -> Result<Port, ServeError> {
        let config = server::Config {
            listen: listen.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            workers: settings.workers,
            rate: settings.rate,
            ..server::Config::default()
        };
        let mut secret = [0; 16];
        rand::fill(&mut secret);
        let rules = Rules { cookie_secret: Some(secret), keepalive: KEEPALIVE, ..Rules::default() };
        let requests = Requests::new(self.registry.clone(), &format!("dns://:{port}"), domain);
        let handler = Handler::new(port, self.current.clone(), rules.clone());
        let server = Server::start(config, self.names.published().clone(), rules, requests, handler)?;
        Ok(Port { listen: listen.clone(), server })
    }

    /// Keeps files up to date, and looks for loops.
    fn watch(&mut self, corefile: &Corefile) {
        // Those of the last Corefile end.
        self.files = JoinSet::new();
        let chains = self.current.chains();
        for chain in chains.iter() {
            let chain = chain.clone();
            self.files.spawn(async move { chain.watch_files().await });
        }
        if corefile.servers.iter().any(|server| server.loop_detection) {
            let current = self.current.clone();
            self.files.spawn(async move {
                for chain in chains.iter() {
                    if chain.find_loop().await {
                        error!("what is forwarded comes back to this server: look at forward, and at the name servers of the file it names");
                        current.set_looping();
                    }
                }
            });
        }
    }

    /// Says that the end is near, lets clients go elsewhere, and answers what was asked.
    async fn end(mut self) {
        self.current.set_ending();
        self.node_cache.end().await;
        if !self.lameduck.is_zero() {
            info!(seconds = self.lameduck.as_secs_f32(), "lameduck");
            tokio::time::sleep(self.lameduck).await;
        }
        let mut stopping = JoinSet::new();
        for port in std::mem::take(&mut self.ports).into_values() {
            stopping.spawn(port.server.stop(PATIENCE));
        }
        while stopping.join_next().await.is_some() {}
        self.node_cache.release(&BTreeSet::new());
    }
}

/// Where each port is listened on. A family that the machine does not speak has no addresses.
fn ports(corefile: &Corefile, default: &[IpAddr]) -> BTreeMap<u16, BTreeSet<IpAddr>> {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let default = if default.is_empty() { &everywhere } else { default };
    let mut ports: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for server in &corefile.servers {
        let mut bound: BTreeSet<IpAddr> = server.bind.on.iter().flat_map(|on| addresses(on)).collect();
        if server.bind.on.is_empty() {
            bound.extend(default);
        }
        let except: BTreeSet<IpAddr> = server.bind.except.iter().flat_map(|on| addresses(on)).collect();
        for key in &server.zones {
            ports.entry(key.port).or_default().extend(bound.difference(&except));
        }
    }
    ports
}

/// A zone has one block at a port, whatever the address: queries are told apart by port and name.
fn check_binds(corefile: &Corefile) -> Result<(), ServeError> {
    let mut seen = BTreeMap::new();
    for server in &corefile.servers {
        for key in &server.zones {
            if let Some(earlier) = seen.insert(key, &server.at) {
                let (at, earlier) = (&server.at, earlier.clone());
                return Err(ServeError::Binds { at: at.clone(), key: key.to_string(), earlier });
            }
        }
    }
    Ok(())
}

/// The address that was named, or those of a link.
fn addresses(on: &str) -> Vec<IpAddr> {
    match on.parse() {
        Ok(ip) => vec![ip],
        Err(_) => match names::link_addresses(on) {
            Ok(ips) => ips,
            Err(why) => {
                warn!(link = on, %why, "bind: its addresses can't be had");
                Vec::new()
            }
        },
    }
}

/// Texts of the Corefile after the first.
type Texts = mpsc::Receiver<String>;
