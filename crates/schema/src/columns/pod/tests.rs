use serde_json::json;

use super::*;
use crate::columns::{TableOptions, cells, row};
use crate::kinds::by_kind;

/// 2026-01-01T00:10:00Z.
const NOW: i64 = 1_767_226_200;

fn shown(pod: &Value) -> Vec<String> {
    let cells = cells(by_kind("", "Pod").unwrap(), pod, NOW);
    cells.iter().map(|cell| cell.as_str().unwrap().to_owned()).collect()
}

/// A pod with one container for each state, and the init containers named.
fn pod(phase: &str, states: &[Value]) -> Value {
    let containers: Vec<Value> =
        (0..states.len()).map(|index| json!({"name": format!("c{index}")})).collect();
    json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": containers},
        "status": {"phase": phase, "containerStatuses": states},
    })
}

fn running(ready: bool) -> Value {
    json!({"ready": ready, "restartCount": 0, "state": {"running": {}}})
}

fn terminated(code: i64, reason: &str) -> Value {
    json!({"ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code, "reason": reason}}})
}

fn waiting(reason: &str) -> Value {
    json!({"ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}})
}

#[test]
fn readiness_and_status_follow_the_containers() {
    let signalled = json!({"state": {"terminated": {"exitCode": 137, "signal": 9}}});
    let unexplained = json!({"state": {"terminated": {"exitCode": 3}}});
    for (phase, states, ready, status) in [
        ("Pending", vec![], "0/0", "Pending"),
        ("Pending", vec![waiting("ContainerCreating")], "0/1", "ContainerCreating"),
        ("Running", vec![running(true)], "1/1", "Running"),
        ("Running", vec![running(false), running(true)], "1/2", "Running"),
        ("Running", vec![waiting("CrashLoopBackOff"), running(true)], "1/2", "CrashLoopBackOff"),
        ("Running", vec![running(true), waiting("ImagePullBackOff")], "1/2", "ImagePullBackOff"),
        ("Succeeded", vec![terminated(0, "Completed")], "0/1", "Completed"),
        ("Failed", vec![terminated(1, "Error")], "0/1", "Error"),
        ("Failed", vec![signalled], "0/1", "Signal:9"),
        ("Failed", vec![unexplained], "0/1", "ExitCode:3"),
        // One container that ended well stands for less than one that failed or still runs.
        ("Running", vec![terminated(0, "Completed"), terminated(1, "Error")], "0/2", "Error"),
        ("Running", vec![terminated(0, "Completed"), running(true)], "1/2", "NotReady"),
    ] {
        let shown = shown(&pod(phase, &states));
        assert_eq!((shown[1].as_str(), shown[2].as_str()), (ready, status), "{phase} {states:?}");
    }
}

#[test]
fn a_pod_with_a_completed_container_runs_while_it_is_ready() {
    let mut pod = pod("Running", &[terminated(0, "Completed"), running(true)]);
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(shown(&pod)[2], "Running");
}

#[test]
fn the_pods_own_state_comes_before_or_after_that_of_its_containers() {
    let base = pod("Running", &[running(true)]);
    let status = |change: fn(&mut Value)| {
        let mut pod = base.clone();
        change(&mut pod);
        shown(&pod)[2].clone()
    };
    assert_eq!(
        status(|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
        "Terminating"
    );
    assert_eq!(
        status(|pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["status"]["reason"] = "NodeLost".into();
        }),
        "Unknown"
    );
    assert_eq!(
        status(|pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["status"] = json!({"phase": "Succeeded"});
        }),
        "Succeeded"
    );
    assert_eq!(status(|pod| pod["status"] = json!({"phase": "Failed", "reason": "Evicted"})), "Evicted");
    assert_eq!(
        status(|pod| {
            let gated = json!([{"type": "PodScheduled", "reason": "SchedulingGated"}]);
            pod["status"] = json!({"phase": "Pending", "conditions": gated});
        }),
        "SchedulingGated"
    );
}

#[test]
fn init_containers_are_shown_until_they_are_done() {
    let at = |statuses: Value| {
        let mut pod = pod("Pending", &[waiting("PodInitializing")]);
        pod["spec"]["initContainers"] = json!([{"name": "i0"}, {"name": "i1"}]);
        pod["status"]["initContainerStatuses"] = statuses;
        shown(&pod)[2].clone()
    };
    let done = json!({"name": "i0", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let second = |state: Value| json!([done, {"name": "i1", "state": state}]);
    assert_eq!(at(json!([{"name": "i0", "state": {"waiting": {"reason": "PodInitializing"}}}])), "Init:0/2");
    assert_eq!(at(second(json!({"running": {}}))), "Init:1/2");
    assert_eq!(at(second(json!({"waiting": {"reason": "CrashLoopBackOff"}}))), "Init:CrashLoopBackOff");
    assert_eq!(at(second(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))), "Init:Error");
    assert_eq!(at(second(json!({"terminated": {"exitCode": 2}}))), "Init:ExitCode:2");
    assert_eq!(at(second(json!({"terminated": {"exitCode": 137, "signal": 9}}))), "Init:Signal:9");
    assert_eq!(at(second(json!({"terminated": {"exitCode": 0}}))), "PodInitializing");
}

#[test]
fn sidecars_count_as_containers() {
    let mut pod = pod("Running", &[running(true)]);
    pod["spec"]["initContainers"] = json!([{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]);
    pod["status"]["initContainerStatuses"] = json!([
        {"name": "s", "started": true, "ready": true, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:09:00Z"}}},
        {"name": "i", "restartCount": 5, "state": {"terminated": {"exitCode": 0}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:09:30Z"}}},
    ]);
    // The restarts of init containers that are done are no news.
    assert_eq!(shown(&pod)[1..4], ["2/2", "Running", "2 (60s ago)"]);
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let restarted = |count: i64, finished: Value| {
        let mut container = running(true);
        container["restartCount"] = count.into();
        container["lastState"] = json!({"terminated": {"finishedAt": finished}});
        container
    };
    let early = restarted(1, json!("2026-01-01T00:01:00Z"));
    let late = restarted(2, json!("2026-01-01T00:05:00Z"));
    assert_eq!(shown(&pod("Running", &[early.clone(), late.clone()]))[3], "3 (5m ago)");
    assert_eq!(shown(&pod("Running", &[late, early]))[3], "3 (5m ago)");
    assert_eq!(shown(&pod("Running", &[restarted(4, Value::Null)]))[3], "4");
    assert_eq!(shown(&pod("Running", &[restarted(0, json!("2026-01-01T00:05:00Z"))]))[3], "0");
}

#[test]
fn wide_columns_show_addresses_of_both_families() {
    let mut pod = pod("Running", &[running(true)]);
    assert_eq!(shown(&pod)[4..], ["10m", "<none>", "<none>", "<none>", "<none>"]);
    pod["spec"]["nodeName"] = "n1".into();
    pod["spec"]["readinessGates"] = json!([{"conditionType": "a/b"}, {"conditionType": "a/c"}]);
    pod["status"]["conditions"] =
        json!([{"type": "a/b", "status": "True"}, {"type": "a/c", "status": "False"}]);
    pod["status"]["podIPs"] = json!([{"ip": "fd00::5"}, {"ip": "10.0.0.5"}]);
    pod["status"]["nominatedNodeName"] = "n2".into();
    assert_eq!(shown(&pod)[5..], ["fd00::5,10.0.0.5", "n1", "n2", "1/2"]);
}

#[test]
fn rows_of_ended_pods_say_so() {
    let kind = by_kind("", "Pod").unwrap();
    let options = TableOptions { include: crate::columns::IncludeObject::None, headers: false, now: NOW };
    let reason = |phase| row(kind, &pod(phase, &[]), options)["conditions"][0]["reason"].clone();
    assert_eq!(reason("Succeeded"), "Succeeded");
    assert_eq!(reason("Failed"), "Failed");
    assert_eq!(reason("Running"), Value::Null);
}
