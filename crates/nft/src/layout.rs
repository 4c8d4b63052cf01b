//! The shape of a table: sets, chains and rules. It never changes but for the [`Pick`] chains, one for each number of
//! slots in use, the sets and chains of policies, and the sizes of the sets, which grow by building the table anew.
//!
//! ```text
//! prerouting (dnat)   in @guarded, not in @sources --------------------------> drop
//!                     own pods ----------------------------------------------> services
//!                     @local-services, @local-node-ports (else) -------------> local-service-endpoints-N ...
//!                     everything else ---------------------------------------> services
//! output (dnat)       in @guarded, not in @sources --------------------------> drop
//!                     -------------------------------------------------------> services
//! services            @services, then @service-actions -> pick chain | refuse | drop
//!                     in @service-ranges -> refuse
//!                     to an address of the node: @node-ports, then @node-port-actions, the same
//! pick chain          from outside: set the mark; dnat to slot (random below N) of @...-endpoints; sticky ones
//!                     first to what @affinity-... remembers, if that is still in @...-members
//! postrouting (snat)  marked, or hairpin, or a pod's way out of the cluster -> new-source
//!
//! forward (filter)    denied: drop; established, control messages, hairpin: accept
//!                     source in @isolated-egress: its policy chain, and back if that admits
//!                     destination in @isolated-ingress: its policy chain, and back if that decides nothing
//!                     from outside the cluster to @closed: drop
//! input (filter)      the same for pods of this node that talk to it, without ingress
//! ```
//!
//! What Services need is in NAT chains, which see only the first packet of a connection: what follows costs nothing,
//! and refusing a Service without endpoints leaves established connections alone.
//!
//! `nft` (1.0.6, Debian 12) does not survive a look-up whose key came out of a map: it takes values of maps for empty, and
//! ends at an assertion. But it looks only at the register where a value begins. So values that are part of a key later
//! begin with the protocol, which is not, and where the rest of them comes to lie something is loaded before, which `nft`
//! then prints in their place.
//!
//! Pick chains stay when nothing leads to them any more, until a table is next compared as a whole.
//!
//! Why frontends lead to an action in two steps, and not at once to a chain: whenever a verdict comes to a map, the
//! kernel walks over all verdicts of the whole table to see that nothing goes in circles. The maps of Services hold
//! plain data, the maps of verdicts are small.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

use dyad_net::IpFamily;
use dyad_program::rule::{Direction, Id, SetKind};
use dyad_program::{RangeSet, Scope, Slot, Table};

use crate::element::Data;
use crate::expression::{Expression, Verdict};

mod intercept;
mod policy;
pub(crate) mod rules;

pub(crate) use policy::{chain_name, policy_id};
pub(crate) use rules::Rules;

/// The bit of the packet mark that says "masquerade me". Free of those of kube-proxy (0x4000, 0x8000), Cilium
/// (0x0f00), Calico (0xffff0000) and Tailscale (0xff0000), so that they can run beside us while one replaces another.
pub(crate) const MASQUERADE_MARK: u32 = 0x2000;

/// The bit of the connection mark that says that policy no longer admits a running connection.
pub(crate) const DENIED_MARK: u32 = 0x1000;

/// So many clients are remembered for each family and kind of frontend. Those beyond go to any endpoint.
const AFFINITY_SIZE: u32 = 1 << 16;

/// Kinds of frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Address,
    NodePort,
}

impl Kind {
    /// Both.
    pub(crate) const BOTH: [Self; 2] = [Self::Address, Self::NodePort];
}

/// A set or map of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SetId {
    Hairpin,
    Endpoints(Scope, Kind),
    /// What becomes of a frontend's connections, as data: see [`Action`].
    Frontends(Scope, Kind),
    /// What the data of [`Frontends`](Self::Frontends) mean, as verdicts.
    Actions(Scope, Kind),
    /// The endpoints of sticky frontends.
    Members(Scope, Kind),
    /// Where clients of sticky frontends went last; filled by the kernel.
    Affinity(Kind),
    Guarded,
    Sources,
    Isolated(Direction),
    Range(RangeSet),
    Policy(SetKind, Id),
    /// Of the tables of an [`Interception`](crate::Interception).
    Intercepted,
    Served,
    Spared,
}

