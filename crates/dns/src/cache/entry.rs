//! One answer.

use std::time::{Duration, Instant};

use super::Asked;
use crate::corefile;
use crate::wire::{Class, HEADER, Header, MAX_NAME, Message, Opcode, Rcode, Rdata, Reader, Rtype, Section};

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records.
    Success,
    /// No records of the type.
    NoData,
    /// No name.
    NoName,
    /// Nothing could be found out.
    Failure,
}

/// Records of one size that follow each other: the addresses of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    pub(super) at: u16,
    pub(super) count: u16,
    pub(super) size: u16,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: u64,
    /// Type, class and flags it is the answer for; type 0 is every one.
    pub(super) asked: (Rtype, Class, u8),
    /// The response without OPT.
    pub(super) packet: Box<[u8]>,
    /// Where the name of the question ends: it begins after the header.
    pub(super) name_end: usize,
    /// Where the TTLs stand.
    pub(super) ttls: Box<[u16]>,
    /// The addresses, if there are several.
    pub(super) set: Option<Set>,
    pub(super) kind: Kind,
    pub(super) rcode: Rcode,
    pub(super) stored: Instant,
    pub(super) expires: Instant,
    /// After a failure: until when the old answer is given at once.
    pub(super) recheck: Option<Instant>,
    /// Since when somebody is asking for a newer one.
    pub(super) renewing: Option<Instant>,
    /// Hits, without a pause of the window's length before.
    pub(super) hits: u32,
    last_hit: Instant,
    /// How often it was used lately: 0 to 3.
    pub(super) frequency: u8,
    /// In the main queue.
    pub(super) main: bool,
}

impl Entry {
    /// What to keep of a response, if it may be kept.
    pub(super) fn new(
        asked: &Asked<'_>,
        response: &Message,
        config: &corefile::Cache,
        now: Instant,
    ) -> Option<Self> {
        let question = response.question()?;
        let header = response.header;
        let fits = question.name.as_wire().eq_ignore_ascii_case(asked.name)
            && (question.rtype, question.class) == (asked.rtype, asked.class);
        let whole = header.response && header.opcode == Opcode::QUERY && !header.truncated;
        let single = !matches!(asked.rtype, Rtype::ANY | Rtype::AXFR | Rtype::IXFR | Rtype::OPT);
        if !(fits && whole && single) {
            return None;
        }
        let (kind, lifetime) = judge(response, config)?;
        if lifetime == 0 {
            return None;
        }
        // RFC 2308 §5: that there is no name holds for every type, unless the name is an alias of another.
        let every = kind == Kind::NoName && response.answers.is_empty();
        let rtype = if every { Rtype(0) } else { asked.rtype };
        let packet = encode(response, kind, lifetime, config);
        let (ttls, set) = offsets(&packet)?;
        Some(Self {
            key: 0,
            asked: (rtype, asked.class, asked.flags()),
            name_end: HEADER + asked.name.len(),
            packet: packet.into(),
            ttls: ttls.into(),
            set,
            kind,
            rcode: header.rcode,
            stored: now,
            expires: now + Duration::from_secs(lifetime.into()),
            recheck: None,
            renewing: None,
            hits: 0,
            last_hit: now,
            frequency: 0,
            main: false,
        })
    }

    /// The name in lower case, in wire form.
    pub(super) fn name(&self) -> &[u8] {
        &self.packet[HEADER..self.name_end]
    }

    /// Bytes it takes, with its places in tables and queues.
    pub(super) fn cost(&self) -> usize {
        self.packet.len() + 2 * self.ttls.len() + size_of::<Self>() + 64
    }

    /// Something else was learnt of the name.
    pub(super) fn supersede(&mut self) {
        (self.expires, self.recheck) = (self.stored, None);
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.expires == self.stored
    }

    /// Counts a hit.
    pub(super) fn touch(&mut self, now: Instant, window: Duration) {
        let paused = now.saturating_duration_since(self.last_hit) >= window;
        self.hits = if paused { 1 } else { self.hits.saturating_add(1) };
        self.last_hit = now;
        self.frequency = (self.frequency + 1).min(3);
    }

    /// Whether it is asked for so often, and so near its end, that it is renewed before.
    pub(super) fn is_worth_renewing(&self, now: Instant, prefetch: &corefile::Prefetch) -> bool {
        let all = self.expires.saturating_duration_since(self.stored);
        let left = self.expires.saturating_duration_since(now);
        let often = prefetch.amount > 0 && self.hits >= prefetch.amount;
        often && self.kind != Kind::Failure && left <= all * prefetch.percentage.into() / 100
    }
}

