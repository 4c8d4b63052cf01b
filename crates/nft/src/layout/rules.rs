//! The chains and rules that send, refuse and masquerade.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use dyad_net::IpFamily;
use dyad_program::{RangeSet, Scope, Slot};

use super::{
    Chain, ChainKind, Hook, Kind, MASQUERADE_MARK, Pick, REFUSE, Rule, SetId, address_length,
    address_registers, number,
};
use crate::expression::{Base, Change, Expression, Found, Meta, Register, Reject, Verdict};

pub(crate) const PREROUTING: Hook = Hook { kind: ChainKind::Nat, number: 0, priority: -100 };
pub(crate) const OUTPUT: Hook = Hook { kind: ChainKind::Nat, number: 3, priority: -100 };
pub(crate) const POSTROUTING: Hook = Hook { kind: ChainKind::Nat, number: 4, priority: 100 };

/// The chain that masquerades.
const NEW_SOURCE: &str = "new-source";
/// `RTN_LOCAL`.
pub(crate) const LOCAL_ADDRESS: u32 = 2;
const TCP: u8 = 6;

/// The first register.
pub(crate) const R0: Register = Register(0);

/// Writes the rules of one family.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) family: IpFamily,
}

impl Rules {
    /// The register behind an address at `at`.
    pub(crate) const fn behind_address(self, at: Register) -> Register {
        Register(at.0 + address_registers(self.family))
    }

    /// Where the protocol is in the network header.
    const fn protocol_offset(self) -> u32 {
        match self.family {
            IpFamily::V4 => 9,
            IpFamily::V6 => 6,
        }
    }

    fn address(self, offsets: (u32, u32), to: Register) -> Expression {
        let offset = match self.family {
            IpFamily::V4 => offsets.0,
            IpFamily::V6 => offsets.1,
        };
        let length = address_length(self.family) as u32;
        Expression::Payload { base: Base::Network, offset, length, to }
    }

    pub(crate) fn source(self, to: Register) -> Expression {
        self.address((12, 8), to)
    }

    pub(crate) fn destination(self, to: Register) -> Expression {
        self.address((16, 24), to)
    }

    /// Loads a frontend's key from the register `at` on; the register behind it.
    pub(super) fn key(self, kind: Kind, mut at: Register) -> (Vec<Expression>, Register) {
        let mut loads = Vec::new();
        if kind == Kind::Address {
            loads.push(self.destination(at));
            at = self.behind_address(at);
        }
        loads.push(Expression::Meta { key: Meta::L4Proto, to: at });
        at.0 += 1;
        loads.push(destination_port(at));
        at.0 += 1;
        (loads, at)
    }

    /// Goes where the map of frontends says.
    fn dispatch(self, scope: Scope, kind: Kind, comment: &str) -> Rule {
        let (action, behind) = (Register(1), Register(2));
        let (key, _) = self.key(kind, behind);
        let mut expressions = vec![Expression::Meta { key: Meta::Mark, to: action }];
        expressions.extend(key);
        // Protocol and action.
        expressions.push(look_up(SetId::Frontends(scope, kind), behind, Found::Value(R0)));
        if kind == Kind::NodePort {
            expressions.extend(self.to_the_node(behind));
        }
        expressions.push(Expression::Counter);
        expressions.push(look_up(SetId::Actions(scope, kind), action, Found::Verdict));
        rule(comment, expressions)
    }

    /// Matches what is for an address of the node with node ports, which loopback never has.
    fn to_the_node(self, at: Register) -> Vec<Expression> {
        let here = LOCAL_ADDRESS.to_ne_bytes().to_vec();
        let mut matches = vec![
            Expression::DestinationType { to: at },
            Expression::Compare { from: at, equal: true, value: here },
            self.destination(at),
            look_up(SetId::Range(RangeSet::NodePorts), at, Found::Match),
        ];
        let loopback = match self.family {
            IpFamily::V4 => {
                let (mask, xor) = (vec![0xff, 0, 0, 0], vec![0; 4]);
                matches.push(Expression::Bitwise { from: at, to: at, mask, xor });
                vec![127, 0, 0, 0]
            }
            IpFamily::V6 => std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
        };
        matches.push(Expression::Compare { from: at, equal: false, value: loopback });
        matches
    }

    /// Drops what comes to a guarded frontend and not from one of its sources.
    fn guard(self) -> Rule {
        let (mut expressions, source) = self.key(Kind::Address, R0);
        expressions.extend([
            look_up(SetId::Guarded, R0, Found::Match),
            self.source(source),
            look_up(SetId::Sources, R0, Found::NoMatch),
            Expression::Counter,
            Expression::Verdict(Verdict::Drop),
        ]);
        rule("only its source ranges may use a load balancer", expressions)
    }

