//! What becomes of a packet: the program carried out in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use dyad_net::IpFamily;

use crate::{Action, Endpoint, Frontend, Program, Protocol, RangeSet, Scope, Table};

mod admission;
mod trace;

use admission::Policy;
pub use trace::{Stage, Step, Trace, trace};

/// How a packet comes to the node's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Through a link: from a pod, another node or from outside.
    Link,
    /// From a process in the node's own network namespace.
    Host,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// A transport protocol, to a port.
    Port(Protocol, u16),
    /// An ICMP or ICMPv6 echo request: obeys policy, is never translated.
    Echo,
    /// What keeps IP going: ICMP errors, packet too big, neighbour discovery, router advertisements. Always passes.
    Control,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{} port {port}", protocol.as_str()),
            Self::Echo => f.write_str("ICMP echo"),
            Self::Control => f.write_str("ICMP control"),
        }
    }
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
    /// What it carries.
    pub payload: Payload,
    /// Where the source's last connection to this frontend went, if that is not longer ago than the frontend's
    /// affinity lasts.
    pub last: Option<Endpoint>,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// By a TCP reset.
    Reset,
    /// By ICMP: port unreachable.
    PortUnreachable,
}

impl Refusal {
    /// How what carries `payload` is refused.
    const fn of(payload: Payload) -> Self {
        match payload {
            Payload::Port(Protocol::Tcp, _) => Self::Reset,
            Payload::Port(Protocol::Udp | Protocol::Sctp, _) | Payload::Echo | Payload::Control => {
                Self::PortUnreachable
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "refused with a TCP reset",
            Self::PortUnreachable => "refused as port unreachable",
        })
    }
}

/// How a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Onward {
    /// Whether the source is replaced by an address of this node.
    pub masqueraded: bool,
    /// Whether policy lets it through; if not, it is dropped.
    pub admitted: bool,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to its destination.
    Pass(Onward),
    /// It goes to one of these.
    Forward(BTreeMap<Endpoint, Onward>),
    /// It is refused.
    Reject(Refusal),
    /// It is dropped silently.
    Drop,
}

/// What becomes of a packet on a node with the addresses `node_addresses`.
///
/// Families without a table, and mixed packets, pass.
pub fn simulate(program: &Program, node_addresses: &BTreeSet<IpAddr>, packet: &Packet) -> Verdict {
    match Node::of(program, node_addresses, packet) {
        Some(node) => node.path().verdict(packet.payload),
        None => Verdict::Pass(Onward { masqueraded: false, admitted: true }),
    }
}

/// A packet on a node.
struct Node<'a> {
    table: &'a Table,
    addresses: &'a BTreeSet<IpAddr>,
    packet: &'a Packet,
}

/// What is decided about a packet, with what decided it.
struct Path {
    found: Found,
    legs: Vec<Leg>,
}

/// What the destination is found to be.
enum Found {
    /// A frontend that the source may not use.
    Forbidden(Frontend),
    /// A frontend; and whether the endpoint is the one the source knows.
    Frontend { scope: Scope, at: Frontend, action: Action, remembered: bool },
    /// An address of the Service range where nobody listens.
    NoService,
    /// Nothing of ours: it stays as it is.
    Elsewhere,
}

/// A way the packet may take: one for each endpoint, or one to the destination as it is.
struct Leg {
    to: Option<Endpoint>,
    source: Source,
    policy: Policy,
}

impl Leg {
    const fn onward(&self) -> Onward {
        Onward { masqueraded: !matches!(self.source, Source::Kept), admitted: self.policy.admitted }
    }
}

/// What becomes of the source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// It stays.
    Kept,
    /// Replaced, for the answer has to come back here to be translated.
    Translated,
    /// Replaced, for a pod reaches itself.
    Hairpin,
    /// Replaced, for it means nothing outside of the cluster.
    Leaving,
}

impl<'a> Node<'a> {
    fn of(program: &'a Program, addresses: &'a BTreeSet<IpAddr>, packet: &'a Packet) -> Option<Self> {
        let family = IpFamily::from(packet.destination);
        let table = program.get(family).filter(|_| family == IpFamily::from(packet.source))?;
        Some(Self { table, addresses, packet })
    }

