//! The hot path: from a query to its answer by one probe of the snapshot (A.3, A.9). Pure: clock and dice come with the
//! client.

use std::net::SocketAddr;

use dyad_net::IpFamily;

use crate::wire::{Class, Rcode, Rtype, ede};
use crate::zone::Snapshot;

mod answer;
mod aside;
mod cookie;
mod lookup;
mod query;
mod reply;

pub use aside::{dress, question, with_asked};
pub use lookup::{Local, lookup};

use answer::{Answer, Answering};
use query::{Query, Unanswerable};
use reply::Reply;

/// The UDP payload we take and give at most (A.9).
pub const UDP_SIZE: u16 = 1232;
/// What everybody takes over UDP (RFC 1035 section 2.3.4).
pub const MIN_UDP_SIZE: u16 = 512;

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// Whence the query came.
    pub peer: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Seconds since 1970.
    pub now: u32,
    /// Where sets begin.
    pub random: u32,
}

/// What an operator decides of answers.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// This server's name, for NSID (RFC 5001); at most 64 bytes of it are given. Empty for none.
    pub nsid: Box<[u8]>,
    /// The secret that server cookies are made with (RFC 9018); `None` for none.
    pub cookie_secret: Option<[u8; 16]>,
    /// How long connections may idle, in units of 100 ms (RFC 7828).
    pub keepalive: u16,
    /// Whether names of the zone that have no IPv6 address are for the slow path, which may synthesize some.
    pub synthesize: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send what was written.
    Reply,
    /// Ask the slow path.
    Slow,
    /// Nothing.
    Drop,
}

/// The zone a query is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Zone {
    /// The cluster domain.
    Cluster,
    /// Addresses of a family.
    Reverse(IpFamily),
    /// Everything else.
    Root,
}

/// What became of a query.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// What to do.
    pub verdict: Verdict,
    /// Where it belongs.
    pub zone: Zone,
    /// What was asked for; zero if that could not be read.
    pub rtype: Rtype,
    /// What is answered, if anything is.
    pub rcode: Rcode,
    /// Whether the client has a cookie of ours: it is who it says.
    pub is_known: bool,
}

/// Answers a query, if the snapshot can. `out` holds the response when the verdict is [`Verdict::Reply`], and
/// anything otherwise.
pub fn respond(
    snapshot: &Snapshot,
    rules: &Rules,
    packet: &[u8],
    client: &Client,
    out: &mut Vec<u8>,
) -> Outcome {
    let none =
        |verdict, rcode| Outcome { verdict, zone: Zone::Root, rtype: Rtype(0), rcode, is_known: false };
    let query = match Query::read(packet) {
        Ok(query) => query,
        Err(Unanswerable::Dropped) => return none(Verdict::Drop, Rcode::NOERROR),
        Err(Unanswerable::Refused { header, question, rcode }) => {
            Reply::new(out, header, question, MIN_UDP_SIZE.into()).finish(rcode);
            return none(Verdict::Reply, rcode);
        }
    };
    let is_known = query.has_our_cookie(rules, client);
    let mut outcome = Outcome { rtype: query.rtype, is_known, ..none(Verdict::Reply, Rcode::NOERROR) };
    let mut reply = Reply::new(out, query.header, query.question, query.limit(client.transport));
    reply.reserve(query.opt_size(rules, client.transport));
    let empty = reply.mark();
    let (mut authoritative, mut error) = (false, None);
    outcome.rcode = if query.edns.as_ref().is_some_and(|edns| edns.version > 0) {
        Rcode::BADVERS
    } else if query.class != Class::IN {
        Rcode::REFUSED
    } else if matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
        error = Some(ede::PROHIBITED);
        Rcode::REFUSED
    } else {
        let answering =
            Answering { snapshot, rtype: query.rtype, random: client.random, synthesize: rules.synthesize };
        let (zone, answer) = answering.answer(&query.name, &mut reply);
        outcome.zone = zone;
        match answer {
            Answer::Here(rcode) => {
                authoritative = true;
                rcode
            }
            Answer::NotReady => {
                error = Some(ede::NOT_READY);
                Rcode::SERVFAIL
            }
            Answer::Looping => Rcode::SERVFAIL,
            Answer::Minimal => Rcode::NOERROR,
            Answer::Elsewhere | Answer::Chase(_) => {
                outcome.verdict = Verdict::Slow;
                return outcome;
            }
        }
    };
    if outcome.rcode == Rcode::SERVFAIL {
        reply.back_to(empty);
    }
    reply.set_authoritative(authoritative);
    query.put_opt(&mut reply, rules, client, outcome.rcode, error);
    reply.finish(outcome.rcode);
    outcome
}

/// Writes the response to `packet` that has nothing but a code: SERVFAIL where there is no room for the query, or
/// with TC where the client shall come back over TCP. `false` if it is no query.
pub fn refuse(packet: &[u8], rcode: Rcode, truncated: bool, out: &mut Vec<u8>) -> bool {
    let query = Query::read(packet);
    let (header, question) = match &query {
        Ok(query) => (query.header, query.question),
        Err(Unanswerable::Refused { header, question, .. }) => (*header, *question),
        Err(Unanswerable::Dropped) => return false,
    };
    let mut reply = Reply::new(out, header, question, MIN_UDP_SIZE.into());
    if truncated {
        reply.set_truncated();
    }
    if let Ok(Query { edns: Some(edns), .. }) = &query {
        reply.opt(UDP_SIZE, rcode, edns.dnssec_ok, |_| {});
    }
    reply.finish(rcode);
    true
}

/// Bytes that the response to a query may have over UDP.
pub fn udp_limit(packet: &[u8]) -> usize {
    Query::read(packet).map_or(MIN_UDP_SIZE.into(), |query| query.limit(Transport::Udp))
}

#[cfg(test)]
mod tests;
