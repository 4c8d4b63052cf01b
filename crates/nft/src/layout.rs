//! The shape of a table: sets, chains and rules. It never changes but for the [`Pick`] chains, one for each number of
//! slots in use, and the sizes of the sets, which grow by building the table anew.
//!
//! ```text
//! prerouting (dnat)   own pods ----------------------------------------------> services
//!                     @local-services, @local-node-ports (else) -------------> service-endpoints-N ...
//!                     everything else ---------------------------------------> services
//! output (dnat)       -------------------------------------------------------> services
//! services            @services -> pick chain | refuse | drop
//!                     in @service-ranges -> refuse
//!                     to an address of the node: @node-ports -> pick chain | refuse | drop
//! pick chain          from outside: set the mark; dnat to slot (random below N) of @...-endpoints
//! postrouting (snat)  marked, or hairpin, or a pod's way out of the cluster -> new-source
//! ```
//!
//! All rules are in NAT chains, which see only the first packet of a connection: what follows costs nothing, and
//! refusing a Service without endpoints leaves established connections alone.

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use dyad_program::{RangeSet, Scope, Slot};

use crate::expression::{Base, Expression, Found, Meta, Register, Reject, Verdict};

/// The bit of the packet mark that says "masquerade me". Free of those of kube-proxy (0x4000, 0x8000), Cilium
/// (0x0f00), Calico (0xffff0000) and Tailscale (0xff0000), so that they can run beside us while one replaces another.
pub(crate) const MASQUERADE_MARK: u32 = 0x2000;

/// `RTN_LOCAL`.
const LOCAL_ADDRESS: u32 = 2;
const TCP: u8 = 6;

/// Kinds of frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Address,
    NodePort,
}

/// A set or map of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SetId {
    Hairpin,
    Endpoints(Scope, Kind),
    Frontends(Scope, Kind),
    Range(RangeSet),
}

impl SetId {
    pub(crate) const ALL: [Self; 15] = [
        Self::Hairpin,
        Self::Endpoints(Scope::Cluster, Kind::Address),
        Self::Endpoints(Scope::Cluster, Kind::NodePort),
        Self::Endpoints(Scope::Local, Kind::Address),
        Self::Endpoints(Scope::Local, Kind::NodePort),
        Self::Frontends(Scope::Cluster, Kind::Address),
        Self::Frontends(Scope::Cluster, Kind::NodePort),
        Self::Frontends(Scope::Local, Kind::Address),
        Self::Frontends(Scope::Local, Kind::NodePort),
        Self::Range(RangeSet::OwnPods),
        Self::Range(RangeSet::Masqueraded),
        Self::Range(RangeSet::Cluster),
        Self::Range(RangeSet::Services),
        Self::Range(RangeSet::NodePorts),
        Self::Range(RangeSet::Closed),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hairpin => "hairpin",
            Self::Endpoints(Scope::Cluster, Kind::Address) => "service-endpoints",
            Self::Endpoints(Scope::Cluster, Kind::NodePort) => "node-port-endpoints",
            Self::Endpoints(Scope::Local, Kind::Address) => "local-service-endpoints",
            Self::Endpoints(Scope::Local, Kind::NodePort) => "local-node-port-endpoints",
            Self::Frontends(Scope::Cluster, Kind::Address) => "services",
            Self::Frontends(Scope::Cluster, Kind::NodePort) => "node-ports",
            Self::Frontends(Scope::Local, Kind::Address) => "local-services",
            Self::Frontends(Scope::Local, Kind::NodePort) => "local-node-ports",
            Self::Range(RangeSet::OwnPods) => "own-pods",
            Self::Range(RangeSet::Masqueraded) => "masqueraded",
            Self::Range(RangeSet::Cluster) => "cluster",
            Self::Range(RangeSet::Services) => "service-ranges",
            Self::Range(RangeSet::NodePorts) => "node-port-addresses",
            Self::Range(RangeSet::Closed) => "closed",
        }
    }

    /// Whether the set has a size: it is a hash table of fixed width then, several times faster to fill than one that
    /// grows.
    pub(crate) const fn is_sized(self) -> bool {
        match self {
            Self::Hairpin | Self::Endpoints(..) | Self::Frontends(..) => true,
            Self::Range(_) => false,
        }
    }
}

