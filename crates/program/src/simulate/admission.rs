//! What policy says about a leg of a packet's way.

use std::sync::Arc;

use super::{Endpoint, Node, Origin, Packet, Payload};
use crate::policy::{self, Flow, Ruling};
use crate::rule::Direction;

/// What policy says.
pub(super) struct Policy {
    pub(super) admitted: bool,
    /// What was decided, in words, with the object that says so.
    pub(super) words: Vec<(String, Option<Arc<str>>)>,
}

impl Node<'_> {
    /// What policy says, about addresses and ports as they are after translation and before the source is replaced
    /// (H9). Processes of this node are under no policy (H11); pods that reach it are, but only on their way out.
    pub(super) fn policy(&self, to: Option<Endpoint>) -> Policy {
        let Packet { origin, source, destination, payload, .. } = *self.packet;
        let (destination, payload) = match (to, payload) {
            (Some(to), Payload::Port(protocol, _)) => (to.ip, Payload::Port(protocol, to.port)),
            (_, payload) => (destination, payload),
        };
        let applies = |ruling: &Ruling| match origin {
            Origin::Host => false,
            Origin::Link => ruling.direction == Direction::Egress || !self.addresses.contains(&destination),
        };
        let flow = Flow { source, destination, payload, translated: to.is_some() };
        let mut policy = Policy { admitted: true, words: Vec::new() };
        for ruling in policy::decide(self.table, &flow).rulings.into_iter().filter(applies) {
            let whose = match ruling.direction {
                Direction::Egress => format!("egress of {source} to {destination}, {payload}"),
                Direction::Ingress => format!("ingress of {destination} from {source}, {payload}"),
            };
            let what = if ruling.admitted { "admitted" } else { "dropped" };
            policy.words.push((format!("{whose}: {what}"), ruling.because));
            policy.admitted &= ruling.admitted;
        }
        policy
    }
}
