//! Validation of what others answer (RFC 4033 to 4035): Hickory's proofs, over our way to upstreams.
//!
//! Each alias is asked for and proven by itself: there is one thing to prove in every answer.

use std::sync::Arc;
use std::time::Duration;

use hickory_net::dnssec::DnssecDnsHandle;
use hickory_net::proto::dnssec::{Proof, TrustAnchors};
use hickory_net::proto::op::{DnsRequestOptions, Query};
use hickory_net::proto::rr;
use hickory_net::proto::serialize::binary::BinDecodable as _;
use hickory_net::proto::serialize::txt::ParseError;
use hickory_net::proto::serialize::txt::trust_anchor::Parser;
use hickory_net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_net::{DnsError, NetError};

use crate::corefile::Anchors;
use crate::forward::{ForwardError, Forwarder};
use crate::wire::{Edns, EdnsOption, Message, Name, Question, Rcode, Rdata, Rtype, Section, ede};

mod handle;
mod judge;

use handle::Upstream;

/// Aliases that lead from one to the next.
const ALIASES: usize = 8;
/// For all that is asked to prove one answer.
const BUDGET: Duration = Duration::from_secs(5);
/// Proofs that are remembered.
const PROOFS: usize = 4096;
/// How long one may be older than its signature (RFC 4035 §5.3.3).
const PROOF: Duration = Duration::from_secs(60);

/// Why there is nothing to begin with.
#[derive(Debug, thiserror::Error)]
pub enum AnchorsError {
    /// The file can't be read, or has other records.
    #[error("can't read the trust anchors of {0}, which are to be DNSKEY records: {1}")]
    File(String, ParseError),
    /// The file has no records.
    #[error(
        "there are no trust anchors in {0}: write DNSKEY records, or leave the file out for those of the root"
    )]
    Empty(String),
}

/// Asks upstreams for what is proven.
#[derive(Clone)]
pub struct Validator(DnssecDnsHandle<Upstream>);

/// Why there is no proven answer.
#[derive(Clone, Debug, thiserror::Error)]
enum Failed {
    /// Upstreams could not be asked.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Upstreams failed: there is nothing to prove in this.
    #[error("upstreams answer {}", .0.header.rcode)]
    Code(Box<Message>),
    /// What they say should have a proof, and has none.
    #[error("bogus: {0}")]
    Bogus(String),
}

impl Validator {
    /// Validation of what the upstreams of `forwarder` say, from `anchors` on.
    pub fn new(forwarder: Forwarder, anchors: &Anchors) -> Result<Self, AnchorsError> {
        let anchors = match anchors {
            Anchors::Iana => TrustAnchors::default(),
            Anchors::File(file) => read(file)?,
        };
        let handle = DnssecDnsHandle::with_trust_anchor(Upstream::new(forwarder), Arc::new(anchors));
        let handle = handle.validation_cache_size(PROOFS).positive_validation_ttl(Duration::ZERO..=PROOF);
        Ok(Self(handle))
    }

    /// The answer to a query, which is of one who does not validate himself: with AD if it is proven, and without if
    /// it is proven that there can be no proof.
    pub async fn ask(&self, query: &Message) -> Result<Message, ForwardError> {
        let question = query.question().ok_or(ForwardError::Question)?;
        let mut answer = match tokio::time::timeout(BUDGET, self.follow(question)).await {
            Err(_) => return Err(ForwardError::NoAnswer("it takes too long to prove the answer".to_owned())),
            Ok(Err(Failed::Forward(error))) => return Err(error),
            Ok(Err(Failed::Code(answer))) => *answer,
            Ok(Err(error @ Failed::Bogus(_))) => {
                tracing::debug!(name = %question.name, rtype = %question.rtype, %error);
                bogus(query)
            }
            Ok(Ok(answer)) => answer,
        };
        answer.header.id = query.header.id;
        answer.header.recursion_desired = query.header.recursion_desired;
        answer.header.checking_disabled = false;
        answer.questions.clone_from(&query.questions);
        if !query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok) {
            strip(&mut answer, question.rtype);
        }
        Ok(answer)
    }

    /// The answer with all its aliases.
    async fn follow(&self, question: &Question) -> Result<Message, Failed> {
        let (mut name, mut is_secure) = (question.name.clone(), true);
        let (mut answers, mut authority) = (Vec::new(), Vec::new());
        for _ in 0..=ALIASES {
            let (mut link, proof) = self.prove(&name, question.rtype).await?;
            is_secure &= proof.is_secure();
            let target = link.answers.iter().find_map(|record| match &record.data {
                Rdata::Cname(target) if question.rtype != Rtype::CNAME => Some(target.clone()),
                _ => None,
            });
            answers.append(&mut link.answers);
            authority.append(&mut link.authority);
            let Some(target) = target else {
                (link.answers, link.authority) = (answers, authority);
                link.header.authentic_data = is_secure;
                return Ok(link);
            };
            name = target;
        }
        Err(Failed::Forward(ForwardError::NoAnswer(format!("more than {ALIASES} aliases"))))
    }

    /// What there is at a name, an alias perhaps; with what the proof says: secure, or insecure.
    async fn prove(&self, name: &Name, rtype: Rtype) -> Result<(Message, Proof), Failed> {
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = true;
        let name = rr::Name::from_bytes(name.as_wire()).map_err(unreadable)?;
        let asked = self.0.lookup(Query::query(name, rtype.0.into()), options).first_answer();
        let (response, denial) = match asked.await {
            Ok(response) => (response, Proof::Secure),
            Err(NetError::Dns(DnsError::Nsec { response, proof, .. })) => (*response, proof),
            Err(error) => return Err(error.into()),
        };
        judge::judge(&response, denial)
    }
}

fn read(file: &str) -> Result<TrustAnchors, AnchorsError> {
    let unusable = |error| AnchorsError::File(file.to_owned(), error);
    let text = std::fs::read_to_string(file).map_err(|error| unusable(error.into()))?;
    if Parser::new(text.as_str()).parse().map_err(unusable)?.is_empty() {
        return Err(AnchorsError::Empty(file.to_owned()));
    }
    text.parse().map_err(unusable)
}

impl From<Failed> for NetError {
    fn from(failed: Failed) -> Self {
        std::io::Error::other(failed).into()
    }
}

impl From<NetError> for Failed {
    fn from(error: NetError) -> Self {
        let ours = match &error {
            NetError::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()),
            _ => None,
        };
        ours.cloned().unwrap_or_else(|| unreadable(error))
    }
}

fn unreadable(error: impl std::fmt::Display) -> Failed {
    Failed::Bogus(error.to_string())
}

/// RFC 4035 §5.5, RFC 8914 §4.7.
fn bogus(query: &Message) -> Message {
    let mut answer = query.response(Rcode::SERVFAIL);
    let options = vec![EdnsOption::Error(ede::DNSSEC_BOGUS, "".into())];
    answer.edns = Some(Edns { options, ..Edns::default() });
    answer
}

/// Leaves out what a client without DO did not ask for (RFC 4035 §3.2.1).
fn strip(answer: &mut Message, asked: Rtype) {
    for section in Section::ALL {
        answer.section_mut(section).retain(|record| {
            let rtype = record.rtype();
            rtype == asked || !matches!(rtype, Rtype::RRSIG | Rtype::NSEC | Rtype::NSEC3)
        });
    }
}

#[cfg(test)]
mod tests;
