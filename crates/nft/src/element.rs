//! Elements of sets: the bytes of a program's entries.
//!
//! Each part of a key is padded to a register of four bytes, as the kernel loads it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet, Ipv4Net, Ipv6Net};
use dyad_program::rule::{Member, SetKind};
use dyad_program::{self as program, Endpoint, Entry, Frontend, Protocol};
use ipnet::{Ipv4Subnets, Ipv6Subnets};

use crate::attribute::{Writer, find, find_u32, find_u64};
use crate::expression::{DATA_VALUE, Verdict, read_verdict, write_verdict};
use crate::layout::{Action, Kind, Pick, SetId, address_length, chain_name, policy_id};

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_TIMEOUT: u16 = 4;
const ELEM_EXPIRATION: u16 = 5;
const ELEM_KEY_END: u16 = 10;
const FLAG_INTERVAL_END: u32 = 1;

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Nothing,
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// How long an element lives, in milliseconds: from its last use on, and from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) whole: u64,
    pub(crate) left: u64,
}

/// One element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// The last key, where every part of a key is a range.
    pub(crate) last: Option<Vec<u8>>,
    pub(crate) data: Data,
    /// The first key that is outside of an interval.
    pub(crate) is_end: bool,
    pub(crate) life: Option<Life>,
}

impl Element {
    pub(crate) fn new(key: Vec<u8>, data: Data) -> Self {
        Self { key, last: None, data, is_end: false, life: None }
    }

    /// Writes the element, with its data if it is to be added.
    pub(crate) fn write(&self, writer: &mut Writer, kind: u16, with_data: bool) {
        writer.nest(kind, |element| {
            element.nest(ELEM_KEY, |key| key.put(DATA_VALUE, &self.key));
            if let Some(last) = &self.last {
                element.nest(ELEM_KEY_END, |key| key.put(DATA_VALUE, last));
            }
            if with_data {
                match &self.data {
                    Data::Nothing => {}
                    Data::Value(value) => element.nest(ELEM_DATA, |data| data.put(DATA_VALUE, value)),
                    Data::Verdict(verdict) => element.nest(ELEM_DATA, |data| write_verdict(data, verdict)),
                }
                if let Some(life) = self.life {
                    element.put_u64(ELEM_TIMEOUT, life.whole);
                    element.put_u64(ELEM_EXPIRATION, life.left);
                }
            }
            if self.is_end {
                element.put_u32(ELEM_FLAGS, FLAG_INTERVAL_END);
            }
        });
    }

