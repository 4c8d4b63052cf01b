//! The chains that admit or drop: what is always there, and those of policies.
//!
//! Connections are judged by their first packet, with the destination that Services have put in, and before the source
//! is masqueraded. What belongs to a connection that was admitted passes after two comparisons.

use dyad_net::IpFamily;
use dyad_program::rule::{self, Decision, Direction, Id, Peers, Ports, SetKind};
use dyad_program::{Protocol, RangeSet};

use super::rules::{R0, destination_port, look_up, rule};
use super::{Chain, ChainKind, DENIED_MARK, Hook, Kind, Rule, Rules, SetId};
use crate::expression::{Base, Connection, Expression, Found, Meta, Verdict};

const INPUT: Hook = Hook { kind: ChainKind::Filter, number: 1, priority: 0 };
const FORWARD: Hook = Hook { kind: ChainKind::Filter, number: 2, priority: 0 };

/// The chain that accepts what networks can't do without.
const CONTROL: &str = "control-messages";
/// Established and related, as `NF_CT_STATE_BIT` has it.
const ADMITTED: u32 = 0b110;
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 0x20;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Longer comments do not fit beside the direction (`NFT_USERDATA_MAXLEN`).
const MAX_COMMENT: usize = 240;

/// The name of a policy's chain.
pub(crate) fn chain_name(id: Id) -> String {
    format!("policy-{id}")
}

/// The policy of a chain's name.
pub(crate) fn policy_id(name: &str) -> Option<Id> {
    Id::parse(name.strip_prefix("policy-")?)
}

