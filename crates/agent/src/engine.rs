//! What has been heard, and making the kernel follow it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dyad_links::Handle;
use dyad_net::{IpFamily, IpNet};
use dyad_program::policy::PeerNode;
use dyad_program::{Compiler, Egress, Name, NodeView};
use jiff::Timestamp;
use tracing::warn;

use crate::checks::{self, Checks};
use crate::config::{NodePorts, Routing};
use crate::gate::{Arrival, Pods};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::objects::{self, Pod};
use crate::routes::wireguard::Encryption;
use crate::routes::{self, Node, Ways};
use crate::switches::Switches;
use crate::watch::{Change, Kind};
use crate::{AgentError, Config, Status, ipam, uplinks, with_causes};

mod around;
mod complaints;
mod intercept;
mod kernel;
mod listed;
mod locality;

use complaints::Complaints;
use kernel::Kernel;
use locality::NoLocal;

/// Every so many looks routes and addresses are compared although nothing has changed.
const LOOKS_PER_ROUTE_CHECK: u32 = 3;
/// Of so many changes at most is remembered when they happened, until they are programmed.
const TRIGGERS: usize = 4096;

/// Holds what the API says, and the kernel's end of it.
pub(crate) struct Engine {
    config: Config,
    switches: Switches,
    me: Name,
    compiler: Compiler,
    nodes: BTreeMap<Name, Node>,
    service_ranges: BTreeMap<Name, Vec<IpNet>>,
    /// Pods that have started, but of whose addresses the API does not tell yet.
    pods: Pods,
    /// Addresses of this node's pods, without those that want to be left alone.
    own_pods: BTreeMap<Name, Vec<IpAddr>>,
    kernel: Kernel,
    links: Handle,
    encryption: Option<Encryption>,
    /// The addresses of this node, as of the last look.
    addresses: BTreeSet<IpAddr>,
    /// Those of them that are not claimed: a Service's address has no node ports, wherever it is.
    own_addresses: BTreeSet<IpAddr>,
    listed: BTreeSet<Kind>,
    /// Whether somebody else may have changed the kernel since we looked.
    look_due: bool,
    view_changed: bool,
    pods_due: bool,
    routes_due: bool,
    /// Whether this node's pods may have come to have few addresses left.
    wishes_due: bool,
    looks: u32,
    /// Addresses of nodes that the way to does not know pods.
    strangers: BTreeSet<IpAddr>,
    /// This node's addresses as its kubelet reports them.
    reported: Vec<IpAddr>,
    complaints: Complaints,
    /// When changes of endpoints happened that the kernel does not know yet.
    triggers: Vec<(IpFamily, Timestamp)>,
    no_local: NoLocal,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    status: Status,
}

