//! A packet's way in words, step by step, with what decided each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dyad_net::IpFamily;

use super::{
    Action, Endpoint, Found, Frontend, Node, Onward, Origin, Packet, Path, Payload, Refusal, Scope, Source,
    Verdict,
};
use crate::{Owner, Program, RangeSet};

/// So many endpoints are named in a step; of more, their number is told.
const NAMED: usize = 4;

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What [`simulate`](super::simulate) says.
    pub verdict: Verdict,
    /// The steps that led there, in their order.
    pub steps: Vec<Step>,
}

/// Something that was decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it was about.
    pub stage: Stage,
    /// What was decided: a sentence without an end, as in `goes to one of 2 endpoints, at random: ...`.
    pub text: String,
    /// The object that decided it, if one did: `Service default/web`, `NetworkPolicy default/web, ingress rule 1`.
    pub because: Option<Arc<str>>,
}

/// What a step is about, in the order packets go through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Where the packet comes from.
    Arrival,
    /// Whether its source may use a load balancer's address.
    Guard,
    /// What its destination is.
    Frontend,
    /// Which endpoints it may go to.
    Endpoint,
    /// Whether policy lets it through.
    Policy,
    /// What becomes of its source address.
    Source,
}

impl Stage {
    /// The name of the stage, in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Guard => "guard",
            Self::Frontend => "frontend",
            Self::Endpoint => "endpoint",
            Self::Policy => "policy",
            Self::Source => "source",
        }
    }
}

/// What becomes of a packet on a node with the addresses `node_addresses`, and why. `owner` names the object a
/// frontend belongs to, as [`Compiler::owner`](crate::Compiler::owner) does:
/// `trace(compiler.program(), &addresses, &packet, &|family, at| compiler.owner(family, at))`.
pub fn trace(
    program: &Program,
    node_addresses: &BTreeSet<IpAddr>,
    packet: &Packet,
    owner: &dyn Fn(IpFamily, Frontend) -> Option<Owner>,
) -> Trace {
    let Some(node) = Node::of(program, node_addresses, packet) else {
        let text = "the cluster does not have this family: goes on to its destination as it is".to_owned();
        let verdict = super::simulate(program, node_addresses, packet);
        return Trace { verdict, steps: vec![Step { stage: Stage::Arrival, text, because: None }] };
    };
    let path = node.path();
    let mut words = Words { node: &node, owner, steps: Vec::new() };
    words.arrival();
    words.found(&path);
    words.legs(&path);
    Trace { verdict: path.verdict(packet.payload), steps: words.steps }
}

struct Words<'a> {
    node: &'a Node<'a>,
    owner: &'a dyn Fn(IpFamily, Frontend) -> Option<Owner>,
    steps: Vec<Step>,
}