    /// The chains that are always there.
    pub(crate) fn fixed(self) -> BTreeMap<String, Chain> {
        let prerouting = vec![
            self.guard(),
            rule(
                "pods of this node may go to endpoints anywhere",
                vec![
                    self.source(R0),
                    look_up(SetId::Range(RangeSet::OwnPods), R0, Found::Match),
                    goto("services"),
                ],
            ),
            self.dispatch(
                Scope::Local,
                Kind::Address,
                "what comes from outside stays on this node if its policy says so",
            ),
            self.dispatch(Scope::Local, Kind::NodePort, "the same for node ports"),
            rule("everything else", vec![goto("services")]),
        ];
        let output = vec![self.guard(), rule("processes of this node", vec![goto("services")])];
        let services = vec![
            self.dispatch(Scope::Cluster, Kind::Address, "cluster IPs, external IPs, load balancers"),
            rule(
                "no Service has this address",
                vec![
                    self.destination(R0),
                    look_up(SetId::Range(RangeSet::Services), R0, Found::Match),
                    Expression::Counter,
                    goto(REFUSE),
                ],
            ),
            self.dispatch(Scope::Cluster, Kind::NodePort, "node ports, on every address but loopback"),
        ];
        let nat = [
            ("prerouting", Some(PREROUTING), prerouting),
            ("output", Some(OUTPUT), output),
            ("postrouting", Some(POSTROUTING), self.postrouting()),
            ("services", None, services),
            (REFUSE, None, self.refuse()),
            (NEW_SOURCE, None, masquerade()),
        ];
        nat.into_iter()
            .chain(self.filter())
            .map(|(name, hook, rules)| (name.to_owned(), Chain { hook, rules }))
            .collect()
    }

    fn refuse(self) -> Vec<Rule> {
        let port_unreachable = match self.family {
            IpFamily::V4 => 3,
            IpFamily::V6 => 4,
        };
        vec![
            rule(
                "a reset is not rate-limited as ICMP errors are",
                vec![
                    Expression::Meta { key: Meta::L4Proto, to: R0 },
                    Expression::Compare { from: R0, equal: true, value: vec![TCP] },
                    Expression::Reject(Reject::Reset),
                ],
            ),
            rule("port unreachable", vec![Expression::Reject(Reject::Unreachable(port_unreachable))]),
        ]
    }

    fn postrouting(self) -> Vec<Rule> {
        let marked = MASQUERADE_MARK.to_ne_bytes().to_vec();
        vec![
            rule(
                "to a Service, so that the answer comes back here",
                vec![
                    Expression::Meta { key: Meta::Mark, to: R0 },
                    Expression::Bitwise { from: R0, to: R0, mask: marked.clone(), xor: vec![0; 4] },
                    Expression::Compare { from: R0, equal: true, value: marked },
                    goto(NEW_SOURCE),
                ],
            ),
            rule(
                "a pod that reaches itself through a Service",
                [self.hairpin(), vec![goto(NEW_SOURCE)]].concat(),
            ),
            rule(
                "pods leaving for where they are not known",
                vec![
                    self.source(R0),
                    look_up(SetId::Range(RangeSet::Masqueraded), R0, Found::Match),
                    self.destination(R0),
                    look_up(SetId::Range(RangeSet::Known), R0, Found::NoMatch),
                    goto(NEW_SOURCE),
                ],
            ),
        ]
    }

    /// Matches what an endpoint of this node sends to itself.
    pub(super) fn hairpin(self) -> Vec<Expression> {
        vec![
            self.source(R0),
            self.destination(self.behind_address(R0)),
            look_up(SetId::Hairpin, R0, Found::Match),
        ]
    }

    /// The chain that sends to one of so many slots.
    pub(crate) fn pick(self, pick: Pick) -> Chain {
        let mark = rule(
            "the answer to others than own pods has to come back here",
            vec![
                self.source(R0),
                look_up(SetId::Range(RangeSet::OwnPods), R0, Found::NoMatch),
                Expression::Meta { key: Meta::Mark, to: R0 },
                Expression::Bitwise {
                    from: R0,
                    to: R0,
                    mask: (!MASQUERADE_MARK).to_ne_bytes().to_vec(),
                    xor: MASQUERADE_MARK.to_ne_bytes().to_vec(),
                },
                Expression::SetMeta { key: Meta::Mark, from: R0 },
            ],
        );
        let mut rules = match pick.scope {
            Scope::Cluster => vec![mark],
            Scope::Local => Vec::new(),
        };
        if let Some(seconds) = pick.sticky {
            rules.extend(self.stick(pick, seconds));
        }
        rules.push(rule("to one of the endpoints", self.to_slot(pick, pick.slots)));
        if pick.slots > 1 {
            rules.push(rule("while the number of slots changes", self.to_slot(pick, 1)));
        }
        rules.push(rule("never on to the Service's own address", vec![Expression::Verdict(Verdict::Drop)]));
        Chain { hook: None, rules }
    }

