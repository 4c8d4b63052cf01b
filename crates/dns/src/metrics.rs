//! What is counted, under CoreDNS' names, in the Prometheus text format. Counting takes no lock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod requests;
mod value;

pub(crate) use requests::PLUGIN;
pub use requests::{Request, Requests};
pub use value::{Counter, Gauge, Histogram, Scale};

/// Buckets of durations, in nanoseconds: from a quarter of a millisecond to eight seconds, as CoreDNS has them.
pub const DURATIONS: [u64; 16] = doubling(250_000);
/// Buckets of sizes of messages, in bytes, as CoreDNS has them.
pub const SIZES: [u64; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];
/// Buckets of `coredns_kubernetes_dns_programming_duration_seconds`, in nanoseconds: from a millisecond on.
pub const PROGRAMMING: [u64; 20] = doubling(1_000_000);

const fn doubling<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
}

/// All metrics there are. Whoever counts something asks once for its counter, and keeps it.
#[derive(Debug, Default)]
pub struct Registry(Mutex<BTreeMap<String, Family>>);

/// Metrics of one name.
#[derive(Debug)]
struct Family {
    help: String,
    kind: &'static str,
    /// By labels as they are written.
    metrics: BTreeMap<String, Metric>,
}

#[derive(Clone, Debug)]
enum Metric {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Registry {
    /// A registry with what is always there: build and panics.
    pub fn new() -> Self {
        let registry = Self::default();
        let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", ""), ("goversion", "")];
        let info = "A metric with a constant '1' value labeled by version, revision, and goversion.";
        registry.gauge("coredns_build_info", info, &build).set(1);
        registry.counter("coredns_panics_total", "A metrics that counts the number of panics.", &[]);
        registry
    }

    /// The counter of a name and labels.
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        match self.metric(name, help, "counter", labels, || Metric::Counter(Counter::default())) {
            Metric::Counter(counter) => counter,
            // The name is taken by another kind: this is counted, but not shown.
            Metric::Gauge(_) | Metric::Histogram(_) => Counter::default(),
        }
    }

    /// The gauge of a name and labels.
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        match self.metric(name, help, "gauge", labels, || Metric::Gauge(Gauge::default())) {
            Metric::Gauge(gauge) => gauge,
            Metric::Counter(_) | Metric::Histogram(_) => Gauge::default(),
        }
    }

    /// The histogram of a name and labels; `bounds` and what is observed are in units of `scale`.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        scale: Scale,
        bounds: &'static [u64],
    ) -> Histogram {
        let new = || Histogram::new(scale, bounds);
        match self.metric(name, help, "histogram", labels, || Metric::Histogram(new())) {
            Metric::Histogram(histogram) => histogram,
            Metric::Counter(_) | Metric::Gauge(_) => new(),
        }
    }

    fn metric(
        &self,
        name: &str,
        help: &str,
        kind: &'static str,
        labels: &[(&str, &str)],
        new: impl FnOnce() -> Metric,
    ) -> Metric {
        let mut labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        labels.sort_unstable();
        let mut families = self.lock();
        let family = families.entry(name.to_owned()).or_insert_with(|| Family {
            help: help.to_owned(),
            kind,
            metrics: BTreeMap::new(),
        });
        if family.kind != kind {
            return new();
        }
        family.metrics.entry(labels.join(",")).or_insert_with(new).clone()
    }

    /// Everything as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (name, family) in &*self.lock() {
            // Writing to a string does not fail.
            let _ =
                writeln!(text, "# HELP {name} {}", family.help.replace('\\', "\\\\").replace('\n', "\\n"));
            let _ = writeln!(text, "# TYPE {name} {}", family.kind);
            for (labels, metric) in &family.metrics {
                metric.render(&mut text, name, labels);
            }
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Family>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metric {
    fn render(&self, text: &mut String, name: &str, labels: &str) {
        let mut line = |suffix: &str, more: Option<String>, value: &dyn std::fmt::Display| {
            let labels: Vec<_> = [Some(labels.to_owned()), more]
                .into_iter()
                .flatten()
                .filter(|labels| !labels.is_empty())
                .collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        };
        match self {
            Self::Counter(counter) => line("", None, &counter.value()),
            Self::Gauge(gauge) => line("", None, &gauge.value()),
            Self::Histogram(histogram) => {
                let read = histogram.read();
                let mut below = 0;
                for (bound, count) in read.buckets {
                    below += count;
                    let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
                    line("_bucket", Some(format!("le=\"{bound}\"")), &below);
                }
                line("_sum", None, &read.sum);
                line("_count", None, &below);
            }
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests;
