//! What policy says about a new connection, from a table alone: what the kernel's rules do, in memory.

use std::net::IpAddr;
use std::sync::Arc;

use crate::rule::{Decision, Direction, Member, Peers, Ports, Rule};
use crate::{Payload, RangeSet, Table};

/// A new connection as policy sees it (H9): Services have been translated, sources not yet masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries.
    pub payload: Payload,
    /// Whether the destination is another than the source had asked for: a Service or a host port led there.
    pub translated: bool,
}

/// What was decided in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Seen from the pod that is isolated.
    pub direction: Direction,
    /// Whether it is admitted.
    pub admitted: bool,
    /// Who says so; `None` if the pod is isolated, but no rule matched, which admits.
    pub because: Option<Arc<str>>,
}

/// What policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// What was decided, in order; nothing if nobody had anything to say. The last one is decisive.
    pub rulings: Vec<Ruling>,
}

impl Admission {
    /// Whether the connection is admitted.
    pub fn admitted(&self) -> bool {
        self.rulings.iter().all(|ruling| ruling.admitted)
    }
}

/// Says whether the node with `table` lets a new connection through.
///
/// That is for connections that come through a link; what processes of the node itself open is always admitted (H11).
pub fn decide(table: &Table, flow: &Flow) -> Admission {
    let mut admission = Admission::default();
    let to_itself = flow.source == flow.destination && table.hairpin.contains(&flow.source);
    if flow.payload == Payload::Control || to_itself {
        return admission;
    }
    let egress = ruling(table, flow, Direction::Egress);
    admission.rulings.extend(egress.map(|(ruling, _)| ruling));
    if !admission.admitted() {
        return admission;
    }
    let ingress = ruling(table, flow, Direction::Ingress);
    let is_decided = ingress.as_ref().is_some_and(|(_, is_decided)| *is_decided);
    admission.rulings.extend(ingress.map(|(ruling, _)| ruling));
    // Only a rule that accepts opens a closed pod, not one that has nothing against it.
    if !is_decided && is_closed(table, flow) {
        admission.rulings.push(Ruling {
            direction: Direction::Ingress,
            admitted: false,
            because: Some("the pod has a global address and is closed to the outside of the cluster".into()),
        });
    }
    admission
}

/// Whether a connection comes from outside straight to a pod whose address is known there.
fn is_closed(table: &Table, flow: &Flow) -> bool {
    table.in_range(RangeSet::Closed, flow.destination)
        && !table.in_range(RangeSet::Cluster, flow.source)
        && !flow.translated
}

/// What the chain of an isolated pod says, and whether one of its rules has decided.
fn ruling(table: &Table, flow: &Flow, direction: Direction) -> Option<(Ruling, bool)> {
    let subject = match direction {
        Direction::Ingress => flow.destination,
        Direction::Egress => flow.source,
    };
    let mut chain = table.isolated.get(&(direction, subject))?;
    let mut because = None;
    // A chain leads on at most once: see `Decision::Goto`.
    for _ in 0..2 {
        let rules = table.chains.get(chain).map(|chain| &**chain).unwrap_or_default();
        let Some(rule) = rules.iter().find(|rule| matches(table, rule, flow)) else { break };
        because = Some(rule.because.clone());
        match &rule.decision {
            Decision::Accept => return Some((Ruling { direction, admitted: true, because }, true)),
            Decision::Deny => return Some((Ruling { direction, admitted: false, because }, true)),
            Decision::Goto(next) => chain = next,
        }
    }
    Some((Ruling { direction, admitted: true, because }, false))
}

fn matches(table: &Table, rule: &Rule, flow: &Flow) -> bool {
    let peer = match rule.direction {
        Direction::Ingress => flow.source,
        Direction::Egress => flow.destination,
    };
    let is_peer = match rule.peers {
        Peers::Any => true,
        Peers::Set(id) => table.members.contains(&(id, Member::Peer(peer))),
        Peers::Blocks(id) => table.in_block(id, peer),
    };
    let is_port = || match (rule.ports, flow.payload) {
        (Ports::Any, _) => true,
        (Ports::Range(protocol, first, last), Payload::Port(of, port)) => {
            protocol == of && (first..=last).contains(&port)
        }
        (Ports::Named(id), Payload::Port(protocol, port)) => {
            table.members.contains(&(id, Member::NamedPort(flow.destination, protocol, port)))
        }
        (Ports::Range(..) | Ports::Named(_), Payload::Echo | Payload::Control) => false,
    };
    is_peer && is_port()
}