impl SetId {
    /// Those that are always there in a program's table.
    pub(crate) fn fixed() -> impl Iterator<Item = Self> {
        let pairs = Scope::BOTH.into_iter().flat_map(|scope| Kind::BOTH.map(|kind| (scope, kind)));
        let of_frontends = pairs.flat_map(|(scope, kind)| {
            [Self::Endpoints, Self::Frontends, Self::Actions, Self::Members].map(|of| of(scope, kind))
        });
        [Self::Hairpin, Self::Guarded, Self::Sources]
            .into_iter()
            .chain(of_frontends)
            .chain(Kind::BOTH.map(Self::Affinity))
            .chain(Direction::BOTH.map(Self::Isolated))
            .chain(RangeSet::ALL.map(Self::Range))
    }

    pub(crate) fn name(self) -> Cow<'static, str> {
        let of_frontend = |scope, kind| match (scope, kind) {
            (Scope::Cluster, Kind::Address) => "service",
            (Scope::Cluster, Kind::NodePort) => "node-port",
            (Scope::Local, Kind::Address) => "local-service",
            (Scope::Local, Kind::NodePort) => "local-node-port",
        };
        match self {
            Self::Hairpin => "hairpin".into(),
            Self::Endpoints(scope, kind) => format!("{}-endpoints", of_frontend(scope, kind)).into(),
            Self::Frontends(scope, kind) => format!("{}s", of_frontend(scope, kind)).into(),
            Self::Actions(scope, kind) => format!("{}-actions", of_frontend(scope, kind)).into(),
            Self::Members(scope, kind) => format!("{}-members", of_frontend(scope, kind)).into(),
            Self::Affinity(Kind::Address) => "affinity-addresses".into(),
            Self::Affinity(Kind::NodePort) => "affinity-node-ports".into(),
            Self::Guarded => "guarded".into(),
            Self::Sources => "sources".into(),
            Self::Isolated(Direction::Ingress) => "isolated-ingress".into(),
            Self::Isolated(Direction::Egress) => "isolated-egress".into(),
            Self::Range(RangeSet::OwnPods) => "own-pods".into(),
            Self::Range(RangeSet::Masqueraded) => "masqueraded".into(),
            Self::Range(RangeSet::Cluster) => "cluster".into(),
            Self::Range(RangeSet::Known) => "known".into(),
            Self::Range(RangeSet::Services) => "service-ranges".into(),
            Self::Range(RangeSet::NodePorts) => "node-port-addresses".into(),
            Self::Range(RangeSet::Closed) => "closed".into(),
            Self::Policy(SetKind::Peers, id) => format!("peers-{id}").into(),
            Self::Policy(SetKind::Blocks, id) => format!("blocks-{id}").into(),
            Self::Policy(SetKind::NamedPorts, id) => format!("named-{id}").into(),
            Self::Intercepted => "intercepted".into(),
            Self::Served => "served".into(),
            Self::Spared => "spared".into(),
        }
    }

    /// The set of a name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let of_policy = name.split_once('-').and_then(|(kind, id)| {
            let kind = match kind {
                "peers" => SetKind::Peers,
                "blocks" => SetKind::Blocks,
                "named" => SetKind::NamedPorts,
                _ => return None,
            };
            Id::parse(id).map(|id| Self::Policy(kind, id))
        });
        of_policy.or_else(|| Self::fixed().find(|id| id.name() == name))
    }

    /// Whether the set has a size that follows what is in it: it is a hash table of fixed width then, several times
    /// faster to fill than one that grows.
    pub(crate) const fn is_sized(self) -> bool {
        match self {
            Self::Hairpin
            | Self::Endpoints(..)
            | Self::Frontends(..)
            | Self::Members(..)
            | Self::Guarded
            | Self::Isolated(_)
            | Self::Policy(SetKind::Peers | SetKind::NamedPorts, _) => true,
            Self::Actions(..)
            | Self::Affinity(_)
            | Self::Sources
            | Self::Range(_)
            | Self::Policy(SetKind::Blocks, _)
            | Self::Intercepted
            | Self::Served
            | Self::Spared => false,
        }
    }

    /// Whether the elements are edges of ranges, which depend on one another.
    pub(crate) const fn is_of_ranges(self) -> bool {
        matches!(self, Self::Range(_) | Self::Policy(SetKind::Blocks, _))
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
    /// The lengths of the parts of a key, where ranges are kept for each of them.
    pub(crate) fields: Vec<u32>,
}

/// What a map leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    Verdicts,
    Data { kind: u32, length: u32 },
}

/// `NFT_SET_INTERVAL`, ...
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const SET_CONCAT: u32 = 0x80;
/// `NFT_DATA_VERDICT`.
pub(crate) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