    fn path(&self) -> Path {
        let found = self.find();
        let legs = match found {
            Found::Frontend { scope, at, action: Action::Forward { .. }, remembered } => {
                // Found in scope `Cluster`, endpoints may be anywhere: the answer to others than own pods would not
                // come back here.
                let marked = scope == Scope::Cluster && !self.is_from_own_pod();
                let to: BTreeSet<Endpoint> = match self.packet.last.filter(|_| remembered) {
                    Some(last) => [last].into(),
                    None => self.table.slots(scope, at).map(|(_, to)| to).collect(),
                };
                to.into_iter().map(|to| self.leg(Some(to), marked)).collect()
            }
            Found::Elsewhere => vec![self.leg(None, false)],
            Found::Frontend { .. } | Found::Forbidden(_) | Found::NoService => Vec::new(),
        };
        Path { found, legs }
    }

    fn is_from_own_pod(&self) -> bool {
        self.table.in_range(RangeSet::OwnPods, self.packet.source)
    }

    fn find(&self) -> Found {
        let Packet { origin, source, destination, payload, .. } = *self.packet;
        let (protocol, port) = match payload {
            Payload::Port(protocol, port) => (protocol, port),
            Payload::Echo if self.table.in_range(RangeSet::Services, destination) => return Found::NoService,
            Payload::Echo | Payload::Control => return Found::Elsewhere,
        };
        let address = Frontend::Address(destination, protocol, port);
        if self.table.guarded.contains(&address) && !self.table.is_source(address, source) {
            return Found::Forbidden(address);
        }
        let node_port = self.serves_node_ports(destination).then_some(Frontend::NodePort(protocol, port));
        let is_outside = origin == Origin::Link && !self.is_from_own_pod();
        let stays = || {
            let all = [Some(address), node_port].into_iter().flatten().filter(|_| is_outside);
            all.into_iter().find_map(|at| self.frontend(Scope::Local, at))
        };
        let no_service = || self.table.in_range(RangeSet::Services, destination).then_some(Found::NoService);
        stays()
            .or_else(|| self.frontend(Scope::Cluster, address))
            .or_else(no_service)
            .or_else(|| self.frontend(Scope::Cluster, node_port?))
            .unwrap_or(Found::Elsewhere)
    }

    fn frontend(&self, scope: Scope, at: Frontend) -> Option<Found> {
        let action = *self.table.frontends.get(&(scope, at))?;
        let is_sticky = matches!(action, Action::Forward { sticky: Some(_), .. });
        let is_member = |last| self.table.sticky.contains(&(scope, at, last));
        let remembered = is_sticky && self.packet.last.is_some_and(is_member);
        Some(Found::Frontend { scope, at, action, remembered })
    }

    /// Node ports are on the addresses of the node that are in the ranges for them, and never on loopback.
    fn serves_node_ports(&self, destination: IpAddr) -> bool {
        self.addresses.contains(&destination)
            && !destination.is_loopback()
            && self.table.in_range(RangeSet::NodePorts, destination)
    }

    fn leg(&self, to: Option<Endpoint>, marked: bool) -> Leg {
        let destination = to.map_or(self.packet.destination, |endpoint| endpoint.ip);
        Leg { to, source: self.source(destination, marked), policy: self.policy(to) }
    }

    /// Sources are replaced where a packet goes through a link after all. What a process of this host sends to the
    /// host itself does: through loopback.
    fn source(&self, destination: IpAddr, marked: bool) -> Source {
        let source = self.packet.source;
        let stays_here = self.packet.origin == Origin::Link && self.addresses.contains(&destination);
        if stays_here || self.packet.payload == Payload::Control {
            Source::Kept
        } else if marked {
            Source::Translated
        } else if source == destination && self.table.hairpin.contains(&source) {
            Source::Hairpin
        } else if self.table.in_range(RangeSet::Masqueraded, source)
            && !self.table.in_range(RangeSet::Known, destination)
        {
            Source::Leaving
        } else {
            Source::Kept
        }
    }
}

impl Path {
    fn verdict(&self, payload: Payload) -> Verdict {
        match self.found {
            Found::Forbidden(_) | Found::Frontend { action: Action::Drop, .. } => Verdict::Drop,
            Found::NoService | Found::Frontend { action: Action::Reject, .. } => {
                Verdict::Reject(Refusal::of(payload))
            }
            Found::Frontend { action: Action::Forward { .. }, .. } => {
                Verdict::Forward(self.legs.iter().filter_map(|leg| Some((leg.to?, leg.onward()))).collect())
            }
            Found::Elsewhere => self.legs.first().map_or(Verdict::Drop, |leg| Verdict::Pass(leg.onward())),
        }
    }
}

#[cfg(test)]
mod tests;