    /// Reads an element; `None` if it has no key or data we don't know.
    pub(crate) fn read(element: &[u8]) -> Option<Self> {
        let key = find(find(element, ELEM_KEY)?, DATA_VALUE)?.to_vec();
        let last = match find(element, ELEM_KEY_END) {
            None => None,
            Some(last) => Some(find(last, DATA_VALUE)?.to_vec()),
        };
        let data = match find(element, ELEM_DATA) {
            None => Data::Nothing,
            Some(data) => match find(data, DATA_VALUE) {
                Some(value) => Data::Value(value.to_vec()),
                None => Data::Verdict(read_verdict(data)?),
            },
        };
        let is_end = find_u32(element, ELEM_FLAGS).unwrap_or(0) & FLAG_INTERVAL_END != 0;
        let life = find_u64(element, ELEM_TIMEOUT).zip(find_u64(element, ELEM_EXPIRATION));
        let life = life.map(|(whole, left)| Life { whole, left });
        Some(Self { key, last, data, is_end, life })
    }
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn push_port(key: &mut Vec<u8>, port: u16) {
    key.extend(port.to_be_bytes());
    key.extend([0; 2]);
}

fn push_protocol_and_port(key: &mut Vec<u8>, protocol: Protocol, port: u16) {
    key.extend([protocol.number(), 0, 0, 0]);
    push_port(key, port);
}

fn frontend_key(at: Frontend) -> Vec<u8> {
    let (mut key, protocol, port) = match at {
        Frontend::Address(ip, protocol, port) => (octets(ip), protocol, port),
        Frontend::NodePort(protocol, port) => (Vec::new(), protocol, port),
    };
    push_protocol_and_port(&mut key, protocol, port);
    key
}

fn endpoint_bytes(endpoint: &Endpoint) -> Vec<u8> {
    let mut bytes = octets(endpoint.ip);
    push_port(&mut bytes, endpoint.port);
    bytes
}

/// The kind of a frontend.
fn kind(at: Frontend) -> Kind {
    match at {
        Frontend::Address(..) => Kind::Address,
        Frontend::NodePort(..) => Kind::NodePort,
    }
}

/// What an action is in the kernel.
const fn action(action: program::Action) -> Action {
    match action {
        program::Action::Drop => Action::Drop,
        program::Action::Reject => Action::Refuse,
        program::Action::Forward { slots, sticky } => Action::Pick(slots, sticky),
    }
}

/// The pick chain an entry leads to.
pub(crate) fn pick(entry: &Entry) -> Option<Pick> {
    match entry {
        Entry::Frontend(scope, at, program::Action::Forward { slots, sticky }) => {
            Some(Pick { scope: *scope, kind: kind(*at), slots: *slots, sticky: *sticky })
        }
        _ => None,
    }
}

/// The set an entry is in; `None` for those that are sets or chains themselves.
pub(crate) fn set(entry: &Entry) -> Option<SetId> {
    Some(match entry {
        Entry::Frontend(scope, at, _) => SetId::Frontends(*scope, kind(*at)),
        Entry::Endpoint(scope, at, ..) => SetId::Endpoints(*scope, kind(*at)),
        Entry::Sticky(scope, at, _) => SetId::Members(*scope, kind(*at)),
        Entry::Guarded(_) => SetId::Guarded,
        Entry::Source(..) => SetId::Sources,
        Entry::Hairpin(_) => SetId::Hairpin,
        Entry::Range(set, _) => SetId::Range(*set),
        Entry::Isolated(direction, ..) => SetId::Isolated(*direction),
        Entry::Member(id, member) => SetId::Policy(member.kind(), *id),
        Entry::Set(..) | Entry::Chain(..) => return None,
    })
}

/// The element of an entry; `None` for those that are sets or chains, and for ranges, whose elements depend on one
/// another: see [`range_elements`].
pub(crate) fn element(entry: &Entry) -> Option<Element> {
    let (key, data) = match entry {
        Entry::Frontend(_, at, to) => {
            let (Frontend::Address(_, protocol, _) | Frontend::NodePort(protocol, _)) = at;
            let mut value = vec![protocol.number(), 0, 0, 0];
            value.extend(action(*to).bytes());
            (frontend_key(*at), Data::Value(value))
        }
        Entry::Endpoint(_, at, slot, to) => {
            let mut key = frontend_key(*at);
            key.extend(u32::from(*slot).to_ne_bytes());
            (key, Data::Value(endpoint_bytes(to)))
        }
        Entry::Sticky(_, at, endpoint) => {
            ([endpoint_bytes(endpoint), frontend_key(*at)].concat(), Data::Nothing)
        }
        // Node ports have no sources: the table's set has room for addresses only.
        Entry::Guarded(Frontend::NodePort(..)) | Entry::Source(Frontend::NodePort(..), _) => return None,
        Entry::Guarded(at) => (frontend_key(*at), Data::Nothing),
        Entry::Source(at, range) => {
            let edge = |ip| [frontend_key(*at), octets(ip)].concat();
            let first = Element::new(edge(range.network()), Data::Nothing);
            return Some(Element { last: Some(edge(range.broadcast())), ..first });
        }
        Entry::Hairpin(ip) => ([octets(*ip), octets(*ip)].concat(), Data::Nothing),
        Entry::Isolated(_, ip, id) => {
            let chain = chain_name(*id);
            (octets(*ip), Data::Verdict(Verdict::Jump(chain)))
        }
        Entry::Member(_, Member::Peer(ip)) => (octets(*ip), Data::Nothing),
        Entry::Member(_, Member::NamedPort(ip, protocol, port)) => {
            (frontend_key(Frontend::Address(*ip, *protocol, *port)), Data::Nothing)
        }
        Entry::Range(..) | Entry::Member(_, Member::Block(_)) | Entry::Set(..) | Entry::Chain(..) => {
            return None;
        }
    };
    Some(Element::new(key, data))
}

/// The elements of a set of ranges of one family: where each begins, and the first address behind it.
pub(crate) fn range_elements(ranges: impl Iterator<Item = IpNet>) -> Vec<Element> {
    let spans: BTreeSet<(IpAddr, IpAddr)> = ranges.map(|net| (net.network(), net.broadcast())).collect();
    let mut merged: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in spans {
        match merged.last_mut() {
            // What touches is one interval: the kernel has no two elements at one place.
            Some((_, end)) if next(*end).is_none_or(|behind| first <= behind) => *end = last.max(*end),
            Some(_) | None => merged.push((first, last)),
        }
    }
    let element = |ip, is_end| Element { is_end, ..Element::new(octets(ip), Data::Nothing) };
    merged
        .into_iter()
        // An interval up to the last address of all is open.
        .flat_map(|(first, last)| [Some(element(first, false)), next(last).map(|end| element(end, true))])
        .flatten()
        .collect()
}

fn next(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

fn previous(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => u128::from(ip).checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The ranges of a set's elements; `None` if they are no set of intervals.
pub(crate) fn read_ranges(elements: &[Element], family: IpFamily) -> Option<Vec<IpNet>> {
    // An end sorts before a start at the same address.
    let mut edges: Vec<(IpAddr, bool)> = Vec::new();
    for element in elements {
        edges.push((Reader { bytes: &element.key, family }.whole_address()?, !element.is_end));
    }
    edges.sort_unstable();
    let (mut ranges, mut start) = (Vec::new(), None);
    for (at, is_start) in edges {
        match (start, is_start) {
            (None, true) => start = Some(at),
            (Some(first), false) => {
                ranges.extend(cover(first, previous(at)?));
                start = None;
            }
            // The `nft` program puts an end at address zero.
            (None, false) if at.is_unspecified() => {}
            (None, false) | (Some(_), true) => return None,
        }
    }
    if let Some(first) = start {
        let last = match family {
            IpFamily::V4 => IpAddr::V4(u32::MAX.into()),
            IpFamily::V6 => IpAddr::V6(u128::MAX.into()),
        };
        ranges.extend(cover(first, last));
    }
    Some(ranges)
}

/// The fewest prefixes from `first` to `last`.
fn cover(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Subnets::new(first, last, 0).map(|net: Ipv4Net| net.into()).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Subnets::new(first, last, 0).map(|net: Ipv6Net| net.into()).collect()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}

/// The entry of an element; `None` if it makes no sense in `set`, and in sets that are no entries one by one.
pub(crate) fn read_entry(set: SetId, family: IpFamily, element: &Element) -> Option<Entry> {
    let mut key = Reader { bytes: &element.key, family };
    let entry = match (set, &element.data) {
        (SetId::Hairpin, Data::Nothing) => {
            let ip = key.address()?;
            (key.address()? == ip).then_some(Entry::Hairpin(ip))?
        }
        (SetId::Frontends(scope, kind), Data::Value(value)) => {
            let at = key.frontend(kind)?;
            let mut value = Reader { bytes: value, family };
            let ([protocol, ..], number) = (value.take::<4>()?, value.number()?);
            let (Frontend::Address(_, of, _) | Frontend::NodePort(of, _)) = at;
            (value.bytes.is_empty() && protocol == of.number()).then_some(())?;
            let action = match Action::from_number(number)? {
                Action::Drop => program::Action::Drop,
                Action::Refuse => program::Action::Reject,
                Action::Pick(slots, sticky) => program::Action::Forward { slots, sticky },
            };
            Entry::Frontend(scope, at, action)
        }
        (SetId::Endpoints(scope, kind), Data::Value(value)) => {
            let at = key.frontend(kind)?;
            let slot = u16::try_from(key.number()?).ok()?;
            let mut value = Reader { bytes: value, family };
            let to = value.endpoint()?;
            value.bytes.is_empty().then_some(Entry::Endpoint(scope, at, slot, to))?
        }
        (SetId::Members(scope, kind), Data::Nothing) => {
            let endpoint = key.endpoint()?;
            Entry::Sticky(scope, key.frontend(kind)?, endpoint)
        }
        (SetId::Guarded, Data::Nothing) => Entry::Guarded(key.frontend(Kind::Address)?),
        (SetId::Sources, Data::Nothing) => {
            let mut last = Reader { bytes: element.last.as_ref()?, family };
            let at = key.frontend(Kind::Address)?;
            let same = last.frontend(Kind::Address)? == at;
            let [range] = cover(key.address()?, last.address()?).try_into().ok()?;
            (same && last.bytes.is_empty()).then_some(Entry::Source(at, range))?
        }
        (SetId::Isolated(direction), Data::Verdict(verdict)) => {
            let Verdict::Jump(chain) = verdict else { return None };
            Entry::Isolated(direction, key.address()?, policy_id(chain)?)
        }
        (SetId::Policy(SetKind::Peers, id), Data::Nothing) => Entry::Member(id, Member::Peer(key.address()?)),
        (SetId::Policy(SetKind::NamedPorts, id), Data::Nothing) => match key.frontend(Kind::Address)? {
            Frontend::Address(ip, protocol, port) => Entry::Member(id, Member::NamedPort(ip, protocol, port)),
            Frontend::NodePort(..) => return None,
        },
        _ => return None,
    };
    let has_last = matches!(set, SetId::Sources);
    let plain = !element.is_end && element.life.is_none() && element.last.is_some() == has_last;
    (key.bytes.is_empty() && plain).then_some(entry)
}

/// Takes a key apart.
struct Reader<'a> {
    bytes: &'a [u8],
    family: IpFamily,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(match self.family {
            IpFamily::V4 => IpAddr::from(self.take::<4>()?),
            IpFamily::V6 => IpAddr::from(self.take::<16>()?),
        })
    }

    fn whole_address(mut self) -> Option<IpAddr> {
        (self.bytes.len() == address_length(self.family)).then(|| self.address())?
    }

    fn port(&mut self) -> Option<u16> {
        let [high, low, ..] = self.take::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn endpoint(&mut self) -> Option<Endpoint> {
        Some(Endpoint { ip: self.address()?, port: self.port()? })
    }

    fn frontend(&mut self, kind: Kind) -> Option<Frontend> {
        let ip = match kind {
            Kind::Address => Some(self.address()?),
            Kind::NodePort => None,
        };
        let [protocol, ..] = self.take::<4>()?;
        let (protocol, port) = (Protocol::from_number(protocol)?, self.port()?);
        Some(match ip {
            Some(ip) => Frontend::Address(ip, protocol, port),
            None => Frontend::NodePort(protocol, port),
        })
    }
}
