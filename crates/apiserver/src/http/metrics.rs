//! `/metrics`, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Response, StatusCode};

use super::path::ResourcePath;
use super::respond::{self, Body};
use crate::registry::Registry;

/// Upper bounds of the histogram, in seconds; those of Kubernetes, thinned out.
const BOUNDS: [f64; 10] = [0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What a request was, as its metrics name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Observation {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Observation {
    pub(crate) fn new(method: &Method) -> Self {
        Self { verb: method.as_str().to_owned(), ..Self::default() }
    }

    /// It is about a resource.
    pub(crate) fn name(&mut self, place: &ResourcePath, verb: &str) {
        self.verb = match verb {
            "create" => "POST",
            "update" => "PUT",
            other => return self.name_as(place, &other.to_ascii_uppercase()),
        }
        .to_owned();
        let verb = std::mem::take(&mut self.verb);
        self.name_as(place, &verb);
    }

    fn name_as(&mut self, place: &ResourcePath, verb: &str) {
        verb.clone_into(&mut self.verb);
        self.group.clone_from(&place.group);
        self.version.clone_from(&place.version);
        self.resource.clone_from(&place.plural);
        self.subresource.clone_from(&place.subresource);
        self.scope = match (place.name.is_empty(), place.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
    }

    fn labels(&self) -> String {
        format!(
            "group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            escape(&self.group),
            escape(&self.resource),
            self.scope,
            escape(&self.subresource),
            escape(&self.verb),
            escape(&self.version)
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum_secs: f64,
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(Observation, u16), u64>,
    durations: BTreeMap<Observation, Histogram>,
}

/// Counters of requests.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

impl Metrics {
    /// Counts a request that has been answered.
    pub(crate) fn observe(&self, observation: &Observation, code: StatusCode, took: Duration) {
        let mut observation = observation.clone();
        if matches!(code, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            // Clients can make up any number of names; what is not served is counted without them.
            observation.group.clear();
            observation.version.clear();
            observation.resource.clear();
            observation.subresource.clear();
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.requests.entry((observation.clone(), code.as_u16())).or_default() += 1;
        // Watches last as long as they last.
        if observation.verb != "WATCH" {
            let histogram = counts.durations.entry(observation).or_default();
            let secs = took.as_secs_f64();
            for (bucket, bound) in histogram.buckets.iter_mut().zip(BOUNDS) {
                *bucket += u64::from(secs <= bound);
            }
            histogram.count += 1;
            histogram.sum_secs += secs;
        }
    }

    /// All of it.
    /// `lost` events found no room in the audit log, if there is one.
    pub(crate) fn answer(&self, registry: &Registry, lost: Option<u64>) -> Response<Body> {
        let mut text = self.text(registry);
        if let Some(lost) = lost {
            let name = "apiserver_audit_error_total";
            let help = "Audit events that could not be written.";
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} counter\n{name}{{plugin=\"log\"}} {lost}"
            );
        }
        respond::full(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
    }

    fn text(&self, registry: &Registry) -> String {
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        head(
            &mut out,
            "apiserver_request_total",
            "counter",
            "Requests answered, by what they were and the code.",
        );
        for ((observation, code), count) in &counts.requests {
            let _ =
                writeln!(out, "apiserver_request_total{{code=\"{code}\",{}}} {count}", observation.labels());
        }
        let name = "apiserver_request_duration_seconds";
        head(&mut out, name, "histogram", "Time from a request to its answer, watches left out.");
        for (observation, histogram) in &counts.durations {
            let labels = observation.labels();
            for (count, bound) in histogram.buckets.iter().zip(BOUNDS) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let Histogram { count, sum_secs, .. } = histogram;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{name}_sum{{{labels}}} {sum_secs}\n{name}_count{{{labels}}} {count}");
        }
        drop(counts);
        head(&mut out, "apiserver_longrunning_requests", "gauge", "Watches that are open.");
        for resource in registry.resources() {
            let (group, plural) = (resource.row.group, resource.row.plural);
            let _ = writeln!(
                out,
                "apiserver_longrunning_requests{{group=\"{group}\",resource=\"{plural}\",verb=\"WATCH\"}} {}",
                resource.cache.watches()
            );
        }
        head(&mut out, "apiserver_resource_objects", "gauge", "Objects stored.");
        for resource in registry.resources() {
            let (group, plural) = (resource.row.group, resource.row.plural);
            let count = resource.cache.len();
            let _ = writeln!(
                out,
                "apiserver_resource_objects{{group=\"{group}\",resource=\"{plural}\"}} {count}"
            );
        }
        head(&mut out, "dyad_store_revision", "gauge", "Newest revision of the store.");
        let _ = writeln!(out, "dyad_store_revision {}", registry.store.current_rev());
        head(&mut out, "dyad_watch_cache_revision", "gauge", "Newest revision that every watch cache has.");
        let _ = writeln!(out, "dyad_watch_cache_revision {}", registry.applied());
        out
    }
}
