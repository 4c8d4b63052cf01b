//! Columns of Pods.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, NONE, age, items, joined, number, or, text};
use crate::kinds::Kind;

#[cfg(test)]
mod tests;

pub(crate) const POD: &[Column] = &[
    NAME,
    Column::text("Ready", "Containers that are ready, of those that should be.", |pod, _| {
        let summary = Summary::of(pod);
        format!("{}/{}", summary.ready, summary.total).into()
    }),
    Column::text("Status", "What the pod as a whole is doing, or what keeps it from running.", |pod, _| {
        Summary::of(pod).reason.into()
    }),
    Column::text("Restarts", "How often containers were restarted, and when the last time.", |pod, now| {
        let Summary { restarts, last_restart, .. } = Summary::of(pod);
        match last_restart {
            Some((_, time)) if restarts != 0 => format!("{restarts} ({} ago)", age::since(time, now)).into(),
            _ => restarts.to_string().into(),
        }
    }),
    AGE,
    Column::text("IP", "Addresses of the pod, of every family, the primary one first.", |pod, _| {
        joined(items(&pod["status"]["podIPs"]).iter().map(|entry| text(&entry["ip"]))).into()
    })
    .wide(),
    Column::text("Node", "The node it runs on.", |pod, _| or(text(&pod["spec"]["nodeName"]), NONE).into())
        .wide(),
    Column::text("Nominated Node", "The node that room is being made on.", |pod, _| {
        or(text(&pod["status"]["nominatedNodeName"]), NONE).into()
    })
    .wide(),
    Column::text(
        "Readiness Gates",
        "Conditions from outside that hold, of those it needs to be ready.",
        |pod, _| {
            let gates = items(&pod["spec"]["readinessGates"]);
            if gates.is_empty() {
                return NONE.into();
            }
            let passed = gates.iter().filter(|gate| is_true(pod, text(&gate["conditionType"]))).count();
            format!("{passed}/{}", gates.len()).into()
        },
    )
    .wide(),
];

/// The condition of a row whose pod has come to its end, by which clients can hide it.
pub(super) fn completed(kind: &Kind, object: &Value) -> Option<Value> {
    if (kind.group, kind.kind) != ("", "Pod") {
        return None;
    }
    let (reason, message) = match text(&object["status"]["phase"]) {
        phase @ "Succeeded" => (phase, "The pod has completed successfully."),
        phase @ "Failed" => (phase, "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

fn condition<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    items(&pod["status"]["conditions"]).iter().find(|condition| condition["type"] == name)
}

fn is_true(pod: &Value, name: &str) -> bool {
    condition(pod, name).is_some_and(|condition| condition["status"] == "True")
}

/// What the containers of a pod amount to.
struct Summary<'a> {
    ready: usize,
    total: usize,
    restarts: i64,
    /// When the last container to be restarted ended, in seconds and as it was read.
    last_restart: Option<(i64, &'a Value)>,
    reason: String,
}

impl<'a> Summary<'a> {
    fn of(pod: &'a Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let mut summary = Self {
            ready: 0,
            total: items(&spec["containers"]).len() + sidecars(spec).count(),
            restarts: 0,
            last_restart: None,
            reason: or(text(&status["reason"]), text(&status["phase"])).to_owned(),
        };
        if condition(pod, "PodScheduled").is_some_and(|condition| condition["reason"] == "SchedulingGated") {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initializing = summary.count_init_containers(spec, status);
        if !initializing || is_true(pod, "Initialized") {
            summary.count_containers(pod);
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if status["reason"] == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Goes through the init containers up to the one that is at work; whether there is one.
    fn count_init_containers(&mut self, spec: &'a Value, status: &'a Value) -> bool {
        for (index, container) in items(&status["initContainerStatuses"]).iter().enumerate() {
            self.count_restarts(container);
            let (terminated, waiting) = (&container["state"]["terminated"], &container["state"]["waiting"]);
            if !terminated.is_null() && number(&terminated["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar(spec, container) && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            self.reason = if !terminated.is_null() {
                format!("Init:{}", end_of(terminated))
            } else if !matches!(text(&waiting["reason"]), "" | "PodInitializing") {
                format!("Init:{}", text(&waiting["reason"]))
            } else {
                format!("Init:{index}/{}", items(&spec["initContainers"]).len())
            };
            return true;
        }
        false
    }

    /// Goes through the containers, which run while the sidecars among the init containers do.
    fn count_containers(&mut self, pod: &'a Value) {
        let status = &pod["status"];
        (self.restarts, self.last_restart) = (0, None);
        for container in items(&status["initContainerStatuses"]) {
            if is_sidecar(&pod["spec"], container) {
                self.count_restarts(container);
            }
        }
        let (mut running, mut failure) = (false, None);
        for container in items(&status["containerStatuses"]).iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if !state["terminated"].is_null() {
                self.reason = end_of(&state["terminated"]);
                if number(&state["terminated"]["exitCode"]) != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if container["ready"] == true && !state["running"].is_null() {
                running = true;
                self.ready += 1;
            }
        }
        // One container that ended well does not make the pod complete.
        if self.reason == "Completed" {
            if running && is_true(pod, "Ready") {
                self.reason = "Running".to_owned();
            } else if let Some(failure) = failure {
                self.reason = failure;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }

    fn count_restarts(&mut self, container: &'a Value) {
        self.restarts += number(&container["restartCount"]);
        let time = &container["lastState"]["terminated"]["finishedAt"];
        if let Some(seconds) = age::seconds(time)
            && self.last_restart.is_none_or(|(last, _)| last < seconds)
        {
            self.last_restart = Some((seconds, time));
        }
    }
}

/// Init containers that keep running beside the others.
fn sidecars(spec: &Value) -> impl Iterator<Item = &Value> {
    items(&spec["initContainers"]).iter().filter(|container| container["restartPolicy"] == "Always")
}

fn is_sidecar(spec: &Value, status: &Value) -> bool {
    sidecars(spec).any(|container| container["name"] == status["name"])
}

/// How a container came to its end.
fn end_of(terminated: &Value) -> String {
    match (text(&terminated["reason"]), number(&terminated["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(&terminated["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