/// What the kernel and `nft list` know of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetShape {
    pub(crate) flags: u32,
    pub(crate) key_type: u32,
    pub(crate) key_length: u32,
    /// What a map leads to; `None` in a set.
    pub(crate) values: Option<Values>,
    pub(crate) size: Option<u32>,
}

/// What a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    Verdicts,
    Data { kind: u32, length: u32 },
}

/// `NFT_SET_INTERVAL` and `NFT_SET_MAP`.
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
/// `NFT_DATA_VERDICT`.
pub(crate) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

/// The types of `nft`, by which it prints elements.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
/// For slots: a plain number has no length in `nft`, a mark has four bytes as slots do.
const TYPE_MARK: u32 = 19;

/// What `nft` calls the type of several values in a row.
fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

/// Bytes in an address.
pub(crate) const fn address_length(family: IpFamily) -> usize {
    family.bits() as usize / 8
}

/// Registers an address takes.
const fn address_registers(family: IpFamily) -> u8 {
    family.bits() / 32
}

impl SetShape {
    fn new(id: SetId, family: IpFamily, size: Option<u32>) -> Self {
        let ip = match family {
            IpFamily::V4 => TYPE_IPV4,
            IpFamily::V6 => TYPE_IPV6,
        };
        let frontend: &[u32] = &[ip, TYPE_PROTOCOL, TYPE_PORT];
        let of_kind = |kind| if kind == Kind::Address { frontend } else { &frontend[1..] };
        let length = |types: &[u32]| {
            types.iter().map(|of| if *of == ip { address_length(family) as u32 } else { 4 }).sum()
        };
        let (flags, key, values) = match id {
            SetId::Hairpin => (0, vec![ip, ip], None),
            SetId::Frontends(_, kind) => (SET_MAP, of_kind(kind).to_vec(), Some(Values::Verdicts)),
            SetId::Endpoints(_, kind) => {
                let data = [ip, TYPE_PORT];
                let values = Values::Data { kind: concatenated(&data), length: length(&data) };
                (SET_MAP, [of_kind(kind), &[TYPE_MARK]].concat(), Some(values))
            }
            SetId::Range(_) => (SET_INTERVAL, vec![ip], None),
        };
        Self { flags, key_type: concatenated(&key), key_length: length(&key), values, size }
    }
}

/// Where the kernel calls a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `NF_INET_*`.
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

const PREROUTING: Hook = Hook { number: 0, priority: -100 };
const OUTPUT: Hook = Hook { number: 3, priority: -100 };
const POSTROUTING: Hook = Hook { number: 4, priority: 100 };

/// A rule: what it does, and why in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) comment: String,
    pub(crate) expressions: Vec<Expression>,
}

/// A chain; one with a hook is a NAT base chain that accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// A chain that sends connections to one of a number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pick {
    pub(crate) scope: Scope,
    pub(crate) kind: Kind,
    pub(crate) slots: Slot,
}

impl Pick {
    pub(crate) fn chain(self) -> String {
        format!("{}-{}", SetId::Endpoints(self.scope, self.kind).name(), self.slots)
    }

    /// The pick chain of a name.
    pub(crate) fn from_chain(name: &str) -> Option<Self> {
        let (set, slots) = name.rsplit_once('-')?;
        let slots = slots.parse().ok()?;
        let id = SetId::ALL.into_iter().find(|id| id.name() == set)?;
        let SetId::Endpoints(scope, kind) = id else { return None };
        let pick = Self { scope, kind, slots };
        // No leading zeros and signs.
        (slots > 0 && pick.chain() == name).then_some(pick)
    }
}

/// The chain that refuses. Names must not be words of the `nft` language.
pub(crate) const REFUSE: &str = "refuse";
/// The chain that masquerades.
const NEW_SOURCE: &str = "new-source";

/// Everything of a table but its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) sets: BTreeMap<String, SetShape>,
    pub(crate) chains: BTreeMap<String, Chain>,
}

impl Layout {
    /// The layout with these pick chains and set sizes.
    pub(crate) fn new(
        family: IpFamily,
        sizes: &BTreeMap<SetId, u32>,
        picks: impl IntoIterator<Item = Pick>,
    ) -> Self {
        let sets = SetId::ALL.into_iter();
        let sets = sets.map(|id| (id.name().into(), SetShape::new(id, family, sizes.get(&id).copied())));
        let rules = Rules { family };
        let mut chains = rules.fixed();
        chains.extend(picks.into_iter().map(|pick| (pick.chain(), rules.pick(pick))));
        Self { sets: sets.collect(), chains }
    }
}