impl Words<'_> {
    fn say(&mut self, stage: Stage, text: impl Into<String>, because: Option<Arc<str>>) {
        self.steps.push(Step { stage, text: text.into(), because });
    }

    fn owner(&self, at: Frontend) -> Option<Arc<str>> {
        let family = IpFamily::from(self.node.packet.destination);
        (self.owner)(family, at).map(|owner| owner.to_string().into())
    }

    fn arrival(&mut self) {
        let Packet { origin, source, .. } = *self.node.packet;
        let who = match origin {
            Origin::Host => "a process in this node's own network",
            Origin::Link if self.node.is_from_own_pod() => "a pod of this node",
            Origin::Link if self.node.table.in_range(RangeSet::Cluster, source) => {
                "another node of the cluster or a pod there"
            }
            Origin::Link => "outside of the cluster",
        };
        self.say(Stage::Arrival, format!("{source} is {who}"), None);
    }

    fn found(&mut self, path: &Path) {
        let Packet { source, destination, payload, .. } = *self.node.packet;
        match path.found {
            Found::Forbidden(at) => {
                let text = format!("dropped: {source} is in none of the source ranges of {at}");
                self.say(Stage::Guard, text, self.owner(at));
            }
            Found::NoService => {
                let how = Refusal::of(payload);
                let text = match payload {
                    Payload::Echo => format!("{how}: {destination} is for Services, which answer no echo"),
                    Payload::Port(..) | Payload::Control => {
                        format!(
                            "{how}: no Service has this port of {destination}, which is of the Service range"
                        )
                    }
                };
                self.say(Stage::Frontend, text, None);
            }
            Found::Elsewhere => {
                let text = format!("{destination} is no frontend of a Service: not translated");
                self.say(Stage::Frontend, text, None);
            }
            Found::Frontend { scope, at, action, remembered } => {
                self.guard_passed(at);
                self.frontend(scope, at, action);
                if let Action::Forward { sticky, .. } = action {
                    let to: Vec<_> = path.legs.iter().filter_map(|leg| leg.to).collect();
                    let text = match (sticky.filter(|_| remembered), to.as_slice()) {
                        (Some(seconds), _) => {
                            format!("goes to {}, where its source went less than {seconds} s ago", list(&to))
                        }
                        (None, [only]) => format!("goes to {only}"),
                        (None, _) => format!("goes to one of {}, at random", list(&to)),
                    };
                    self.say(Stage::Endpoint, text, self.owner(at));
                }
            }
        }
    }

    fn guard_passed(&mut self, at: Frontend) {
        if self.node.table.guarded.contains(&at) {
            let text = format!("{} is in the source ranges of {at}", self.node.packet.source);
            self.say(Stage::Guard, text, self.owner(at));
        }
    }

    fn frontend(&mut self, scope: Scope, at: Frontend, action: Action) {
        let whose = match scope {
            Scope::Cluster => "",
            Scope::Local => ", which sends what comes from elsewhere to endpoints of this node only",
        };
        let what = match action {
            Action::Forward { .. } => "found".to_owned(),
            Action::Reject => {
                format!("{}: it has no endpoints", Refusal::of(self.node.packet.payload))
            }
            Action::Drop => "dropped: it has endpoints, but none on this node".to_owned(),
        };
        self.say(Stage::Frontend, format!("{at}{whose}: {what}"), self.owner(at));
    }

    /// Endpoints that fare alike are told of together.
    fn legs(&mut self, path: &Path) {
        type Alike = (Onward, Source, Vec<(String, Option<Arc<str>>)>);
        let mut groups: BTreeMap<Alike, Vec<Endpoint>> = BTreeMap::new();
        for leg in &path.legs {
            let alike = (leg.onward(), leg.source, leg.policy.words.clone());
            groups.entry(alike).or_default().extend(leg.to);
        }
        let several = groups.len() > 1;
        for ((onward, source, decisions), ends) in groups {
            let on_the_way = if several { format!("on the way to {}: ", list(&ends)) } else { String::new() };
            for (text, because) in decisions {
                self.say(Stage::Policy, format!("{on_the_way}{text}"), because);
            }
            if onward.admitted {
                self.say(Stage::Source, format!("{on_the_way}{}", source.words()), None);
            }
        }
    }
}

impl Source {
    const fn words(self) -> &'static str {
        match self {
            Self::Kept => "keeps its source address",
            Self::Translated => {
                "takes an address of this node as its source, so that the answer comes back here"
            }
            Self::Hairpin => "takes an address of this node as its source, for the pod reaches itself",
            Self::Leaving => {
                "takes an address of this node as its source, for pod addresses mean nothing outside of the cluster"
            }
        }
    }
}

fn list(ends: &[Endpoint]) -> String {
    let named: Vec<_> = ends.iter().take(NAMED).map(ToString::to_string).collect();
    let named = named.join(", ");
    match ends.len() {
        1 => named,
        count @ ..=NAMED => format!("{count} endpoints ({named})"),
        count => format!("{count} endpoints ({named} and {} more)", count - NAMED),
    }
}
