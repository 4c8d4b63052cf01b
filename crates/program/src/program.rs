//! The program: what a node's kernel should hold, as plain data of a fixed shape.
//!
//! One [`Table`] per family. The shape, which every executor builds once and then only fills:
//!
//! ```text
//! from outside --(not from own pods)--> frontends[Local]  --miss--> frontends[Cluster] --miss--> pass
//! from own pods, from this host --------------------------------->  frontends[Cluster]
//!
//! frontends: (scope, address.protocol.port or node port) -> Forward(n) | Reject | Drop
//! endpoints: (scope, the same, slot 0..n)                -> address.port       slot chosen at random
//! ```
//!
//! A frontend found in scope `Cluster` masks what does not come from own pods, so that the answer passes this node;
//! one found in scope `Local` keeps the source as it is, for its endpoints are on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily, IpNet};

use crate::Protocol;

/// Where something listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// On an address: a cluster IP, an external IP or that of a load balancer.
    Address(IpAddr, Protocol, u16),
    /// On every address of the node but loopback.
    NodePort(Protocol, u16),
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
    /// Sent to the endpoint in one of that many slots, chosen at random; at least one.
    Forward(u16),
    /// Refused: there is no endpoint.
    Reject,
    /// Dropped: there are endpoints, but none this traffic may go to.
    Drop,
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

/// What a set of ranges is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RangeSet {
    /// The pods of this node.
    OwnPods,
    /// Those of them whose addresses mean nothing outside the cluster.
    Masqueraded,
    /// The inside of the cluster: pods and nodes.
    Cluster,
    /// The cluster IPs.
    Services,
}

impl RangeSet {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OwnPods, Self::Masqueraded, Self::Cluster, Self::Services];
}

/// One element of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// What becomes of connections to a frontend.
    Frontend(Scope, Frontend, Action),
    /// The endpoint in a slot of a frontend.
    Endpoint(Scope, Frontend, Slot, Endpoint),
    /// An endpoint on this node: when it reaches itself through a Service, the source must be masqueraded.
    Hairpin(IpAddr),
    /// A range. Those of one set are the fewest prefixes that cover what they cover.
    Range(RangeSet, IpNet),
}

/// What the kernel should hold for one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What becomes of connections, by frontend.
    pub frontends: BTreeMap<(Scope, Frontend), Action>,
    /// The endpoints behind the frontends.
    pub endpoints: BTreeMap<(Scope, Frontend, Slot), Endpoint>,
    /// Endpoints on this node.
    pub hairpin: BTreeSet<IpAddr>,
    /// The ranges.
    pub ranges: BTreeSet<(RangeSet, IpNet)>,
}

impl Table {
    /// All elements; those that others lead to come first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let endpoints = self.endpoints.iter();
        let endpoints =
            endpoints.map(|((scope, at, slot), endpoint)| Entry::Endpoint(*scope, *at, *slot, *endpoint));
        let frontends =
            self.frontends.iter().map(|((scope, at), action)| Entry::Frontend(*scope, *at, *action));
        let hairpin = self.hairpin.iter().map(|ip| Entry::Hairpin(*ip));
        let ranges = self.ranges.iter().map(|(set, range)| Entry::Range(*set, *range));
        hairpin.chain(endpoints).chain(frontends).chain(ranges)
    }

    /// Adds an element, in place of one with the same key.
    pub fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Frontend(scope, at, action) => {
                self.frontends.insert((scope, at), action);
            }
            Entry::Endpoint(scope, at, slot, endpoint) => {
                self.endpoints.insert((scope, at, slot), endpoint);
            }
            Entry::Hairpin(ip) => {
                self.hairpin.insert(ip);
            }
            Entry::Range(set, range) => {
                self.ranges.insert((set, range));
            }
        }
    }

    /// Takes an element out.
    pub fn remove(&mut self, entry: &Entry) {
        match entry {
            Entry::Frontend(scope, at, _) => {
                self.frontends.remove(&(*scope, *at));
            }
            Entry::Endpoint(scope, at, slot, _) => {
                self.endpoints.remove(&(*scope, *at, *slot));
            }
            Entry::Hairpin(ip) => {
                self.hairpin.remove(ip);
            }
            Entry::Range(set, range) => {
                self.ranges.remove(&(*set, *range));
            }
        }
    }

    /// Whether one of the ranges of `set` holds `ip`.
    pub fn in_range(&self, set: RangeSet, ip: IpAddr) -> bool {
        self.ranges.iter().any(|(of, range)| *of == set && range.contains(&ip))
    }
}

/// What a node's kernel should hold: a table for each family of the cluster.
pub type Program = DualStack<Table>;

/// A change of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// An element is added; none with its key is there.
    Add(IpFamily, Entry),
    /// An element, given as it is there, is removed.
    Remove(IpFamily, Entry),
}

/// The changes that lead from one table to another, both of `family`.
///
/// Their order keeps connections going even where an executor has to carry them out in several steps: an element that
/// changes is removed and added at once; endpoints are there before the frontends that lead to them, and go after.
pub fn diff(family: IpFamily, old: &Table, new: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    let (remove, add) = (|entry| Op::Remove(family, entry), |entry| Op::Add(family, entry));
    let endpoint = |(key, endpoint): (&(Scope, Frontend, Slot), &Endpoint)| {
        Entry::Endpoint(key.0, key.1, key.2, *endpoint)
    };
    let frontend = |(key, action): (&(Scope, Frontend), &Action)| Entry::Frontend(key.0, key.1, *action);

    ops.extend(old.hairpin.difference(&new.hairpin).map(|ip| remove(Entry::Hairpin(*ip))));
    ops.extend(new.hairpin.difference(&old.hairpin).map(|ip| add(Entry::Hairpin(*ip))));
    for (key, value) in &new.endpoints {
        match old.endpoints.get(key) {
            Some(before) if before == value => continue,
            Some(before) => ops.push(remove(endpoint((key, before)))),
            None => {}
        }
        ops.push(add(endpoint((key, value))));
    }
    for (key, value) in &new.frontends {
        match old.frontends.get(key) {
            Some(before) if before == value => continue,
            Some(before) => ops.push(remove(frontend((key, before)))),
            None => {}
        }
        ops.push(add(frontend((key, value))));
    }
    let gone = old.frontends.iter().filter(|(key, _)| !new.frontends.contains_key(key));
    ops.extend(gone.map(|element| remove(frontend(element))));
    let gone = old.endpoints.iter().filter(|(key, _)| !new.endpoints.contains_key(key));
    ops.extend(gone.map(|element| remove(endpoint(element))));
    let range = |(set, range): &(RangeSet, IpNet)| Entry::Range(*set, *range);
    ops.extend(old.ranges.difference(&new.ranges).map(range).map(remove));
    ops.extend(new.ranges.difference(&old.ranges).map(range).map(add));
    ops
}

/// Carries out changes on a program; those of families it does not have change nothing.
pub fn apply(program: &mut Program, ops: &[Op]) {
    for (family, table) in program.iter_mut() {
        for op in ops {
            match op {
                Op::Add(of, entry) if *of == family => table.insert(*entry),
                Op::Remove(of, entry) if *of == family => table.remove(entry),
                Op::Add(..) | Op::Remove(..) => {}
            }
        }
    }
}
