//! Names that are the same everywhere (RFC 6761 §6.3), and what ANY gets (RFC 8482).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::reverse;
use crate::wire::{Message, Name, Rcode, Rdata, Record, Rtype};

/// Seconds such answers hold.
const TTL: u32 = 3600;

/// The answer if the question is for `localhost`, a name under it, or the name of its addresses.
pub(super) fn answer(query: &Message) -> Option<Message> {
    let question = query.question()?;
    let localhost = Name::from_labels(["localhost"]).ok()?;
    let zone = if question.name.is_within(&localhost) {
        localhost.clone()
    } else {
        let ip = reverse::address(&question.name)?;
        let known = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        known.contains(&ip).then(|| question.name.clone())?
    };
    let is_name = zone == localhost;
    let data = match question.rtype {
        Rtype::A if is_name => Some(Rdata::A(Ipv4Addr::LOCALHOST)),
        Rtype::AAAA if is_name => Some(Rdata::Aaaa(Ipv6Addr::LOCALHOST)),
        Rtype::PTR if !is_name => Some(Rdata::Ptr(localhost)),
        _ => None,
    };
    let mut response = query.response(Rcode::NOERROR);
    response.header.authoritative = true;
    match data {
        Some(data) => response.answers.push(Record::new(question.name.clone(), TTL, data)),
        None => response.authority.push(super::denial(zone, TTL)),
    }
    Some(response)
}

/// What ANY gets (RFC 8482 §4.2).
pub(super) fn minimal(query: &Message) -> Message {
    let mut response = query.response(Rcode::NOERROR);
    if let Some(question) = query.question() {
        let data = Rdata::Hinfo((*b"RFC8482").into(), Box::default());
        response.answers.push(Record::new(question.name.clone(), TTL, data));
    }
    response
}
