//! What Hickory asks, asked by our [`Forwarder`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hickory_net::NetError;
use hickory_net::proto::op::{DnsRequest, DnsResponse};
use hickory_net::proto::serialize::binary::BinEncodable as _;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::xfer::DnsHandle;

use super::{Failed, unreadable};
use crate::cache::{Asked, Cache};
use crate::corefile;
use crate::forward::{ForwardError, Forwarder};
use crate::wire::{Edns, Header, MAX_MESSAGE, Message, Name, Question, Rcode, Rdata, Record, Rtype};

/// How long keys and cuts of zones are remembered: a forged one, which proves nothing, does no harm for longer.
const KEEP: Duration = Duration::from_secs(60);
/// Bytes of memory for them.
const ROOM: usize = 1 << 20;

#[derive(Clone)]
pub(super) struct Upstream {
    forwarder: Forwarder,
    /// Of keys and cuts: most proofs need the same ones.
    memory: Arc<Cache>,
}

impl Upstream {
    pub(super) fn new(forwarder: Forwarder) -> Self {
        let mut rules = corefile::Cache { bytes: ROOM, servfail: Duration::ZERO, ..Default::default() };
        for keep in [&mut rules.success, &mut rules.denial] {
            (keep.min_ttl, keep.max_ttl) = (0, KEEP.as_secs() as u32);
        }
        Self { forwarder, memory: Arc::new(Cache::new(rules)) }
    }

    async fn ask(&self, request: &DnsRequest) -> Result<DnsResponse, Failed> {
        let asked = request.queries.first().ok_or(ForwardError::Question)?;
        let name = Name::from_wire(&asked.name.to_bytes().map_err(unreadable)?).map_err(unreadable)?;
        let question = Question::new(name, Rtype(asked.query_type.into()));
        // RFC 4035 §4.2, RFC 6840 §5.9: all there is, and what others make of it does not count.
        let header = Header { checking_disabled: true, ..Header::query(0) };
        let mut query = Message::new(header, Some(question));
        query.edns = Some(Edns { dnssec_ok: true, ..Edns::default() });
        let mut answer = self.remembered(&query).await?;
        answer.header.authentic_data = false;
        if !matches!(answer.header.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
            return Err(Failed::Code(Box::new(answer)));
        }
        reduce(&mut answer);
        DnsResponse::from_buffer(answer.to_bytes()).map_err(unreadable)
    }

    async fn remembered(&self, query: &Message) -> Result<Message, ForwardError> {
        let is_chain = |asked: &Asked<'_>| matches!(asked.rtype, Rtype::DNSKEY | Rtype::DS | Rtype::NS);
        let asked = Asked::of(query, MAX_MESSAGE).filter(is_chain);
        let mut packet = Vec::new();
        if let Some(asked) = &asked
            && self.memory.answer(asked, Instant::now(), false, &mut packet).is_some()
            && let Ok(answer) = Message::parse(&packet)
        {
            return Ok(answer);
        }
        let answer = self.forwarder.ask(query).await?;
        if let Some(asked) = &asked {
            self.memory.insert(asked, &answer, Instant::now());
        }
        Ok(answer)
    }
}

impl DnsHandle for Upstream {
    type Response = BoxStream<'static, Result<DnsResponse, NetError>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let upstream = self.clone();
        stream::once(async move { upstream.ask(&request).await.map_err(NetError::from) }).boxed()
    }
}

/// Leaves only what answers the question itself: records of the type, or the alias, with what proves it, or with the
/// denial. Others could not be proven with it, and say nothing that may be believed.
fn reduce(answer: &mut Message) {
    let Some(Question { name, rtype, .. }) = answer.question().cloned() else { return };
    let has = |rtype| answer.answers.iter().any(|record| record.rtype() == rtype && record.name == name);
    let wanted = [rtype, Rtype::CNAME].into_iter().find(|wanted| has(*wanted));
    let is_of = |record: &Record, rtype| record.rtype() == rtype || record.signed() == Some(rtype);
    answer.answers.retain(|record| match wanted {
        Some(wanted) if record.name == name => is_of(record, wanted),
        // RFC 6672 §5.3.1: it proves the alias, which has no signature.
        Some(Rtype::CNAME) => is_of(record, Rtype::DNAME) && name.is_within(&record.name),
        _ => false,
    });
    let proves = |record: &Record| is_of(record, Rtype::NSEC) || is_of(record, Rtype::NSEC3);
    if answer.answers.is_empty() {
        answer.authority.retain(|record| proves(record) || is_of(record, Rtype::SOA));
    } else {
        // What there is, is not denied; but for the name of which a wildcard stands in (RFC 4035 §5.3.4).
        let is_expanded = answer.answers.iter().any(is_expanded);
        answer.authority.retain(|record| is_expanded && proves(record));
        answer.header.rcode = Rcode::NOERROR;
    }
    answer.additional.clear();
}

/// Whether this is the signature of a wildcard (RFC 4034 §3.1.3).
fn is_expanded(record: &Record) -> bool {
    let labels = match &record.data {
        Rdata::Other(Rtype::RRSIG, data) => data.get(3),
        _ => None,
    };
    labels.is_some_and(|labels| usize::from(*labels) < record.name.labels().count())
}
