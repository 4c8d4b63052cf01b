//! From what there is at a name to records.

use std::net::IpAddr;

use dyad_net::IpFamily;

use super::Zone;
use super::reply::Reply;
use crate::wire::{MAX_LABEL, Name, Rcode, Rtype, Section};
use crate::zone::{Entry, Host, Node, Pointer, QueryName, SELF, Snapshot, Target, Tree, dashed};

/// How long the schema's version holds, in seconds (A.2).
const VERSION_TTL: u32 = 28_800;
/// How long what is said to ANY holds (RFC 8482 section 4.2).
const ANY_TTL: u32 = 3600;
/// CPU and operating system by RFC 8482 section 4.2.
const ANY_DATA: &[u8] = b"\x07RFC8482\x00";
/// Aliases that are followed.
const MAX_ALIASES: usize = 8;
/// Refresh, retry and expire of the zone: nobody transfers it.
const SOA_TIMES: [u32; 3] = [7200, 1800, 86_400];

/// What a query wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answering<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) rtype: Rtype,
    pub(super) random: u32,
    pub(super) synthesize: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// All there is.
    Here(Rcode),
    /// Something that says no more than it has to (RFC 8482), perhaps about names that are not known here.
    Minimal,
    /// Nothing is known of the name here.
    Elsewhere,
    /// An alias of this name, which is not known here.
    Chase(Name),
    /// Nothing yet, but that may be because not all has been heard.
    NotReady,
    /// Aliases of each other.
    Looping,
}

/// A name in a response, whole: the question's, or the target of an alias.
#[derive(Clone, Copy)]
struct At<'a> {
    name: &'a QueryName,
    /// Where it stands.
    offset: usize,
    /// How many of its last labels are those of its zone.
    zone: usize,
}

impl At<'_> {
    /// Where its last labels stand.
    fn last(&self, labels: usize) -> usize {
        self.offset + self.name.start(self.name.count() - labels)
    }
}

