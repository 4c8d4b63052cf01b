//! `ipv4only.arpa`: how hosts find the prefixes (RFC 7050), answered here and never asked of others (RFC 8880).

use std::net::{IpAddr, Ipv4Addr};

use dyad_net::Pref64;

use crate::reverse;
use crate::wire::{Class, Message, Name, Rcode, Rdata, Record, Rtype, Soa};

/// The addresses the name has (RFC 7050 §2.2).
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
const TTL: u32 = 86_400;
/// Of zones that are served locally (RFC 6303 §3).
const NEGATIVE_TTL: u32 = 10_800;

/// The answer to a question about `ipv4only.arpa` or the names of its addresses, if it is one; `prefixes` are those of
/// the client.
pub fn discovery(query: &Message, prefixes: &[Pref64]) -> Option<Message> {
    let question = query.question().filter(|question| question.class == Class::IN)?;
    let zone = zone();
    let (apex, data): (Name, Vec<Rdata>) = if question.name.is_within(&zone) {
        if question.name != zone {
            return Some(negative(query, Rcode::NXDOMAIN, zone));
        }
        let synthesised = prefixes.iter().flat_map(|prefix| ADDRESSES.map(|ip| prefix.embed(ip)));
        let data = match question.rtype {
            Rtype::A | Rtype::ANY => ADDRESSES.map(Rdata::A).into(),
            Rtype::AAAA => synthesised.map(Rdata::Aaaa).collect(),
            Rtype::SOA => vec![soa(&zone)],
            Rtype::NS => vec![Rdata::Ns(zone.clone())],
            _ => Vec::new(),
        };
        (zone, data)
    } else {
        let known = match reverse::address(&question.name)? {
            IpAddr::V4(ip) => ADDRESSES.contains(&ip),
            IpAddr::V6(ip) => {
                prefixes.iter().any(|prefix| ADDRESSES.map(|known| prefix.embed(known)).contains(&ip))
            }
        };
        if !known {
            return None;
        }
        // The zone is the name itself (RFC 8880 §7).
        let data = match question.rtype {
            Rtype::PTR | Rtype::ANY => vec![Rdata::Ptr(zone)],
            _ => Vec::new(),
        };
        (question.name.to_lowercase(), data)
    };
    if data.is_empty() {
        return Some(negative(query, Rcode::NOERROR, apex));
    }
    let mut response = query.response(Rcode::NOERROR);
    response.header.authoritative = true;
    response.answers = data.into_iter().map(|data| Record::new(question.name.clone(), TTL, data)).collect();
    Some(response)
}

fn zone() -> Name {
    Name::from_labels(["ipv4only", "arpa"]).unwrap_or_else(|_| Name::root())
}

fn negative(query: &Message, rcode: Rcode, apex: Name) -> Message {
    let mut response = query.response(rcode);
    response.header.authoritative = true;
    response.authority.push(Record::new(apex.clone(), NEGATIVE_TTL, soa(&apex)));
    response
}

/// The SOA of a zone that is served locally (RFC 6303 §3).
fn soa(apex: &Name) -> Rdata {
    let rname = Name::from_labels(["nobody", "invalid"]).unwrap_or_else(|_| Name::root());
    Rdata::Soa(Box::new(Soa {
        mname: apex.clone(),
        rname,
        serial: 1,
        refresh: 3600,
        retry: 1200,
        expire: 604_800,
        minimum: NEGATIVE_TTL,
    }))
}
