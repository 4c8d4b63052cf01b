//! The program: what a node's kernel should hold, as plain data of a fixed shape.
//!
//! One [`Table`] per family. The shape, which every executor builds once and then only fills:
//!
//! ```text
//! a new connection
//!     guarded, and not from one of its sources ------------------------------------> drop
//!     from outside --(not from own pods)--> frontends[Local]  --miss--> frontends[Cluster] --miss--> pass
//!     from own pods, from this host --------------------------------->  frontends[Cluster]
//!
//! frontends: (scope, address.protocol.port or node port) -> Forward | Reject | Drop
//! endpoints: (scope, the same, slot 0..n)                -> address.port   slot chosen at random, or where the
//!                                                           client went last if that is still in `members`
//! then, for own pods: isolated -> chains (see `rule`); and what is Closed opens to nobody outside
//! ```
//!
//! A frontend found in scope `Cluster` masks what does not come from own pods, so that the answer passes this node;
//! one found in scope `Local` keeps the source as it is, for its endpoints are on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;

use dyad_net::{DualStack, IpFamily, IpNet};

use crate::Protocol;
use crate::rule::{Chain, Direction, Id, Member, SetKind};

/// Where something listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// On an address: a cluster IP, an external IP or that of a load balancer.
    Address(IpAddr, Protocol, u16),
    /// On the addresses of the node that are in [`RangeSet::NodePorts`], but never on loopback.
    NodePort(Protocol, u16),
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, protocol, port) => {
                write!(f, "{}/{}", SocketAddr::new(*ip, *port), protocol.as_str())
            }
            Self::NodePort(protocol, port) => write!(f, "node port {port}/{}", protocol.as_str()),
        }
    }
}

/// Whom an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everybody, unless there is an entry of scope [`Local`](Self::Local) for them.
    Cluster,
    /// Those who come from outside to a frontend that keeps traffic on the node: neither own pods nor this host.
    Local,
}

impl Scope {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Cluster, Self::Local];
}

/// What is done with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Sent to the endpoint in one of `slots` slots, chosen at random; at least one.
    Forward {
        /// How many there are.
        slots: Slot,
        /// For so many seconds after its last connection a client comes to the same endpoint again, as long as that
        /// is a member of the frontend (A168).
        sticky: Option<NonZeroU32>,
    },
    /// Refused: there is no endpoint.
    Reject,
    /// Dropped: there are endpoints, but none this traffic may go to.
    Drop,
}

impl Action {
    /// To one of `slots` slots, whoever comes.
    pub const fn forward(slots: Slot) -> Self {
        Self::Forward { slots, sticky: None }
    }
}

/// The number of a slot, from 0.
pub type Slot = u16;

/// Where connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
}

impl Endpoint {
    /// Comes before all there are.
    const FIRST: Self = Self { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

/// What a set of ranges is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RangeSet {
    /// The pods of this node.
    OwnPods,
    /// Those of them whose addresses mean nothing outside the cluster.
    Masqueraded,
    /// The inside of the cluster: pods and nodes.
    Cluster,
    /// Where pods are known by their own addresses: the cluster, as far as its ways know them, and what else is said to.
    Known,
    /// The cluster IPs.
    Services,
    /// Where node ports are served: addresses of the node outside of these have none.
    NodePorts,
    /// Pods of this node that nobody outside the cluster may open connections to, unless a Service, a host port or a
    /// policy says so.
    Closed,
}

impl RangeSet {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OwnPods,
        Self::Masqueraded,
        Self::Cluster,
        Self::Known,
        Self::Services,
        Self::NodePorts,
        Self::Closed,
    ];
}

/// One element of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// A range. Those of one set are the fewest prefixes that cover what they cover.
    Range(RangeSet, IpNet),
    /// An endpoint on this node: when it reaches itself through a Service, the source must be masqueraded.
    Hairpin(IpAddr),
    /// A set that rules name; it may be empty.
    Set(SetKind, Id),
    /// What is in such a set.
    Member(Id, Member),
    /// The rules of a policy chain.
    Chain(Id, Chain),
    /// A pod of this node that policies select, and the chain that decides about it.
    Isolated(Direction, IpAddr, Id),
    /// One of the endpoints of a sticky frontend.
    Sticky(Scope, Frontend, Endpoint),
    /// The endpoint in a slot of a frontend.
    Endpoint(Scope, Frontend, Slot, Endpoint),
    /// A range that may use a guarded frontend; those of one frontend are disjoint.
    Source(Frontend, IpNet),
    /// A frontend on an address that only its sources may use.
    Guarded(Frontend),
    /// What becomes of connections to a frontend.
    Frontend(Scope, Frontend, Action),
}

