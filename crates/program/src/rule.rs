//! Policy as plain data: which connections of the node's own pods are let through.
//!
//! A pod that some policy selects is *isolated* in a direction: its address leads to a [`Chain`] of [`Rule`]s. The
//! rules of a chain are tried in their order, and the first that matches decides. What no rule of a chain matches is
//! admitted; a chain that denies everything else ends with a rule that says so.
//!
//! ```text
//! to be admitted, a new connection needs both, where they are there:
//!     isolated[Egress, source]       -> chain -> Accept | Deny
//!     isolated[Ingress, destination] -> chain -> Accept | Deny
//! addresses and ports as they are after Services have been translated, and before the source is masqueraded (H9)
//! ```
//!
//! Pods with the same policies share a chain, and rules with the same peers share a set, so that a pod that comes or
//! goes is a change of a few elements.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::Protocol;

/// Tells chains and sets apart: made from what they stand for, so that it is the same after every restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// The identifier of what `text` describes in full.
    pub fn of(text: &str) -> Self {
        Self(crate::hash::of(text.as_bytes()))
    }

    /// The identifier that prints as `text`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| is_ours).map(Self)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which way a connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod; peers are sources.
    Ingress,
    /// From the pod; peers are destinations.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// What a set of a policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Addresses: of pods, or of nodes.
    Peers,
    /// Ranges, disjoint and the fewest that cover what they cover.
    Blocks,
    /// What a port name stands for: destination address, protocol and port.
    NamedPorts,
}

impl SetKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Peers, Self::Blocks, Self::NamedPorts];
}

/// The remote end a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peers {
    /// Everybody.
    Any,
    /// The addresses of a set of [`SetKind::Peers`].
    Set(Id),
    /// The addresses in the ranges of a set of [`SetKind::Blocks`].
    Blocks(Id),
}

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Everything: every protocol, with ports or without; echo too (H12).
    Any,
    /// Destination ports from the first to the last, both included.
    Range(Protocol, u16, u16),
    /// Destination addresses and ports that are in a set of [`SetKind::NamedPorts`].
    Named(Id),
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// Admits it, as far as this direction is concerned.
    Accept,
    /// Drops it.
    Deny,
    /// Leaves it to another chain, and never comes back. That chain has no rule of this kind.
    Goto(Id),
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Which way the connections go that the chain is for, which says at which end of them the peers are. All rules of
    /// a chain have the same.
    pub direction: Direction,
    /// The remote end.
    pub peers: Peers,
    /// Protocols and ports.
    pub ports: Ports,
    /// What becomes of what matches both.
    pub decision: Decision,
    /// The object and the part of it that say so, in words: `NetworkPolicy default/web, ingress rule 1`. At most 120
    /// bytes.
    pub because: Arc<str>,
}

/// Rules, tried in their order.
pub type Chain = Arc<[Rule]>;

/// An element of a policy's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// Of [`SetKind::Peers`].
    Peer(IpAddr),
    /// Of [`SetKind::Blocks`].
    Block(dyad_net::IpNet),
    /// Of [`SetKind::NamedPorts`].
    NamedPort(IpAddr, Protocol, u16),
}

impl Member {
    /// The kind of sets it can be in.
    pub const fn kind(&self) -> SetKind {
        match self {
            Self::Peer(_) => SetKind::Peers,
            Self::Block(_) => SetKind::Blocks,
            Self::NamedPort(..) => SetKind::NamedPorts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_print_and_parse() {
        let id = Id::of("pods of default with app=web");
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        for text in ["", "0", "+000000000000000", "00000000000000000", "000000000000000G", "ABCDEF0123456789"]
        {
            assert_eq!(Id::parse(text), None, "{text}");
        }
    }
}
