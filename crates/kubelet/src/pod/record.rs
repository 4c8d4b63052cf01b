//! What is known of each container of a pod.

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};

use super::backoff::Backoff;
use super::{containers, ephemeral, families};
use crate::probe::{Beside, asks_the_pod};
use crate::sandbox::{ContainerState, Exit};

/// How a run of a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Exit status.
    pub(crate) code: i32,
    /// Signal, zero for none.
    pub(crate) signal: i32,
    /// One word: `Completed`, `Error`, `StartError`, ...
    pub(crate) reason: String,
    /// Its termination message, or what kept it from starting.
    pub(crate) message: String,
    /// When it began.
    pub(crate) started: Timestamp,
    /// When it ended.
    pub(crate) finished: Timestamp,
}

impl Ended {
    /// From what the sandbox says.
    pub(crate) fn of(exit: &Exit, started: Timestamp, message: String) -> Self {
        let reason = if exit.problem.is_some() {
            "StartError"
        } else if exit.code == 0 {
            "Completed"
        } else {
            "Error"
        };
        Self {
            code: exit.code,
            signal: exit.signal,
            reason: reason.into(),
            message,
            started,
            finished: timestamp(exit.finished_at),
        }
    }
}

/// A time from nanoseconds since 1970.
pub(crate) fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default()
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not started, or not again yet; the reason is one word.
    Waiting {
        /// `ContainerCreating`, `ErrImagePull`, ...
        reason: String,
        /// For people.
        message: String,
    },
    /// Running since.
    Running {
        /// When it began.
        since: Timestamp,
    },
    /// Ended; may be started again.
    Ended(Ended),
}

/// What is known of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// What it is doing.
    pub(crate) state: State,
    /// How the run before ended.
    pub(crate) last: Option<Ended>,
    /// How often it was started, less one.
    pub(crate) restarts: u32,
    /// Whether a run has been begun, which makes the next one a restart.
    pub(crate) has_run: bool,
    /// It has run in the present sandbox.
    pub(crate) begun: bool,
    /// The image it was started with.
    pub(crate) image: String,
    /// By what the status names that image.
    pub(crate) image_id: String,
    /// Its startup probe has succeeded, or it has none; meaningful while it runs.
    pub(crate) started: bool,
    /// It has started, and its readiness probe says so or it has none.
    pub(crate) ready: bool,
    /// What its readiness probe says at other addresses than the pod's first; what is not here is as `ready` is.
    pub(crate) beside: BTreeMap<IpFamily, Beside>,
    /// Waits between restarts.
    pub(crate) backoff: Backoff,
    /// Do not try to start before this: something it needs is missing.
    pub(crate) held_until: Option<Timestamp>,
}

/// What a container waits for at first.
pub(crate) fn creating(is_waiting_for_init: bool) -> State {
    let reason = if is_waiting_for_init { "PodInitializing" } else { "ContainerCreating" };
    State::Waiting { reason: reason.into(), message: String::new() }
}

impl Record {
    /// Of a container that was never started.
    pub(crate) fn new(is_waiting_for_init: bool) -> Self {
        Self {
            state: creating(is_waiting_for_init),
            last: None,
            restarts: 0,
            has_run: false,
            begun: false,
            image: String::new(),
            image_id: String::new(),
            started: false,
            ready: false,
            beside: BTreeMap::new(),
            backoff: Backoff::default(),
            held_until: None,
        }
    }

    /// Whether it runs.
    pub(crate) const fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it is ready in a family.
    pub(crate) fn is_ready_in(&self, family: IpFamily) -> bool {
        self.is_running() && self.beside.get(&family).map_or(self.ready, |beside| beside.ready)
    }

    /// How it ended, if it has and has not been started since.
    pub(crate) const fn ended(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended(ended) => Some(ended),
            State::Waiting { .. } | State::Running { .. } => None,
        }
    }

    /// The number of the next run.
    pub(crate) const fn next_attempt(&self) -> u32 {
        if self.has_run { self.restarts + 1 } else { self.restarts }
    }

    /// A run has begun.
    pub(crate) fn begin(
        &mut self,
        attempt: u32,
        since: Timestamp,
        image: &str,
        has_startup: bool,
        has_readiness: bool,
    ) {
        self.leave();
        self.state = State::Running { since };
        self.restarts = attempt;
        (self.has_run, self.begun) = (true, true);
        image.clone_into(&mut self.image);
        self.started = !has_startup;
        self.ready = !has_startup && !has_readiness;
        self.beside.clear();
        self.held_until = None;
    }

    /// A run has ended.
    pub(crate) fn end(&mut self, ended: Ended) {
        self.state = State::Ended(ended);
        (self.started, self.ready) = (false, false);
        self.beside.clear();
    }

    /// Keeps what was for `last`, and lets the next wait grow.
    fn leave(&mut self) {
        if let State::Ended(ended) = &self.state {
            self.backoff.restarted(ended.started, ended.finished);
            self.last = Some(ended.clone());
        }
    }

    /// Its sandbox is gone: what ran has ended, and init containers have to run again.
    pub(crate) fn lose_sandbox(&mut self, is_init: bool, now: Timestamp) {
        self.begun = false;
        if let State::Running { since } = self.state {
            self.end(lost(since, now));
        }
        if is_init {
            self.leave();
            self.state = creating(true);
        }
    }

    /// It cannot be started for now.
    pub(crate) fn hold(&mut self, reason: &str, message: String, until: Timestamp) {
        if let State::Ended(ended) = &self.state {
            self.last = Some(ended.clone());
        }
        self.state = State::Waiting { reason: reason.into(), message };
        self.held_until = Some(until);
    }
}