    fn to_slot(self, pick: Pick, below: Slot) -> Vec<Expression> {
        let (mut expressions, slot) = self.key(pick.kind, R0);
        expressions.extend([
            Expression::Random { to: slot, modulus: below.into() },
            look_up(SetId::Endpoints(pick.scope, pick.kind), R0, Found::Value(R0)),
            Expression::Counter,
            self.dnat(R0),
        ]);
        expressions
    }

    fn dnat(self, to: Register) -> Expression {
        Expression::Dnat { family: number(self.family), address: to, port: self.behind_address(to) }
    }

    /// The rules that bring a client to the same endpoint again.
    ///
    /// What is remembered, protocol and endpoint, is in the first registers; source and frontend, the key it is found by,
    /// are behind that, and so is the frontend alone, which with the endpoint is the key of the members.
    fn stick(self, pick: Pick, seconds: NonZeroU32) -> [Rule; 3] {
        let endpoint = Register(1);
        let port = self.behind_address(endpoint);
        let behind = Register(port.0 + 1);
        let affinity = SetId::Affinity(pick.kind);
        let protocol = || Expression::Meta { key: Meta::L4Proto, to: R0 };
        let frontend = || self.key(pick.kind, behind).0;
        let client =
            || [vec![self.source(behind)], self.key(pick.kind, self.behind_address(behind)).0].concat();
        let remembered = || [client(), vec![look_up(affinity, behind, Found::Value(R0))]].concat();
        let member = |found| {
            // First what `nft` prints for the endpoint.
            let names = vec![self.destination(endpoint), destination_port(port)];
            let check = look_up(SetId::Members(pick.scope, pick.kind), endpoint, found);
            [names, remembered(), frontend(), vec![check]].concat()
        };
        let change = |change| {
            let set = affinity.name().into();
            [client(), vec![Expression::Change { set, key: behind, data: R0, change }]].concat()
        };
        let change_known = |of| [vec![protocol()], change(of)].concat();
        let send = || vec![Expression::Counter, self.dnat(endpoint)];
        // The protocol, and what is behind it in the header, for `nft` to print: the endpoint comes in its place.
        let (mut choose, slot) = self.key(pick.kind, behind);
        let (offset, length) = (self.protocol_offset(), u32::from(behind.0) * 4);
        choose.insert(0, Expression::Payload { base: Base::Network, offset, length, to: R0 });
        choose.extend([
            Expression::Random { to: slot, modulus: pick.slots.into() },
            look_up(SetId::Endpoints(pick.scope, pick.kind), behind, Found::Value(endpoint)),
        ]);
        [
            rule(
                "where the client went last",
                [member(Found::Match), change_known(Change::Remember(seconds)), send()].concat(),
            ),
            rule(
                "what is no endpoint any more is forgotten",
                [member(Found::NoMatch), change_known(Change::Forget)].concat(),
            ),
            // Read again: of two first connections at once, one comes too late to be remembered.
            rule(
                "to one of the endpoints, from now on",
                [choose, change(Change::Remember(seconds)), remembered(), send()].concat(),
            ),
        ]
    }
}

/// An address of this node instead of the source.
fn masquerade() -> Vec<Rule> {
    vec![
        rule(
            "the mark has done its work",
            vec![
                Expression::Meta { key: Meta::Mark, to: R0 },
                Expression::Bitwise {
                    from: R0,
                    to: R0,
                    mask: (!MASQUERADE_MARK).to_ne_bytes().to_vec(),
                    xor: vec![0; 4],
                },
                Expression::SetMeta { key: Meta::Mark, from: R0 },
            ],
        ),
        rule("an address of this node", vec![Expression::Counter, Expression::Masquerade]),
    ]
}

/// The destination port, at the same place in TCP, UDP and SCTP.
pub(crate) const fn destination_port(to: Register) -> Expression {
    Expression::Payload { base: Base::Transport, offset: 2, length: 2, to }
}

/// The source port, likewise.
pub(super) const fn source_port(to: Register) -> Expression {
    Expression::Payload { base: Base::Transport, offset: 0, length: 2, to }
}

pub(super) fn look_up(set: SetId, from: Register, found: Found) -> Expression {
    Expression::Lookup { set: set.name().into(), from, found }
}

fn goto(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.into()))
}

pub(crate) fn rule(comment: &str, expressions: Vec<Expression>) -> Rule {
    Rule { comment: comment.into(), direction: None, expressions }
}
