//! What becomes of a packet: the program carried out in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::IpFamily;

use crate::{Action, Endpoint, Frontend, Program, Protocol, RangeSet, Scope, Table};

/// How a packet comes to the node's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Through a link: from a pod, another node or from outside.
    Link,
    /// From a process in the node's own network namespace.
    Host,
}

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Where it comes from.
    pub origin: Origin,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// By a TCP reset.
    Reset,
    /// By ICMP: port unreachable.
    PortUnreachable,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to its destination; the flag says whether as one of this node's own.
    Pass {
        /// Whether the source is replaced by an address of this node.
        masqueraded: bool,
    },
    /// It goes to one of these, each with whether the source is replaced by an address of this node.
    Forward(BTreeMap<Endpoint, bool>),
    /// It is refused.
    Reject(Refusal),
    /// It is dropped silently.
    Drop,
}

/// What becomes of a packet on a node with the addresses `node_addresses`.
///
/// Families without a table, and mixed packets, pass.
pub fn simulate(program: &Program, node_addresses: &BTreeSet<IpAddr>, packet: &Packet) -> Verdict {
    let family = IpFamily::from(packet.destination);
    match program.get(family).filter(|_| family == IpFamily::from(packet.source)) {
        Some(table) => Node { table, addresses: node_addresses }.verdict(packet),
        None => Verdict::Pass { masqueraded: false },
    }
}

struct Node<'a> {
    table: &'a Table,
    addresses: &'a BTreeSet<IpAddr>,
}

impl Node<'_> {
    fn verdict(&self, packet: &Packet) -> Verdict {
        let from_own_pod = self.table.in_range(RangeSet::OwnPods, packet.source);
        let address = Frontend::Address(packet.destination, packet.protocol, packet.port);
        let node_port = Frontend::NodePort(packet.protocol, packet.port);
        let is_here = self.addresses.contains(&packet.destination) && !packet.destination.is_loopback();
        let node_port = is_here.then_some(node_port);

        if packet.origin == Origin::Link && !from_own_pod {
            for at in [Some(address), node_port].into_iter().flatten() {
                if let Some(action) = self.table.frontends.get(&(Scope::Local, at)) {
                    return self.act(*action, Scope::Local, at, packet, false);
                }
            }
        }
        if let Some(action) = self.table.frontends.get(&(Scope::Cluster, address)) {
            return self.act(*action, Scope::Cluster, address, packet, !from_own_pod);
        }
        if self.table.in_range(RangeSet::Services, packet.destination) {
            return refuse(packet.protocol);
        }
        if let Some(at) = node_port
            && let Some(action) = self.table.frontends.get(&(Scope::Cluster, at))
        {
            return self.act(*action, Scope::Cluster, at, packet, !from_own_pod);
        }
        let leaves = self.leaves(packet.origin, packet.destination);
        Verdict::Pass { masqueraded: leaves && self.masquerades(packet.source, packet.destination) }
    }

    fn act(&self, action: Action, scope: Scope, at: Frontend, packet: &Packet, marked: bool) -> Verdict {
        match action {
            Action::Reject => refuse(packet.protocol),
            Action::Drop => Verdict::Drop,
            Action::Forward { slots, .. } => {
                let endpoint = |slot| self.table.endpoints.get(&(scope, at, slot)).copied();
                let masqueraded = |to: &Endpoint| {
                    self.leaves(packet.origin, to.ip) && (marked || self.masquerades(packet.source, to.ip))
                };
                let to = (0..slots).filter_map(endpoint);
                Verdict::Forward(to.map(|endpoint| (endpoint, masqueraded(&endpoint))).collect())
            }
        }
    }

    /// Whether a packet goes through a link after all, which is where sources are replaced. What a process of this
    /// host sends to the host itself does: through loopback.
    fn leaves(&self, origin: Origin, destination: IpAddr) -> bool {
        match origin {
            Origin::Host => true,
            Origin::Link => !self.addresses.contains(&destination),
        }
    }

    /// What is decided on the way out, after the destination is known.
    fn masquerades(&self, source: IpAddr, destination: IpAddr) -> bool {
        (source == destination && self.table.hairpin.contains(&source))
            || (self.table.in_range(RangeSet::Masqueraded, source)
                && !self.table.in_range(RangeSet::Cluster, destination))
    }
}

fn refuse(protocol: Protocol) -> Verdict {
    Verdict::Reject(match protocol {
        Protocol::Tcp => Refusal::Reset,
        Protocol::Udp | Protocol::Sctp => Refusal::PortUnreachable,
    })
}
