//! What the chains have counted, under CoreDNS' names.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::chain::Chains;
use crate::forward::BUCKETS;

/// A metric of several lines.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    lines: String,
}

impl Family {
    const fn new(name: &'static str, help: &'static str, kind: &'static str) -> Self {
        Self { name, help, kind, lines: String::new() }
    }

    fn add(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.lines, "{}{suffix}{{{labels}}} {value}", self.name);
    }
}

/// Adds what the chains have counted to `text`.
pub(super) fn render(chains: &Chains, text: &mut String) {
    for family in cache(chains).into_iter().chain(forward(chains)) {
        if !family.lines.is_empty() {
            let Family { name, help, kind, lines } = family;
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
        }
    }
}

fn cache(chains: &Chains) -> Vec<Family> {
    let counter = |name, help| Family::new(name, help, "counter");
    let mut entries = Family::new("coredns_cache_entries", "The number of elements in the cache.", "gauge");
    let mut hits = counter("coredns_cache_hits_total", "The count of cache hits.");
    let mut requests = counter("coredns_cache_requests_total", "The count of cache requests.");
    let mut misses = counter("coredns_cache_misses_total", "The count of cache misses.");
    let mut stale = counter(
        "coredns_cache_served_stale_total",
        "The number of requests served from stale cache entries.",
    );
    let mut prefetches = counter(
        "coredns_cache_prefetch_total",
        "The number of times the cache has prefetched a cached item.",
    );
    let mut evictions = counter("coredns_cache_evictions_total", "The count of cache evictions.");
    let mut bytes = Family::new("dyad_dns_cache_bytes", "Bytes of the answers that are kept.", "gauge");
    let mut translated =
        counter("coredns_dns64_requests_translated_total", "Counter of DNS requests translated by dns64.");
    for (at, zone, chain) in chains.blocks() {
        let labels = format!("server=\"dns://:{at}\",zones=\"{zone}\",view=\"\"");
        if let Some(cache) = chain.cache() {
            let (count, size) = cache.size();
            entries.add("", &format!("{labels},type=\"all\""), count);
            bytes.add("", &labels, size);
            let counters = cache.counters();
            let (success, denial) = (read(&counters.hits_success), read(&counters.hits_denial));
            hits.add("", &format!("{labels},type=\"success\""), success);
            hits.add("", &format!("{labels},type=\"denial\""), denial);
            misses.add("", &labels, read(&counters.misses));
            requests.add("", &labels, success + denial + read(&counters.misses));
            stale.add("", &labels, read(&counters.served_stale));
            prefetches.add("", &labels, read(&counters.prefetches));
            evictions.add("", &labels, read(&counters.evictions));
        }
        if chain.synthesised() > 0 {
            translated.add("", &format!("server=\"dns://:{at}\""), chain.synthesised());
        }
    }
    vec![entries, bytes, hits, requests, misses, stale, prefetches, evictions, translated]
}

fn forward(chains: &Chains) -> Vec<Family> {
    let mut rejected = Family::new(
        "coredns_forward_max_concurrent_rejects_total",
        "Counter of the number of queries rejected because the concurrent queries were at maximum.",
        "counter",
    );
    let mut times = Family::new(
        "coredns_proxy_request_duration_seconds",
        "Histogram of the time each request took.",
        "histogram",
    );
    let mut health = Family::new(
        "coredns_proxy_healthcheck_failures_total",
        "Counter of the number of failed healthchecks.",
        "counter",
    );
    let mut failures = Family::new(
        "dyad_dns_upstream_failures_total",
        "Queries that an upstream did not answer.",
        "counter",
    );
    let mut bogus = Family::new(
        "dyad_dns_upstream_bogus_total",
        "Answers that were not to what was asked: forged, or of another time.",
        "counter",
    );
    let mut reused = Family::new(
        "coredns_proxy_conn_cache_hits_total",
        "Counter of connection cache hits per upstream and protocol.",
        "counter",
    );
    let mut seen = std::collections::BTreeSet::new();
    for chain in chains.iter() {
        for forwarder in chain.forwarders() {
            rejected.add("", "", read(&forwarder.counters().rejected));
            for upstream in &*forwarder.upstreams() {
                let place = upstream.place();
                // Several blocks may ask the same one.
                let labels = format!("proxy_name=\"forward\",to=\"{}\"", place.at);
                if !seen.insert((labels.clone(), std::sync::Arc::as_ptr(upstream))) {
                    continue;
                }
                let counters = upstream.counters();
                let mut below = 0;
                for (bound, count) in BUCKETS.iter().zip(&counters.times) {
                    below += read(count);
                    #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^52 us")]
                    let seconds = *bound as f64 / 1e6;
                    times.add("_bucket", &format!("{labels},le=\"{seconds}\""), below);
                }
                below += counters.times.last().map_or(0, read);
                times.add("_bucket", &format!("{labels},le=\"+Inf\""), below);
                #[expect(clippy::cast_precision_loss, reason = "a sum for people")]
                let sum = read(&counters.time) as f64 / 1e6;
                times.add("_sum", &labels, sum);
                times.add("_count", &labels, below);
                health.add("", &labels, read(&counters.health_failures));
                failures.add("", &labels, read(&counters.failures));
                bogus.add("", &labels, read(&counters.bogus));
                reused.add("", &labels, read(&counters.reused));
            }
        }
    }
    vec![rejected, times, health, failures, bogus, reused]
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}
