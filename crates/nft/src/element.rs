//! Elements of sets: the bytes of a program's entries.
//!
//! Each part of a key is padded to a register of four bytes, as the kernel loads it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet, Ipv4Net, Ipv6Net};
use dyad_program::{Action, Endpoint, Entry, Frontend, Protocol};
use ipnet::{Ipv4Subnets, Ipv6Subnets};

use crate::attribute::{Writer, find, find_u32};
use crate::expression::{DATA_VALUE, Verdict, read_verdict, write_verdict};
use crate::layout::{Kind, Pick, REFUSE, SetId, address_length};

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const FLAG_INTERVAL_END: u32 = 1;

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Nothing,
    Value(Vec<u8>),
    Verdict(Verdict),
}

/// One element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Data,
    /// The first key that is outside of an interval.
    pub(crate) is_end: bool,
}

impl Element {
    /// Writes the element, with its data if it is to be added.
    pub(crate) fn write(&self, writer: &mut Writer, kind: u16, with_data: bool) {
        writer.nest(kind, |element| {
            element.nest(ELEM_KEY, |key| key.put(DATA_VALUE, &self.key));
            if with_data {
                match &self.data {
                    Data::Nothing => {}
                    Data::Value(value) => element.nest(ELEM_DATA, |data| data.put(DATA_VALUE, value)),
                    Data::Verdict(verdict) => element.nest(ELEM_DATA, |data| write_verdict(data, verdict)),
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
        let data = match find(element, ELEM_DATA) {
            None => Data::Nothing,
            Some(data) => match find(data, DATA_VALUE) {
                Some(value) => Data::Value(value.to_vec()),
                None => Data::Verdict(read_verdict(data)?),
            },
        };
        let is_end = find_u32(element, ELEM_FLAGS).unwrap_or(0) & FLAG_INTERVAL_END != 0;
        Some(Self { key, data, is_end })
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn push_port(key: &mut Vec<u8>, port: u16) {
    key.extend(port.to_be_bytes());
    key.extend([0; 2]);
}

fn frontend_key(at: Frontend) -> (Kind, Vec<u8>) {
    let (kind, mut key, protocol, port) = match at {
        Frontend::Address(ip, protocol, port) => (Kind::Address, octets(ip), protocol, port),
        Frontend::NodePort(protocol, port) => (Kind::NodePort, Vec::new(), protocol, port),
    };
    key.extend([protocol.number(), 0, 0, 0]);
    push_port(&mut key, port);
    (kind, key)
}

/// The kind of a frontend.
pub(crate) fn kind(at: Frontend) -> Kind {
    match at {
        Frontend::Address(..) => Kind::Address,
        Frontend::NodePort(..) => Kind::NodePort,
    }
}

/// The pick chain an entry leads to.
pub(crate) fn pick(entry: &Entry) -> Option<Pick> {
    match entry {
        Entry::Frontend(scope, at, Action::Forward { slots, .. }) => {
            Some(Pick { scope: *scope, kind: kind(*at), slots: *slots })
        }
        _ => None,
    }
}

/// The set an entry is in.
pub(crate) fn set(entry: &Entry) -> SetId {
    match entry {
        Entry::Frontend(scope, at, _) => SetId::Frontends(*scope, kind(*at)),
        Entry::Endpoint(scope, at, ..) => SetId::Endpoints(*scope, kind(*at)),
        Entry::Hairpin(_) => SetId::Hairpin,
        Entry::Range(set, _) => SetId::Range(*set),
        _ => SetId::Hairpin,
    }
}

/// The element of an entry; `None` for ranges, whose elements depend on one another: see [`range_elements`].
pub(crate) fn element(entry: &Entry) -> Option<Element> {
    let (key, data) = match entry {
        Entry::Frontend(_, at, action) => {
            let verdict = match action {
                Action::Drop => Verdict::Drop,
                Action::Reject => Verdict::Goto(REFUSE.into()),
                Action::Forward { .. } => Verdict::Goto(pick(entry)?.chain()),
            };
            (frontend_key(*at).1, Data::Verdict(verdict))
        }
        Entry::Endpoint(_, at, slot, to) => {
            let (_, mut key) = frontend_key(*at);
            key.extend(u32::from(*slot).to_ne_bytes());
            let mut value = octets(to.ip);
            push_port(&mut value, to.port);
            (key, Data::Value(value))
        }
        Entry::Hairpin(ip) => ([octets(*ip), octets(*ip)].concat(), Data::Nothing),
        _ => return None,
    };
    Some(Element { key, data, is_end: false })
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
    let element = |ip, is_end| Element { key: octets(ip), data: Data::Nothing, is_end };
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

/// The entry of an element; `None` if it makes no sense in `set`, or if it is a range.
pub(crate) fn read_entry(set: SetId, family: IpFamily, element: &Element) -> Option<Entry> {
    let mut key = Reader { bytes: &element.key, family };
    let entry = match (set, &element.data) {
        (SetId::Hairpin, Data::Nothing) => {
            let ip = key.address()?;
            (key.address()? == ip).then_some(Entry::Hairpin(ip))?
        }
        (SetId::Frontends(scope, kind), Data::Verdict(verdict)) => {
            let at = key.frontend(kind)?;
            let action = match verdict {
                Verdict::Drop => Action::Drop,
                Verdict::Goto(chain) if chain == REFUSE => Action::Reject,
                Verdict::Goto(chain) => {
                    let pick =
                        Pick::from_chain(chain).filter(|pick| (pick.scope, pick.kind) == (scope, kind))?;
                    Action::forward(pick.slots)
                }
            };
            Entry::Frontend(scope, at, action)
        }
        (SetId::Endpoints(scope, kind), Data::Value(value)) => {
            let at = key.frontend(kind)?;
            let slot = u16::try_from(u32::from_ne_bytes(key.take()?)).ok()?;
            let mut value = Reader { bytes: value, family };
            let to = Endpoint { ip: value.address()?, port: value.port()? };
            value.bytes.is_empty().then_some(Entry::Endpoint(scope, at, slot, to))?
        }
        (SetId::Range(_), _) | (SetId::Hairpin | SetId::Frontends(..) | SetId::Endpoints(..), _) => {
            return None;
        }
    };
    (key.bytes.is_empty() && !element.is_end).then_some(entry)
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
