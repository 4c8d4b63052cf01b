//! A part of the cache under one lock, with S3-FIFO for room: what is new has a tenth of it, and what was asked for
//! again while it was there moves to the rest. A flood of names that nobody asks for twice displaces only itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::{Asked, Place};
use crate::wire::{Class, Rtype};

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type ByIdentity = BuildHasherDefault<Identity>;
type Question = (Rtype, Class, u8);

#[derive(Debug, Default)]
pub(super) struct Shard {
    room: usize,
    bytes: usize,
    small_bytes: usize,
    /// Slots by key.
    map: HashMap<u64, u32, ByIdentity>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Keys of those that left the small queue: if they come back, it is to stay.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, ByIdentity>,
}

impl Shard {
    pub(super) fn new(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Entries and bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.map.len(), self.bytes)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.room);
    }

    /// The entry for what is asked: that there is no such name, or that of the type.
    pub(super) fn find(&mut self, place: &Place, asked: &Asked<'_>) -> Option<&mut Entry> {
        let of = |rtype| (rtype, asked.class, asked.flags());
        let none = self.slot(place, of(Rtype(0))).filter(|(_, entry)| !entry.is_superseded());
        let (slot, _) = none.or_else(|| self.slot(place, of(asked.rtype)))?;
        self.slots[slot].as_mut()
    }

    fn slot(&self, place: &Place, asked: Question) -> Option<(usize, &Entry)> {
        let slot = *self.map.get(&key(place.hash, asked))? as usize;
        let entry = self.slots[slot].as_ref()?;
        (entry.asked == asked && entry.name() == place.name()).then_some((slot, entry))
    }

    /// Puts an entry in its place; returns how many went for it.
    pub(super) fn insert(&mut self, place: &Place, mut entry: Entry, now: Instant, stale: Duration) -> u64 {
        let cost = entry.cost();
        // One answer is never most of what there is.
        if cost > self.room / 2 {
            return 0;
        }
        entry.key = key(place.hash, entry.asked);
        // What was known of the name as a whole is known better.
        let (_, class, flags) = entry.asked;
        if entry.asked.0 != Rtype(0)
            && let Some((slot, _)) = self.slot(place, (Rtype(0), class, flags))
        {
            self.slots[slot].iter_mut().for_each(Entry::supersede);
        }
        if let Some(slot) = self.map.get(&entry.key).copied() {
            let Some(old) = self.slots[slot as usize].as_mut() else { return 0 };
            let (before, main) = (old.cost(), old.main);
            (entry.frequency, entry.main) = (old.frequency, main);
            *old = entry;
            self.bytes = self.bytes + cost - before;
            if !main {
                self.small_bytes = self.small_bytes + cost - before;
            }
        } else {
            entry.main = self.ghost_set.contains(&entry.key);
            let (key, main) = (entry.key, entry.main);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            });
            self.slots[slot as usize] = Some(entry);
            self.map.insert(key, slot);
            self.bytes += cost;
            if main {
                self.main.push_back(slot);
            } else {
                self.small.push_back(slot);
                self.small_bytes += cost;
            }
        }
        self.make_room(now, stale)
    }

    fn make_room(&mut self, now: Instant, stale: Duration) -> u64 {
        let mut evicted = 0;
        while self.bytes > self.room {
            let from_small = self.small_bytes > self.room / 10 || self.main.is_empty();
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some(slot) = queue.pop_front() else { break };
            let Some(entry) = self.slots[slot as usize].as_mut() else { continue };
            let (cost, dead) = (entry.cost(), now >= entry.expires + stale);
            if entry.frequency > 0 && !dead {
                entry.frequency = if from_small { 0 } else { entry.frequency - 1 };
                entry.main = true;
                self.main.push_back(slot);
                self.small_bytes -= if from_small { cost } else { 0 };
                continue;
            }
            let key = entry.key;
            self.slots[slot as usize] = None;
            self.free.push(slot);
            self.map.remove(&key);
            self.bytes -= cost;
            if from_small {
                self.small_bytes -= cost;
                self.remember(key);
            }
            evicted += 1;
        }
        evicted
    }

    fn remember(&mut self, key: u64) {
        if self.ghost_set.insert(key) {
            self.ghosts.push_back(key);
        }
        while self.ghosts.len() > self.map.len().max(16) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }
}

/// The key of a question, from the hash of its name.
fn key(hash: u64, (rtype, class, flags): Question) -> u64 {
    let rest = u64::from(rtype.0) << 24 | u64::from(class.0) << 8 | u64::from(flags);
    hash ^ (rest + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
