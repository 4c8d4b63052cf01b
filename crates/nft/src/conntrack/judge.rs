//! What becomes of a running connection: a decision about values, without a kernel.

use std::collections::BTreeSet;

use dyad_net::IpFamily;
use dyad_program::{
    Endpoint, Frontend, Origin, Packet, Payload as PolicyPayload, Protocol, RangeSet, Scope, Table,
    Verdict as PacketVerdict, policy, simulate,
};

use super::{Expected, Flow, Payload};
use crate::layout::DENIED_MARK;

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// It is forgotten: its next packet is a first one.
    Delete,
    /// It is marked as denied, and so dropped.
    Deny,
    /// It is marked as admitted again.
    Admit,
}

/// Decides about connections of one family.
pub(super) struct Judge<'a> {
    pub(super) expected: &'a Expected<'a>,
    pub(super) table: &'a Table,
    /// Frontends of UDP that were there before and are not any more.
    pub(super) gone: &'a BTreeSet<(IpFamily, Frontend)>,
}

impl Judge<'_> {
    pub(super) fn judge(&self, flow: &Flow) -> Verdict {
        // Other zones are other people's; what is not confirmed has yet to pass the rules as they are now.
        if flow.zone != 0 || !flow.is_running() {
            Verdict::Keep
        } else if self.is_stale(flow) {
            Verdict::Delete
        } else {
            match (self.admits(flow), flow.mark & DENIED_MARK != 0) {
                (Some(false), false) => Verdict::Deny,
                (Some(true), true) => Verdict::Admit,
                _ => Verdict::Keep,
            }
        }
    }

    /// Whether a UDP flow goes where its next datagram would not go, were it the first.
    fn is_stale(&self, flow: &Flow) -> bool {
        if flow.original.protocol != Protocol::Udp.number() {
            return false;
        }
        let (Some(to), Some(from)) = (flow.original.destination_port(), flow.reply.source_port()) else {
            return false;
        };
        if self.is_answer(flow) {
            return true;
        }
        let family = IpFamily::from(to.ip());
        let at = Endpoint { ip: from.ip(), port: from.port() };
        let address = Frontend::Address(to.ip(), Protocol::Udp, to.port());
        // What is served on an address goes before what is served on all of the node's.
        let node_port = Frontend::NodePort(Protocol::Udp, to.port());
        let is_node = self.expected.node_addresses.contains(&to.ip());
        let candidates = [Some(address), is_node.then_some(node_port)];
        let mut frontends = candidates.into_iter().flatten().filter(|at| self.is_served(*at)).peekable();
        if frontends.peek().is_none() {
            let was_ours = || candidates.into_iter().flatten().any(|at| self.gone.contains(&(family, at)));
            return flow.is_translated() && (self.table.in_range(RangeSet::Services, to.ip()) || was_ours());
        }
        // Which of the endpoints new flows get is no concern of those that run: only whether theirs is still there.
        if frontends.any(|frontend| self.leads(frontend, at) || (self.expected.serves)(family, frontend, at))
        {
            return false;
        }
        flow.is_translated() || self.is_translated_now(flow, to.port())
    }

    /// Whether it began with an answer of a server on the address of a Service, which its client had asked untracked:
    /// an [`Interception`](crate::Interception) has ended meanwhile. What the client asks next would be the reply.
    fn is_answer(&self, flow: &Flow) -> bool {
        !flow.is_translated()
            && flow.original.source_port().is_some_and(|from| {
                self.table.in_range(RangeSet::Services, from.ip())
                    && self.is_served(Frontend::Address(from.ip(), Protocol::Udp, from.port()))
            })
    }

    fn is_served(&self, at: Frontend) -> bool {
        Scope::BOTH.into_iter().any(|scope| self.table.frontends.contains_key(&(scope, at)))
    }

    /// Whether a frontend leads to an endpoint, for whomever.
    fn leads(&self, at: Frontend, endpoint: Endpoint) -> bool {
        Scope::BOTH.into_iter().any(|scope| {
            self.table.sticky.contains(&(scope, at, endpoint))
                || self.table.slots(scope, at).any(|(_, to)| to == endpoint)
        })
    }

    /// Whether a flow that goes to what it asked for would now be led to an endpoint.
    fn is_translated_now(&self, flow: &Flow, port: u16) -> bool {
        let packet = Packet {
            origin: self.origin(flow),
            source: flow.original.source,
            destination: flow.original.destination,
            payload: PolicyPayload::Port(Protocol::Udp, port),
            last: None,
        };
        let verdict = simulate(self.expected.program, self.expected.node_addresses, &packet);
        matches!(verdict, PacketVerdict::Forward(_))
    }

    fn origin(&self, flow: &Flow) -> Origin {
        match self.expected.node_addresses.contains(&flow.original.source) {
            true => Origin::Host,
            false => Origin::Link,
        }
    }

    /// Whether policy admits a connection; `None` if that is not its matter.
    fn admits(&self, flow: &Flow) -> Option<bool> {
        // As policy sees it: behind the translation of the destination, before that of the source (H9).
        let (source, destination) = (flow.original.source, flow.reply.source);
        let is_own = |ip| self.table.in_range(RangeSet::OwnPods, ip);
        if self.origin(flow) == Origin::Host || !is_own(source) && !is_own(destination) {
            return None;
        }
        let payload = match (Protocol::from_number(flow.original.protocol), flow.reply.payload) {
            (Some(protocol), Payload::Ports { source, .. }) => PolicyPayload::Port(protocol, source),
            // For policies all else is as echo is: they admit it where they admit everything (H12).
            _ => PolicyPayload::Echo,
        };
        let translated = flow.is_translated();
        Some(
            policy::decide(self.table, &policy::Flow { source, destination, payload, translated }).admitted(),
        )
    }
}

#[cfg(test)]
mod tests;
