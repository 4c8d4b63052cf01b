use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::pod;
use super::*;

const START: i64 = 1_767_225_600;

fn job(spec: Value) -> Job {
    let mut all = json!({"parallelism": 1, "completions": 1, "backoffLimit": 6,
                         "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": []}}});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": all}))
        .unwrap()
}

/// An API that does as it is told, and pods that end as a test says.
struct Simulation {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: i64,
    events: Vec<String>,
}

impl Simulation {
    fn new(job: Job) -> Self {
        Self { job, pods: Vec::new(), made: 0, now: START, events: Vec::new() }
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    fn count(&self, phase: &str) -> usize {
        self.pods
            .iter()
            .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase))
            .count()
    }

    /// One pass, as the controller carries it out.
    fn step(&mut self) -> Plan {
        if is_over(&self.job) {
            return Plan::default();
        }
        let plan = plan(&self.job, &self.pods, Timestamp::from_second(self.now).unwrap());
        for pod in &mut self.pods {
            let name = pod.name_any();
            if plan.delete.contains(&name) {
                pod.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(self.now).unwrap()));
                if plan.uncounted {
                    pod.metadata.finalizers = None;
                }
            }
            // What is released now was noted in the status that is stored.
            if plan.release.contains(&name) {
                pod.metadata.finalizers = None;
            }
        }
        for index in &plan.create {
            let mut pod = pod::of(&self.job, *index).unwrap();
            self.made += 1;
            let name = format!("p{}", self.made);
            pod.metadata.name = Some(name.clone());
            pod.metadata.uid = Some(name);
            pod.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
            self.pods.push(pod);
        }
        self.events.extend(plan.events.iter().map(|(_, reason, _)| reason.clone()));
        self.job.status = Some(plan.status.clone());
        plan
    }

    /// The first running pod ends.
    fn end(&mut self, phase: &str) {
        let end = Timestamp::from_second(self.now).unwrap().to_string();
        let running = |pod: &&mut Pod| {
            pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
        };
        if let Some(pod) = self.pods.iter_mut().find(running) {
            let code = i32::from(phase == "Failed");
            pod.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": code, "finishedAt": end}}}]}))
            .unwrap();
        }
    }

    /// Pods that are deleted, and held by nobody, go.
    fn settle(&mut self) {
        self.pods.retain(|pod| {
            let gone = pod.metadata.deletion_timestamp.is_some();
            if gone && pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")) {
                return is_tracked(pod);
            }
            !gone || is_tracked(pod)
        });
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
            // The kubelet ends what is deleted.
            for pod in &mut self.pods {
                let running =
                    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
                if pod.metadata.deletion_timestamp.is_some() && running {
                    pod.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
                }
            }
            self.settle();
        }
    }
}