/// The first register.
const R0: Register = Register(0);

/// Writes the rules of one family.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) family: IpFamily,
}

impl Rules {
    /// The register behind an address.
    const fn behind_address(self) -> Register {
        Register(address_registers(self.family))
    }

    fn address(self, offsets: (u32, u32), to: Register) -> Expression {
        let offset = match self.family {
            IpFamily::V4 => offsets.0,
            IpFamily::V6 => offsets.1,
        };
        let length = address_length(self.family) as u32;
        Expression::Payload { base: Base::Network, offset, length, to }
    }

    fn source(self, to: Register) -> Expression {
        self.address((12, 8), to)
    }

    fn destination(self, to: Register) -> Expression {
        self.address((16, 24), to)
    }

    /// Loads a frontend's key from the first register on; the register behind it.
    fn key(self, kind: Kind) -> (Vec<Expression>, Register) {
        let (mut loads, mut at) = match kind {
            Kind::Address => (vec![self.destination(R0)], self.behind_address()),
            Kind::NodePort => (Vec::new(), R0),
        };
        loads.push(Expression::Meta { key: Meta::L4Proto, to: at });
        at.0 += 1;
        // The destination port is at the same place in TCP, UDP and SCTP.
        loads.push(Expression::Payload { base: Base::Transport, offset: 2, length: 2, to: at });
        at.0 += 1;
        (loads, at)
    }

    fn look_up(self, set: SetId, found: Found) -> Expression {
        Expression::Lookup { set: set.name().into(), from: R0, found }
    }

    /// Goes where the map of frontends says.
    fn dispatch(self, scope: Scope, kind: Kind, comment: &str) -> Rule {
        let mut expressions = match kind {
            Kind::Address => Vec::new(),
            Kind::NodePort => self.to_the_node(),
        };
        expressions.extend(self.key(kind).0);
        expressions.push(self.look_up(SetId::Frontends(scope, kind), Found::Verdict));
        rule(comment, expressions)
    }

    /// Matches what is for an address of the node that is not loopback.
    fn to_the_node(self) -> Vec<Expression> {
        let here = LOCAL_ADDRESS.to_ne_bytes().to_vec();
        let mut matches = vec![
            Expression::DestinationType { to: R0 },
            Expression::Compare { from: R0, equal: true, value: here },
            self.destination(R0),
        ];
        let loopback = match self.family {
            IpFamily::V4 => {
                let (mask, xor) = (vec![0xff, 0, 0, 0], vec![0; 4]);
                matches.push(Expression::Bitwise { from: R0, to: R0, mask, xor });
                vec![127, 0, 0, 0]
            }
            IpFamily::V6 => std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
        };
        matches.push(Expression::Compare { from: R0, equal: false, value: loopback });
        matches
    }

