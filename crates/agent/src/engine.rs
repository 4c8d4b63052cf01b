//! What has been heard, and making the kernel follow it.

use std::collections::{BTreeMap, BTreeSet};

use dyad_links::{Handle, sysctl};
use dyad_nft::{Executor, Report};
use dyad_program::policy::PeerNode;
use dyad_program::{Compiler, HealthCheck, Name, NodeView, wire};
use tracing::{info, warn};

use crate::gate::{Arrival, Pods};
use crate::routes::{self, Node};
use crate::watch::{Change, Kind};
use crate::{AgentError, Config, NodePortAddresses, Status};

/// Every so many looks the routes are compared although nothing has changed.
const LOOKS_PER_ROUTE_CHECK: u32 = 20;

/// How the kernel's tables stand to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    /// Not looked at yet.
    Unknown,
    /// Not what they should be: all of them must be read and compared.
    Behind,
    /// What the program was after the last step.
    Current,
}

/// Holds what the API says, and the kernel's end of it.
pub(crate) struct Engine {
    config: Config,
    me: Name,
    compiler: Compiler,
    nodes: BTreeMap<Name, Node>,
    pods: Pods,
    executor: Executor,
    links: Handle,
    listed: BTreeSet<Kind>,
    tables: Tables,
    /// Whether somebody else may have changed the tables since we looked.
    look_due: bool,
    nodes_changed: bool,
    routes_due: bool,
    looks: u32,
    status: Status,
}

