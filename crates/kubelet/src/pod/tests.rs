//! Tables: what is done and reported in which situation.

use std::net::IpAddr;

use dyad_net::IpFamily;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use serde_json::{Value, json};

use super::plan::{Action, Plan, plan};
use super::record::{Ended, Record, Records, State, lost, recover};
use super::status::{Input, status};
use crate::probe::Beside;
use crate::sandbox::{ContainerState, Exit};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(spec: Value) -> (Pod, PodSpec) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u", "generation": 3}, "spec": spec,
    }))
    .unwrap();
    let spec = pod.spec.clone().unwrap();
    (pod, spec)
}

fn named(names: &[&str], policy: &str) -> (Pod, PodSpec) {
    let containers: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "image": "dyad/echo"})).collect();
    pod(json!({"restartPolicy": policy, "containers": containers}))
}

fn ended(code: i32, from: i64, to: i64) -> Ended {
    Ended {
        code,
        signal: 0,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: String::new(),
        started: at(from),
        finished: at(to),
    }
}

fn run(record: &mut Record, from: i64, end: Option<(i32, i64)>) {
    record.begin(record.next_attempt(), at(from), "dyad/echo", false, false);
    if let Some((code, to)) = end {
        record.end(ended(code, from, to));
    }
}

/// Records from words: `-` never run, `r` running, a number an exit status at second 10.
fn records(words: &[(&str, &str)]) -> Records {
    words
        .iter()
        .map(|&(name, word)| {
            let mut record = Record::new(false);
            match word {
                "-" => {}
                "r" => run(&mut record, 0, None),
                code => run(&mut record, 0, Some((code.parse().unwrap(), 10))),
            }
            (name.to_owned(), record)
        })
        .collect()
}

fn go(actions: &[&str], wake: Option<i64>) -> Plan {
    let actions = actions.iter().map(|&name| Action::Start(name.to_owned())).collect();
    Plan::Go { actions, wake: wake.map(at) }
}

