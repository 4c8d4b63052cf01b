//! What an answer is worth, from the proofs of its records.

use hickory_net::proto::dnssec::Proof;
use hickory_net::proto::dnssec::rdata::DNSSECRData;
use hickory_net::proto::op::DnsResponse;
use hickory_net::proto::rr::{self, RData, RecordType};

use super::{Failed, unreadable};
use crate::wire::{Message, Rdata, Record};

/// The answer, and whether it is secure or insecure; `denial` is what became of the proof that there is nothing, or
/// nothing closer than a wildcard, if one was needed.
pub(super) fn judge(response: &DnsResponse, denial: Proof) -> Result<(Message, Proof), Failed> {
    let mut message = Message::parse(response.as_buffer()).map_err(unreadable)?;
    limit(&mut message.answers, &response.answers);
    limit(&mut message.authority, &response.authorities);
    let proof = weigh(response, denial, is_synthesised(&message));
    if proof < Proof::Insecure {
        return Err(Failed::Bogus(format!("the proof is {proof}")));
    }
    Ok((message, proof))
}

/// Records hold no longer than signatures say (RFC 4035 §5.3.3).
fn limit(records: &mut [Record], proven: &[rr::Record]) {
    let ttls = proven.iter().filter(|record| record.proof.is_secure()).map(|record| record.ttl);
    let Some(lowest) = ttls.min() else { return };
    for record in records {
        record.ttl = record.ttl.min(lowest);
    }
}

/// Whether the alias is what a DNAME record makes of the name (RFC 6672 §5.3.1).
fn is_synthesised(message: &Message) -> bool {
    let alias = message.answers.iter().find_map(|record| match &record.data {
        Rdata::Cname(target) => Some((&record.name, target)),
        _ => None,
    });
    let Some((name, target)) = alias else { return false };
    message.answers.iter().any(|record| match &record.data {
        Rdata::Dname(to) => *name != record.name && name.rebase(&record.name, to).as_ref() == Some(target),
        _ => false,
    })
}

fn weigh(response: &DnsResponse, denial: Proof, is_synthesised: bool) -> Proof {
    // A signature has no proof of its own.
    let counts = |record: &&rr::Record| match record.record_type() {
        RecordType::RRSIG => false,
        RecordType::CNAME => !is_synthesised,
        _ => true,
    };
    let is_denial = response.answers.is_empty();
    let records = if is_denial { &response.authorities } else { &response.answers };
    // Without any, the name was found to be insecure.
    let lowest = records.iter().filter(counts).map(|record| record.proof).min().unwrap_or(Proof::Insecure);
    match lowest {
        Proof::Secure | Proof::Insecure if is_denial => denied(response, lowest.min(denial)),
        Proof::Secure => expanded(response, denial),
        // Where there can be no signatures, wildcards need no proof.
        lowest => lowest,
    }
}

/// What it is worth that there is nothing.
fn denied(response: &DnsResponse, denial: Proof) -> Proof {
    if has_secure(response, RecordType::NSEC) || has_secure(response, RecordType::NSEC3) {
        return denial;
    }
    // Hickory asks for no proof if all of the authority is insecure, of whatever zone that is; it has to be one that
    // the name lies in.
    let above = |record: &rr::Record| {
        let mut queries = response.queries.iter();
        record.proof.is_insecure() && queries.all(|query| record.name.zone_of(query.name()))
    };
    let insecure = response.authorities.is_empty() || response.authorities.iter().any(above);
    if insecure { denial.min(Proof::Insecure) } else { Proof::Bogus }
}

fn has_secure(response: &DnsResponse, rtype: RecordType) -> bool {
    response.authorities.iter().any(|record| record.record_type() == rtype && record.proof.is_secure())
}

/// What secure records are worth, which may be those of a wildcard: there must be no name that is closer.
fn expanded(response: &DnsResponse, denial: Proof) -> Proof {
    if has_secure(response, RecordType::NSEC3) {
        return denial;
    }
    // Hickory 0.26 wants the wildcard itself denied, too, which is there (its pull request 3812).
    let is_proven = response.answers.iter().filter(|record| record.proof.is_secure()).all(|record| {
        let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data else { return true };
        let labels = signature.input().num_labels;
        labels >= record.name.num_labels()
            || response.authorities.iter().any(|nsec| denies(nsec, &record.name, usize::from(labels) + 1))
    });
    if is_proven { Proof::Secure } else { Proof::Bogus }
}

/// Whether a NSEC record proves that there are no names at and below the last `labels` of `name` (RFC 4035 §5.3.4).
fn denies(record: &rr::Record, name: &rr::Name, labels: usize) -> bool {
    let RData::DNSSEC(DNSSECRData::NSEC(nsec)) = &record.data else { return false };
    let (closer, owner, next) = (name.trim_to(labels), &record.name, nsec.next_domain_name());
    // RFC 6840 §4.1, RFC 6672 §5.3.4.1: the other zone knows what is below.
    let leads_away = nsec.is_ancestor_delegation() || nsec.type_set().contains(RecordType::DNAME);
    let is_last = next <= owner && next.zone_of(&closer);
    record.proof.is_secure()
        && !(leads_away && owner.zone_of(name))
        && *owner < closer
        && (closer < *next && !closer.zone_of(next) || is_last)
}