impl Engine {
    /// An engine for the network namespace of the calling thread. Switches forwarding on.
    pub(crate) fn open(config: Config) -> Result<Self, AgentError> {
        prepare();
        let view = NodeView {
            name: config.node_name.clone(),
            own_pods: Vec::new(),
            cluster_pods: config.pod_ranges.clone(),
            services: config.service_ranges.clone(),
            nodes: BTreeSet::new(),
            zone: None,
            node_ports: match &config.node_ports {
                NodePortAddresses::In(ranges) => ranges.clone(),
                NodePortAddresses::Primary => Vec::new(),
            },
            open_pods: config.open_pods,
            masquerade_pods: config.masquerade_pods,
        };
        Ok(Self {
            me: Name::new("", &config.node_name),
            config,
            compiler: Compiler::new(view),
            nodes: BTreeMap::new(),
            pods: Pods::default(),
            executor: Executor::open()?,
            links: Handle::open()?,
            listed: BTreeSet::new(),
            tables: Tables::Unknown,
            look_due: false,
            nodes_changed: true,
            routes_due: true,
            looks: 0,
            status: Status::default(),
        })
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Takes a change in.
    pub(crate) fn hear(&mut self, change: Change) {
        match change {
            Change::Service(name, service) => self.compiler.set_service(name, service),
            Change::Slice(name, slice) => self.compiler.set_slice(name, slice),
            Change::Node(name, node) => self.set_node(name, node),
            Change::Pod(name, uid, pod) => {
                let pod = self.pods.heard(&name, &uid, pod);
                self.compiler.set_pod(name, pod);
            }
            Change::Namespace(name, labels) => self.compiler.set_namespace(plain(&name), labels),
            Change::NetworkPolicy(name, policy) => self.compiler.set_network_policy(name, policy),
            Change::ClusterPolicy(name, policy) => self.compiler.set_cluster_policy(name, policy),
            Change::Listed(kind, names) => {
                self.listed.insert(kind);
                self.forget_others(kind, &names);
            }
        }
    }

    /// Takes a pod in that is about to start, and answers it when the kernel is ready.
    pub(crate) fn arrive(&mut self, arrival: Arrival) {
        let pod = self.pods.arrived(arrival.name.clone(), arrival.uid, arrival.pod, arrival.ready);
        self.compiler.set_pod(arrival.name, Some(pod));
    }

    /// The health check node ports there should be.
    pub(crate) fn health_checks(&self) -> BTreeMap<u16, HealthCheck> {
        self.compiler.health_checks()
    }

    /// Whether the node is about to be taken out of the cluster.
    pub(crate) fn is_leaving(&self) -> bool {
        self.nodes.get(&self.me).is_some_and(|node| node.leaving)
    }

    /// Has the kernel looked at with the next work, although nothing was heard.
    pub(crate) fn look(&mut self) {
        self.look_due = true;
        self.looks = (self.looks + 1) % LOOKS_PER_ROUTE_CHECK;
        self.routes_due |= self.looks == 0;
    }

    fn set_node(&mut self, name: Name, node: Option<Node>) {
        let peer = node.as_ref().map(|node| PeerNode { labels: node.labels.clone(), ips: node.ips.clone() });
        self.compiler.set_peer_node(name.clone(), peer);
        let before = match &node {
            Some(node) => self.nodes.insert(name, node.clone()),
            None => self.nodes.remove(&name),
        };
        self.nodes_changed |= before != node;
    }

    fn forget_others(&mut self, kind: Kind, listed: &BTreeSet<Name>) {
        let gone = |names: Vec<Name>| names.into_iter().filter(|name| !listed.contains(name));
        match kind {
            Kind::Services => {
                let names = gone(self.compiler.service_names().cloned().collect());
                names.for_each(|name| self.compiler.set_service(name, None));
            }
            Kind::Slices => {
                let names = gone(self.compiler.slice_names().cloned().collect());
                names.for_each(|name| self.compiler.set_slice(name, None));
            }
            Kind::Nodes => {
                let names = gone(self.nodes.keys().cloned().collect());
                names.for_each(|name| self.set_node(name, None));
            }
            Kind::Pods => {
                for name in gone(self.compiler.policies().pod_names().cloned().collect()) {
                    // One that has only just started may be newer than the listing.
                    if !self.pods.is_arriving(&name) {
                        self.compiler.set_pod(name, None);
                    }
                }
            }
            Kind::Namespaces => {
                let names = self.compiler.policies().namespace_names();
                let names = gone(names.map(|name| Name::new("", name)).collect());
                names.for_each(|name| self.compiler.set_namespace(plain(&name), None));
            }
            Kind::NetworkPolicies => {
                let names = gone(self.compiler.policies().network_policy_names().cloned().collect());
                names.for_each(|name| self.compiler.set_network_policy(name, None));
            }
            Kind::ClusterPolicies => {
                let names = gone(self.compiler.policies().cluster_policy_names().cloned().collect());
                names.for_each(|name| self.compiler.set_cluster_policy(name, None));
            }
        }
    }

    /// Makes the kernel follow what was heard. Failures are told of and tried again at the next look.
    pub(crate) fn work(&mut self) {
        // Before all is known, what is missing may only not have arrived yet.
        if self.listed.len() < Kind::needed(self.config.policy).len() {
            return;
        }
        self.status.synced = true;
        let mut error = None;
        if std::mem::take(&mut self.nodes_changed) {
            self.compiler.set_node(self.view());
            self.routes_due = true;
        }
        if let Err(failed) = self.program() {
            (self.tables, error) = (Tables::Behind, Some(AgentError::Rules(failed)));
        }
        self.look_due = false;
        if !self.config.routes {
            (self.routes_due, self.status.routed) = (false, true);
        }
        if self.routes_due {
            match routes::apply(&mut self.links, &self.config, &self.me, &self.nodes) {
                Ok(()) => (self.routes_due, self.status.routed) = (false, true),
                Err(failed) => {
                    self.status.routed = false;
                    error.get_or_insert(AgentError::Routes(failed));
                }
            }
        }
        self.status.programmed = self.tables == Tables::Current;
        if self.status.programmed {
            self.pods.answer();
        }
        self.status.services = self.compiler.service_names().count();
        let error = error.map(|error| with_causes(&error));
        // Once, not at every look.
        if let Some(error) = error.as_ref().filter(|error| self.status.last_error.as_ref() != Some(error)) {
            warn!(error, "the kernel is not what it should be; will be tried again");
        }
        self.status.last_error = error;
    }

    fn view(&self) -> NodeView {
        let me = self.nodes.get(&self.me);
        NodeView {
            own_pods: me.map(|node| node.pod_ranges.clone()).unwrap_or_default(),
            zone: me.and_then(|node| wire::zone(Some(&node.labels))),
            node_ports: match &self.config.node_ports {
                NodePortAddresses::In(ranges) => ranges.clone(),
                NodePortAddresses::Primary => me.map(Node::primary_ips).unwrap_or_default(),
            },
            nodes: self.nodes.values().flat_map(|node| node.ips.iter().copied()).collect(),
            ..self.compiler.node().clone()
        }
    }

    fn program(&mut self) -> dyad_nft::Result<()> {
        let ops = self.compiler.step();
        let foreign = self.look_due && self.tables == Tables::Current && !self.executor.is_current()?;
        let report = match self.tables {
            Tables::Current if foreign => self.executor.apply(self.compiler.program())?,
            Tables::Current if ops.is_empty() => return Ok(()),
            Tables::Current => self.executor.update(self.compiler.program(), &ops)?,
            Tables::Unknown | Tables::Behind => self.executor.apply(self.compiler.program())?,
        };
        let was = std::mem::replace(&mut self.tables, Tables::Current);
        let Report { changes, rebuilt } = &report;
        if foreign && report != Report::default() {
            self.status.repairs += 1;
            warn!(changes, ?rebuilt, "somebody else had changed our tables; repaired");
        } else if was == Tables::Unknown {
            let services = self.compiler.service_names().count();
            info!(services, changes, ?rebuilt, "Services programmed; other tables were adopted");
        } else if !rebuilt.is_empty() {
            info!(changes, ?rebuilt, "tables made anew");
        }
        Ok(())
    }
}

/// The name of an object without namespace.
fn plain(name: &Name) -> &str {
    name.name()
}

/// Switches on what a node needs to route. In a container that may not, the host will have done so.
fn prepare() {
    let redirects = ["all", "default"].map(|link| format!("net/ipv4/conf/{link}/send_redirects"));
    // A pod that reaches itself through a Service would be told of a shorter way that there is not.
    let switched =
        sysctl::forward().and_then(|()| redirects.iter().try_for_each(|key| sysctl::write(key, "0")));
    match switched {
        Ok(()) => info!("forwarding is on in both families"),
        Err(error) => {
            warn!(error = with_causes(&error), "can't switch forwarding on; the node must do it");
        }
    }
}

/// An error with what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
