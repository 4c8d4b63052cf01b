//! Whether the node forwards as it should: `/healthz` and `/livez` as kube-proxy has them (A169, KEP-3836).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dyad_net::IpFamily;
use http::{Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Serialize;

use crate::metrics::Metrics;
use crate::server;

/// What is shown as the time of something that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What the engine says, and others ask.
#[derive(Debug)]
pub(crate) struct Health {
    families: Vec<IpFamily>,
    timeout: Duration,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    updated: Option<Timestamp>,
    /// Since when something that was heard is not in the kernel.
    behind: Option<Instant>,
    /// Whether load balancers may send this node anything new. Not known before its Node has been seen.
    is_eligible: bool,
}

/// The body of an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, OfFamily>,
}

/// The same for one family.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfFamily {
    last_updated: String,
    healthy: bool,
}

impl Health {
    /// Nothing is known yet. Changes may wait for `timeout`.
    pub(crate) fn new(families: impl Iterator<Item = IpFamily>, timeout: Duration) -> Self {
        Self { families: families.collect(), timeout, facts: Mutex::default() }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Every change is a whole one.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was heard, or found to be wrong, that the kernel has not been told of.
    pub(crate) fn set_behind(&self) {
        self.facts().behind.get_or_insert_with(Instant::now);
    }

    /// The kernel has everything.
    pub(crate) fn set_current(&self) {
        let mut facts = self.facts();
        (facts.behind, facts.updated) = (None, Some(Timestamp::now()));
    }

    /// Whether load balancers may send this node anything new.
    pub(crate) fn set_eligible(&self, is_eligible: bool) {
        self.facts().is_eligible = is_eligible;
    }

    /// Whether the rules are as they should be, or not behind for long.
    pub(crate) fn is_healthy(&self) -> bool {
        is_in_time(self.facts().behind, self.timeout)
    }

    /// The answer to `/healthz` or, without asking for the node's eligibility, to `/livez`.
    fn answer(&self, asks_for_node: bool) -> (StatusCode, Body) {
        let facts = self.facts();
        let healthy = is_in_time(facts.behind, self.timeout);
        let node_eligible = asks_for_node.then_some(facts.is_eligible);
        let now = Timestamp::now();
        let is_good = healthy && node_eligible.unwrap_or(true);
        let updated = facts.updated.map_or_else(|| NEVER.to_owned(), |at| at.to_string());
        let status =
            |family: &IpFamily| (family.as_str(), OfFamily { last_updated: updated.clone(), healthy });
        let body = Body {
            // What works was looked at just now.
            last_updated: if is_good { now.to_string() } else { updated.clone() },
            current_time: now.to_string(),
            node_eligible,
            healthy,
            status: facts.updated.map(|_| self.families.iter().map(status).collect()).unwrap_or_default(),
        };
        (if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

fn is_in_time(behind: Option<Instant>, timeout: Duration) -> bool {
    behind.is_none_or(|since| since.elapsed() < timeout)
}

fn show((status, body): (StatusCode, Body)) -> Response<Full<Bytes>> {
    // A map with text keys always is JSON.
    server::json(status, serde_json::to_vec(&body).unwrap_or_default())
}

/// What is served at the port for health.
pub(crate) fn handler(health: &Arc<Health>, metrics: &Arc<Metrics>) -> server::Handler {
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    Arc::new(move |path| match path {
        "/healthz" => {
            let answer = health.answer(true);
            metrics.asked_healthz(answer.0.as_u16());
            show(answer)
        }
        "/livez" => {
            let answer = health.answer(false);
            metrics.asked_livez(answer.0.as_u16());
            show(answer)
        }
        _ => server::not_found(),
    })
}

/// What is served at the port for metrics.
pub(crate) fn metrics_handler(
    health: &Arc<Health>,
    metrics: &Arc<Metrics>,
    mode: &'static str,
) -> server::Handler {
    let (health, metrics) = (Arc::clone(health), Arc::clone(metrics));
    Arc::new(move |path| match path {
        "/metrics" => {
            server::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render())
        }
        "/proxyMode" => server::text(StatusCode::OK, mode),
        "/healthz" => {
            let answer = health.answer(false);
            server::text(answer.0, if answer.0 == StatusCode::OK { "ok" } else { "not in time" })
        }
        _ => server::not_found(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_follows_what_is_known() {
        let health = |timeout| Health::new([IpFamily::V4, IpFamily::V6].into_iter(), timeout);
        let patient = health(Duration::from_secs(3600));
        let (status, body) = patient.answer(true);
        assert_eq!(
            (status, body.node_eligible),
            (StatusCode::SERVICE_UNAVAILABLE, Some(false)),
            "no Node yet"
        );
        let (status, body) = patient.answer(false);
        assert_eq!((status, body.node_eligible), (StatusCode::OK, None), "alive while it starts");
        assert!(body.status.is_empty());

        patient.set_eligible(true);
        patient.set_behind();
        patient.set_current();
        let (status, body) = patient.answer(true);
        assert_eq!((status, body.healthy), (StatusCode::OK, true));
        assert_eq!(body.last_updated, body.current_time);
        assert_eq!(body.status.keys().copied().collect::<Vec<_>>(), ["IPv4", "IPv6"]);

        patient.set_behind();
        assert_eq!(patient.answer(true).0, StatusCode::OK, "not for long yet");
        patient.set_eligible(false);
        assert_eq!(patient.answer(true).0, StatusCode::SERVICE_UNAVAILABLE, "the node goes");
        assert_eq!(patient.answer(false).0, StatusCode::OK, "but works");

        let strict = health(Duration::ZERO);
        strict.set_eligible(true);
        strict.set_current();
        strict.set_behind();
        let (status, body) = strict.answer(false);
        assert_eq!(
            (status, body.healthy, body.status["IPv6"].healthy),
            (StatusCode::SERVICE_UNAVAILABLE, false, false)
        );
        assert_ne!(body.last_updated, body.current_time);
        strict.set_current();
        assert_eq!(strict.answer(true).0, StatusCode::OK);
    }
}
