//! The status of a pod, from what is known of its containers.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::record::{Ended, Record, Records, State};
use super::{RestartPolicy, families, is_sidecar};
use crate::image;

/// Everything a status follows from.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// The pod as the API has it; its status is the one reported before.
    pub(crate) pod: &'a Pod,
    /// Its spec.
    pub(crate) spec: &'a PodSpec,
    /// Its containers.
    pub(crate) records: &'a Records,
    /// Its addresses, primary first; of a host-network pod the node's (B9).
    pub(crate) pod_ips: &'a [IpAddr],
    /// The node's addresses, primary first (B10).
    pub(crate) host_ips: &'a [IpAddr],
    /// Whether it has a sandbox with a network.
    pub(crate) has_sandbox: bool,
    /// It will not run any more, whatever its restart policy: it is being deleted, or something ended it.
    pub(crate) is_over: bool,
    /// Why it was ended: one word and a sentence (`DeadlineExceeded`, ...).
    pub(crate) failure: Option<(&'a str, &'a str)>,
    /// The time.
    pub(crate) now: Timestamp,
}

/// Kubernetes times have whole seconds.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The status to report.
pub(crate) fn status(input: &Input<'_>) -> PodStatus {
    let old = input.pod.status.as_ref();
    let statuses = |list: &[Container], is_init| -> Vec<ContainerStatus> {
        list.iter().map(|container| container_status(input, container, is_init)).collect()
    };
    let init_list = input.spec.init_containers.as_deref().unwrap_or_default();
    let init = statuses(init_list, true);
    let main = statuses(&input.spec.containers, false);
    let ephemeral: Vec<ContainerStatus> =
        super::ephemeral(input.spec).map(|container| ephemeral_status(input, &container)).collect();
    let phase = if input.failure.is_some() {
        "Failed"
    } else {
        phase(input, old.and_then(|old| old.phase.as_deref()))
    };
    let generation = input.pod.metadata.generation;
    let conditions = conditions(input, phase, &main, &init);
    let ips = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let (pod_ips, host_ips) = (ips(input.pod_ips), ips(input.host_ips));
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: input.failure.map(|(reason, _)| reason.to_owned()),
        message: input.failure.map(|(_, message)| message.to_owned()),
        conditions: Some(conditions),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.and_then(|old| old.start_time.clone()).or_else(|| Some(time(input.now))),
        observed_generation: generation,
        ..PodStatus::default()
    }
}

/// Without what is said of containers that others wait for.
fn ephemeral_status(input: &Input<'_>, container: &Container) -> ContainerStatus {
    let never = PodSpec { restart_policy: Some("Never".into()), ..PodSpec::default() };
    let status = container_status(&Input { spec: &never, ..*input }, container, false);
    ContainerStatus { ready: false, started: None, ..status }
}

