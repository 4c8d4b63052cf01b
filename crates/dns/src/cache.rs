//! What is remembered of answers (A.8): bounded in bytes, in wire form, so that a hit is a copy.
//!
//! No clock is read here: `now` is an argument.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::corefile;
use crate::wire::{Class, MAX_MESSAGE, MAX_NAME, Message, Name, Rcode, Rtype, ede};

mod counters;
mod entry;
mod reply;
mod shard;

pub use counters::Counters;
use entry::{Entry, Kind};
use shard::Shard;

/// How long an ended answer is given at once, after there was none that is newer (RFC 8767 §5).
const RECHECK: Duration = Duration::from_secs(30);
/// How long others wait for one that is being renewed.
const RENEWAL: Duration = Duration::from_secs(5);

/// What is asked for, as it stands in the query.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Identifier of the query.
    pub id: u16,
    /// RD.
    pub recursion_desired: bool,
    /// AD: the client understands it in answers (RFC 6840 §5.7).
    pub authentic_data: bool,
    /// CD.
    pub checking_disabled: bool,
    /// The name in wire form, not compressed, letters as they came.
    pub name: &'a [u8],
    /// The type.
    pub rtype: Rtype,
    /// The class.
    pub class: Class,
    /// DO, if the query has an OPT record.
    pub edns: Option<bool>,
    /// The OPT record to answer that with; empty for one without options.
    pub opt: &'a [u8],
    /// Bytes of the largest answer the client takes.
    pub limit: usize,
}

/// An answer was found, and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Its time was over.
    pub stale: bool,
    /// Who gets this should ask upstream anew; others do not.
    pub renew: bool,
    /// The code.
    pub rcode: Rcode,
}

/// A memory of answers.
#[derive(Debug)]
pub struct Cache {
    config: corefile::Cache,
    zones: Vec<Name>,
    /// Zones whose answers, and whose denials, are not kept.
    disabled: [Vec<Name>; 2],
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    counters: Counters,
}

/// Where an answer is kept.
struct Place {
    /// Of the name.
    hash: u64,
    /// The name in lower case, in wire form.
    name: [u8; MAX_NAME],
    length: usize,
}

impl Cache {
    /// An empty one.
    pub fn new(config: corefile::Cache) -> Self {
        // Names in configurations are right, or would not have been read.
        let names =
            |zones: &[String]| zones.iter().filter_map(|zone| zone.parse().ok()).collect::<Vec<Name>>();
        let shards = (config.bytes >> 18).next_power_of_two().clamp(1, 64);
        let shard = || Mutex::new(Shard::new(config.bytes / shards));
        Self {
            zones: names(&config.zones),
            disabled: [names(&config.success.disabled), names(&config.denial.disabled)],
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            counters: Counters::default(),
            config,
        }
    }

    /// The rules.
    pub const fn config(&self) -> &corefile::Cache {
        &self.config
    }

    /// What was counted.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Answers that are kept, and the bytes they take.
    pub fn size(&self) -> (usize, usize) {
        let sizes = self.shards.iter().map(|shard| lock(shard).size());
        sizes.fold((0, 0), |(entries, bytes), (more, larger)| (entries + more, bytes + larger))
    }

    /// Writes the answer to what is asked to `out`, if there is one. One whose time is over is an answer with `stale`
    /// only, or if the rules or a failure before say so.
    pub fn answer(&self, asked: &Asked<'_>, now: Instant, stale: bool, out: &mut Vec<u8>) -> Option<Hit> {
        let place = self.place(asked.name)?;
        let mut shard = lock(self.shard(place.hash));
        let found = shard.find(&place, asked).and_then(|entry| {
            let hit = self.hit(entry, now, stale)?;
            reply::write(entry, asked, now, hit.stale, self.config.keep_ttl, out);
            Some((hit, entry.kind))
        });
        drop(shard);
        let Some((hit, kind)) = found else {
            self.counters.miss(stale);
            return None;
        };
        self.counters.hit(hit, kind);
        reply::finish(asked, hit, kind, out);
        Some(hit)
    }

    /// Who was to ask upstream anew, does not: the next one is to.
    pub fn put_off(&self, asked: &Asked<'_>) {
        let Some(place) = self.place(asked.name) else { return };
        if let Some(entry) = lock(self.shard(place.hash)).find(&place, asked) {
            entry.renewing = None;
        }
    }