impl Rules {
    /// The chains about policy that are always there.
    pub(super) fn filter(self) -> [(&'static str, Option<Hook>, Vec<Rule>); 3] {
        let accept = || Expression::Verdict(Verdict::Accept);
        let drop = || [Expression::Counter, Expression::Verdict(Verdict::Drop)];
        let none = vec![0; 4];
        let mask = |bits: u32| Expression::Bitwise {
            from: R0,
            to: R0,
            mask: bits.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        };
        let denied = rule(
            "a running connection that policy no longer admits",
            [
                &[
                    Expression::Connection { key: Connection::Mark, to: R0 },
                    mask(DENIED_MARK),
                    Expression::Compare { from: R0, equal: false, value: none.clone() },
                ][..],
                &drop(),
            ]
            .concat(),
        );
        let admitted = rule(
            "connections that were admitted, answers, and errors about them",
            vec![
                Expression::Connection { key: Connection::State, to: R0 },
                mask(ADMITTED),
                Expression::Compare { from: R0, equal: false, value: none.clone() },
                accept(),
            ],
        );
        let icmp = match self.family {
            IpFamily::V4 => ICMP,
            IpFamily::V6 => ICMPV6,
        };
        let control = rule(
            "what networks can't do without is no matter of policy",
            vec![
                Expression::Meta { key: Meta::L4Proto, to: R0 },
                Expression::Compare { from: R0, equal: true, value: vec![icmp] },
                Expression::Verdict(Verdict::Jump(CONTROL.into())),
            ],
        );
        let hairpin =
            rule("a pod that reaches itself through a Service", [self.hairpin(), vec![accept()]].concat());
        let isolated = |direction, address, comment: &str| {
            rule(comment, vec![address, look_up(SetId::Isolated(direction), R0, Found::Verdict)])
        };
        let egress =
            isolated(Direction::Egress, self.source(R0), "from pods of this node that policies select");
        let ingress = isolated(Direction::Ingress, self.destination(R0), "to pods of this node likewise");
        let closed = rule(
            "from outside the cluster only where something asks for it",
            [
                &[
                    self.destination(R0),
                    look_up(SetId::Range(RangeSet::Closed), R0, Found::Match),
                    self.source(R0),
                    look_up(SetId::Range(RangeSet::Cluster), R0, Found::NoMatch),
                    Expression::Connection { key: Connection::Status, to: R0 },
                    mask(TRANSLATED),
                    Expression::Compare { from: R0, equal: true, value: none },
                ][..],
                &drop(),
            ]
            .concat(),
        );
        let before = [denied, admitted, control];
        let input = [&before[..], std::slice::from_ref(&egress)].concat();
        let forward = [&before[..], &[hairpin, egress, ingress, closed]].concat();
        [
            ("forward", Some(FORWARD), forward),
            ("input", Some(INPUT), input),
            (CONTROL, None, self.control_messages()),
        ]
    }

    /// Errors, and in IPv6 also neighbours, routers and multicast groups (RFC 4890 §4.3, H12); not echo.
    fn control_messages(self) -> Vec<Rule> {
        let types: &[(u8, u8, &str)] = match self.family {
            IpFamily::V4 => {
                &[(3, 4, "unreachable, source quench"), (11, 12, "time exceeded, parameter problem")]
            }
            IpFamily::V6 => &[
                (1, 4, "unreachable, packet too big, time exceeded, parameter problem"),
                (130, 137, "multicast listeners, routers, neighbours, redirect"),
                (143, 143, "multicast listeners, version 2"),
            ],
        };
        let accept = |(first, last, comment): &(u8, u8, &str)| {
            rule(
                comment,
                vec![
                    Expression::Payload { base: Base::Transport, offset: 0, length: 1, to: R0 },
                    between(vec![*first], vec![*last]),
                    Expression::Verdict(Verdict::Accept),
                ],
            )
        };
        types.iter().map(accept).collect()
    }

    /// The chain of a policy.
    pub(crate) fn policy(self, chain: &[rule::Rule]) -> Chain {
        Chain { hook: None, rules: chain.iter().map(|rule| self.policy_rule(rule)).collect() }
    }

    fn policy_rule(self, rule: &rule::Rule) -> Rule {
        let mut expressions = match rule.ports {
            Ports::Any => Vec::new(),
            Ports::Range(protocol, first, last) => vec![
                Expression::Meta { key: Meta::L4Proto, to: R0 },
                Expression::Compare { from: R0, equal: true, value: vec![protocol.number()] },
                destination_port(R0),
                between(first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec()),
            ],
            Ports::Named(id) => {
                let (mut key, _) = self.key(Kind::Address, R0);
                key.push(look_up(SetId::Policy(SetKind::NamedPorts, id), R0, Found::Match));
                key
            }
        };
        let set = match rule.peers {
            Peers::Any => None,
            Peers::Set(id) => Some(SetId::Policy(SetKind::Peers, id)),
            Peers::Blocks(id) => Some(SetId::Policy(SetKind::Blocks, id)),
        };
        if let Some(set) = set {
            expressions.push(match rule.direction {
                Direction::Ingress => self.source(R0),
                Direction::Egress => self.destination(R0),
            });
            expressions.push(look_up(set, R0, Found::Match));
        }
        expressions.push(Expression::Counter);
        expressions.push(Expression::Verdict(match rule.decision {
            // Back to where the chain was jumped to: ingress has to be asked, too, and is the last to be.
            Decision::Accept if rule.direction == Direction::Egress => Verdict::Return,
            Decision::Accept => Verdict::Accept,
            Decision::Deny => Verdict::Drop,
            Decision::Goto(id) => Verdict::Goto(chain_name(id)),
        }));
        let mut comment = rule.because.to_string();
        comment.truncate(rule.because.floor_char_boundary(MAX_COMMENT));
        Rule { comment, direction: Some(rule.direction), expressions }
    }

    /// The rule of a policy; `None` if it is not exactly as we write them.
    fn read_policy_rule(self, rule: &Rule) -> Option<rule::Rule> {
        let (mut protocol, mut range, mut named) = (None, None, None);
        let (mut peers, mut decision) = (Peers::Any, None);
        let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
        for expression in &rule.expressions {
            match expression {
                Expression::Compare { value, .. } => match value[..] {
                    [number] => protocol = Some(Protocol::from_number(number)?),
                    _ => range = Some((port(value)?, port(value)?)),
                },
                Expression::Range { first, last, .. } => range = Some((port(first)?, port(last)?)),
                Expression::Lookup { set, .. } => match SetId::from_name(set)? {
                    SetId::Policy(SetKind::Peers, id) => peers = Peers::Set(id),
                    SetId::Policy(SetKind::Blocks, id) => peers = Peers::Blocks(id),
                    SetId::Policy(SetKind::NamedPorts, id) => named = Some(id),
                    _ => return None,
                },
                Expression::Verdict(Verdict::Return | Verdict::Accept) => decision = Some(Decision::Accept),
                Expression::Verdict(Verdict::Drop) => decision = Some(Decision::Deny),
                Expression::Verdict(Verdict::Goto(chain)) => {
                    decision = Some(Decision::Goto(policy_id(chain)?))
                }
                _ => {}
            }
        }
        let ports = match (protocol, range, named) {
            (None, None, None) => Ports::Any,
            (Some(protocol), Some((first, last)), None) => Ports::Range(protocol, first, last),
            (None, None, Some(id)) => Ports::Named(id),
            _ => return None,
        };
        let because = rule.comment.as_str().into();
        let found = rule::Rule { direction: rule.direction?, peers, ports, decision: decision?, because };
        (self.policy_rule(&found) == *rule).then_some(found)
    }

    /// The rules of a policy's chain; `None` if there is one that is not exactly as we write them.
    pub(crate) fn read_policy(self, chain: &Chain) -> Option<rule::Chain> {
        chain.rules.iter().map(|rule| self.read_policy_rule(rule)).collect()
    }
}

/// Matches the bytes in the first register that are not outside of these.
fn between(first: Vec<u8>, last: Vec<u8>) -> Expression {
    if first == last {
        Expression::Compare { from: R0, equal: true, value: first }
    } else {
        Expression::Range { from: R0, first, last }
    }
}
