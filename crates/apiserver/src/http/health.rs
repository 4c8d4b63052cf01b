//! `/livez`, `/readyz` and `/healthz`, with `?verbose` and each check at a path of its own (J3).

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Response, StatusCode};

use super::query::Query;
use super::respond::{self, Body};
use crate::registry::Registry;

/// What the server says about itself.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Everything a cluster begins with is there.
    bootstrapped: AtomicBool,
}

/// A check: its name, and whether all is well.
type Check = (&'static str, bool);

impl Health {
    /// The objects that a cluster begins with are there.
    pub(crate) fn set_bootstrapped(&self) {
        self.bootstrapped.store(true, Ordering::Release);
    }

    /// Whether requests are answered as they should be.
    pub(crate) fn is_ready(&self, registry: &Registry) -> bool {
        self.checks("readyz", registry).iter().all(|(_, well)| *well)
    }

    fn checks(&self, endpoint: &str, registry: &Registry) -> Vec<Check> {
        let mut checks = vec![("ping", true), ("store", registry.store.get(b"/registry/").is_ok())];
        if endpoint == "readyz" {
            checks.push(("watch-cache", registry.applied() > 0 || registry.store.current_rev() == 0));
            checks.push(("bootstrap", self.bootstrapped.load(Ordering::Acquire)));
            checks.push(("shutdown", !*registry.closing.borrow()));
        }
        checks
    }

    /// The answer for a path; `None` if it is none of these.
    pub(crate) fn answer(&self, path: &str, query: &Query, registry: &Registry) -> Option<Response<Body>> {
        let (endpoint, check) = match path.trim_start_matches('/').split_once('/') {
            Some((endpoint, check)) => (endpoint, Some(check)),
            None => (path.trim_start_matches('/'), None),
        };
        if !matches!(endpoint, "livez" | "readyz" | "healthz") {
            return None;
        }
        let mut checks = self.checks(endpoint, registry);
        if let Some(name) = check {
            checks.retain(|(check, _)| *check == name);
            if checks.is_empty() {
                return Some(respond::text(StatusCode::NOT_FOUND, "404 page not found\n"));
            }
        } else {
            let excluded: Vec<&str> = query.all("exclude").collect();
            checks.retain(|(check, _)| !excluded.contains(check));
        }
        let well = checks.iter().all(|(_, well)| *well);
        let code = if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        let verbose = query.all("verbose").next().is_some();
        if well && !verbose {
            return Some(respond::text(code, "ok"));
        }
        let mut text = String::new();
        for (name, well) in &checks {
            let line = if *well { format!("[+]{name} ok") } else { format!("[-]{name} failed: not yet") };
            // Writing to a String does not fail.
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "{endpoint} check {}", if well { "passed" } else { "failed" });
        Some(respond::text(code, text))
    }
}