    /// Whether an entry is an answer now.
    fn hit(&self, entry: &mut Entry, now: Instant, stale: bool) -> Option<Hit> {
        let over = now >= entry.expires;
        let mut renew = false;
        if over {
            let window = self.config.serve_stale.filter(|_| entry.kind != Kind::Failure)?;
            if now >= entry.expires + window {
                return None;
            }
            let rechecked = entry.recheck.is_some_and(|recheck| now < recheck);
            if !(stale || rechecked || self.config.stale_at_once) {
                return None;
            }
            renew = self.config.stale_at_once && !rechecked;
        }
        entry.touch(now, self.config.prefetch.window);
        renew |= !over && entry.is_worth_renewing(now, &self.config.prefetch);
        if renew {
            renew = entry.renewing.is_none_or(|since| now >= since + RENEWAL);
            entry.renewing = entry.renewing.filter(|_| !renew).or(Some(now));
        }
        Some(Hit { stale: over, renew, rcode: entry.rcode })
    }

    /// Keeps the response to what is asked, if it may be kept; whether it is.
    pub fn insert(&self, asked: &Asked<'_>, response: &Message, now: Instant) -> bool {
        let made = self.place(asked.name).zip(Entry::new(asked, response, &self.config, now));
        let Some((place, entry)) = made.filter(|(_, entry)| self.is_kept(asked.name, entry.kind)) else {
            return false;
        };
        let mut shard = lock(self.shard(place.hash));
        if entry.kind == Kind::Failure && shard.find(&place, asked).is_some_and(|old| self.outlasts(old, now))
        {
            return false;
        }
        let evicted = shard.insert(&place, entry, now, self.config.serve_stale.unwrap_or_default());
        drop(shard);
        self.counters.evicted(evicted);
        true
    }

    /// Whether an old answer is better than a failure; it then is given at once for a while (RFC 8767 §5).
    fn outlasts(&self, old: &mut Entry, now: Instant) -> bool {
        let window = self.config.serve_stale.unwrap_or_default();
        let better = old.kind != Kind::Failure && now < old.expires + window;
        if better {
            old.recheck = Some(now + RECHECK);
            old.renewing = None;
        }
        better
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            lock(shard).clear();
        }
    }

    fn is_kept(&self, name: &[u8], kind: Kind) -> bool {
        let Ok(name) = Name::from_wire(name) else { return false };
        let under = |zones: &[Name]| zones.iter().any(|zone| name.is_within(zone));
        let [success, denial] = &self.disabled;
        under(&self.zones) && !under(if kind == Kind::Success { success } else { denial })
    }

    fn place(&self, name: &[u8]) -> Option<Place> {
        let mut lower = [0; MAX_NAME];
        let into = lower.get_mut(..name.len())?;
        into.copy_from_slice(name);
        into.make_ascii_lowercase();
        let hash = self.hasher.hash_one(&*into);
        Some(Place { hash, name: lower, length: name.len() })
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // A power of two; the low bits are the map's.
        &self.shards[(hash >> 48) as usize & (self.shards.len() - 1)]
    }
}

impl Place {
    fn name(&self) -> &[u8] {
        &self.name[..self.length]
    }
}

impl<'a> Asked<'a> {
    /// What a query asks for, whose answer may have `limit` bytes; `None` if that is not one thing.
    pub fn of(query: &'a Message, limit: usize) -> Option<Self> {
        let question = query.question()?;
        Some(Self {
            id: query.header.id,
            recursion_desired: query.header.recursion_desired,
            authentic_data: query.header.authentic_data,
            checking_disabled: query.header.checking_disabled,
            name: question.name.as_wire(),
            rtype: question.rtype,
            class: question.class,
            edns: query.edns.as_ref().map(|edns| edns.dnssec_ok),
            opt: &[],
            limit: limit.min(MAX_MESSAGE),
        })
    }

    /// The flags answers depend on.
    const fn flags(&self) -> u8 {
        (matches!(self.edns, Some(true)) as u8) << 1 | self.checking_disabled as u8
    }
}

impl Hit {
    /// The extended error that belongs to it (RFC 8914 §4.4, §4.20, RFC 9520 §3).
    const fn extended_error(self, kind: Kind) -> Option<u16> {
        match (self.stale, kind) {
            (_, Kind::Failure) => Some(ede::CACHED_ERROR),
            (true, Kind::NoName) => Some(ede::STALE_NXDOMAIN),
            (true, Kind::Success | Kind::NoData) => Some(ede::STALE_ANSWER),
            (false, Kind::Success | Kind::NoData | Kind::NoName) => None,
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Every change is a whole one.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