/// What the kernel should hold for one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The ranges.
    pub ranges: BTreeSet<(RangeSet, IpNet)>,
    /// Endpoints on this node.
    pub hairpin: BTreeSet<IpAddr>,
    /// The sets of policies.
    pub sets: BTreeSet<(SetKind, Id)>,
    /// What is in them.
    pub members: BTreeSet<(Id, Member)>,
    /// The chains of policies.
    pub chains: BTreeMap<Id, Chain>,
    /// Pods that are isolated, with the chain that decides.
    pub isolated: BTreeMap<(Direction, IpAddr), Id>,
    /// The endpoints of sticky frontends.
    pub sticky: BTreeSet<(Scope, Frontend, Endpoint)>,
    /// The endpoints behind the frontends.
    pub endpoints: BTreeMap<(Scope, Frontend, Slot), Endpoint>,
    /// Who may use guarded frontends.
    pub sources: BTreeSet<(Frontend, IpNet)>,
    /// Frontends that only their sources may use.
    pub guarded: BTreeSet<Frontend>,
    /// What becomes of connections, by frontend.
    pub frontends: BTreeMap<(Scope, Frontend), Action>,
}

impl Table {
    /// All elements; those that others lead to come first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let none = Self::default();
        let mut all = Vec::new();
        differences(&none, self, &mut |_, entry| all.push(entry));
        all.into_iter()
    }

    /// Adds an element, in place of one with the same key.
    pub fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Range(set, range) => drop(self.ranges.insert((set, range))),
            Entry::Hairpin(ip) => drop(self.hairpin.insert(ip)),
            Entry::Set(kind, id) => drop(self.sets.insert((kind, id))),
            Entry::Member(id, member) => drop(self.members.insert((id, member))),
            Entry::Chain(id, chain) => drop(self.chains.insert(id, chain)),
            Entry::Isolated(direction, ip, id) => drop(self.isolated.insert((direction, ip), id)),
            Entry::Sticky(scope, at, endpoint) => drop(self.sticky.insert((scope, at, endpoint))),
            Entry::Endpoint(scope, at, slot, endpoint) => {
                self.endpoints.insert((scope, at, slot), endpoint);
            }
            Entry::Source(at, range) => drop(self.sources.insert((at, range))),
            Entry::Guarded(at) => drop(self.guarded.insert(at)),
            Entry::Frontend(scope, at, action) => drop(self.frontends.insert((scope, at), action)),
        }
    }

    /// Takes an element out.
    pub fn remove(&mut self, entry: &Entry) {
        match entry {
            Entry::Range(set, range) => drop(self.ranges.remove(&(*set, *range))),
            Entry::Hairpin(ip) => drop(self.hairpin.remove(ip)),
            Entry::Set(kind, id) => drop(self.sets.remove(&(*kind, *id))),
            Entry::Member(id, member) => drop(self.members.remove(&(*id, *member))),
            Entry::Chain(id, _) => drop(self.chains.remove(id)),
            Entry::Isolated(direction, ip, _) => drop(self.isolated.remove(&(*direction, *ip))),
            Entry::Sticky(scope, at, endpoint) => drop(self.sticky.remove(&(*scope, *at, *endpoint))),
            Entry::Endpoint(scope, at, slot, _) => drop(self.endpoints.remove(&(*scope, *at, *slot))),
            Entry::Source(at, range) => drop(self.sources.remove(&(*at, *range))),
            Entry::Guarded(at) => drop(self.guarded.remove(at)),
            Entry::Frontend(scope, at, _) => drop(self.frontends.remove(&(*scope, *at))),
        }
    }

    /// The endpoints in the slots of a frontend, in the slots' order.
    pub fn slots(&self, scope: Scope, at: Frontend) -> impl Iterator<Item = (Slot, Endpoint)> {
        self.endpoints.range((scope, at, Slot::MIN)..=(scope, at, Slot::MAX)).map(|(key, to)| (key.2, *to))
    }

    /// The endpoints of a sticky frontend.
    pub fn members(&self, scope: Scope, at: Frontend) -> impl Iterator<Item = Endpoint> {
        let all = self.sticky.range((scope, at, Endpoint::FIRST)..);
        all.take_while(move |(of, frontend, _)| (*of, *frontend) == (scope, at)).map(|(_, _, to)| *to)
    }

    /// The ranges that may use a guarded frontend.
    pub fn sources_of(&self, at: Frontend) -> impl Iterator<Item = IpNet> {
        let all = self.sources.range((at, IpFamily::V4.everything())..);
        all.take_while(move |(frontend, _)| *frontend == at).map(|(_, range)| *range)
    }

    /// Whether one of the ranges that may use a guarded frontend holds `ip`.
    pub fn is_source(&self, at: Frontend, ip: IpAddr) -> bool {
        let last = self.sources.range(..=(at, ip.into())).next_back();
        last.is_some_and(|(of, range)| *of == at && range.contains(&ip))
    }

    /// Whether one of the ranges in a set of [`SetKind::Blocks`] holds `ip`.
    pub fn in_block(&self, id: Id, ip: IpAddr) -> bool {
        let last = self.members.range(..=(id, Member::Block(ip.into()))).next_back();
        last.is_some_and(
            |(of, member)| matches!(member, Member::Block(block) if *of == id && block.contains(&ip)),
        )
    }

    /// Whether one of the ranges of `set` holds `ip`.
    pub fn in_range(&self, set: RangeSet, ip: IpAddr) -> bool {
        // Ranges of a set are disjoint: only the last that starts before an address can hold it.
        let last = self.ranges.range(..=(set, ip.into())).next_back();
        last.is_some_and(|(of, range)| *of == set && range.contains(&ip))
    }
}

