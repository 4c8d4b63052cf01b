//! What one Service asks for, seen from one node.

use std::num::NonZeroU32;

use dyad_net::{IpFamily, IpNet};

use crate::part::{Part, Way};
use crate::{
    Action, Endpoint, EndpointSlice, Frontend, Hints, HostPort, NodeView, Port, Program, Service,
    SliceEndpoint, Traffic, slots,
};

/// By what right a frontend is claimed; those that come first go before the others.
///
/// What has been allocated goes before what somebody chose, and a port of the node that a pod asked for before that
/// of a Service: `externalIPs` and host ports name addresses that nobody checks, so neither takes a cluster IP away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rank {
    ClusterIp,
    HostPort,
    Balancer,
    NodePort,
    ExternalIp,
}

impl Rank {
    /// Comes before all others.
    pub(crate) const FIRST: Self = Self::ClusterIp;
}

/// The frontends a port of a Service claims in `family`.
pub(crate) fn claims(
    service: &Service,
    port: &Port,
    family: IpFamily,
) -> impl Iterator<Item = (Rank, Frontend)> {
    let Port { protocol, port, node_port, .. } = *port;
    // Without a cluster IP of the family it is not served in it, node ports included.
    let cluster_ip = service.cluster_ips.get(family);
    let on = move |rank, ip| (rank, Frontend::Address(ip, protocol, port));
    let balancers = service.balancer_ips.iter().map(move |ip| on(Rank::Balancer, *ip));
    let externals = service.external_ips.iter().map(move |ip| on(Rank::ExternalIp, *ip));
    let of_family = move |(_, at): &(_, Frontend)| matches!(at, Frontend::Address(ip, ..) if IpFamily::from(*ip) == family);
    let node_port = node_port.map(|number| (Rank::NodePort, Frontend::NodePort(protocol, number)));
    cluster_ip.into_iter().flat_map(move |ip| {
        let elsewhere = balancers.clone().chain(externals.clone()).filter(of_family);
        std::iter::once(on(Rank::ClusterIp, *ip)).chain(elsewhere).chain(node_port)
    })
}

/// The frontends a Service claims in all families of `program`.
pub(crate) fn all_claims<'a>(
    service: &'a Service,
    program: &Program,
) -> impl Iterator<Item = (IpFamily, Frontend, Rank)> + use<'a> {
    let pairs = program.families().flat_map(|family| service.ports.iter().map(move |port| (family, port)));
    pairs.flat_map(|(family, port)| claims(service, port, family).map(move |(rank, at)| (family, at, rank)))
}

/// Where a port of a Service leads, in one family.
#[derive(Debug)]
pub(crate) struct Ways {
    /// To the endpoints of the whole cluster that should serve this node.
    cluster: Way,
    /// To those of this node.
    local: Way,
}

impl Ways {
    /// The ways of a port.
    pub(crate) fn of<'a>(
        service: &Service,
        port: &Port,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        node: &NodeView,
        family: IpFamily,
    ) -> Self {
        let all = candidates(port, family, node, slices);
        let local: Vec<_> = all.iter().filter(|candidate| candidate.is_local).copied().collect();
        // A163: each of the two falls back to those that terminate on its own. A166: hints are not for the local ones.
        let (cluster, local) = (usable(&hinted(&all, node)), usable(&local));
        // A167: refused if nobody is there, dropped if only nobody is there for this traffic.
        let otherwise = if cluster.is_empty() && local.is_empty() { Action::Reject } else { Action::Drop };
        let way = |to: &[Endpoint]| Way::to(slots::fill(to), service.affinity, otherwise);
        Self { cluster: way(&cluster), local: way(&local) }
    }

    /// What becomes of a frontend that is claimed by the right of `rank`.
    pub(crate) fn part(&self, service: &Service, rank: Rank, at: Frontend) -> Part<'_> {
        let none = Part { cluster: None, local: None, sources: None };
        match (rank, service.internal_traffic, service.external_traffic) {
            (Rank::ClusterIp, Traffic::Cluster, _) => Part { cluster: Some(&self.cluster), ..none },
            (Rank::ClusterIp, Traffic::Local, _) => Part { cluster: Some(&self.local), ..none },
            // A165: the policy is for those who come from outside; pods and hosts of the node may go anywhere.
            (_, _, external) => Part {
                cluster: Some(&self.cluster),
                local: (external == Traffic::Local).then_some(&self.local),
                sources: guard(service, rank, at),
            },
        }
    }
}

/// Where a port of a pod on its node leads: the source stays as it is, as the pod is on this node.
pub(crate) fn host_port_way(port: &HostPort, pod: std::net::IpAddr) -> Way {
    let endpoint = Endpoint { ip: pod, port: port.container_port };
    Way::to(vec![endpoint], None, Action::Reject)
}

