//! The names of the cluster of a Corefile, from one Corefile to the next.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dyad_net::{IpFamily, IpNet};
use kube::Client;
use tokio::task::JoinHandle;

use super::ServeError;
use crate::chain::Cluster;
use crate::corefile::{Corefile, Kubernetes, Pods};
use crate::metrics::Registry;
use crate::respond::{Local, lookup};
use crate::source::{Wanted, follow};
use crate::wire::{Name, Question};
use crate::zone::{NameServers, ObjectName, Options, Place, PodMode, Published, QueryName, Store, Tree};

/// Between looks whether the first names are there.
const LOOK: Duration = Duration::from_millis(5);

/// Keeps the names of the cluster where all listeners find them.
pub(super) struct Names {
    client: Option<Client>,
    service: Option<ObjectName>,
    registry: Arc<Registry>,
    published: Arc<Published>,
    running: Option<(Options, Wanted)>,
    task: Option<JoinHandle<()>>,
}

/// What a Corefile wants of the cluster; nothing has been done yet.
pub(super) struct Plan {
    wanted: Option<(Options, Wanted)>,
    published: Arc<Published>,
}

impl Names {
    pub(super) fn new(client: Option<Client>, service: Option<ObjectName>, registry: Arc<Registry>) -> Self {
        let published = Store::new(Options::new(nobody())).published().clone();
        Self { client, service, registry, published, running: None, task: None }
    }

    pub(super) const fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Whether names of a cluster are served.
    pub(super) const fn are_wanted(&self) -> bool {
        self.running.is_some()
    }

    /// Waits until the names of the cluster are all there, if any are wanted, but not longer than `patience`.
    pub(super) async fn wait(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.are_wanted() && !self.published.snapshot().is_synced() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) fn plan(&self, corefile: &Corefile) -> Result<Plan, ServeError> {
        let mut blocks = corefile
            .servers
            .iter()
            .filter_map(|server| server.kubernetes.as_ref().map(|kubernetes| (&server.at, kubernetes)));
        let Some((at, first)) = blocks.next() else {
            return Ok(Plan { wanted: None, published: self.published.clone() });
        };
        if let Some((other, _)) = blocks.find(|(_, kubernetes)| *kubernetes != first) {
            return Err(ServeError::Kubernetes(format!(
                "{other}: kubernetes is configured otherwise at {at}: this server serves one cluster"
            )));
        }
        if self.client.is_none() {
            return Err(ServeError::NoCluster(at.to_string()));
        }
        let tells_namespaces = |server: &crate::corefile::Server| {
            server
                .dns64
                .as_ref()
                .is_some_and(|dns64| !dns64.namespaces.is_empty() || !dns64.except_namespaces.is_empty())
        };
        let wanted = Wanted {
            pods: first.pods == Pods::Verified || corefile.servers.iter().any(tells_namespaces),
            namespaces: first.namespaces.clone(),
            labels: first.labels.clone(),
        };
        let options = options(first, self.service.clone())
            .map_err(|why| ServeError::Kubernetes(format!("{at}: {why}")))?;
        Ok(Plan { wanted: Some((options, wanted)), published: self.published.clone() })
    }

    /// Serves what was planned. Names of before are served until the new ones are all there.
    pub(super) fn take(&mut self, plan: Plan) {
        if plan.wanted == self.running {
            return;
        }
        let old = self.task.take();
        let show_nothing = |options| {
            Store::replacing(options, self.published.clone()).publish(0);
        };
        match (&plan.wanted, &self.client) {
            (Some((options, wanted)), Some(client)) => {
                if old.is_none() {
                    // Until the names are there, it is known that they are not known.
                    show_nothing(options.clone());
                }
                let store = Store::replacing(options.clone(), self.published.clone());
                let registry = self.registry.clone();
                let following = follow(client.clone(), wanted.clone(), store, registry, old);
                self.task = Some(tokio::spawn(following));
            }
            _ => {
                if let Some(old) = old {
                    old.abort();
                }
                show_nothing(Options::new(nobody()));
            }
        }
        self.running = plan.wanted;
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Plan {
    /// The zones that are answered for from the cluster, in wire form.
    pub(super) fn zones(&self) -> Vec<Name> {
        let Some((options, _)) = &self.wanted else { return Vec::new() };
        let has = |tree: &Tree| options.reverse.iter().any(|range| IpFamily::from(*range) == tree.family);
        let tops =
            Tree::ALL.iter().filter(|tree| has(tree)).filter_map(|tree| Name::from_wire(tree.top).ok());
        tops.chain([options.domain.clone()]).collect()
    }

    pub(super) fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        let published = self.published.clone();
        self.wanted.as_ref().map(|_| Arc::new(Served(published)) as Arc<dyn Cluster>)
    }

    /// The cluster domain, or one that is nobody's.
    pub(super) fn domain(&self) -> Name {
        self.wanted.as_ref().map_or_else(nobody, |(options, _)| options.domain.clone())
    }
}

/// The names for the slow path.
struct Served(Arc<Published>);

impl Cluster for Served {
    fn lookup(&self, question: &Question, random: u32) -> Option<Local> {
        lookup(&self.0.snapshot(), question, random)
    }