#[test]
fn a_job_runs_to_its_end() {
    let mut run = Simulation::new(job(json!({"completions": 3, "parallelism": 2})));
    run.steps(1);
    assert_eq!((run.made, run.status().start_time.is_some()), (2, true));
    run.end("Succeeded");
    run.steps(4);
    assert_eq!((run.made, run.status().succeeded, run.status().active), (3, Some(1), Some(2)));
    run.end("Succeeded");
    run.end("Succeeded");
    run.steps(5);
    let status = run.status();
    assert_eq!((status.succeeded, status.active, run.made), (Some(3), None, 3));
    assert!(
        is_true(&status, "SuccessCriteriaMet")
            && is_true(&status, "Complete")
            && status.completion_time.is_some()
    );
    assert_eq!(status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    assert_eq!(run.events, ["Completed"]);
    assert!(run.pods.iter().all(|pod| !is_tracked(pod)), "all are let go");
}

#[test]
fn failures_wait_longer_and_longer_and_then_end_it() {
    let mut run = Simulation::new(job(json!({"backoffLimit": 2})));
    run.steps(1);
    for (failure, wait) in [(1, 10), (2, 20)] {
        run.end("Failed");
        run.steps(3);
        assert_eq!(run.made, failure, "too soon");
        run.now += wait;
        run.steps(1);
        assert_eq!(run.made, failure + 1);
    }
    run.end("Failed");
    run.steps(4);
    let status = run.status();
    assert!(is_true(&status, "FailureTarget") && is_true(&status, "Failed"), "{status:?}");
    assert_eq!((status.failed, run.events.as_slice()), (Some(3), &["BackoffLimitExceeded".to_owned()][..]));
}

#[test]
fn deadlines_and_suspension() {
    let mut run = Simulation::new(job(json!({"activeDeadlineSeconds": 60})));
    run.steps(1);
    assert_eq!(run.step().next, Some(60));
    run.now += 60;
    run.steps(4);
    let status = run.status();
    assert!(is_true(&status, "Failed") && run.events == ["DeadlineExceeded"], "{status:?}");
    let mut run = Simulation::new(job(json!({"suspend": true, "parallelism": 2, "completions": 2})));
    run.steps(2);
    assert_eq!((run.made, run.status().start_time), (0, None));
    run.job.spec.as_mut().unwrap().suspend = Some(false);
    run.steps(1);
    run.job.spec.as_mut().unwrap().suspend = Some(true);
    run.steps(4);
    assert_eq!((run.made, run.pods.len(), run.status().start_time), (2, 0, None));
    assert_eq!(run.events, ["Suspended", "Resumed", "Suspended"]);
    assert_eq!(run.status().failed, None, "nobody failed");
}

#[test]
fn indexes_fail_and_succeed_for_themselves() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
                      "backoffLimit": 2147483647});
    let mut run = Simulation::new(job(spec));
    run.steps(1);
    run.end("Failed");
    run.end("Succeeded");
    run.end("Succeeded");
    run.steps(4);
    assert_eq!((run.status().completed_indexes.as_deref(), run.made), (Some("1,2"), 3));
    run.now += 10;
    run.steps(1);
    assert_eq!((run.made, failures_before(&run.pods[3])), (4, 1));
    run.end("Failed");
    run.steps(4);
    let status = run.status();
    assert_eq!((status.failed_indexes.as_deref(), status.failed), (Some("0"), Some(2)));
    assert!(is_true(&status, "Failed") && run.events == ["FailedIndexes"]);
}

proptest! {
    /// Whatever pods do, each is counted once, never are more than allowed at work, and the Job ends.
    #[test]
    fn every_pod_counts_once(
        completions in 1_i64..5,
        parallelism in 1_i64..4,
        indexed: bool,
        only_ended: bool,
        ends in proptest::collection::vec((any::<bool>(), 1_usize..4), 0..60),
    ) {
        let spec = json!({
            "completions": completions, "parallelism": parallelism, "backoffLimit": 5,
            "completionMode": if indexed { "Indexed" } else { "NonIndexed" },
            "podReplacementPolicy": if only_ended { "Failed" } else { "TerminatingOrFailed" },
        });
        let mut run = Simulation::new(job(spec));
        let mut ends = ends.into_iter();
        for _ in 0..200 {
            let (good, steps) = ends.next().unwrap_or((true, 3));
            run.steps(steps);
            let running = run.count("Running");
            prop_assert!(running as i64 <= parallelism, "{running} at once");
            run.end(if good { "Succeeded" } else { "Failed" });
            run.now += 700;
        }
        let status = run.status();
        prop_assert!(is_over(&run.job), "{status:?}");
        let count = |count: Option<i32>| i64::from(count.unwrap_or(0));
        if is_true(&status, "Complete") {
            prop_assert_eq!(count(status.succeeded), completions);
        } else {
            prop_assert!(count(status.failed) > 5);
        }
        prop_assert!(!indexed || count(status.succeeded) <= completions);
        prop_assert!(run.pods.iter().all(|pod| !is_tracked(pod)), "all are let go");
        prop_assert!(count(status.succeeded) + count(status.failed) <= run.made as i64);
    }
}