/// Who may use a frontend on the address of a load balancer; `None` for everybody.
///
/// Ranges of another family admit nobody here: a list that names one family closes the other. A node that carries the
/// address itself reaches it from that very address, and may.
fn guard(service: &Service, rank: Rank, at: Frontend) -> Option<Vec<IpNet>> {
    let Frontend::Address(ip, ..) = at else { return None };
    let ranges = service.source_ranges.as_ref().filter(|_| rank == Rank::Balancer)?;
    let family = IpFamily::from(ip);
    let ranges = ranges.iter().copied().filter(|range| IpFamily::from(*range) == family);
    let ranges = IpNet::aggregate(&ranges.chain([ip.into()]).collect());
    (ranges != [family.everything()]).then_some(ranges)
}

/// An endpoint of a port, and whether it takes part.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    endpoint: Endpoint,
    is_ready: bool,
    is_lingering: bool,
    is_local: bool,
    hints: Option<&'a Hints>,
}

/// The endpoints of a port, sorted, each once.
fn candidates<'a>(
    port: &Port,
    family: IpFamily,
    node: &NodeView,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for slice in slices {
        let matching = slice.ports.iter().filter(|of| of.name == port.name && of.protocol == port.protocol);
        for number in matching.map(|of| of.port) {
            let endpoints = slice.endpoints.iter().filter(|endpoint| IpFamily::from(endpoint.ip) == family);
            all.extend(endpoints.map(
                |SliceEndpoint { ip, ready, serving, terminating, node: at, hints }| Candidate {
                    endpoint: Endpoint { ip: *ip, port: number },
                    is_ready: *ready,
                    is_lingering: *serving && *terminating,
                    is_local: at.as_deref() == Some(&node.name),
                    hints: hints.as_deref(),
                },
            ));
        }
    }
    // An endpoint may be in two slices while it moves from one to the other: what either says counts.
    all.sort_by_key(|candidate| candidate.endpoint);
    all.dedup_by(|next, kept| {
        let is_same = next.endpoint == kept.endpoint;
        if is_same {
            kept.is_ready |= next.is_ready;
            kept.is_lingering |= next.is_lingering;
            kept.is_local |= next.is_local;
            kept.hints = kept.hints.or(next.hints);
        }
        is_same
    });
    all
}

/// Those that should serve clients of this node (A166): by node if every ready one says for whom it is and one of
/// them is for this node; else by zone, likewise; else all.
fn hinted<'a>(all: &[Candidate<'a>], node: &NodeView) -> Vec<Candidate<'a>> {
    let among = |names: fn(&Hints) -> &Vec<String>, wanted: Option<&String>| -> Option<Vec<Candidate<'a>>> {
        let wanted = wanted?;
        let named = |candidate: &Candidate<'a>| candidate.hints.map(names).filter(|names| !names.is_empty());
        let is_for = |candidate: &Candidate<'a>| named(candidate).is_some_and(|names| names.contains(wanted));
        let mut ready = all.iter().filter(|candidate| candidate.is_ready);
        let every = ready.clone().all(|candidate| named(candidate).is_some());
        (every && ready.any(is_for))
            .then(|| all.iter().filter(|candidate| is_for(candidate)).copied().collect())
    };
    among(|hints| &hints.nodes, Some(&node.name))
        .or_else(|| among(|hints| &hints.zones, node.zone.as_ref()))
        .unwrap_or_else(|| all.to_vec())
}

/// The ready ones; if there are none, those that terminate but still answer (KEP-1669, A163).
fn usable(all: &[Candidate<'_>]) -> Vec<Endpoint> {
    let those = |takes_part: fn(&Candidate<'_>) -> bool| -> Vec<Endpoint> {
        all.iter().filter(|candidate| takes_part(candidate)).map(|candidate| candidate.endpoint).collect()
    };
    let ready = those(|candidate| candidate.is_ready);
    if ready.is_empty() { those(|candidate| candidate.is_lingering) } else { ready }
}

/// How many endpoints of a Service this node has in `family` that take new connections: terminating ones do not
/// count, so that load balancers turn elsewhere (A169).
pub(crate) fn local_ready<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    node: &str,
    family: IpFamily,
) -> usize {
    let here = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        endpoint.ready && endpoint.node.as_deref() == Some(node) && IpFamily::from(endpoint.ip) == family
    });
    // One pod may be in several slices, with other ports.
    here.map(|endpoint| endpoint.ip).collect::<std::collections::BTreeSet<_>>().len()
}

impl Way {
    /// To what is in `slots`; if that is nothing, what is done instead.
    fn to(slots: Vec<Endpoint>, sticky: Option<NonZeroU32>, otherwise: Action) -> Self {
        let count = u16::try_from(slots.len()).expect("at most MAX_SLOTS");
        let action = if count > 0 { Action::Forward { slots: count, sticky } } else { otherwise };
        let mut members = if sticky.is_some() { slots.clone() } else { Vec::new() };
        members.sort_unstable();
        members.dedup();
        Self { action, slots, members }
    }
}