fn report(pod: &Pod, spec: &PodSpec, records: &Records, is_over: bool) -> PodStatus {
    let ips: [IpAddr; 2] = ["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()];
    let host: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    status(&Input {
        pod,
        spec,
        records,
        pod_ips: &ips,
        host_ips: &host,
        has_sandbox: true,
        is_over,
        failure: None,
        now: at(100),
    })
}

#[test]
fn restart_policy_decides_what_is_started_and_when_it_is_over() {
    #[rustfmt::skip]
    let rows: [(&str, &str, &str, Plan, &str); 14] = [
        // policy,    a,   b,   plan,                          phase
        ("Always",    "-", "-", go(&["a", "b"], None),         "Pending"),
        ("Always",    "r", "-", go(&["b"], None),              "Pending"),
        ("Always",    "r", "r", go(&[], None),                 "Running"),
        ("Always",    "0", "r", go(&["a"], None),              "Running"),
        ("Always",    "1", "1", go(&["a", "b"], None),         "Running"),
        ("OnFailure", "0", "r", go(&[], None),                 "Running"),
        ("OnFailure", "1", "r", go(&["a"], None),              "Running"),
        ("OnFailure", "1", "0", go(&["a"], None),              "Running"),
        ("OnFailure", "0", "0", Plan::Over,                    "Succeeded"),
        ("Never",     "-", "r", go(&["a"], None),              "Pending"),
        ("Never",     "1", "r", go(&[], None),                 "Running"),
        ("Never",     "0", "0", Plan::Over,                    "Succeeded"),
        ("Never",     "1", "0", Plan::Over,                    "Failed"),
        ("Never",     "0", "7", Plan::Over,                    "Failed"),
    ];
    for (policy, a, b, want, phase) in rows {
        let (pod, spec) = named(&["a", "b"], policy);
        let records = records(&[("a", a), ("b", b)]);
        assert_eq!(plan(&spec, &records, at(50)), want, "{policy} a={a} b={b}");
        let got = report(&pod, &spec, &records, false).phase;
        assert_eq!(got.as_deref(), Some(phase), "{policy} a={a} b={b}");
    }
}

#[test]
fn restarts_wait_ten_seconds_doubling_to_five_minutes_until_a_long_run() {
    let (pod, spec) = named(&["a"], "Always");
    let mut all = records(&[("a", "-")]);
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..8 {
        run(all.get_mut("a").unwrap(), now, Some((1, now + 1)));
        now += 1;
        let wait = match plan(&spec, &all, at(now)) {
            Plan::Go { actions, wake: None } if actions == [Action::Start("a".into())] => 0,
            Plan::Go { actions, wake: Some(due) } if actions.is_empty() => {
                due.duration_since(at(now)).as_secs()
            }
            other => panic!("{other:?}"),
        };
        waits.push(wait);
        now += wait;
        assert_eq!(plan(&spec, &all, at(now)), go(&["a"], None));
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    let shown = report(&pod, &spec, &all, false);
    let container = &shown.container_statuses.unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 5m0s restarting failed container=a pod=web_ns(u)"));
    assert_eq!(container.restart_count, 7);
    assert!(container.last_state.as_ref().unwrap().terminated.is_some());
    // Ten minutes without ending are forgiven.
    run(all.get_mut("a").unwrap(), now, Some((1, now + 600)));
    run(all.get_mut("a").unwrap(), now + 900, Some((1, now + 901)));
    assert_eq!(plan(&spec, &all, at(now + 901)), go(&[], Some(now + 911)));
}

/// Policy, records of `i`, `s` and whether it has started, `j` and `a`, then plan and phase.
type Row = (&'static str, &'static str, &'static str, bool, &'static str, &'static str, Plan, &'static str);

#[test]
fn init_containers_go_one_by_one_and_sidecars_stay() {
    let container = |name: &str| json!({"name": name, "image": "dyad/echo"});
    let sidecar = json!({"name": "s", "image": "dyad/echo", "restartPolicy": "Always", "startupProbe": {}});
    let spec = |policy: &str| {
        pod(json!({"restartPolicy": policy, "initContainers": [container("i"), sidecar, container("j")],
            "containers": [container("a")]}))
    };
    #[rustfmt::skip]
    let rows: [Row; 12] = [
        // policy,    i,   s, started, j,   a,   plan,               phase
        ("Always",    "-", "-", false, "-", "-", go(&["i"], None),   "Pending"),
        ("Always",    "r", "-", false, "-", "-", go(&[], None),      "Pending"),
        ("Always",    "1", "-", false, "-", "-", go(&["i"], None),   "Pending"),
        ("Always",    "0", "-", false, "-", "-", go(&["s"], None),   "Pending"),
        ("Always",    "0", "r", false, "-", "-", go(&[], None),      "Pending"),
        ("Always",    "0", "r", true,  "-", "-", go(&["j"], None),   "Pending"),
        ("Always",    "0", "r", true,  "0", "-", go(&["a"], None),   "Pending"),
        ("Always",    "0", "r", true,  "0", "r", go(&[], None),      "Running"),
        ("Always",    "0", "1", false, "0", "r", go(&["s"], None),   "Running"),
        ("Never",     "1", "-", false, "-", "-", Plan::Over,         "Failed"),
        ("Never",     "0", "r", true,  "2", "-", Plan::Over,         "Failed"),
        ("Never",     "0", "r", true,  "0", "0", Plan::Over,         "Succeeded"),
    ];
    for (policy, i, s, started, j, a, want, phase) in rows {
        let (pod, spec) = spec(policy);
        let mut records = records(&[("i", i), ("s", s), ("j", j), ("a", a)]);
        records.get_mut("s").unwrap().started = started;
        assert_eq!(plan(&spec, &records, at(50)), want, "{policy} i={i} s={s}/{started} j={j} a={a}");
        let got = report(&pod, &spec, &records, false).phase;
        assert_eq!(got.as_deref(), Some(phase), "{policy} i={i} s={s}/{started} j={j} a={a}");
    }
}

#[test]
fn a_container_whose_image_changed_is_stopped() {
    let (_, mut spec) = named(&["a"], "Always");
    let records = records(&[("a", "r")]);
    spec.containers[0].image = Some("dyad/tools".into());
    let stop = Action::Stop("a".into(), "its image has changed");
    assert_eq!(plan(&spec, &records, at(1)), Plan::Go { actions: vec![stop], wake: None });
}

#[test]
fn what_cannot_be_started_is_held_and_tried_again() {
    let (pod, spec) = named(&["a"], "Always");
    let mut records = records(&[("a", "-")]);
    records.get_mut("a").unwrap().hold("ErrImagePull", "no such image".into(), at(60));
    assert_eq!(plan(&spec, &records, at(50)), go(&[], Some(60)));
    assert_eq!(plan(&spec, &records, at(60)), go(&["a"], None));
    let shown = report(&pod, &spec, &records, false);
    assert_eq!(shown.phase.as_deref(), Some("Pending"));
    let state = shown.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(
        (state.reason.as_deref(), state.message.as_deref()),
        (Some("ErrImagePull"), Some("no such image"))
    );
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> (&'a str, Option<&'a str>, Option<&'a str>) {
    let found = status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == kind).unwrap();
    (&found.status, found.reason.as_deref(), found.message.as_deref())
}

#[test]
fn conditions_say_who_is_not_ready_and_keep_their_times() {
    let (mut pod, mut spec) = named(&["a", "b"], "Always");
    let mut records = records(&[("a", "r"), ("b", "r")]);
    records.get_mut("b").unwrap().ready = false;
    let shown = report(&pod, &spec, &records, false);
    let unready = ("False", Some("ContainersNotReady"), Some("containers with unready status: [b]"));
    assert_eq!(condition(&shown, "Ready"), unready);
    assert_eq!(condition(&shown, "ContainersReady"), unready);
    assert_eq!(condition(&shown, "Initialized"), ("True", None, None));

    // A condition that did not change keeps its time; one that did gets the present.
    pod.status = Some(shown);
    records.get_mut("b").unwrap().ready = true;
    let mut later = pod.clone();
    for condition in later.status.as_mut().unwrap().conditions.as_mut().unwrap() {
        condition.last_transition_time = Some(super::status::time(at(1)));
    }
    let shown = report(&later, &spec, &records, false);
    let times: Vec<bool> = shown
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .map(|condition| condition.last_transition_time.as_ref().unwrap().0 == at(1))
        .collect();
    assert_eq!(times, [true, true, false, false, true]);

    spec.readiness_gates = Some(serde_json::from_value(json!([{"conditionType": "x/y"}])).unwrap());
    let shown = report(&pod, &spec, &records, false);
    assert_eq!(condition(&shown, "ContainersReady").0, "True");
    assert_eq!(condition(&shown, "Ready").1, Some("ReadinessGatesNotReady"));
}

#[test]
fn b7_b10_addresses_stand_in_order_and_the_first_one_alone() {
    let (pod, spec) = named(&["a"], "Always");
    let shown = report(&pod, &spec, &records(&[("a", "r")]), false);
    assert_eq!(shown.pod_ip.as_deref(), Some("10.244.1.5"));
    let ips: Vec<String> = shown.pod_ips.unwrap().into_iter().map(|ip| ip.ip).collect();
    assert_eq!(ips, ["10.244.1.5", "fd00::5"]);
    assert_eq!(shown.host_ip.as_deref(), Some("192.0.2.1"));
    let ips: Vec<String> = shown.host_ips.unwrap().into_iter().map(|ip| ip.ip).collect();
    assert_eq!(ips, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(shown.observed_generation, Some(3));
}

#[test]
fn conditions_of_families_are_there_while_they_differ() {
    let families = ["dyad.io/ReadyIPv4", "dyad.io/ReadyIPv6"];
    let (pod, mut spec) = pod(
        json!({"containers": [{"name": "a", "readinessProbe": {"tcpSocket": {"port": 80}}}, {"name": "b"}]}),
    );
    let beside = |ready| Beside { ready, problem: if ready { "" } else { "refused" }.into() };
    #[rustfmt::skip]
    let rows = [
        // ready, beside,      of each family
        (true,  None,        None),
        (true,  Some(true),  None),
        (true,  Some(false), Some(["True", "False"])),
        (false, None,        None),
        (false, Some(false), None),
        (false, Some(true),  Some(["False", "True"])),
    ];
    for (ready, other, want) in rows {
        let mut records = records(&[("a", "r"), ("b", "r")]);
        let record = records.get_mut("a").unwrap();
        record.ready = ready;
        record.beside = other.map(|ready| (IpFamily::V6, beside(ready))).into_iter().collect();
        let shown = report(&pod, &spec, &records, false);
        let got = families.map(|kind| {
            let conditions = shown.conditions.iter().flatten();
            conditions.into_iter().find(|one| one.type_ == kind).map(|one| one.status.clone())
        });
        assert_eq!(
            got,
            want.map_or([None, None], |want| want.map(|one| Some(one.to_owned()))),
            "{ready} {other:?}"
        );
        assert_eq!(
            condition(&shown, "Ready").0,
            if ready { "True" } else { "False" },
            "B25: {ready} {other:?}"
        );
        if want == Some(["True", "False"]) {
            let said = shown.conditions.iter().flatten().find(|one| one.type_ == families[1]).unwrap();
            let message = "containers with unready status: [a]: refused";
            assert_eq!(said.message.as_deref(), Some(message));
            // The next kubelet knows it from there.
            let mut known = pod.clone();
            known.status = Some(shown.clone());
            let state = ContainerState {
                name: "a".into(),
                attempt: 0,
                started_at: at(0).as_nanosecond() as i64,
                exit: None,
                pid: 0,
            };
            let found = recover(&known, &spec, &[state], at(100));
            assert!(!found["a"].is_ready_in(IpFamily::V6) && found["a"].is_ready_in(IpFamily::V4));
            assert!(found["b"].beside.is_empty(), "no probe, nothing to say");
        }
        // Whatever keeps the whole pod from being ready is no difference.
        spec.readiness_gates = Some(serde_json::from_value(json!([{"conditionType": "x/y"}])).unwrap());
        let shown = report(&pod, &spec, &records, false);
        assert!(
            shown.conditions.iter().flatten().all(|one| !families.contains(&one.type_.as_str())),
            "gates"
        );
        spec.readiness_gates = None;
        let over = report(&pod, &spec, &self::records(&[("a", "0"), ("b", "0")]), true);
        assert!(over.conditions.iter().flatten().all(|one| !families.contains(&one.type_.as_str())), "over");
    }
}

#[test]
fn a_pod_that_is_over_has_a_final_phase() {
    for (policy, a, want) in [
        ("Always", "0", "Succeeded"),
        ("Always", "1", "Failed"),
        ("Always", "-", "Failed"),
        ("Always", "r", "Running"),
    ] {
        let (pod, spec) = named(&["a"], policy);
        let shown = report(&pod, &spec, &records(&[("a", a)]), true);
        assert_eq!(shown.phase.as_deref(), Some(want), "{policy} {a}");
    }
    // A final phase is never left.
    let (mut pod, spec) = named(&["a"], "Never");
    pod.status = Some(PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() });
    let shown = report(&pod, &spec, &records(&[("a", "-")]), false);
    assert_eq!(shown.phase.as_deref(), Some("Succeeded"));
}

#[test]
fn after_a_restart_of_the_kubelet_records_come_from_status_and_sandbox() {
    let (mut pod, spec) = named(&["a", "b", "c"], "Always");
    let mut before = records(&[("a", "r"), ("b", "1"), ("c", "r")]);
    run(before.get_mut("b").unwrap(), 20, None);
    pod.status = Some(report(&pod, &spec, &before, false));
    let since = |seconds: i64| i64::try_from(at(seconds).as_nanosecond()).unwrap();
    let exit = Exit { code: 3, signal: 0, finished_at: since(90), problem: None };
    let alive = [
        ContainerState { name: "a".into(), attempt: 0, started_at: since(0), exit: None, pid: 0 },
        ContainerState { name: "b".into(), attempt: 1, started_at: since(20), exit: Some(exit), pid: 0 },
    ];
    let found = recover(&pod, &spec, &alive, at(100));
    assert_eq!(found["a"].state, State::Running { since: at(0) });
    assert!(found["a"].ready, "what was ready stays ready");
    assert_eq!((found["b"].restarts, found["b"].ended().map(|ended| ended.code)), (1, Some(3)));
    assert_eq!(found["b"].last.as_ref().unwrap().code, 1);
    assert_eq!(found["c"].state, State::Ended(lost(at(0), at(100))), "nobody knows what became of it");
    assert_eq!(found["c"].next_attempt(), 1);

    // A status from before the last restart: the sandbox knows better.
    let newer = [ContainerState { name: "a".into(), attempt: 4, started_at: since(95), exit: None, pid: 0 }];
    let found = recover(&pod, &spec, &newer, at(100));
    assert_eq!((found["a"].restarts, &found["a"].state), (4, &State::Running { since: at(95) }));

    // A pod that was never seen.
    let (fresh, spec) = named(&["a"], "Always");
    assert_eq!(recover(&fresh, &spec, &[], at(0))["a"], Record::new(false));
    assert_eq!(SignedDuration::ZERO, at(0).duration_since(at(0)));
}

#[test]
fn only_switches_of_the_pods_own_namespaces_can_be_set() {
    for (sysctl, host, want) in [
        ("kernel.shm_rmid_forced", false, Ok("kernel.shm_rmid_forced")),
        ("net/ipv4/tcp_syncookies", false, Ok("net.ipv4.tcp_syncookies")),
        (
            "net.ipv4.tcp_syncookies",
            true,
            Err("forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowlisted"),
        ),
        ("kernel.msgmax", false, Err("forbidden sysctl: \"kernel.msgmax\" not allowlisted")),
    ] {
        let spec: PodSpec = serde_json::from_value(serde_json::json!({"containers": [], "hostNetwork": host,
            "securityContext": {"sysctls": [{"name": sysctl, "value": "1"}]}}))
        .unwrap();
        let found = super::sysctls(&spec).map(|list| list[0].0.clone());
        assert_eq!(found.as_deref().map_err(String::as_str), want, "{sysctl}");
    }
}
