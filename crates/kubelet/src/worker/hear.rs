//! What a pod's worker hears: from the API, from the sandbox, from probes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use tokio::net::UnixStream;

use super::Worker;
use crate::launch;
use crate::pod::record::{Ended, Record, timestamp};
use crate::pod::{self, containers};
use crate::probe::{self, Outcome};
use crate::sandbox::{ContainerState, Watch};

impl Worker {
    /// Takes the newest pod of the API, but keeps what it says of itself: the API may be behind.
    pub(super) fn absorb(&mut self) {
        let Some(mut new) = self.wanted.borrow_and_update().clone() else { return };
        let (Some(spec), own) = (new.spec.clone(), self.publisher.last()) else { return };
        if let Some(own) = own {
            let status = new.status.get_or_insert_default();
            let others = status.conditions.take().unwrap_or_default();
            let denied = |known: &PodCondition| {
                others.iter().any(|one| one.type_ == known.type_ && one.status != known.status)
            };
            if own.conditions.iter().flatten().any(denied) {
                // Written for us while nobody heard of this node, or a view from before our last report.
                self.publisher.repeat();
            }
            status.conditions = Some(with_others(&own, others));
            status.start_time.clone_from(&own.start_time);
            status.phase.clone_from(&own.phase);
        }
        let (old, meta) = (&self.pod.metadata, &new.metadata);
        if old.labels != meta.labels || old.annotations != meta.annotations {
            // Volumes may tell of them.
            self.volumes_at = Timestamp::UNIX_EPOCH;
        }
        self.spec = spec;
        self.pod = new;
        for container in pod::ephemeral(&self.spec) {
            self.records.entry(container.name).or_insert_with(|| Record::new(false));
        }
    }

    /// Takes note of what the sandbox says; nothing means that it has ended.
    pub(super) fn note(&mut self, states: Option<Vec<ContainerState>>) {
        match states {
            Some(states) => states.into_iter().for_each(|state| self.note_one(&state)),
            None => self.lose_sandbox(),
        }
    }

    fn note_one(&mut self, state: &ContainerState) {
        let message = state.exit.as_ref().map(|_| self.last_words(&state.name)).unwrap_or_default();
        let ooms = if state.exit.is_some() { self.groups().ooms(&state.name) } else { 0 };
        let Some(record) = self.records.get_mut(&state.name) else { return };
        if let Some(exit) = &state.exit
            && record.is_running()
            && record.restarts == state.attempt
        {
            let mut ended = Ended::of(exit, timestamp(state.started_at), message);
            if ooms > 0 && ended.code != 0 {
                ended.reason = "OOMKilled".into();
            }
            record.end(ended);
            self.probers.remove(&state.name);
        }
    }

    /// What a container wrote to its termination message file; or the end of its log, if it asks for that.
    fn last_words(&self, name: &str) -> String {
        let Some(container) = pod::find(&self.spec, name) else { return String::new() };
        let logs = self.logs(name);
        let text = crate::kubelet::read_end(&launch::termination_log(&logs), 4096);
        let failed_from_log =
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if !text.is_empty() || !failed_from_log {
            return text;
        }
        let attempt = self.records.get(name).map_or(0, |record| record.restarts);
        crate::kubelet::read_end(&logs.join(format!("{attempt}.log")), 2048)
    }

    /// The sandbox has ended by itself, or was ended from outside.
    pub(super) fn lose_sandbox(&mut self) {
        let now = Timestamp::now();
        self.watch = None;
        self.probers.clear();
        if self.sandbox.take().is_some() && !self.over {
            self.tell(
                None,
                false,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.".into(),
            );
        }
        for (container, is_init) in containers(&self.spec) {
            if let Some(record) = self.records.get_mut(&container.name) {
                record.lose_sandbox(is_init && !self.over, now);
            }
        }
        for container in pod::ephemeral(&self.spec) {
            if let Some(record) = self.records.get_mut(&container.name) {
                record.lose_sandbox(false, now);
            }
        }
    }

    /// Acts on what a probe says.
    pub(super) fn heed(&mut self, outcome: Outcome) {
        let Outcome { container, attempt, kind, verdict, failure, beside } = outcome;
        let Some(record) = self.records.get_mut(&container) else { return };
        if !record.is_running() || record.restarts != attempt {
            return;
        }
        record.beside.extend(beside);
        let mut restart = false;
        let mut begin = false;
        match (kind, verdict) {
            (probe::Kind::Readiness, Some(ready)) => record.ready = ready,
            (probe::Kind::Startup, Some(true)) => {
                record.started = true;
                begin = true;
            }
            (probe::Kind::Startup | probe::Kind::Liveness | probe::Kind::PostStart, Some(false)) => {
                restart = true
            }
            (probe::Kind::Liveness | probe::Kind::PostStart, Some(true)) | (_, None) => {}
        }
        if begin {
            let has_readiness = containers(&self.spec)
                .any(|(known, _)| known.name == container && known.readiness_probe.is_some());
            if let Some(record) = self.records.get_mut(&container) {
                record.ready = !has_readiness;
            }
            self.start_probers(&container, attempt, true);
        }
        if let Some(failure) = failure {
            let (reason, what) = match kind {
                probe::Kind::PostStart => ("FailedPostStartHook", "PostStartHook"),
                probe::Kind::Startup => ("Unhealthy", "Startup probe"),
                probe::Kind::Liveness => ("Unhealthy", "Liveness probe"),
                probe::Kind::Readiness => ("Unhealthy", "Readiness probe"),
            };
            self.tell(Some(&container), true, reason, format!("{what} failed: {failure}"));
        }
        if restart {
            let why = match kind {
                probe::Kind::PostStart => "failed its postStart hook",
                probe::Kind::Startup => "failed startup probe",
                probe::Kind::Liveness | probe::Kind::Readiness => "failed liveness probe",
            };
            self.stop(&container, why);
        }
    }
}

/// The conditions that this kubelet reports, and of `others` those that it does not.
pub(super) fn with_others(own: &PodStatus, others: Vec<PodCondition>) -> Vec<PodCondition> {
    let mut all = own.conditions.clone().unwrap_or_default();
    let foreign: Vec<_> =
        others.into_iter().filter(|one| all.iter().all(|known| known.type_ != one.type_)).collect();
    all.extend(foreign);
    all
}

/// The next states; waits for ever if there is nothing to watch.
pub(super) async fn read_states(watch: &mut Option<UnixStream>) -> Option<Vec<ContainerState>> {
    let Some(watch) = watch else { return std::future::pending().await };
    let mut message = vec![0; Watch::MESSAGE_BYTES];
    loop {
        watch.readable().await.ok()?;
        match watch.try_read(&mut message) {
            Ok(length) => return Watch::decode(&message[..length]).ok()?,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // Whatever it is, nothing can be heard from it any more.
            Err(_) => return None,
        }
    }
}