/// What a response says, and how many seconds it holds; `None` if it is not to be kept.
fn judge(response: &Message, config: &corefile::Cache) -> Option<(Kind, u32)> {
    let question = response.question()?;
    let is_answer = |rtype| rtype == question.rtype || question.rtype == Rtype::ANY;
    let kind = match response.header.rcode {
        Rcode::NOERROR if response.answers.iter().any(|record| is_answer(record.rtype())) => Kind::Success,
        Rcode::NOERROR => Kind::NoData,
        Rcode::NXDOMAIN => Kind::NoName,
        Rcode::SERVFAIL => {
            let seconds = config.servfail.min(Duration::from_secs(300)).as_secs();
            return Some((Kind::Failure, u32::try_from(seconds).unwrap_or(300)));
        }
        _ => return None,
    };
    let all = Section::ALL.into_iter().flat_map(|section| response.section(section));
    let lowest = all.map(|record| record.ttl).min();
    let (keep, ttl) = match kind {
        Kind::Success => (&config.success, lowest?),
        // RFC 2308 §5: without a SOA there is nothing that says how long it holds.
        _ => {
            let soa = response.authority.iter().find_map(|record| match &record.data {
                Rdata::Soa(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })?;
            (&config.denial, soa.min(lowest?))
        }
    };
    // RFC 2181 §8: a TTL with its top bit set is zero; and what holds for no time is not kept longer.
    let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
    Some((kind, if ttl == 0 { 0 } else { ttl.clamp(keep.min_ttl.min(keep.max_ttl), keep.max_ttl) }))
}

/// The response as it is kept: no OPT, TTLs within bounds, the name of the question in lower case.
fn encode(response: &Message, kind: Kind, lifetime: u32, config: &corefile::Cache) -> Vec<u8> {
    let mut kept = response.clone();
    kept.edns = None;
    kept.header = Header { id: 0, authoritative: false, recursion_available: true, ..kept.header };
    for question in &mut kept.questions {
        question.name = question.name.to_lowercase();
    }
    let keep = if kind == Kind::Success { &config.success } else { &config.denial };
    for section in Section::ALL {
        for record in kept.section_mut(section) {
            // A SOA says how long the denial holds (RFC 2308 §5).
            let denial = kind != Kind::Success && record.rtype() == Rtype::SOA;
            record.ttl = if denial { lifetime } else { record.ttl.min(keep.max_ttl).max(lifetime) };
        }
    }
    kept.to_bytes()
}

/// Where the TTLs of a packet stand, and the first set of several addresses.
fn offsets(packet: &[u8]) -> Option<(Vec<u16>, Option<Set>)> {
    let mut reader = Reader::new(packet);
    let mut name = [0; MAX_NAME];
    reader.take(4).ok()?;
    let counts = [reader.u16().ok()?, reader.u16().ok()?, reader.u16().ok()?, reader.u16().ok()?];
    let [questions, answers, ..] = counts;
    for _ in 0..questions {
        reader.name_into(&mut name).ok()?;
        reader.take(4).ok()?;
    }
    let records = counts[1..].iter().map(|count| usize::from(*count)).sum();
    let mut ttls = Vec::with_capacity(records);
    let mut set: Option<Set> = None;
    let mut last = None;
    for record in 0..records {
        let at = u16::try_from(reader.position()).ok()?;
        let length = reader.name_into(&mut name).ok()?;
        let rtype = Rtype(reader.u16().ok()?);
        reader.take(2).ok()?;
        ttls.push(u16::try_from(reader.position()).ok()?);
        reader.take(4).ok()?;
        let data = reader.u16().ok()?;
        reader.take(data.into()).ok()?;
        let size = u16::try_from(reader.position()).ok()? - at;
        let this = (name[..length].to_ascii_lowercase(), rtype);
        if record < answers.into() && matches!(rtype, Rtype::A | Rtype::AAAA) {
            match &mut set {
                None => set = Some(Set { at, count: 1, size }),
                Some(set) if set.size == size && last.as_ref() == Some(&this) => set.count += 1,
                Some(_) => {}
            }
        }
        last = Some(this);
    }
    Some((ttls, set.filter(|set| set.count > 1)))
}