    fn fixed(self) -> BTreeMap<String, Chain> {
        let goto = |chain: &str| Expression::Verdict(Verdict::Goto(chain.into()));
        let own_pods = SetId::Range(RangeSet::OwnPods);
        let prerouting = vec![
            rule(
                "pods of this node may go to endpoints anywhere",
                vec![self.source(R0), self.look_up(own_pods, Found::Match), goto("services")],
            ),
            self.dispatch(
                Scope::Local,
                Kind::Address,
                "what comes from outside stays on this node if its policy says so",
            ),
            self.dispatch(Scope::Local, Kind::NodePort, "the same for node ports"),
            rule("everything else", vec![goto("services")]),
        ];
        let output = vec![rule("processes of this node", vec![goto("services")])];
        let services = vec![
            self.dispatch(Scope::Cluster, Kind::Address, "cluster IPs, external IPs, load balancers"),
            rule(
                "no Service has this address",
                vec![
                    self.destination(R0),
                    self.look_up(SetId::Range(RangeSet::Services), Found::Match),
                    goto(REFUSE),
                ],
            ),
            self.dispatch(Scope::Cluster, Kind::NodePort, "node ports, on every address but loopback"),
        ];
        let port_unreachable = match self.family {
            IpFamily::V4 => 3,
            IpFamily::V6 => 4,
        };
        let reject = vec![
            rule(
                "a reset is not rate-limited as ICMP errors are",
                vec![
                    Expression::Meta { key: Meta::L4Proto, to: R0 },
                    Expression::Compare { from: R0, equal: true, value: vec![TCP] },
                    Expression::Reject(Reject::Reset),
                ],
            ),
            rule("port unreachable", vec![Expression::Reject(Reject::Unreachable(port_unreachable))]),
        ];
        let marked = MASQUERADE_MARK.to_ne_bytes().to_vec();
        let load_mark = Expression::Meta { key: Meta::Mark, to: R0 };
        let (mut inside_out, mut hairpin) = (vec![self.source(R0)], vec![self.source(R0)]);
        hairpin.extend([
            self.destination(self.behind_address()),
            self.look_up(SetId::Hairpin, Found::Match),
            goto(NEW_SOURCE),
        ]);
        inside_out.extend([
            self.look_up(SetId::Range(RangeSet::Masqueraded), Found::Match),
            self.destination(R0),
            self.look_up(SetId::Range(RangeSet::Cluster), Found::NoMatch),
            goto(NEW_SOURCE),
        ]);
        let postrouting = vec![
            rule(
                "to a Service, so that the answer comes back here",
                vec![
                    load_mark.clone(),
                    Expression::Bitwise { from: R0, to: R0, mask: marked.clone(), xor: vec![0; 4] },
                    Expression::Compare { from: R0, equal: true, value: marked.clone() },
                    goto(NEW_SOURCE),
                ],
            ),
            rule("a pod that reaches itself through a Service", hairpin),
            rule("pods leaving the cluster", inside_out),
        ];
        let masquerade = vec![
            rule(
                "the mark has done its work",
                vec![
                    load_mark,
                    Expression::Bitwise {
                        from: R0,
                        to: R0,
                        mask: (!MASQUERADE_MARK).to_ne_bytes().to_vec(),
                        xor: vec![0; 4],
                    },
                    Expression::SetMeta { key: Meta::Mark, from: R0 },
                ],
            ),
            rule("an address of this node", vec![Expression::Masquerade]),
        ];
        [
            ("prerouting", Some(PREROUTING), prerouting),
            ("output", Some(OUTPUT), output),
            ("postrouting", Some(POSTROUTING), postrouting),
            ("services", None, services),
            (REFUSE, None, reject),
            (NEW_SOURCE, None, masquerade),
        ]
        .into_iter()
        .map(|(name, hook, rules)| (name.to_owned(), Chain { hook, rules }))
        .collect()
    }

    /// The chain that sends to one of so many slots.
    pub(crate) fn pick(self, pick: Pick) -> Chain {
        let own_pods = SetId::Range(RangeSet::OwnPods);
        let mark = rule(
            "the answer to others than own pods has to come back here",
            vec![
                self.source(R0),
                self.look_up(own_pods, Found::NoMatch),
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
        let first =
            (pick.slots > 1).then(|| rule("while the number of slots changes", self.to_slot(pick, 1)));
        let mut rules = match pick.scope {
            Scope::Cluster => vec![mark],
            Scope::Local => Vec::new(),
        };
        rules.push(rule("to one of the endpoints", self.to_slot(pick, pick.slots)));
        rules.extend(first);
        rules.push(rule("never on to the Service's own address", vec![Expression::Verdict(Verdict::Drop)]));
        Chain { hook: None, rules }
    }

    fn to_slot(self, pick: Pick, below: Slot) -> Vec<Expression> {
        let (mut expressions, at) = self.key(pick.kind);
        expressions.extend([
            Expression::Random { to: at, modulus: below.into() },
            self.look_up(SetId::Endpoints(pick.scope, pick.kind), Found::Value(R0)),
            Expression::Dnat { family: number(self.family), address: R0, port: self.behind_address() },
        ]);
        expressions
    }
}

fn rule(comment: &str, expressions: Vec<Expression>) -> Rule {
    Rule { comment: comment.into(), expressions }
}

/// The kernel's number of a family, `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(crate) const fn number(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 2,
        IpFamily::V6 => 10,
    }
}

/// The family of a kernel number.
pub(crate) fn family(number_of: u8) -> Option<IpFamily> {
    IpFamily::BOTH.into_iter().find(|family| number(*family) == number_of)
}
