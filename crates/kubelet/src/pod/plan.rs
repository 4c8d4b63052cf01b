//! What to do next with a pod, from what is known of its containers.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;

use super::record::{Record, Records, State};
use super::{RestartPolicy, containers, ephemeral, is_sidecar};
use crate::image;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start the container of this name.
    Start(String),
    /// End the container of this name, and say why.
    Stop(String, &'static str),
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Do these now; look again then, if at all.
    Go {
        /// In this order.
        actions: Vec<Action>,
        /// When time alone changes the plan.
        wake: Option<Timestamp>,
    },
    /// Every container has ended for good: nothing is to be run any more.
    Over,
}

/// What becomes of one container.
enum Verdict {
    Leave,
    Start,
    StartAt(Timestamp),
    Done { code: i32 },
}

fn verdict(record: &Record, policy: RestartPolicy, now: Timestamp) -> Verdict {
    let at = |due: Timestamp| if due <= now { Verdict::Start } else { Verdict::StartAt(due) };
    match &record.state {
        State::Running { .. } => Verdict::Leave,
        State::Waiting { .. } => record.held_until.map_or(Verdict::Start, at),
        State::Ended(ended) if policy.restarts(ended.code) => at(record.backoff.due(ended.finished)),
        State::Ended(ended) => Verdict::Done { code: ended.code },
    }
}

/// The plan for a pod that is to run.
pub(crate) fn plan(spec: &PodSpec, records: &Records, now: Timestamp) -> Plan {
    let mut actions = Vec::new();
    let mut wake: Option<Timestamp> = None;
    let mut later = |at: Timestamp| wake = Some(wake.map_or(at, |known| known.min(at)));
    // Containers that have run in this sandbox mean that the init containers are through, whatever their records say.
    let begun =
        spec.containers.iter().any(|container| records.get(&container.name).is_some_and(|one| one.begun));
    // They come first, so that they show what keeps the others from starting; nobody waits for them.
    for container in ephemeral(spec) {
        let Some(record) = records.get(&container.name) else { continue };
        match verdict(record, RestartPolicy::Never, now) {
            Verdict::Start => actions.push(Action::Start(container.name)),
            Verdict::StartAt(due) => later(due),
            Verdict::Leave | Verdict::Done { .. } => {}
        }
    }
    let mut initialised = true;
    let mut undone = 0;
    for (container, is_init) in containers(spec) {
        let Some(record) = records.get(&container.name) else { continue };
        let sidecar = is_init && is_sidecar(container);
        if is_init && !sidecar && begun {
            continue;
        }
        if !initialised && !is_init {
            undone += 1;
            continue;
        }
        if is_init && !initialised {
            break;
        }
        if record.is_running() && !record.image.is_empty() && record.image != image::reference(container) {
            actions.push(Action::Stop(container.name.clone(), "its image has changed"));
        }
        match verdict(record, RestartPolicy::of_container(spec, container, is_init), now) {
            Verdict::Start => actions.push(Action::Start(container.name.clone())),
            Verdict::StartAt(due) => later(due),
            Verdict::Leave => {}
            Verdict::Done { code: 0 } if is_init => continue,
            Verdict::Done { .. } if is_init => return Plan::Over,
            Verdict::Done { .. } => continue,
        }
        if sidecar {
            // The others wait until it has started, not until it ends; and no longer once they have begun.
            initialised = begun || record.is_running() && record.started;
        } else if is_init {
            initialised = false;
        } else {
            undone += 1;
        }
    }
    let waiting_for_init = !initialised;
    if undone == 0 && !waiting_for_init { Plan::Over } else { Plan::Go { actions, wake } }
}
