//! All names at one moment.

use std::net::IpAddr;
use std::sync::Arc;

use dyad_net::IpNet;

use super::apex::Apex;
use super::entry::{Entry, EntryKind, PortTargets};
use super::input::{PodMode, Protocol};
use super::label::parse_dashed;
use super::map::Map;
use super::reverse::{Place, Tree};
use crate::wire::{Error, MAX_NAME, Name, Reader};

/// All names at one moment. Copies share what they have in common.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) apex: Arc<Apex>,
    pub(super) services: Map<Arc<[u8]>, Arc<Entry>>,
    /// Namespaces, by label; those that exist, and those that Services are in.
    pub(super) namespaces: Map<Arc<[u8]>, Namespace>,
    /// What addresses are called.
    pub(super) pointers: Map<IpAddr, Arc<[Pointer]>>,
    /// The namespaces of the pods that have an address, one for each of them.
    pub(super) pods: Map<IpAddr, Arc<[Arc<[u8]>]>>,
    pub(super) serial: u32,
    pub(super) synced: bool,
}

/// Why a namespace exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) is_known: bool,
    pub(super) services: u32,
}

/// A name of an address. Those that a slice gives come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// The key of the Service.
    pub(crate) service: Arc<[u8]>,
    /// A host below it, whose label is empty if it is the address.
    pub(crate) host: Option<Box<str>>,
}