impl Engine {
    /// An engine for the network namespace of the calling thread. Where the network is ours, switches forwarding on.
    pub(crate) fn open(
        config: Config,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Result<Self, AgentError> {
        // Before anything is changed: it may be that there is none.
        let encrypts = config.routing == Routing::Wireguard;
        let encryption = if encrypts { Some(Encryption::open(&config.wireguard_key)?) } else { None };
        let switches = Switches::noted_in(config.run_dir.as_deref());
        if config.routing != Routing::None {
            // Before: the kernel forgets what it has learnt when it begins to forward.
            uplinks::keep_listening(&mut Handle::open()?, &switches)?;
            switches.forward();
        }
        crate::sysctl::apply(&config.conntrack, &switches);
        let view = NodeView {
            name: config.node_name.clone(),
            own_pods: Vec::new(),
            cluster_pods: config.pod_ranges.clone(),
            node_pods: BTreeSet::new(),
            services: config.service_ranges.clone().unwrap_or_default(),
            nodes: BTreeSet::new(),
            zone: None,
            node_ports: Vec::new(),
            open_pods: config.open_pods,
            masquerade_pods: config.masquerade_pods,
            egress: config.egress.clone(),
        };
        let (kernel, dataplane) = Kernel::open(&config, Arc::clone(&metrics))?;
        let pods = Pods::noted_in(config.run_dir.as_deref());
        Ok(Self {
            me: Name::new("", &config.node_name),
            config,
            switches,
            compiler: Compiler::new(view),
            nodes: BTreeMap::new(),
            service_ranges: BTreeMap::new(),
            pods,
            own_pods: BTreeMap::new(),
            kernel,
            links: Handle::open()?,
            encryption,
            addresses: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            listed: BTreeSet::new(),
            look_due: false,
            view_changed: true,
            pods_due: true,
            routes_due: true,
            wishes_due: true,
            looks: 0,
            strangers: BTreeSet::new(),
            reported: Vec::new(),
            complaints: Complaints::default(),
            triggers: Vec::new(),
            no_local: NoLocal::default(),
            metrics,
            health,
            status: Status { dataplane, ..Status::default() },
        })
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Takes a change in.
    pub(crate) fn hear(&mut self, change: Change) {
        if self.status.synced {
            self.health.set_behind();
        }
        match change {
            Change::Service(name, service) => {
                self.metrics.service_changed();
                self.compiler.set_service(name, service);
            }
            Change::Slice(name, slice, happened) => {
                self.metrics.endpoints_changed();
                // What was there before us was not programmed late by us.
                if let (Some(happened), Some(slice), true) = (happened, &slice, self.status.synced)
                    && let Some(endpoint) = slice.endpoints.first()
                    && self.triggers.len() < TRIGGERS
                {
                    self.triggers.push((endpoint.ip.into(), happened));
                }
                self.compiler.set_slice(name, slice);
            }
            Change::Node(name, node) => self.set_node(name, node),
            Change::Pod(name, pod) => self.set_pod(name, pod),
            Change::Namespace(name, labels) => self.compiler.set_namespace(name.name(), labels),
            Change::NetworkPolicy(name, policy) => self.compiler.set_network_policy(name, policy),
            Change::ClusterPolicy(name, policy) => self.compiler.set_cluster_policy(name, policy),
            Change::ServiceRange(name, ranges) => self.set_service_range(name, ranges),
            Change::Listed(kind, names) => {
                self.listed.insert(kind);
                self.forget_others(kind, &names);
            }
        }
    }

    /// Takes a pod in that is about to start, and answers it when the kernel is ready.
    pub(crate) fn arrive(&mut self, arrival: Arrival) {
        let pod = self.pods.arrived(arrival.name.clone(), arrival.uid, arrival.pod, arrival.ready);
        // Its addresses may have been another's, whose link is no way to it.
        (self.pods_due, self.wishes_due) = (true, true);
        self.compiler.set_pod(arrival.name, Some(pod));
    }

    /// What load balancers may ask.
    pub(crate) fn checks(&self) -> Checks {
        let families = self.config.pod_ranges.families();
        Checks {
            services: self.compiler.health_checks(),
            addresses: checks::addresses(&self.compiler.node().node_ports, families, &self.own_addresses),
        }
    }

    /// Whether there is a DNS server on this node to take queries to.
    pub(crate) fn set_dns(&mut self, is_served: bool) {
        self.kernel.set_dns(is_served);
    }

    /// Becomes readable when somebody else changes tables; it is time to [`look`](Self::look) then.
    pub(crate) fn changes(&self) -> Result<OwnedFd, AgentError> {
        Ok(self.kernel.changes()?)
    }

    /// Whether something has failed that is to be tried again.
    pub(crate) const fn is_behind(&self) -> bool {
        self.status.last_error.is_some()
    }

    /// Has the kernel looked at with the next work, although nothing was heard.
    pub(crate) fn look(&mut self) {
        self.look_due = true;
        self.looks = (self.looks + 1) % LOOKS_PER_ROUTE_CHECK;
        (self.routes_due, self.wishes_due) = (self.routes_due || self.looks == 0, true);
    }

    fn set_node(&mut self, name: Name, mut node: Option<Node>) {
        let mut problem = None;
        if let Some(node) = &mut node {
            (node.pod_ranges, problem) = self.config.ipam.ranges(node);
        }
        let reported = node.as_ref().map(|node| node.ips.clone()).unwrap_or_default();
        if let (Some(_), Some(node)) = (&self.config.cni, &mut node) {
            // What was chosen comes first, and what the kubelet says of other addresses still counts.
            let mut all = objects::ips(node.announced.addresses.as_deref().unwrap_or_default());
            all.extend(reported.iter().filter(|ip| !all.contains(ip)).copied().collect::<Vec<_>>());
            node.ips = all;
        }
        let peer = |node: &Node| PeerNode { labels: node.labels.clone(), ips: node.ips.clone() };
        self.compiler.set_peer_node(name.clone(), node.as_ref().map(peer));
        if name == self.me {
            self.health.set_eligible(node.as_ref().is_some_and(|node| !node.leaving));
            self.reported = reported;
            let known = node.clone().unwrap_or_default();
            // Until it is looked at, what somebody else has written there stays.
            (self.wishes_due, self.status.wanted) = (true, known.announced.wanted.clone());
            self.status.announced = known.announced;
            (self.status.pod_ranges, self.status.node_ips) = (known.pod_ranges, known.ips);
            if problem.is_some() {
                // All families or none: a pod that gets a half has it for ever.
                self.status.pod_ranges.clear();
            }
            self.status.range_problem = problem.map(|problem| {
                format!("this node's pods have no ranges: {problem} (--derive-from, --derive-to)")
            });
        }
        let before = match &node {
            Some(node) => self.nodes.insert(name, node.clone()),
            None => self.nodes.remove(&name),
        };
        // Heartbeats change nothing that counts here.
        self.view_changed |= before != node;
    }

    fn set_pod(&mut self, name: Name, Pod { uid, pod, is_plain }: Pod) {
        let pod = self.pods.heard(&name, &uid, pod);
        let here = pod.as_ref().filter(|pod| *pod.node == *self.config.node_name && !pod.host_network);
        let ips = here.filter(|_| !is_plain).map(|pod| pod.ips.clone());
        if self.own_pods.get(&name) != ips.as_ref() {
            self.pods_due = true;
            match ips {
                Some(ips) => drop(self.own_pods.insert(name.clone(), ips)),
                None => drop(self.own_pods.remove(&name)),
            }
        }
        self.compiler.set_pod(name, pod);
    }

    fn set_service_range(&mut self, name: Name, ranges: Option<Vec<IpNet>>) {
        let before = match &ranges {
            Some(ranges) => self.service_ranges.insert(name, ranges.clone()),
            None => self.service_ranges.remove(&name),
        };
        self.view_changed |= before != ranges;
    }

    /// Makes the kernel follow what was heard. Failures are told of and tried again at the next look.
    pub(crate) fn work(&mut self) {
        // Before all is known, what is missing may only not have arrived yet.
        if self.listed != Kind::of(&self.config) {
            return;
        }
        self.status.synced = true;
        if std::mem::take(&mut self.view_changed) {
            self.compiler.set_node(self.view());
            self.routes_due = true;
        }
        // Before anything is served on them.
        let addresses_due = self.routes_due;
        let mut error = if addresses_due { self.read_addresses().err() } else { None };
        if addresses_due && let Err(failed) = self.look_around() {
            error.get_or_insert(failed);
        }
        if std::mem::take(&mut self.wishes_due) {
            self.ask_for_ranges();
        }
        if let Err(failed) = self.program() {
            error.get_or_insert(failed);
        }
        if let Err(failed) = self.route() {
            error.get_or_insert(failed);
        }
        self.complaints.tell(&mut self.status);
        self.status.programmed = self.kernel.is_current();
        self.status.intercepts = self.kernel.intercepts();
        if !self.config.intercept.is_empty() {
            self.metrics.set_intercepts(self.status.intercepts);
        }
        if self.status.programmed {
            self.pods.note();
            self.pods.answer();
            self.kernel.reconcile(&self.compiler, &self.addresses);
        }
        if error.is_none() {
            self.health.set_current();
        } else {
            self.health.set_behind();
        }
        self.status.services = self.compiler.service_names().count();
        let error = error.map(|error| with_causes(&error));
        // Once, not at every look.
        if let Some(error) = error.as_ref().filter(|error| self.status.last_error.as_ref() != Some(error)) {
            warn!(error, "the kernel is not what it should be; will be tried again");
        }
        self.status.last_error = error;
    }

    fn program(&mut self) -> Result<(), AgentError> {
        let ops = self.compiler.step();
        if self.no_local.follow(&self.compiler, &ops) {
            self.metrics.set_no_local(&self.no_local.counts());
        }
        let look = std::mem::take(&mut self.look_due);
        self.kernel.follow(&self.compiler, &ops, look, &mut self.status)?;
        for (family, happened) in self.triggers.drain(..) {
            self.metrics.programmed(family, happened);
        }
        Ok(())
    }

    fn route(&mut self) -> Result<(), AgentError> {
        if self.config.routing == Routing::None {
            (self.routes_due, self.status.routed) = (false, true);
            return Ok(());
        }
        if self.routes_due {
            let ranges = self.compiler.node().services.clone();
            let encryption = self.encryption.as_mut();
            let applied =
                routes::apply(&mut self.links, &self.config, encryption, &self.me, &self.nodes, &ranges);
            self.status.routed = applied.is_ok();
            let Ways { mtu, strangers, wireguard_key, warnings } = applied?;
            self.status.mtu = mtu;
            self.status.wireguard = wireguard_key.map(|key| (key, self.config.tunnels.wireguard_port));
            self.complaints.of_ways = warnings.into_iter().collect();
            if self.config.cni.is_some() {
                routes::pods::mend(&mut self.links, self.nodes.get(&self.me), &self.addresses)?;
            }
            self.routes_due = false;
            if std::mem::replace(&mut self.strangers, strangers.clone()) != strangers {
                self.compiler.set_node(self.view());
                self.program()?;
            }
            // Links come and go without a word of the API.
            self.pods_due = true;
        }
        if self.pods_due && self.config.ndp_proxy {
            let me = self.nodes.get(&self.me).cloned().unwrap_or_default();
            routes::ndp::answer(&mut self.links, &me, &self.switches)?;
        }
        if self.pods_due {
            let pods = self.own_pods.values().flatten().copied().collect();
            self.kernel.set_pods(&mut self.links, &pods)?;
            self.pods_due = false;
        }
        Ok(())
    }

    fn view(&self) -> NodeView {
        let me = self.nodes.get(&self.me);
        let is_ours = ipam::is_ours(self.config.cni.as_ref(), self.config.routing);
        let of_nodes = || self.nodes.values().flat_map(|node| &node.pod_ranges).map(IpNet::trunc);
        let learnt = || self.service_ranges.values().flatten().copied().collect();
        NodeView {
            own_pods: ipam::own_pods(&self.config, me.map(|node| &*node.pod_ranges).unwrap_or_default()),
            node_pods: if is_ours { of_nodes().collect() } else { BTreeSet::new() },
            services: self.config.service_ranges.clone().unwrap_or_else(learnt),
            zone: me.and_then(|node| node.zone.clone()),
            node_ports: match &self.config.node_ports {
                NodePorts::All => IpFamily::BOTH.map(IpFamily::everything).to_vec(),
                NodePorts::Primary => me.map(Node::primary_ips).unwrap_or_default(),
                NodePorts::Ranges(ranges) => in_every_family(ranges),
            },
            nodes: self.nodes.values().flat_map(|node| node.ips.iter().copied()).collect(),
            egress: Egress { strangers: self.strangers.clone(), ..self.config.egress.clone() },
            ..self.compiler.node().clone()
        }
    }
}

/// The ranges, and everything in a family that has none.
fn in_every_family(ranges: &[IpNet]) -> Vec<IpNet> {
    let is_there = |family| ranges.iter().any(|range| IpFamily::from(*range) == family);
    let others = IpFamily::BOTH.into_iter().filter(|family| !is_there(*family)).map(IpFamily::everything);
    ranges.iter().copied().chain(others).collect()
}
