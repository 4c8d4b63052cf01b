//! Probes: when to ask, what answers mean, and asking.
//!
//! Asked from the node, of the pod's primary address unless the probe names a host (B25). Readiness is asked of the
//! other address as well: see [`rounds`].

mod ask;
mod grpc;
mod http;
mod rounds;
mod site;
mod tls;

pub(crate) use ask::ask;
pub(crate) use rounds::run;

use std::net::IpAddr;
use std::path::PathBuf;

use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::{Container, Probe};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whether the container has started; the others wait for it.
    Startup,
    /// Whether it is to be restarted.
    Liveness,
    /// Whether it is to receive connections.
    Readiness,
    /// No probe, but answered like one: whether the `postStart` hook did its work.
    PostStart,
}

impl Kind {
    /// The probe of a container.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::PostStart => None,
        }
    }
}

/// Whether a probe asks the pod at an address: not a command, and nobody else.
pub(crate) fn asks_the_pod(probe: &Probe) -> bool {
    let host = |host: &Option<String>| host.as_deref().unwrap_or_default().is_empty();
    probe.exec.is_none()
        && probe.http_get.as_ref().is_none_or(|http| host(&http.host))
        && probe.tcp_socket.as_ref().is_none_or(|tcp| host(&tcp.host))
}

/// Counts answers until there are enough of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    successes_needed: u32,
    failures_needed: u32,
    last: bool,
    run: u32,
    verdict: Option<bool>,
}

impl Verdict {
    /// With the thresholds of a probe.
    pub(crate) fn new(probe: &Probe) -> Self {
        let threshold =
            |value: Option<i32>, default| value.and_then(|n| u32::try_from(n).ok()).unwrap_or(default).max(1);
        Self {
            successes_needed: threshold(probe.success_threshold, 1),
            failures_needed: threshold(probe.failure_threshold, 3),
            last: false,
            run: 0,
            verdict: None,
        }
    }

    /// Takes an answer; the verdict, if this answer changed it.
    pub(crate) fn take(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == success { self.run.saturating_add(1) } else { 1 };
        self.last = success;
        let needed = if success { self.successes_needed } else { self.failures_needed };
        if self.run < needed || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        self.verdict
    }

    /// Whether it is yes so far.
    pub(crate) fn is_yes(&self) -> bool {
        self.verdict == Some(true)
    }
}

/// What a prober tells the pod's worker.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Name of the container.
    pub(crate) container: String,
    /// The run of the container it is about.
    pub(crate) attempt: u32,
    /// Which probe.
    pub(crate) kind: Kind,
    /// A new verdict, if there is one.
    pub(crate) verdict: Option<bool>,
    /// Why the last answer was a failure, if it was one.
    pub(crate) failure: Option<String>,
    /// What changed at the pod's other address.
    pub(crate) beside: Vec<(IpFamily, Beside)>,
}

/// What a container says at an address that is not its pod's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beside {
    /// Whether it is ready there.
    pub(crate) ready: bool,
    /// Why not.
    pub(crate) problem: String,
}

/// Whom a probe asks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The container's name.
    pub(crate) container: String,
    /// Its run.
    pub(crate) attempt: u32,
    /// The pod's addresses, primary first.
    pub(crate) ips: Vec<IpAddr>,
    /// The directory of its sandbox.
    pub(crate) sandbox: PathBuf,
    /// Its named ports.
    pub(crate) ports: Vec<(String, u16)>,
    /// Whether it is alive only if it answers at all of its addresses.
    pub(crate) alive_everywhere: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Numbers that look like chance, the same ones each time (xorshift64).
    pub(super) fn dice() -> impl FnMut() -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize
        }
    }

    #[test]
    fn a_verdict_needs_as_many_answers_in_a_row_as_its_threshold() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut verdict = Verdict::new(&probe);
        let answers = [true, true, true, false, false, true, false, false, false, false, true, true];
        let changes: Vec<Option<bool>> = answers.into_iter().map(|answer| verdict.take(answer)).collect();
        let mut want = [None; 12];
        (want[1], want[8], want[11]) = (Some(true), Some(false), Some(true));
        assert_eq!(changes, want);
        let mut verdict = Verdict::new(&Probe::default());
        assert_eq!([false, false, false].map(|answer| verdict.take(answer)), [None, None, Some(false)]);
        let mut verdict = Verdict::new(&Probe { failure_threshold: Some(0), ..Probe::default() });
        assert_eq!(verdict.take(false), Some(false), "thresholds are at least one");
    }

    #[test]
    fn b25_only_probes_without_a_host_ask_the_pod() {
        for (probe, want) in [
            (json!({"httpGet": {"port": 80}}), true),
            (json!({"httpGet": {"port": 80, "host": ""}}), true),
            (json!({"httpGet": {"port": 80, "host": "::1"}}), false),
            (json!({"tcpSocket": {"port": 80}}), true),
            (json!({"tcpSocket": {"port": 80, "host": "127.0.0.1"}}), false),
            (json!({"grpc": {"port": 80}}), true),
            (json!({"exec": {"command": ["true"]}}), false),
        ] {
            let known: Probe = serde_json::from_value(probe.clone()).unwrap();
            assert_eq!(asks_the_pod(&known), want, "{probe}");
        }
    }
}