fn container_status(input: &Input<'_>, container: &Container, is_init: bool) -> ContainerStatus {
    let fresh = Record::new(false);
    let record = input.records.get(&container.name).unwrap_or(&fresh);
    let uid = input.pod.metadata.uid.as_deref().unwrap_or_default();
    let id = |attempt: u32| format!("dyad://{uid}/{}/{attempt}", container.name);
    let (mut state, mut last) = (ContainerState::default(), record.last.clone());
    match &record.state {
        State::Waiting { reason, message } => state.waiting = Some(waiting(reason, message)),
        State::Running { since } => {
            state.running = Some(ContainerStateRunning { started_at: Some(time(*since)) });
        }
        State::Ended(ended) => {
            let policy = RestartPolicy::of_container(input.spec, container, is_init);
            match record.backoff.wait() {
                Some(wait) if !input.is_over && policy.restarts(ended.code) => {
                    let message = format!(
                        "back-off {} restarting failed container={} pod={}_{}({uid})",
                        go_duration(wait.as_secs()),
                        container.name,
                        input.pod.metadata.name.as_deref().unwrap_or_default(),
                        input.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    );
                    state.waiting = Some(waiting("CrashLoopBackOff", &message));
                    last = Some(ended.clone());
                }
                _ => state.terminated = Some(terminated(ended, &id(record.restarts))),
            }
        }
    }
    let is_ready = if is_init && !is_sidecar(container) {
        record.ended().is_some_and(|ended| ended.code == 0)
    } else {
        record.is_running() && record.ready
    };
    let reference = image::reference(container);
    ContainerStatus {
        name: container.name.clone(),
        ready: is_ready,
        started: Some(record.is_running() && record.started),
        restart_count: i32::try_from(record.restarts).unwrap_or(i32::MAX),
        image: reference.to_owned(),
        image_id: record.image_id.clone(),
        container_id: record.has_run.then(|| id(record.restarts)),
        last_state: last.map(|ended| ContainerState {
            terminated: Some(terminated(
                &ended,
                &id(record.restarts.saturating_sub(u32::from(record.is_running()))),
            )),
            ..ContainerState::default()
        }),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

fn waiting(reason: &str, message: &str) -> ContainerStateWaiting {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ContainerStateWaiting { reason: Some(reason.to_owned()), message }
}

fn terminated(ended: &Ended, id: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: ended.code,
        signal: (ended.signal != 0).then_some(ended.signal),
        reason: Some(ended.reason.clone()),
        message: (!ended.message.is_empty()).then(|| ended.message.clone()),
        started_at: Some(time(ended.started)),
        finished_at: Some(time(ended.finished)),
        container_id: Some(id.to_owned()),
    }
}

/// As Go writes durations: `10s`, `2m40s`.
fn go_duration(seconds: i64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn phase(input: &Input<'_>, old: Option<&str>) -> &'static str {
    // Never left again.
    match old {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    let record = |container: &Container| input.records.get(&container.name);
    let mut pending = false;
    let begun = input.spec.containers.iter().filter_map(record).any(|record| record.has_run);
    for container in input.spec.init_containers.iter().flatten() {
        let Some(record) = record(container) else { continue };
        if is_sidecar(container) {
            pending |= !begun && !record.started;
            continue;
        }
        match record.ended().or(record.last.as_ref()) {
            Some(ended) if ended.code == 0 => {}
            Some(ended) => {
                let policy = RestartPolicy::of_container(input.spec, container, true);
                if !policy.restarts(ended.code) || input.is_over {
                    return "Failed";
                }
                pending = true;
            }
            None => pending |= !begun,
        }
    }
    let (mut running, mut waiting, mut failed, mut for_good) = (0, 0, 0, 0);
    let policy = RestartPolicy::of(input.spec);
    for container in &input.spec.containers {
        let Some(record) = record(container) else {
            waiting += 1;
            continue;
        };
        let ended = match &record.state {
            State::Running { .. } => {
                running += 1;
                continue;
            }
            State::Ended(ended) => Some(ended),
            State::Waiting { .. } => record.last.as_ref(),
        };
        match ended {
            None => waiting += 1,
            Some(ended) => {
                failed += u32::from(ended.code != 0);
                for_good += usize::from(input.is_over || !policy.restarts(ended.code));
            }
        }
    }
    if input.is_over && running == 0 && (waiting > 0 || pending) {
        return "Failed";
    }
    if pending || waiting > 0 {
        "Pending"
    } else if running > 0 || for_good < input.spec.containers.len() {
        "Running"
    } else if failed > 0 {
        "Failed"
    } else {
        "Succeeded"
    }
}

/// A condition's status, reason and message.
pub(super) type Condition = (&'static str, Option<&'static str>, String);

fn conditions(
    input: &Input<'_>,
    phase: &str,
    main: &[ContainerStatus],
    init: &[ContainerStatus],
) -> Vec<PodCondition> {
    let yes: Condition = ("True", None, String::new());
    let names = |list: Vec<&str>| format!("[{}]", list.join(" "));
    let waited_for = || {
        let init_list = input.spec.init_containers.iter().flatten().zip(init);
        let sidecars = init_list.filter(|(container, _)| is_sidecar(container)).map(|(_, status)| status);
        sidecars.chain(main)
    };
    let judge = |unready: Vec<&str>| -> Condition {
        match phase {
            "Succeeded" => ("False", Some("PodCompleted"), String::new()),
            "Failed" => ("False", Some("PodFailed"), String::new()),
            _ if unready.is_empty() => yes.clone(),
            _ => {
                let message = format!("containers with unready status: {}", names(unready));
                ("False", Some("ContainersNotReady"), message)
            }
        }
    };
    let gated = |containers: Condition| match gates(input) {
        Some(message) if containers.0 == "True" => ("False", Some("ReadinessGatesNotReady"), message),
        _ => containers,
    };
    let unready = waited_for().filter(|status| !status.ready).map(|status| status.name.as_str());
    let containers_ready = judge(unready.collect());
    let ready = gated(containers_ready.clone());
    let by_family = families::conditions(input, &ready, |family| {
        let unready = families::unready(input, waited_for().map(|status| status.name.as_str()), family);
        gated(judge(unready))
    });
    let begun =
        input.spec.containers.iter().any(|one| input.records.get(&one.name).is_some_and(|one| one.has_run));
    let incomplete: Vec<&str> = init
        .iter()
        .zip(input.spec.init_containers.iter().flatten())
        .filter(|(status, container)| {
            !(status.ready || is_sidecar(container) && status.started == Some(true))
        })
        .map(|(status, _)| status.name.as_str())
        .collect();
    let initialized: Condition = if phase == "Succeeded" {
        ("True", Some("PodCompleted"), String::new())
    } else if begun || incomplete.is_empty() {
        yes.clone()
    } else {
        let message = format!("containers with incomplete status: {}", names(incomplete));
        ("False", Some("ContainersNotInitialized"), message)
    };
    let network = if input.has_sandbox { yes.clone() } else { ("False", None, String::new()) };
    let ours = [
        ("PodReadyToStartContainers", network),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", yes),
    ];
    let ours = ours.map(|(kind, condition)| with_history(input, kind, condition)).into_iter();
    ours.chain(by_family.into_iter().map(|(kind, condition)| with_history(input, &kind, condition))).collect()
}

/// What the pod's readiness gates lack.
fn gates(input: &Input<'_>) -> Option<String> {
    let known = input.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let missing: Vec<String> = input
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match known.into_iter().flatten().find(|condition| condition.type_ == *kind) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
                }
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// The condition with the time of its last change of status.
fn with_history(input: &Input<'_>, kind: &str, (status, reason, message): Condition) -> PodCondition {
    let known = input.pod.status.as_ref().and_then(|old| old.conditions.as_ref());
    let before = known.into_iter().flatten().find(|condition| condition.type_ == kind);
    let since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message: (!message.is_empty()).then_some(message),
        last_transition_time: since.or_else(|| Some(time(input.now))),
        observed_generation: input.pod.metadata.generation,
        ..PodCondition::default()
    }
}