/// What a node's kernel should hold: a table for each family of the cluster.
pub type Program = DualStack<Table>;

/// A change of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// An element is added; none with its key is there.
    Add(IpFamily, Entry),
    /// An element, given as it is there, is removed.
    Remove(IpFamily, Entry),
}

/// Whether an element comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

/// The changes that lead from one table to another, both of `family`.
///
/// Their order keeps connections going even where an executor has to carry them out in several steps: an element that
/// changes is removed and added at once; what others lead to is there before them, and goes after them.
pub fn diff(family: IpFamily, old: &Table, new: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    differences(old, new, &mut |change, entry| {
        ops.push(match change {
            Change::Add => Op::Add(family, entry),
            Change::Remove => Op::Remove(family, entry),
        });
    });
    ops
}

/// Tells of every difference, as [`diff`] orders them.
fn differences(old: &Table, new: &Table, tell: &mut impl FnMut(Change, Entry)) {
    // Ranges are replaced as a whole set, for those of one set must not overlap at any time.
    gone_from_set(&old.ranges, &new.ranges, tell, |&(set, range)| Entry::Range(set, range));
    come_to_set(&old.ranges, &new.ranges, tell, |&(set, range)| Entry::Range(set, range));
    come_to_set(&old.hairpin, &new.hairpin, tell, |ip| Entry::Hairpin(*ip));

    come_to_set(&old.sets, &new.sets, tell, |&(kind, id)| Entry::Set(kind, id));
    gone_from_set(&old.members, &new.members, tell, |&(id, member)| Entry::Member(id, member));
    come_to_set(&old.members, &new.members, tell, |&(id, member)| Entry::Member(id, member));
    let chain = |id: &Id, chain: &Chain| Entry::Chain(*id, chain.clone());
    come_to_map(&old.chains, &new.chains, tell, chain);
    let isolated = |key: &(Direction, IpAddr), id: &Id| Entry::Isolated(key.0, key.1, *id);
    come_to_map(&old.isolated, &new.isolated, tell, isolated);

    let sticky = |&(scope, at, endpoint): &(_, _, _)| Entry::Sticky(scope, at, endpoint);
    come_to_set(&old.sticky, &new.sticky, tell, sticky);
    let endpoint = |key: &(_, _, _), to: &Endpoint| Entry::Endpoint(key.0, key.1, key.2, *to);
    come_to_map(&old.endpoints, &new.endpoints, tell, endpoint);
    gone_from_set(&old.sources, &new.sources, tell, |&(at, range)| Entry::Source(at, range));
    come_to_set(&old.sources, &new.sources, tell, |&(at, range)| Entry::Source(at, range));
    come_to_set(&old.guarded, &new.guarded, tell, |at| Entry::Guarded(*at));
    let frontend = |key: &(_, _), action: &Action| Entry::Frontend(key.0, key.1, *action);
    come_to_map(&old.frontends, &new.frontends, tell, frontend);

    gone_from_map(&old.frontends, &new.frontends, tell, frontend);
    gone_from_set(&old.guarded, &new.guarded, tell, |at| Entry::Guarded(*at));
    gone_from_map(&old.endpoints, &new.endpoints, tell, endpoint);
    gone_from_set(&old.sticky, &new.sticky, tell, sticky);
    gone_from_map(&old.isolated, &new.isolated, tell, isolated);
    gone_from_map(&old.chains, &new.chains, tell, chain);
    gone_from_set(&old.sets, &new.sets, tell, |&(kind, id)| Entry::Set(kind, id));
    gone_from_set(&old.hairpin, &new.hairpin, tell, |ip| Entry::Hairpin(*ip));
}