/// Records by container name.
pub(crate) type Records = BTreeMap<String, Record>;

/// The records of a pod that this kubelet process sees for the first time: what its status says, where `alive` (what
/// the sandbox says, if there is one) does not know better. A run that the status has and nobody else is lost.
pub(crate) fn recover(pod: &Pod, spec: &PodSpec, alive: &[ContainerState], now: Timestamp) -> Records {
    let status = pod.status.as_ref();
    let known = |is_init: bool, name: &str| -> Option<&ContainerStatus> {
        let list = status
            .map(|status| if is_init { &status.init_container_statuses } else { &status.container_statuses });
        list?.iter().flatten().find(|status| status.name == name)
    };
    let beside = status.and_then(|status| status.ephemeral_container_statuses.as_ref());
    let ephemeral = ephemeral(spec).map(|container| {
        let mut record = Record::new(false);
        if let Some(status) = beside.into_iter().flatten().find(|status| status.name == container.name) {
            read_status(&mut record, status, now);
        }
        recover_one(&mut record, &container, alive, now);
        (container.name, record)
    });
    let has_init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    containers(spec)
        .map(|(container, is_init)| {
            let mut record = Record::new(has_init && !is_init);
            if let Some(status) = known(is_init, &container.name) {
                read_status(&mut record, status, now);
            }
            recover_one(&mut record, container, alive, now);
            if record.is_running() && container.readiness_probe.as_ref().is_some_and(asks_the_pod) {
                record.beside = families::said(pod);
            }
            (container.name.clone(), record)
        })
        .chain(ephemeral)
        .collect()
}

/// Corrects a record by what the sandbox says.
fn recover_one(record: &mut Record, container: &Container, alive: &[ContainerState], now: Timestamp) {
    let Some(state) = alive.iter().find(|state| state.name == container.name) else {
        return record.lose_sandbox(false, now);
    };
    let since = timestamp(state.started_at);
    record.begun = true;
    if record.restarts != state.attempt || !record.has_run {
        record.begin(
            state.attempt,
            since,
            super::super::image::reference(container),
            container.startup_probe.is_some(),
            container.readiness_probe.is_some(),
        );
    }
    match &state.exit {
        Some(exit) => {
            let message = exit.problem.clone().unwrap_or_default();
            record.end(Ended::of(exit, since, message));
        }
        None => record.state = State::Running { since },
    }
}

/// How a run ended that went with its sandbox.
pub(crate) fn lost(started: Timestamp, now: Timestamp) -> Ended {
    Ended {
        code: 137,
        signal: 0,
        reason: "ContainerStatusUnknown".into(),
        message: "the container went with its sandbox: the node was restarted, or something ended it".into(),
        started,
        finished: now,
    }
}

fn read_status(record: &mut Record, status: &ContainerStatus, now: Timestamp) {
    let time = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map_or(now, |time| time.0)
    };
    let ended = |state: &k8s_openapi::api::core::v1::ContainerStateTerminated| Ended {
        code: state.exit_code,
        signal: state.signal.unwrap_or_default(),
        reason: state.reason.clone().unwrap_or_default(),
        message: state.message.clone().unwrap_or_default(),
        started: time(&state.started_at),
        finished: time(&state.finished_at),
    };
    record.restarts = u32::try_from(status.restart_count).unwrap_or_default();
    record.image.clone_from(&status.image);
    record.image_id.clone_from(&status.image_id);
    record.started = status.started.unwrap_or_default();
    record.ready = status.ready;
    record.last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(ended);
    record.has_run = record.last.is_some() || record.restarts > 0;
    let Some(state) = &status.state else { return };
    if let Some(running) = &state.running {
        record.has_run = true;
        record.state = State::Running { since: time(&running.started_at) };
    } else if let Some(terminated) = &state.terminated {
        record.has_run = true;
        record.state = State::Ended(ended(terminated));
    } else if let Some(last) = &record.last {
        // Waiting for its restart: what counts is how it ended.
        record.state = State::Ended(last.clone());
    }
}