/// The types of `nft`, by which it prints elements.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
/// For numbers: a plain one has no length in `nft`, a mark has four bytes.
pub(crate) const TYPE_MARK: u32 = 19;

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
    pub(crate) fn new(id: SetId, family: IpFamily, size: Option<u32>) -> Self {
        let ip = match family {
            IpFamily::V4 => TYPE_IPV4,
            IpFamily::V6 => TYPE_IPV6,
        };
        let of_kind = |kind| match kind {
            Kind::Address => vec![ip, TYPE_PROTOCOL, TYPE_PORT],
            Kind::NodePort => vec![TYPE_PROTOCOL, TYPE_PORT],
        };
        let bytes = |of: u32| match of {
            TYPE_PROTOCOL => 1,
            TYPE_PORT => 2,
            TYPE_MARK => 4,
            _ => address_length(family) as u32,
        };
        // Each part in registers of its own.
        let length = |types: &[u32]| types.iter().map(|of| bytes(*of).next_multiple_of(4)).sum();
        let data = |types: &[u32]| Some(Values::Data { kind: concatenated(types), length: length(types) });
        let endpoint = [ip, TYPE_PORT];
        let (flags, key, values) = match id {
            SetId::Hairpin => (0, vec![ip, ip], None),
            SetId::Frontends(_, kind) => (SET_MAP, of_kind(kind), data(&[TYPE_PROTOCOL, TYPE_MARK])),
            SetId::Actions(..) => (SET_MAP, vec![TYPE_MARK], Some(Values::Verdicts)),
            SetId::Endpoints(_, kind) => {
                (SET_MAP, [of_kind(kind), vec![TYPE_MARK]].concat(), data(&endpoint))
            }
            SetId::Members(_, kind) => (0, [endpoint.to_vec(), of_kind(kind)].concat(), None),
            SetId::Affinity(kind) => {
                let client = [vec![ip], of_kind(kind)].concat();
                (SET_MAP | SET_TIMEOUT | SET_EVAL, client, data(&[TYPE_PROTOCOL, ip, TYPE_PORT]))
            }
            SetId::Guarded => (0, of_kind(Kind::Address), None),
            SetId::Sources => (SET_INTERVAL | SET_CONCAT, [of_kind(Kind::Address), vec![ip]].concat(), None),
            SetId::Isolated(_) => (SET_MAP, vec![ip], Some(Values::Verdicts)),
            SetId::Range(_) | SetId::Policy(SetKind::Blocks, _) => (SET_INTERVAL, vec![ip], None),
            SetId::Policy(SetKind::Peers, _) | SetId::Intercepted | SetId::Served | SetId::Spared => {
                (0, vec![ip], None)
            }
            SetId::Policy(SetKind::NamedPorts, _) => (0, of_kind(Kind::Address), None),
        };
        let fields = match id {
            SetId::Sources => key.iter().map(|of| bytes(*of)).collect(),
            _ => Vec::new(),
        };
        let size = match id {
            SetId::Affinity(_) => Some(AFFINITY_SIZE),
            _ => size,
        };
        Self { flags, key_type: concatenated(&key), key_length: length(&key), values, size, fields }
    }
}

/// Where the kernel calls a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: ChainKind,
    /// `NF_INET_*`.
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    /// Sees the first packet of each connection only.
    Nat,
    /// Sees all packets.
    Filter,
}

impl ChainKind {
    pub(crate) const BOTH: [Self; 2] = [Self::Nat, Self::Filter];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// A rule: what it does, and why in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) comment: String,
    /// Which way the connections go that a rule of a policy is for: not all of those rules show it.
    pub(crate) direction: Option<Direction>,
    pub(crate) expressions: Vec<Expression>,
}

/// A chain; one with a hook is a base chain that accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// What becomes of a frontend's connections: a number of slots, and for how many seconds it is sticky.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Refuse,
    Drop,
    Pick(Slot, Option<NonZeroU32>),
}

/// How many bits of an action's number are for the slots, whose number is at most [`dyad_program::MAX_SLOTS`]. The rest
/// is enough for three days; the API has one for the most (A168).
const SLOT_BITS: u32 = 14;

impl Action {
    /// The number that stands for it in the kernel.
    pub(crate) fn number(self) -> u32 {
        let longest = u32::MAX >> SLOT_BITS;
        let (slots, seconds) = match self {
            Self::Refuse => (0, 0),
            Self::Drop => (0, 1),
            Self::Pick(slots, sticky) => (slots, sticky.map_or(0, NonZeroU32::get).min(longest)),
        };
        seconds << SLOT_BITS | u32::from(slots)
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let slots = u16::try_from(number & ((1 << SLOT_BITS) - 1)).ok()?;
        match (slots, number >> SLOT_BITS) {
            (0, 0) => Some(Self::Refuse),
            (0, 1) => Some(Self::Drop),
            (0, _) => None,
            (slots, seconds) => Some(Self::Pick(slots, NonZeroU32::new(seconds))),
        }
    }