fn come_to_set<K: Ord>(
    old: &BTreeSet<K>,
    new: &BTreeSet<K>,
    tell: &mut impl FnMut(Change, Entry),
    entry: impl Fn(&K) -> Entry,
) {
    new.difference(old).for_each(|key| tell(Change::Add, entry(key)));
}

fn gone_from_set<K: Ord>(
    old: &BTreeSet<K>,
    new: &BTreeSet<K>,
    tell: &mut impl FnMut(Change, Entry),
    entry: impl Fn(&K) -> Entry,
) {
    old.difference(new).for_each(|key| tell(Change::Remove, entry(key)));
}

/// What is new, and what is another than before.
fn come_to_map<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    tell: &mut impl FnMut(Change, Entry),
    entry: impl Fn(&K, &V) -> Entry,
) {
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => continue,
            Some(before) => tell(Change::Remove, entry(key, before)),
            None => {}
        }
        tell(Change::Add, entry(key, value));
    }
}

fn gone_from_map<K: Ord, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    tell: &mut impl FnMut(Change, Entry),
    entry: impl Fn(&K, &V) -> Entry,
) {
    let gone = old.iter().filter(|(key, _)| !new.contains_key(key));
    gone.for_each(|(key, value)| tell(Change::Remove, entry(key, value)));
}

/// Carries out changes on a program; those of families it does not have change nothing.
pub fn apply(program: &mut Program, ops: &[Op]) {
    for (family, table) in program.iter_mut() {
        for op in ops {
            match op {
                Op::Add(of, entry) if *of == family => table.insert(entry.clone()),
                Op::Remove(of, entry) if *of == family => table.remove(entry),
                Op::Add(..) | Op::Remove(..) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ranges and addresses that lie close together.
    fn near() -> impl Strategy<Value = (u8, u8)> {
        (0u8..64, 24u8..=32)
    }

    proptest! {
        #[test]
        fn an_address_is_looked_up_in_disjoint_ranges(
            ranges in prop::collection::vec(near(), 0..12),
            others in prop::collection::vec(near(), 0..12),
            last in any::<u8>(),
        ) {
            let nets = |all: &[(u8, u8)]| -> Vec<IpNet> {
                let net = |(last, length): &(u8, u8)| IpNet::new_assert([10, 0, 0, *last].into(), *length).trunc();
                IpNet::aggregate(&all.iter().map(net).collect())
            };
            let (ranges, others) = (nets(&ranges), nets(&others));
            let (ip, id, other) = (IpAddr::from([10, 0, 0, last]), Id::of("a"), Id::of("b"));
            let at = Frontend::Address(ip, Protocol::Tcp, 80);
            let mut table = Table::default();
            for range in &ranges {
                table.insert(Entry::Range(RangeSet::Cluster, *range));
                table.insert(Entry::Member(id, Member::Block(*range)));
                table.insert(Entry::Source(at, *range));
            }
            for range in &others {
                table.insert(Entry::Range(RangeSet::Masqueraded, *range));
                table.insert(Entry::Member(other, Member::Block(*range)));
                table.insert(Entry::Source(Frontend::NodePort(Protocol::Tcp, 80), *range));
            }
            table.insert(Entry::Member(id, Member::Peer(ip)));
            let expected = ranges.iter().any(|range| range.contains(&ip));
            prop_assert_eq!(table.in_range(RangeSet::Cluster, ip), expected);
            prop_assert_eq!(table.in_block(id, ip), expected);
            prop_assert_eq!(table.is_source(at, ip), expected);
        }
    }
}