/// What there is at a name.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    /// Nothing, and nothing below.
    Nothing,
    /// Names below, perhaps.
    Empty,
    /// The top of the cluster domain.
    Apex,
    /// The version of the schema.
    Version,
    /// This server.
    NameServer,
    /// A Service.
    Service(&'a Entry),
    /// A host of a Service, by number.
    Host(&'a Entry, u32),
    /// A named port of a Service.
    Port(&'a Entry, &'a PortTargets),
    /// An alias.
    Alias(&'a Name),
    /// A pod.
    Pod(IpAddr),
    /// The top of a zone of addresses.
    ReverseApex,
    /// Names of an address.
    Pointers(IpAddr, &'a [Pointer]),
}

/// A name in a query: in lower case, with the places of its labels.
#[derive(Clone, Debug)]
pub(crate) struct QueryName {
    wire: [u8; MAX_NAME],
    length: u8,
    starts: [u8; MAX_NAME / 2],
    count: u8,
}

impl QueryName {
    /// Reads a name that is not compressed, as those of questions are.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut name = Self { wire: [0; MAX_NAME], length: 0, starts: [0; MAX_NAME / 2], count: 0 };
        loop {
            let size = reader.u8()?;
            if size == 0 {
                name.length += 1;
                return Ok(name);
            }
            if size >= 64 {
                return Err(if size >= 192 { Error::Pointer } else { Error::LabelType });
            }
            let (at, size) = (usize::from(name.length), usize::from(size));
            let label = reader.take(size)?;
            if at + size + 2 > MAX_NAME {
                return Err(Error::NameTooLong);
            }
            name.wire[at] = size as u8;
            name.wire[at + 1..][..size].copy_from_slice(label);
            name.wire[at + 1..][..size].make_ascii_lowercase();
            name.starts[usize::from(name.count)] = name.length;
            name.count += 1;
            name.length += size as u8 + 1;
        }
    }

    /// A name that is known.
    pub(crate) fn of(name: &Name) -> Result<Self, Error> {
        Self::read(&mut Reader::new(name.as_wire()))
    }

    /// How many labels there are, without the root's.
    pub(crate) fn count(&self) -> usize {
        self.count.into()
    }

    /// A label, the first one being number 0.
    pub(crate) fn label(&self, number: usize) -> &[u8] {
        let start = usize::from(self.starts[number]);
        &self.wire[start + 1..][..usize::from(self.wire[start])]
    }

    /// Where a label begins; after the last one, the root.
    pub(crate) fn start(&self, number: usize) -> usize {
        if number < self.count() { self.starts[number].into() } else { usize::from(self.length) - 1 }
    }

    /// The wire form from a label on.
    pub(crate) fn from(&self, number: usize) -> &[u8] {
        &self.wire[self.start(number)..self.length.into()]
    }

    /// The wire form of the labels from `first` to before `end`.
    fn between(&self, first: usize, end: usize) -> &[u8] {
        &self.wire[self.start(first)..self.start(end)]
    }
}

impl Snapshot {
    pub(super) fn new(apex: Arc<Apex>) -> Self {
        Self {
            apex,
            services: Map::default(),
            namespaces: Map::default(),
            pointers: Map::default(),
            pods: Map::default(),
            serial: 0,
            synced: false,
        }
    }

    /// When it changed last, in seconds: the serial of the zone.
    pub const fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether all objects have been seen once.
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many Services there are.
    pub const fn services(&self) -> usize {
        self.services.len()
    }

    /// The namespace of the pod that has an address; of one of them, if several have it.
    pub fn namespace_of(&self, ip: IpAddr) -> Option<String> {
        let namespaces = self.pods.get(&ip)?;
        let label = crate::wire::Labels::of(namespaces.first()?).next()?;
        Some(String::from_utf8_lossy(label).into_owned())
    }

    /// The zone's options.
    pub fn apex(&self) -> &Apex {
        &self.apex
    }

    /// The entry of a Service.
    pub(crate) fn service(&self, key: &[u8]) -> Option<&Entry> {
        self.services.get(key).map(|entry| &**entry)
    }

    /// What there is at a name, and how many of its last labels are those of the zone it is in. `None` if it is in none
    /// that is answered for here.
    pub(crate) fn find(&self, name: &QueryName) -> Option<(Node<'_>, usize)> {
        let zone = self.apex.labels;
        match name.count().checked_sub(zone) {
            Some(below) if name.from(below) == self.apex.domain.as_wire() => {
                Some((self.find_below(name, below), zone))
            }
            _ => self.find_reverse(name),
        }
    }

    /// What is there `below` labels down from the cluster domain.
    fn find_below(&self, name: &QueryName, below: usize) -> Node<'_> {
        let Some(last) = below.checked_sub(1) else { return Node::Apex };
        match name.label(last) {
            b"svc" => self.find_service(name, last),
            b"pod" => self.find_pod(name, last),
            b"dns" if last == 0 => Node::Empty,
            b"dns" if last == 1 && name.label(0) == b"ns" => Node::NameServer,
            b"dns-version" if last == 0 => Node::Version,
            _ => Node::Nothing,
        }
    }

    /// What is there `below` labels down from `svc`.
    fn find_service(&self, name: &QueryName, below: usize) -> Node<'_> {
        let rest = match below {
            0 => return Node::Empty,
            1 if self.has_namespace(name, 0) => return Node::Empty,
            1 => return Node::Nothing,
            below => below - 2,
        };
        let Some(entry) = self.service(name.between(rest, below)) else { return Node::Nothing };
        match &entry.kind {
            EntryKind::External(Some(target)) if rest == 0 => return Node::Alias(target),
            EntryKind::External(None) if rest == 0 => return Node::Empty,
            EntryKind::External(_) => return Node::Nothing,
            EntryKind::Headless if !entry.has_endpoints() => {
                let exists = self.apex.options().empty_headless_exists && rest == 0;
                return if exists { Node::Service(entry) } else { Node::Nothing };
            }
            EntryKind::Cluster if self.apex.options().ignore_empty_service && !entry.has_endpoints() => {
                return Node::Nothing;
            }
            EntryKind::Headless | EntryKind::Cluster => {}
        }
        match rest {
            0 => Node::Service(entry),
            1 => match protocol(name.label(0)) {
                Some(protocol) if entry.ports.iter().any(|port| port.protocol == protocol) => Node::Empty,
                Some(_) => Node::Nothing,
                None => entry.host_named(name.label(0)).map_or(Node::Nothing, |host| Node::Host(entry, host)),
            },
            2 => {
                let protocol = protocol(name.label(1));
                let is_asked = |port: &&PortTargets| {
                    Some(port.protocol) == protocol
                        && name.label(0).strip_prefix(b"_") == Some(port.name.as_bytes())
                };
                entry.ports.iter().find(is_asked).map_or(Node::Nothing, |port| Node::Port(entry, port))
            }
            _ => Node::Nothing,
        }
    }

    /// What is there `below` labels down from `pod`.
    fn find_pod(&self, name: &QueryName, below: usize) -> Node<'_> {
        let mode = self.apex.options().pods;
        match below {
            0 => Node::Empty,
            1 | 2 if mode == PodMode::Disabled || !self.has_namespace(name, below - 1) => Node::Nothing,
            1 => Node::Empty,
            2 => match parse_dashed(name.label(0)) {
                Some(ip) if mode == PodMode::Insecure || self.has_pod(ip, name.between(1, 2)) => {
                    Node::Pod(ip)
                }
                _ => Node::Nothing,
            },
            _ => Node::Nothing,
        }
    }

    fn has_namespace(&self, name: &QueryName, label: usize) -> bool {
        self.namespaces.get(name.between(label, label + 1)).is_some()
    }

    fn has_pod(&self, ip: IpAddr, namespace: &[u8]) -> bool {
        self.pods.get(&ip).is_some_and(|namespaces| namespaces.iter().any(|one| **one == *namespace))
    }

    /// Addresses that have names are answered for wherever they are; others, and what is above them, where they are in
    /// our ranges (A.3).
    fn find_reverse(&self, name: &QueryName) -> Option<(Node<'_>, usize)> {
        let (tree, place) = Tree::find(name)?;
        let range_of =
            |prefix: &IpNet| self.apex.options().reverse.iter().find(|range| range.contains(prefix));
        let (prefix, node) = match place {
            Place::Address(ip) => match self.pointers.get(&ip) {
                Some(pointers) => (IpNet::from(ip), Node::Pointers(ip, pointers)),
                None => (IpNet::from(ip), Node::Nothing),
            },
            Place::Prefix(prefix) => (prefix, Node::Empty),
            Place::Astray(prefix) => (prefix, Node::Nothing),
        };
        if let Some(range) = range_of(&prefix) {
            let zone = tree.zone_labels(*range);
            // A range may begin inside of the prefix that its zone has as a name.
            let at_apex = matches!(place, Place::Prefix(_)) && tree.labels(prefix) == zone;
            return Some((if at_apex { Node::ReverseApex } else { node }, zone + Tree::TOP_LABELS));
        }
        match (place, node) {
            (Place::Address(_), node @ Node::Pointers(..)) => Some((node, name.count())),
            (Place::Prefix(prefix), node) => {
                let is_above = prefix.prefix_len() > 0
                    && self.apex.options().reverse.iter().any(|range| prefix.contains(range));
                is_above.then_some((node, name.count()))
            }
            _ => None,
        }
    }
}

/// The protocol a label is.
fn protocol(label: &[u8]) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.label().as_bytes() == label)
}
