//! IPv6 addresses for names that have IPv4 ones only (RFC 6147), by the rules of A.10.
//!
//! Decisions only: who asks the questions is the chain.

use std::net::{IpAddr, Ipv6Addr};

use dyad_net::Ipv6Net;

use crate::corefile;
use crate::wire::{Class, Message, Rcode, Rdata, Record, Rtype};

mod discovery;
mod reverse;
mod select;

pub use discovery::discovery;
pub use reverse::Reverse;
pub use select::Selection;

/// Seconds a synthesised record holds at most, if there was no SOA to say so (RFC 6147 §5.1.7).
const TTL_WITHOUT_SOA: u32 = 600;
/// `::ffff:0:0/96`: IPv6 addresses that lead nowhere (RFC 6147 §5.1.4).
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// From where.
    pub ip: IpAddr,
    /// The namespace of the pod that asks, if it is one that is known.
    pub namespace: Option<&'a str>,
}

/// DNS64 as it is configured.
#[derive(Clone, Debug)]
pub struct Dns64 {
    config: corefile::Dns64,
}

/// What to do with the answer to an AAAA query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to the client.
    Keep,
    /// Give this to the client: some addresses are left out.
    Filtered(Message),
    /// Ask for A, and [synthesise](Dns64::synthesise).
    AskA,
}

impl Dns64 {
    /// DNS64 by these rules.
    pub const fn new(config: corefile::Dns64) -> Self {
        Self { config }
    }

    /// The rules.
    pub const fn config(&self) -> &corefile::Dns64 {
        &self.config
    }

    /// Whether the answer to `query` is to be looked at: AAAA, of IN, and not for one who validates itself
    /// (RFC 6147 §5.5).
    pub fn concerns(&self, query: &Message) -> bool {
        let aaaa = query
            .question()
            .is_some_and(|question| question.rtype == Rtype::AAAA && question.class == Class::IN);
        let dnssec = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        aaaa && !(self.config.strict_cd && dnssec && query.header.checking_disabled)
    }

    /// Whether an answer in wire form is what everybody gets, without a look at who asks: one to A, or with IPv6
    /// addresses that count.
    pub fn leaves(&self, rtype: Rtype, packet: &[u8]) -> bool {
        match rtype {
            Rtype::A => true,
            Rtype::AAAA => {
                Message::parse(packet).is_ok_and(|answer| self.judge(Some(&answer)) == Verdict::Keep)
            }
            // Reverse names may be aliases.
            _ => !self.config.ptr || !matches!(rtype, Rtype::PTR | Rtype::CNAME),
        }
    }

    /// What to do with the answer to an AAAA query; `None` is that there was no answer.
    pub fn judge(&self, answer: Option<&Message>) -> Verdict {
        let Some(answer) = answer else { return Verdict::AskA };
        match answer.header.rcode {
            Rcode::NXDOMAIN => return Verdict::Keep,
            Rcode::NOERROR => {}
            // RFC 6147 §5.1.2: like an empty answer.
            _ => return Verdict::AskA,
        }
        if self.config.translate_all {
            return Verdict::AskA;
        }
        let (all, kept) =
            (addresses(answer).count(), addresses(answer).filter(|ip| !self.is_excluded(*ip)).count());
        if kept == 0 {
            // The rest of a truncated answer may have addresses.
            return if answer.header.truncated { Verdict::Keep } else { Verdict::AskA };
        }
        if kept == all { Verdict::Keep } else { Verdict::Filtered(self.without_excluded(answer)) }
    }

    /// The answer to `query` from those to AAAA and to A, with prefixes for who asks.
    pub fn synthesise(
        &self,
        query: &Message,
        aaaa: Option<&Message>,
        a: Option<&Message>,
        selection: &Selection<'_>,
    ) -> Message {
        let empty =
            aaaa.filter(|aaaa| aaaa.header.rcode == Rcode::NOERROR).map(|aaaa| self.without_excluded(aaaa));
        // No answer to A at all: what there was to AAAA is as good as it gets.
        let Some(a) = a else {
            return empty.unwrap_or_else(|| query.response(Rcode::SERVFAIL));
        };
        let mut answer = a.clone();
        answer.header.id = query.header.id;
        answer.questions.clone_from(&query.questions);
        if a.header.rcode != Rcode::NOERROR {
            return answer;
        }
        let cap = empty.as_ref().and_then(soa_ttl).unwrap_or(TTL_WITHOUT_SOA);
        answer.header.authentic_data = false;
        answer.header.authoritative = false;
        // Aliases stay as they are; what is replaced goes with its signatures (RFC 6147 §5.3.1).
        let replaced = |rtype| matches!(rtype, Some(Rtype::A | Rtype::AAAA));
        answer.answers.retain(|record| !replaced(Some(record.rtype())) && !replaced(record.signed()));
        let aliases = answer.answers.len();
        for prefix in selection.prefixes() {
            for record in a.answers.iter().filter(|record| record.class == Class::IN) {
                if let Rdata::A(ip) = record.data
                    && selection.serves(prefix, ip)
                {
                    let data = Rdata::Aaaa(prefix.embed(ip));
                    answer.answers.push(Record::new(record.name.clone(), record.ttl.min(cap), data));
                }
            }
        }
        if answer.answers.len() == aliases { empty.unwrap_or(answer) } else { answer }
    }

    fn is_excluded(&self, ip: Ipv6Addr) -> bool {
        let own = self.config.prefixes.iter().map(|prefix| prefix.prefix.net());
        own.chain([MAPPED]).chain(self.config.exclude.iter().copied()).any(|net| net.contains(&ip))
    }

    /// The answer without addresses that do not count, and without the signatures they had.
    fn without_excluded(&self, answer: &Message) -> Message {
        let excluded = |record: &Record| matches!(record.data, Rdata::Aaaa(ip) if self.is_excluded(ip));
        let mut answer = answer.clone();
        if answer.answers.iter().any(excluded) {
            answer.answers.retain(|record| !excluded(record) && record.signed() != Some(Rtype::AAAA));
            answer.header.authentic_data = false;
        }
        answer
    }
}

fn addresses(answer: &Message) -> impl Iterator<Item = Ipv6Addr> {
    answer.answers.iter().filter_map(|record| match record.data {
        Rdata::Aaaa(ip) => Some(ip),
        _ => None,
    })
}

/// The TTL of the SOA record of a negative answer.
fn soa_ttl(answer: &Message) -> Option<u32> {
    answer.authority.iter().find(|record| record.rtype() == Rtype::SOA).map(|record| record.ttl)
}

#[cfg(test)]
mod tests;
