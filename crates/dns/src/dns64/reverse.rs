//! Reverse names under a prefix (RFC 6147 §5.3.1).

use super::Dns64;
use crate::reverse;
use crate::wire::{Class, Message, Name, Rcode, Rdata, Record, Rtype};

/// Seconds the alias holds: it says the same as long as the prefix is there.
const TTL: u32 = 600;

/// What a reverse name under a prefix leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reverse {
    /// The reverse name of the IPv4 address, to be asked for in its place.
    Alias(Name),
    /// Nothing: no address of ours is spelt so.
    Nothing,
}

impl Dns64 {
    /// What the name of a question leads to, if it is under a prefix of ours.
    pub fn reverse(&self, query: &Message) -> Option<Reverse> {
        let question = query.question().filter(|question| self.config.ptr && question.class == Class::IN)?;
        let ip = reverse::address(&question.name)?;
        let prefix = self.prefix_of(ip)?;
        let std::net::IpAddr::V6(ip) = ip else { return None };
        Some(match prefix.extract_strict(ip).filter(|found| prefix.may_carry(*found)) {
            Some(found) => Reverse::Alias(reverse::name(found.into())),
            None => Reverse::Nothing,
        })
    }

    /// The answer to `query` from that to the same question of the alias; of a question for the alias itself, there is
    /// no other.
    pub fn alias(&self, query: &Message, target: Name, answer: Option<&Message>) -> Message {
        let mut response = query.response(Rcode::NOERROR);
        let Some(question) = query.question() else { return response };
        response.answers.push(Record::new(question.name.clone(), TTL, Rdata::Cname(target)));
        if question.rtype == Rtype::CNAME {
            return response;
        }
        match answer {
            Some(answer) => {
                response.header.rcode = answer.header.rcode;
                response.header.truncated = answer.header.truncated;
                response.answers.extend_from_slice(&answer.answers);
                response.authority.clone_from(&answer.authority);
                response.additional.clone_from(&answer.additional);
            }
            None => response.header.rcode = Rcode::SERVFAIL,
        }
        response
    }
}