    /// The same as bytes of a key or value.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.number().to_ne_bytes().to_vec()
    }
}

/// A chain that sends connections to one of a number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pick {
    pub(crate) scope: Scope,
    pub(crate) kind: Kind,
    pub(crate) slots: Slot,
    /// For how many seconds a client comes to the same endpoint again.
    pub(crate) sticky: Option<NonZeroU32>,
}

impl Pick {
    /// Those that are there whether anything leads to them or not.
    ///
    /// A new chain that looks something up in a map costs the kernel a walk over all of the map, so that the first
    /// Service with a number of endpoints would wait for all others. Other maps than this are small.
    pub(crate) fn standing() -> impl Iterator<Item = Self> {
        let of = |slots| Self { scope: Scope::Cluster, kind: Kind::Address, slots, sticky: None };
        (1..=16).map(of)
    }

    pub(crate) fn chain(self) -> String {
        let name = format!("{}-{}", SetId::Endpoints(self.scope, self.kind).name(), self.slots);
        match self.sticky {
            Some(seconds) => format!("{name}-sticky-{seconds}"),
            None => name,
        }
    }

    /// The pick chain of a name.
    pub(crate) fn from_chain(name: &str) -> Option<Self> {
        let (rest, sticky) = match name.split_once("-sticky-") {
            Some((rest, seconds)) => (rest, Some(seconds.parse().ok()?)),
            None => (name, None),
        };
        let (set, slots) = rest.rsplit_once('-')?;
        let slots = slots.parse().ok()?;
        let id = SetId::fixed().find(|id| id.name() == set)?;
        let SetId::Endpoints(scope, kind) = id else { return None };
        let pick = Self { scope, kind, slots, sticky };
        // No leading zeros and signs.
        (slots > 0 && pick.chain() == name).then_some(pick)
    }

    /// The element that leads to the chain: its set, key and data.
    pub(crate) fn action(self) -> (SetId, Vec<u8>, Data) {
        let set = SetId::Actions(self.scope, self.kind);
        let key = Action::Pick(self.slots, self.sticky).bytes();
        (set, key, Data::Verdict(Verdict::Goto(self.chain())))
    }
}

/// The elements of all [`SetId::Actions`], with these pick chains.
pub(crate) fn actions(picks: impl IntoIterator<Item = Pick>) -> BTreeMap<(SetId, Vec<u8>), Data> {
    let pairs = Scope::BOTH.into_iter().flat_map(|scope| Kind::BOTH.map(|kind| (scope, kind)));
    let fixed = pairs.flat_map(|(scope, kind)| {
        let set = SetId::Actions(scope, kind);
        [(Action::Refuse, Verdict::Goto(REFUSE.into())), (Action::Drop, Verdict::Drop)]
            .map(|(action, verdict)| ((set, action.bytes()), Data::Verdict(verdict)))
    });
    let of_picks = picks.into_iter().map(|pick| {
        let (set, key, data) = pick.action();
        ((set, key), data)
    });
    fixed.chain(of_picks).collect()
}

/// The chain that refuses. Names must not be words of the `nft` language.
pub(crate) const REFUSE: &str = "refuse";

/// Everything of a table but its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) sets: BTreeMap<String, SetShape>,
    pub(crate) chains: BTreeMap<String, Chain>,
}

impl Layout {
    /// The layout with these set sizes and pick chains, and with the policies of a table.
    pub(crate) fn new(
        family: IpFamily,
        sizes: &BTreeMap<SetId, u32>,
        picks: impl IntoIterator<Item = Pick>,
        table: &Table,
    ) -> Self {
        let of_policies = table.sets.iter().map(|(kind, id)| SetId::Policy(*kind, *id));
        let shape = |id: SetId| (id.name().into_owned(), SetShape::new(id, family, sizes.get(&id).copied()));
        let rules = Rules { family };
        let mut chains = rules.fixed();
        chains.extend(picks.into_iter().map(|pick| (pick.chain(), rules.pick(pick))));
        chains.extend(table.chains.iter().map(|(id, chain)| (chain_name(*id), rules.policy(chain))));
        Self { sets: SetId::fixed().chain(of_policies).map(shape).collect(), chains }
    }
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