impl Answering<'_> {
    /// Writes what there is at a name, which is the response's question.
    pub(super) fn answer(self, asked: &QueryName, reply: &mut Reply<'_>) -> (Zone, Answer) {
        let Some((mut node, mut zone)) = self.snapshot.find(asked) else {
            if self.rtype == Rtype::ANY {
                reply.record(Section::Answer, crate::wire::HEADER, Rtype::HINFO, ANY_TTL, &[ANY_DATA]);
                return (Zone::Root, Answer::Minimal);
            }
            return (Zone::Root, Answer::Elsewhere);
        };
        let of_query = self.zone(&node, asked);
        let mut offset = crate::wire::HEADER;
        let mut name = std::borrow::Cow::Borrowed(asked);
        for _ in 0..=MAX_ALIASES {
            let at = At { name: &name, offset, zone };
            let Node::Alias(target) = node else { return (of_query, self.node(&node, at, reply)) };
            if self.rtype == Rtype::ANY {
                return (of_query, self.node(&node, at, reply));
            }
            let ttl = self.snapshot.apex().options().ttl;
            let next = reply.len() + 12;
            if !reply.record(Section::Answer, offset, Rtype::CNAME, ttl, &[target.as_wire()]) {
                reply.set_truncated();
                return (of_query, Answer::Here(Rcode::NOERROR));
            }
            if self.rtype == Rtype::CNAME {
                return (of_query, Answer::Here(Rcode::NOERROR));
            }
            let Ok(followed) = QueryName::of(target) else { return (of_query, Answer::Looping) };
            match self.snapshot.find(&followed) {
                None => return (of_query, Answer::Chase(target.clone())),
                Some((found, labels)) => (node, zone) = (found, labels),
            }
            (name, offset) = (std::borrow::Cow::Owned(followed), next);
        }
        (of_query, Answer::Looping)
    }

    fn zone(self, node: &Node<'_>, name: &QueryName) -> Zone {
        let in_domain = name.count().checked_sub(self.snapshot.apex.labels);
        let in_domain =
            in_domain.is_some_and(|below| name.from(below) == self.snapshot.apex.domain.as_wire());
        match (node, Tree::find(name)) {
            (_, Some((tree, _))) if !in_domain => Zone::Reverse(tree.family),
            _ => Zone::Cluster,
        }
    }

    fn node(self, node: &Node<'_>, at: At<'_>, reply: &mut Reply<'_>) -> Answer {
        let before = reply.mark();
        let ttl = self.snapshot.apex().options().ttl;
        match (node, self.rtype) {
            (Node::Nothing, _) => return self.nothing(at, reply),
            (_, Rtype::ANY) => {
                reply.record(Section::Answer, at.offset, Rtype::HINFO, ANY_TTL, &[ANY_DATA]);
            }
            (Node::Apex | Node::ReverseApex, Rtype::SOA) => self.soa(Section::Answer, at, reply),
            (Node::Apex | Node::ReverseApex, Rtype::NS) => self.name_server(at, reply),
            (Node::Version, Rtype::TXT) => {
                reply.record(Section::Answer, at.offset, Rtype::TXT, VERSION_TTL, &[b"\x051.1.0"]);
            }
            (Node::Pod(ip), rtype) if rtype == of(IpFamily::from(*ip)) => {
                self.addresses(Section::Answer, at.offset, std::iter::once(*ip), reply);
            }
            (Node::NameServer | Node::Service(_) | Node::Host(..), Rtype::A | Rtype::AAAA) => {
                let family = if self.rtype == Rtype::A { IpFamily::V4 } else { IpFamily::V6 };
                self.node_addresses(Section::Answer, node, family, at.offset, reply);
            }
            (Node::Service(entry), Rtype::SRV) => self.services(entry, entry.own_targets(), at, reply),
            (Node::Port(entry, port), Rtype::SRV) => self.services(entry, &port.targets, at, reply),
            (Node::Host(entry, host), Rtype::SRV) => self.services(entry, entry.targets_of(*host), at, reply),
            (Node::Pointers(ip, pointers), Rtype::PTR) => {
                for pointer in *pointers {
                    if !self.pointer(*ip, pointer, ttl, at, reply) {
                        reply.set_truncated();
                        break;
                    }
                }
            }
            _ => {}
        }
        if reply.mark() == before && !reply.is_truncated() {
            return self.no_data(node, at, reply);
        }
        Answer::Here(Rcode::NOERROR)
    }

    /// NXDOMAIN, unless somebody else may know better, or we later (A.3).
    fn nothing(self, at: At<'_>, reply: &mut Reply<'_>) -> Answer {
        if self.snapshot.apex().falls_through(at.name.from(0)) {
            return Answer::Elsewhere;
        }
        if !self.snapshot.is_synced() {
            return Answer::NotReady;
        }
        self.soa(Section::Authority, at, reply);
        Answer::Here(Rcode::NXDOMAIN)
    }

    /// NOERROR without answers, never NXDOMAIN: there may be addresses of the other family.
    fn no_data(self, node: &Node<'_>, at: At<'_>, reply: &mut Reply<'_>) -> Answer {
        let is_name = matches!(node, Node::Service(_) | Node::Host(..));
        if self.synthesize && is_name && self.rtype == Rtype::AAAA {
            return Answer::Elsewhere;
        }
        // Slices of one family may have come, and those of the other not yet.
        let may_grow = matches!(node, Node::Service(entry) | Node::Host(entry, _) if entry.is_headless());
        if may_grow && !self.snapshot.is_synced() {
            return Answer::NotReady;
        }
        self.soa(Section::Authority, at, reply);
        Answer::Here(Rcode::NOERROR)
    }

    /// The SOA of the zone a name is in; its name server's domain is in the name itself, or else far from it.
    fn soa(self, section: Section, at: At<'_>, reply: &mut Reply<'_>) {
        let apex = self.snapshot.apex();
        let minimum = apex.negative_ttl();
        let [refresh, retry, expire] = SOA_TIMES.map(u32::to_be_bytes);
        let pointer;
        let domain = if self.is_in_domain(at) {
            pointer = (0xc000 | at.last(at.zone) as u16).to_be_bytes();
            &pointer[..]
        } else {
            apex.domain.as_wire()
        };
        let data = [
            b"\x02ns\x03dns",
            domain,
            b"\x0ahostmaster",
            domain,
            &self.snapshot.serial().to_be_bytes(),
            &refresh,
            &retry,
            &expire,
            &minimum.to_be_bytes(),
        ];
        reply.record(section, at.last(at.zone), Rtype::SOA, minimum, &data);
    }

    fn is_in_domain(self, at: At<'_>) -> bool {
        at.zone == self.snapshot.apex.labels
            && at.name.from(at.name.count() - at.zone) == self.snapshot.apex.domain.as_wire()
    }

    /// NS, with addresses of both families.
    fn name_server(self, at: At<'_>, reply: &mut Reply<'_>) {
        let apex = self.snapshot.apex();
        let server = reply.len() + 12;
        let data: [&[u8]; 2] = [b"\x02ns\x03dns", apex.domain.as_wire()];
        if !reply.record(Section::Answer, at.last(at.zone), Rtype::NS, apex.options().ttl, &data) {
            return reply.set_truncated();
        }
        for family in IpFamily::BOTH {
            self.node_addresses(Section::Additional, &Node::NameServer, family, server, reply);
        }
    }

    fn pointer(self, ip: IpAddr, pointer: &Pointer, ttl: u32, at: At<'_>, reply: &mut Reply<'_>) -> bool {
        let domain = self.snapshot.apex.domain.as_wire();
        let dashed = dashed(ip);
        let label = match pointer.host.as_deref() {
            None => &[],
            Some("") => dashed.as_ref(),
            Some(label) => label.as_bytes(),
        };
        let length = [label.len() as u8];
        let length = if label.is_empty() { &[][..] } else { &length };
        reply.record(
            Section::Answer,
            at.offset,
            Rtype::PTR,
            ttl,
            &[length, label, &pointer.service, b"\x03svc", domain],
        )
    }

    /// Addresses of a node in a family.
    fn node_addresses(
        self,
        section: Section,
        node: &Node<'_>,
        family: IpFamily,
        owner: usize,
        reply: &mut Reply<'_>,
    ) {
        let of_family = |ip: &IpAddr| IpFamily::from(*ip) == family;
        match node {
            Node::NameServer => {
                let apex = self.snapshot.apex();
                let service = apex.name_server.as_ref().and_then(|key| self.snapshot.service(key));
                match service {
                    Some(entry) => self.entry_addresses(section, entry, family, owner, reply),
                    None => {
                        let known = apex.name_server_addresses().iter().copied().filter(of_family);
                        self.addresses(section, owner, known, reply);
                    }
                }
            }
            Node::Service(entry) => self.entry_addresses(section, entry, family, owner, reply),
            Node::Host(entry, host) => {
                let ips = entry.addresses_of(entry.host(*host)).iter();
                self.addresses(section, owner, ips.copied().filter(of_family), reply);
            }
            _ => {}
        }
    }

    fn entry_addresses(
        self,
        section: Section,
        entry: &Entry,
        family: IpFamily,
        owner: usize,
        reply: &mut Reply<'_>,
    ) {
        match family {
            IpFamily::V4 => self.addresses(section, owner, entry.v4.iter().map(|ip| IpAddr::V4(*ip)), reply),
            IpFamily::V6 => self.addresses(section, owner, entry.v6.iter().map(|ip| IpAddr::V6(*ip)), reply),
        }
    }

    /// A set of addresses, from a random one on. Additional ones are there all or none.
    fn addresses(
        self,
        section: Section,
        owner: usize,
        ips: impl Iterator<Item = IpAddr> + Clone,
        reply: &mut Reply<'_>,
    ) {
        let ttl = self.snapshot.apex().options().ttl;
        let before = reply.mark();
        let count = ips.clone().count();
        let start = self.random as usize % count.max(1);
        for ip in ips.cycle().skip(start).take(count) {
            let fits = match ip {
                IpAddr::V4(ip) => reply.record(section, owner, Rtype::A, ttl, &[&ip.octets()]),
                IpAddr::V6(ip) => reply.record(section, owner, Rtype::AAAA, ttl, &[&ip.octets()]),
            };
            if !fits {
                match section {
                    Section::Answer => reply.set_truncated(),
                    Section::Authority | Section::Additional => reply.back_to(before),
                }
                return;
            }
        }
    }

    /// SRV of targets, and the addresses of those; targets stand whole (RFC 2782).
    fn services(self, entry: &Entry, targets: &[Target], at: At<'_>, reply: &mut Reply<'_>) {
        let ttl = self.snapshot.apex().options().ttl;
        // The Service's own name: name, namespace and `svc` before the domain.
        let service = at.name.from(at.name.count() - at.zone - 3);
        let weight = (100 / targets.len().max(1)).max(1) as u16;
        // Not in the midst of a host.
        let mut start = self.random as usize % targets.len().max(1);
        while start > 0 && targets[start].host == targets[start - 1].host {
            start -= 1;
        }
        let rotated = || targets[start..].iter().chain(&targets[..start]);
        let first = reply.len();
        for target in rotated() {
            let ([w0, w1], [p0, p1]) = (weight.to_be_bytes(), target.port.to_be_bytes());
            let numbers = [0, 0, w0, w1, p0, p1];
            let mut room = [0; MAX_LABEL + 1];
            let label = label(entry, *target, &mut room);
            if !reply.record(Section::Answer, at.offset, Rtype::SRV, ttl, &[&numbers, label, service]) {
                return reply.set_truncated();
            }
        }
        let (mut place, mut last) = (first, None);
        for target in rotated() {
            let mut room = [0; MAX_LABEL + 1];
            let owner = place + 12 + 6;
            place = owner + label(entry, *target, &mut room).len() + service.len();
            if last.replace(target.host) == Some(target.host) {
                continue;
            }
            let node =
                if target.host == SELF { Node::Service(entry) } else { Node::Host(entry, target.host) };
            for family in IpFamily::BOTH {
                self.node_addresses(Section::Additional, &node, family, owner, reply);
            }
        }
    }
}

/// The type of a family's addresses.
const fn of(family: IpFamily) -> Rtype {
    match family {
        IpFamily::V4 => Rtype::A,
        IpFamily::V6 => Rtype::AAAA,
    }
}

/// The label of a target below its Service in wire form; nothing for the Service itself.
fn label<'r>(entry: &Entry, target: Target, room: &'r mut [u8; MAX_LABEL + 1]) -> &'r [u8] {
    if target.host == SELF {
        return &[];
    }
    let host: &Host = entry.host(target.host);
    let by_address = entry.addresses_of(host).first().copied().map(dashed);
    let text = match &by_address {
        Some(dashed) if host.label.is_empty() => dashed.as_ref(),
        _ => host.label.as_bytes(),
    };
    room[0] = text.len() as u8;
    room[1..][..text.len()].copy_from_slice(text);
    &room[..=text.len()]
}
