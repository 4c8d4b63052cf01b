//! What one Service asks for, seen from one node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::IpFamily;

use crate::{
    Action, Endpoint, EndpointSlice, Entry, Frontend, Port, Scope, Service, SliceEndpoint, Table, Traffic,
    slots,
};

/// The endpoints of one port, of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidates {
    /// Those of the whole cluster.
    cluster: Vec<Endpoint>,
    /// Those of this node.
    local: Vec<Endpoint>,
    /// Addresses of this node among those that are used.
    local_ips: BTreeSet<IpAddr>,
}

/// Whether an endpoint takes part.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    ready: bool,
    lingering: bool,
    local: bool,
}

impl Candidates {
    fn select<'a>(
        port: &Port,
        family: IpFamily,
        node: &str,
        slices: impl Iterator<Item = &'a EndpointSlice>,
    ) -> Self {
        // An endpoint may be in two slices while it moves from one to the other: what either says counts.
        let mut all: BTreeMap<Endpoint, Condition> = BTreeMap::new();
        for slice in slices {
            let matching =
                slice.ports.iter().filter(|of| of.name == port.name && of.protocol == port.protocol);
            for number in matching.map(|of| of.port) {
                for SliceEndpoint { ip, ready, serving, terminating, node: at, .. } in &slice.endpoints {
                    if IpFamily::from(*ip) != family {
                        continue;
                    }
                    let condition = all.entry(Endpoint { ip: *ip, port: number }).or_default();
                    condition.ready |= *ready;
                    condition.lingering |= *serving && *terminating;
                    condition.local |= at.as_deref() == Some(node);
                }
            }
        }
        let local: Vec<_> = all.iter().filter(|(_, condition)| condition.local).collect();
        let (cluster, local) = (usable(all.iter()), usable(local.into_iter()));
        let local_ips = local.iter().chain(&cluster).filter(|at| all[at].local).map(|at| at.ip).collect();
        Self { cluster, local, local_ips }
    }
}

/// The ready ones; if there are none, those that terminate but still answer (KEP-1669).
fn usable<'a>(all: impl Iterator<Item = (&'a Endpoint, &'a Condition)> + Clone) -> Vec<Endpoint> {
    let ready = all.clone().filter(|(_, condition)| condition.ready);
    let ready: Vec<_> = ready.map(|(endpoint, _)| *endpoint).collect();
    if ready.is_empty() {
        all.filter(|(_, condition)| condition.lingering).map(|(endpoint, _)| *endpoint).collect()
    } else {
        ready
    }
}

/// What a Service puts into the table of `family`: by frontend its elements, and the endpoints on this node.
pub(crate) fn compile(
    service: &Service,
    slices: &BTreeMap<crate::Name, EndpointSlice>,
    node: &str,
    family: IpFamily,
) -> (BTreeMap<Frontend, Table>, BTreeSet<IpAddr>) {
    let (mut frontends, mut local_ips) = (BTreeMap::new(), BTreeSet::new());
    let Some(cluster_ip) = service.cluster_ips.get(family) else { return (frontends, local_ips) };
    for port in &service.ports {
        let candidates = Candidates::select(port, family, node, slices.values());
        let externals =
            service.external_ips.union(&service.balancer_ips).filter(|ip| IpFamily::from(**ip) == family);
        let externals = externals.map(|ip| Frontend::Address(*ip, port.protocol, port.port));
        let node_port = port.node_port.map(|number| Frontend::NodePort(port.protocol, number));
        for at in externals.chain(node_port) {
            frontends.insert(at, external(at, &candidates, service.external_traffic));
        }
        let at = Frontend::Address(*cluster_ip, port.protocol, port.port);
        frontends.insert(at, internal(at, &candidates, service.internal_traffic));
        local_ips.extend(candidates.local_ips);
    }
    (frontends, local_ips)
}

fn internal(at: Frontend, candidates: &Candidates, traffic: Traffic) -> Table {
    let mut table = Table::default();
    match traffic {
        Traffic::Cluster => forward(&mut table, Scope::Cluster, at, &candidates.cluster, candidates),
        Traffic::Local => forward(&mut table, Scope::Cluster, at, &candidates.local, candidates),
    }
    table
}

/// A policy of `Local` is for those who come from outside; pods and hosts of the node may go anywhere.
fn external(at: Frontend, candidates: &Candidates, traffic: Traffic) -> Table {
    let mut table = Table::default();
    forward(&mut table, Scope::Cluster, at, &candidates.cluster, candidates);
    if traffic == Traffic::Local {
        forward(&mut table, Scope::Local, at, &candidates.local, candidates);
    }
    table
}

fn forward(table: &mut Table, scope: Scope, at: Frontend, to: &[Endpoint], all: &Candidates) {
    let slots = slots::fill(to);
    let count = u16::try_from(slots.len()).expect("at most MAX_SLOTS");
    let action = if count > 0 {
        Action::forward(count)
    } else if all.cluster.is_empty() && all.local.is_empty() {
        Action::Reject
    } else {
        Action::Drop
    };
    table.insert(Entry::Frontend(scope, at, action));
    for (slot, endpoint) in (0..count).zip(slots) {
        table.insert(Entry::Endpoint(scope, at, slot, endpoint));
    }
}
