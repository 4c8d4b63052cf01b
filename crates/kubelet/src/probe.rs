//! Probes: when to ask, what answers mean, and asking.
//!
//! Asked from the node, of the pod's primary address unless the probe names a host (B25).

mod ask;
mod tls;

pub(crate) use ask::ask;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::sync::mpsc;

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
}

/// Whom a probe asks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The container's name.
    pub(crate) container: String,
    /// Its run.
    pub(crate) attempt: u32,
    /// The pod's primary address.
    pub(crate) ip: Option<IpAddr>,
    /// The directory of its sandbox.
    pub(crate) sandbox: PathBuf,
    /// Its named ports.
    pub(crate) ports: Vec<(String, u16)>,
}

/// Asks on and on and reports what changes; ends when nobody listens, or with the success of a startup probe.
pub(crate) async fn run(kind: Kind, probe: Probe, target: Target, outcomes: mpsc::Sender<Outcome>) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default))
    };
    let (period, limit) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
    let mut verdict = Verdict::new(&probe);
    // The first one at once, or after the delay: a pod is ready as soon as it can be.
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let answer = ask_soon(kind, &probe, &target, limit, &verdict, &mut ticks).await;
        let changed = verdict.take(answer.is_ok());
        let done = kind == Kind::Startup && changed == Some(true);
        if changed.is_some() || answer.is_err() {
            let outcome = Outcome {
                container: target.container.clone(),
                attempt: target.attempt,
                kind,
                verdict: changed,
                failure: answer.err(),
            };
            if outcomes.send(outcome).await.is_err() {
                return;
            }
        }
        if done {
            return;
        }
    }
}

/// How soon a container that has just been started is asked again while it has never said yes: programs take
/// milliseconds to open their ports, and a first answer of no that nobody waited for would cost a whole period.
const EAGER: [u64; 6] = [2, 5, 15, 50, 150, 400];

/// One answer. For readiness and startup the first one is sought eagerly: failures before the period is over are
/// no answers yet.
async fn ask_soon(
    kind: Kind,
    probe: &Probe,
    target: &Target,
    limit: Duration,
    verdict: &Verdict,
    ticks: &mut tokio::time::Interval,
) -> Result<(), String> {
    let first = verdict.run == 0;
    ticks.tick().await;
    if first && kind != Kind::Liveness {
        for pause in EAGER {
            if ask(probe, target, limit).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
    ask(probe, target, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
