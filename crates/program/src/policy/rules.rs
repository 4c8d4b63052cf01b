//! The rules of one policy, and the sets they name.

use std::fmt::Write as _;
use std::sync::Arc;

use dyad_model::selector::LabelSelector;
use dyad_net::IpNet;

use super::{Action, ClusterNetworkPolicy, NetworkPolicy, Peer, Port, Tier, Traffic, blocks};
use crate::rule::{Decision, Direction, Id, Peers, Ports, Rule};
use crate::{Name, Protocol};

/// Longest reason of a rule, in bytes.
const LONGEST: usize = 120;

/// What is in a set, by what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Definition {
    /// Pods of a namespace.
    PodsOf(Arc<str>, LabelSelector),
    /// Pods of the namespaces that the first one selects.
    Pods(LabelSelector, LabelSelector),
    /// Nodes.
    Nodes(LabelSelector),
    /// What pods call so.
    NamedPort(Option<Protocol>, String),
    /// These ranges, the fewest.
    Blocks(Vec<IpNet>),
}

impl Definition {
    pub(super) fn id(&self) -> Id {
        // The derived text tells everything apart; a selector's own prints nothing and everything alike.
        Id::of(&format!("{self:?}"))
    }
}

/// What rules are for, and whose.
pub(super) struct Origin<'a> {
    pub(super) direction: Direction,
    /// The namespace that pod selectors without one mean.
    pub(super) namespace: Option<&'a Arc<str>>,
}

/// Rules, and the sets they name.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    pub(super) definitions: Vec<Definition>,
}

impl Rules {
    /// Adds what `traffic` means.
    fn add(&mut self, origin: &Origin<'_>, traffic: &Traffic, decision: Decision, because: &str) {
        let because: Arc<str> = shortened(because).into();
        let peers = match &traffic.peers {
            None => vec![Peers::Any],
            Some(peers) => self.peers(origin, peers),
        };
        let ports = match &traffic.ports {
            None => vec![Ports::Any],
            Some(ports) => ports.iter().map(|port| self.ports(port)).collect(),
        };
        for peers in peers {
            for ports in &ports {
                self.rules.push(Rule {
                    direction: origin.direction,
                    peers,
                    ports: *ports,
                    decision,
                    because: because.clone(),
                });
            }
        }
    }

    fn define(&mut self, definition: Definition) -> Id {
        let id = definition.id();
        if !self.definitions.contains(&definition) {
            self.definitions.push(definition);
        }
        id
    }

    /// A set for each selector, and one for all ranges together.
    fn peers(&mut self, origin: &Origin<'_>, peers: &[Peer]) -> Vec<Peers> {
        let (mut found, mut ranges) = (Vec::new(), Vec::new());
        for peer in peers {
            let definition = match peer {
                Peer::Pods { namespaces: Some(namespaces), pods } => {
                    Definition::Pods(namespaces.clone(), pods.clone())
                }
                Peer::Pods { namespaces: None, pods } => match origin.namespace {
                    Some(namespace) => Definition::PodsOf(namespace.clone(), pods.clone()),
                    None => Definition::Pods(LabelSelector::default(), pods.clone()),
                },
                Peer::Nodes(nodes) => Definition::Nodes(nodes.clone()),
                Peer::Block(range, holes) => {
                    ranges.extend(blocks::without(*range, holes));
                    continue;
                }
            };
            let set = Peers::Set(self.define(definition));
            if !found.contains(&set) {
                found.push(set);
            }
        }
        if !ranges.is_empty() {
            found.push(Peers::Blocks(self.define(Definition::Blocks(IpNet::aggregate(&ranges)))));
        }
        found
    }

    fn ports(&mut self, port: &Port) -> Ports {
        match port {
            Port::Range(protocol, first, last) => Ports::Range(*protocol, *first, *last),
            Port::Named(protocol, name) => {
                Ports::Named(self.define(Definition::NamedPort(*protocol, name.clone())))
            }
        }
    }

    /// What NetworkPolicies that select a pod say together (H8): what none of them allows is denied.
    pub(super) fn of_network_policies(direction: Direction, policies: &[(&Name, &NetworkPolicy)]) -> Self {
        let mut rules = Self::default();
        for (name, policy) in policies {
            let origin = Origin { direction, namespace: Some(&policy.namespace) };
            let traffic = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            for (index, traffic) in traffic.iter().flatten().enumerate() {
                let because = format!("NetworkPolicy {name}, {} rule {}", word(direction), index + 1);
                rules.add(&origin, traffic, Decision::Accept, &because);
            }
        }
        if let Some((first, _)) = policies.first() {
            let mut because = format!("NetworkPolicy {first}");
            if policies.len() > 1 {
                let _ = write!(because, " and {} more", policies.len() - 1);
            }
            let verb = if policies.len() > 1 { "isolate" } else { "isolates" };
            let _ = write!(because, " {verb} the pod for {}", word(direction));
            let origin = Origin { direction, namespace: None };
            rules.add(&origin, &Traffic::default(), Decision::Deny, &because);
        }
        rules
    }

    /// What a tier says about a pod; what passes goes to `next`, or to [`nowhere`] if there is nothing more.
    pub(super) fn of_tier(
        direction: Direction,
        policies: &[(&Name, &ClusterNetworkPolicy)],
        next: Option<Id>,
    ) -> Self {
        let mut rules = Self::default();
        let pass = Decision::Goto(next.unwrap_or_else(nowhere));
        let origin = Origin { direction, namespace: None };
        for (name, policy) in policies {
            let listed = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            for (index, rule) in listed.iter().enumerate() {
                let decision = match rule.action {
                    Action::Accept => Decision::Accept,
                    Action::Deny => Decision::Deny,
                    Action::Pass => pass,
                };
                let label = if rule.name.is_empty() { String::new() } else { format!(" ({})", rule.name) };
                let name = name.to_string();
                let name = name.trim_start_matches('/');
                let because =
                    format!("ClusterNetworkPolicy {name}, {} rule {}{label}", word(direction), index + 1);
                rules.add(&origin, &rule.traffic, decision, &because);
            }
        }
        if let (Some(next), false) = (next, rules.rules.is_empty()) {
            let because = "no ClusterNetworkPolicy of the Admin tier decides";
            rules.add(&origin, &Traffic::default(), Decision::Goto(next), because);
        }
        rules
    }
}

/// The chain without rules: where connections go that nobody decides about.
pub(super) fn nowhere() -> Id {
    Id::of("nowhere")
}

/// Sorted as a tier asks for it.
pub(super) fn in_order<'a>(
    policies: impl Iterator<Item = (&'a Name, &'a ClusterNetworkPolicy)>,
    tier: Tier,
) -> Vec<(&'a Name, &'a ClusterNetworkPolicy)> {
    let mut policies: Vec<_> = policies.filter(|(_, policy)| policy.tier == tier).collect();
    policies.sort_by_key(|(name, policy)| (policy.priority, *name));
    policies
}

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// At most [`LONGEST`] bytes: the middle goes, for both ends tell more.
fn shortened(text: &str) -> String {
    const GAP: &str = "...";
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let keep = (LONGEST - GAP.len()) / 2;
    let end = text.floor_char_boundary(keep);
    let start = text.ceil_char_boundary(text.len() - keep);
    format!("{}{GAP}{}", &text[..end], &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_lose_their_middle() {
        assert_eq!(shortened("short"), "short");
        let long = format!("NetworkPolicy {}, ingress rule 1", "ä".repeat(200));
        let short = shortened(&long);
        assert!(short.len() <= LONGEST && short.starts_with("NetworkPolicy ä") && short.ends_with("rule 1"));
    }
}
