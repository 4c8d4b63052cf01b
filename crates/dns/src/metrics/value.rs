//! Numbers that many threads count at once, each at a place of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// Places for threads to count at.
const SHARDS: usize = 8;

/// A place that shares no cache line with others.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded<T>(T);

/// The place of this thread.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    MINE.with(|mine| *mine)
}

/// A number that only grows. Copies count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<[Padded<AtomicU64>; SHARDS]>);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Some more.
    pub fn add(&self, number: u64) {
        self.0[shard()].0.fetch_add(number, Ordering::Relaxed);
    }

    /// The sum.
    pub fn value(&self) -> u64 {
        self.0.iter().map(|place| place.0.load(Ordering::Relaxed)).sum()
    }
}

/// A number that comes and goes.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, number: i64) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Adds to it, or takes from it.
    pub fn add(&self, number: i64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is shown of what is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The number itself.
    One,
    /// Nanoseconds, shown in seconds.
    Nanoseconds,
}

impl Scale {
    fn show(self, number: u64) -> f64 {
        match self {
            Self::One => number as f64,
            Self::Nanoseconds => number as f64 / 1e9,
        }
    }
}

/// How often numbers up to certain bounds were observed.
#[derive(Clone, Debug)]
pub struct Histogram {
    scale: Scale,
    bounds: &'static [u64],
    shards: Arc<[Padded<Counts>]>,
}

/// Counts by bucket, the last one for what is above all bounds; and the sum of all.
#[derive(Debug)]
struct Counts {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram shows.
#[derive(Debug)]
pub(super) struct Read {
    /// The number in each bucket, with its upper bound; none for the last.
    pub(super) buckets: Vec<(Option<f64>, u64)>,
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) fn new(scale: Scale, bounds: &'static [u64]) -> Self {
        let counts = || Counts {
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        };
        Self { scale, bounds, shards: (0..SHARDS).map(|_| Padded(counts())).collect() }
    }

    /// Counts a number.
    pub fn observe(&self, number: u64) {
        let counts = &self.shards[shard()].0;
        let bucket = self.bounds.iter().position(|bound| number <= *bound).unwrap_or(self.bounds.len());
        counts.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        counts.sum.fetch_add(number, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Read {
        let count = |bucket: usize| {
            self.shards.iter().map(|shard| shard.0.buckets[bucket].load(Ordering::Relaxed)).sum()
        };
        let bounds = self.bounds.iter().map(|bound| Some(self.scale.show(*bound))).chain([None]);
        let sum = self.shards.iter().map(|shard| shard.0.sum.load(Ordering::Relaxed)).sum();
        Read {
            buckets: bounds.enumerate().map(|(at, bound)| (bound, count(at))).collect(),
            sum: self.scale.show(sum),
        }
    }
}