    fn namespace(&self, ip: IpAddr) -> Option<String> {
        self.0.snapshot().namespace_of(ip)
    }
}

/// A domain without names (RFC 6761 section 6.4).
fn nobody() -> Name {
    Name::from_labels(["dyad", "invalid"]).unwrap_or_else(|_| Name::root())
}

fn options(kubernetes: &Kubernetes, service: Option<ObjectName>) -> Result<Options, String> {
    let parse = |zone: &String| zone.parse::<Name>().map_err(|why| format!("{zone}: {why}"));
    let mut domain = None;
    let mut reverse = Vec::new();
    for zone in &kubernetes.zones {
        match range(&parse(zone)?) {
            Some(range) => reverse.push(range),
            None if domain.is_none() => domain = Some(parse(zone)?),
            None => return Err(format!("{zone}: a cluster has one domain; name the others in rewrite")),
        }
    }
    if kubernetes.namespace_labels.is_some() {
        return Err("namespace_labels is not supported: list the namespaces with `namespaces`".into());
    }
    if !kubernetes.multicluster.is_empty() {
        return Err("multicluster is not supported yet: take it out".into());
    }
    if kubernetes.endpoint.is_some() || kubernetes.kubeconfig.is_some() || !kubernetes.tls.is_empty() {
        return Err(
            "endpoint, tls and kubeconfig are given on the command line: --kubeconfig, --context".into()
        );
    }
    let domain = domain.unwrap_or_else(nobody);
    Ok(Options {
        reverse: everything(reverse),
        ttl: kubernetes.ttl,
        pods: match kubernetes.pods {
            Pods::Disabled => PodMode::Disabled,
            Pods::Insecure => PodMode::Insecure,
            Pods::Verified => PodMode::Verified,
        },
        empty_headless_exists: kubernetes.empty_headless_exists,
        ignore_empty_service: kubernetes.ignore_empty_service,
        endpoint_pod_names: kubernetes.endpoint_pod_names,
        name_servers: NameServers { service, addresses: Vec::new() },
        fallthrough: kubernetes.fallthrough.iter().map(parse).collect::<Result<_, _>>()?,
        ..Options::new(domain)
    })
}

/// The prefix whose addresses have their names in a zone, if it is one of those.
fn range(zone: &Name) -> Option<IpNet> {
    match Tree::find(&QueryName::of(zone).ok()?)?.1 {
        Place::Prefix(range) => Some(range),
        Place::Address(ip) => Some(ip.into()),
        Place::Astray(_) => None,
    }
}

/// Ranges without those that lie in others.
fn everything(ranges: Vec<IpNet>) -> Vec<IpNet> {
    let within = |range: &IpNet| ranges.iter().any(|other| other != range && other.contains(range));
    let mut left: Vec<IpNet> = ranges.iter().filter(|range| !within(range)).copied().collect();
    left.sort_by_key(|range| (IpFamily::from(*range), *range));
    left.dedup();
    left
}

/// The addresses of a link.
pub(super) fn link_addresses(name: &str) -> dyad_links::Result<Vec<IpAddr>> {
    let mut handle = dyad_links::Handle::open()?;
    let index = handle.index(name)?;
    Ok(handle
        .addresses()?
        .into_iter()
        .filter(|address| address.link == index)
        .map(|address| address.net.addr())
        .collect())
}
