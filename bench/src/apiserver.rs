//! A control plane alone: creates beside etcd's bare writes, large lists, many watchers, and what stored pods take.

mod etcd;
mod watchers;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cluster::WRITERS;
use crate::cluster::api::{Access, in_parallel};
use crate::figure::{Figure, quantile};
use crate::process::{self, Cluster};
use crate::{Plan, Report};

use etcd::Etcd;
use watchers::{Deaf, Watchers};

/// Clients that write at the same time.
const CLIENTS: [u32; 2] = [1, 16];
/// How long each writes in a round.
const WRITING: Duration = Duration::from_secs(3);
const SERVICES: u32 = 10_000;
const PODS: u32 = 30_000;
/// So often a list is read.
const LISTS: u32 = 20;
const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS_PATH: &str = "/api/v1/namespaces/default/configmaps";
/// So many watch, and one more who never reads.
const WATCHERS: usize = 999;
/// So many single changes, each until all have seen it.
const CHANGES: u32 = 100;
/// So many changes at once, of so many bytes: more than any buffer on the way to one who never reads.
const BURST: u32 = 1000;
const BURST_BYTES: usize = 8192;
/// A control plane that has nothing to do for so long has forgotten what it needed for a while only.
const REST: Duration = Duration::from_secs(5);

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for work in Work::BOTH {
        creates(plan, work, report)?;
        memory(plan, work, report)?;
    }
    lists(plan, report)?;
    fan_out(plan, report)
}

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Only the API server works, as where controllers are processes of their own.
    ApiServer,
    /// The controllers work too: they make two slices and an Endpoints object for each Service, and know all pods.
    WithControllers,
}

impl Work {
    const BOTH: [Self; 2] = [Self::ApiServer, Self::WithControllers];

    const fn words(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver",
            Self::WithControllers => "apiserver and controllers",
        }
    }
}

/// A cluster without nodes.
struct ControlPlane {
    cluster: Cluster,
    access: Access,
    pid: u32,
}

impl ControlPlane {
    fn up(plan: &Plan, work: Work) -> Result<Self> {
        let controllers = match work {
            Work::ApiServer => "-*",
            Work::WithControllers => "*",
        };
        let cluster = Cluster::up(&plan.dyad, 0, &[&format!("--controllers={controllers}")])?;
        let access = Access::read(&cluster.kubeconfig())?;
        let pid = cluster.node("control-plane")?;
        Ok(Self { cluster, access, pid })
    }
}

/// What clients saw in a while.
struct Written {
    /// Seconds each write took.
    times: Vec<f64>,
    per_second: f64,
    /// Microseconds of the server's CPU for a write.
    cpu: f64,
}

/// Writes with so many clients for a while.
fn written<C>(
    clients: u32,
    server: u32,
    connect: impl Fn() -> Result<C> + Sync,
    write: impl Fn(&mut C) -> Result<()> + Sync,
) -> Result<Written> {
    let cpu = process::cpu_seconds(server)?;
    let begun = Instant::now();
    let times = in_parallel(clients, || {
        let (mut client, mut times) = (connect()?, Vec::new());
        while begun.elapsed() < WRITING {
            let sent = Instant::now();
            write(&mut client)?;
            times.push(sent.elapsed().as_secs_f64());
        }
        Ok(times)
    })?;
    let times = times.concat();
    let per_second = times.len() as f64 / begun.elapsed().as_secs_f64();
    let cpu = (process::cpu_seconds(server)? - cpu) * 1e6 / times.len() as f64;
    Ok(Written { times, per_second, cpu })
}

/// Dual-stack Services created, and as many bytes put into etcd, in turn.
fn creates(plan: &Plan, work: Work, report: &mut Report) -> Result<()> {
    let ours = ControlPlane::up(plan, work)?;
    let etcd = Etcd::start()?;
    let next = AtomicU32::new(0);
    let number = || next.fetch_add(1, Ordering::Relaxed);
    let mut api = ours.access.connect()?;
    let stored = api.create(SERVICES_PATH, &service("first"))?.len();
    for clients in CLIENTS {
        let mut pairs = Vec::new();
        for _ in 0..plan.rounds {
            let ours = written(
                clients,
                ours.pid,
                || ours.access.connect(),
                |api| api.create(SERVICES_PATH, &service(&format!("s{}", number()))).map(drop),
            )?;
            let theirs = match &etcd {
                Some(etcd) => Some(written(
                    clients,
                    etcd.pid(),
                    || etcd.connect(),
                    |client| client.put(format!("/registry/services/specs/default/s{}", number()), stored),
                )?),
                None => None,
            };
            pairs.push((ours, theirs));
        }
        let plural = if clients == 1 { "" } else { "s" };
        let words = format!("{}: creates, {clients} client{plural}", work.words());
        let of = |pick: &dyn Fn(&Written) -> f64| -> (Vec<f64>, Vec<(f64, f64)>) {
            let ours = pairs.iter().map(|(ours, _)| pick(ours)).collect();
            let both =
                |(ours, theirs): &(Written, Option<Written>)| Some((pick(ours), pick(theirs.as_ref()?)));
            (ours, pairs.iter().filter_map(both).collect())
        };
        let rates = of(&|written| written.per_second);
        if clients == 16 {
            report.add(Figure::at_least(&words, "1/s", &rates.0, 3000.0));
        } else {
            report.add(Figure::alone(&words, "1/s", &rates.0));
        }
        report.add(Figure::alone(format!("{words}, p50"), "ms", &of(&|w| quantile(&w.times, 0.5) * 1e3).0));
        report.add(Figure::limited(
            format!("{words}, p99"),
            "ms",
            &of(&|written| quantile(&written.times, 0.99) * 1e3).0,
            20.0,
        ));
        if etcd.is_none() {
            report.skip(&format!("{words}, etcd"), "there is no etcd: apt-get install etcd-server");
            continue;
        }
        report.add(Figure::paired(format!("{words}, beside bare writes"), "1/s", "etcd", &rates.1));
        let p99 = of(&|written| quantile(&written.times, 0.99) * 1e3).1;
        report.add(Figure::paired(format!("{words}, p99 beside bare writes"), "ms", "etcd", &p99));
        let cpu = of(&|written| written.cpu).1;
        report.add(Figure::paired(format!("{words}, CPU of a write"), "us", "etcd", &cpu));
    }
    Ok(())
}

/// What pods take while nobody asks for them.
fn memory(plan: &Plan, work: Work, report: &mut Report) -> Result<()> {
    let ours = ControlPlane::up(plan, work)?;
    std::thread::sleep(REST);
    let before = process::proportional_megabytes(ours.pid)?;
    ours.access.write(WRITERS, PODS, |api, number| api.create(PODS_PATH, &pod(number)).map(drop))?;
    std::thread::sleep(REST);
    let each = (process::proportional_megabytes(ours.pid)? - before) * 1e6 / f64::from(PODS);
    let json = ours.access.connect()?.get(PODS_PATH)?.len() as f64 / f64::from(PODS);
    let words = format!("{}: memory of a stored pod over its {json:.0} bytes of JSON", work.words());
    report.add(Figure::limited(words, "B", &[each - json], 3000.0));
    Ok(())
}

fn lists(plan: &Plan, report: &mut Report) -> Result<()> {
    let ours = ControlPlane::up(plan, Work::ApiServer)?;
    ours.access.write(WRITERS, SERVICES, |api, number| {
        api.create(SERVICES_PATH, &service(&format!("s{number}"))).map(drop)
    })?;
    list(&ours, SERVICES_PATH, "10k Services", Some(50.0), report)?;
    ours.access.write(WRITERS, PODS, |api, number| api.create(PODS_PATH, &pod(number)).map(drop))?;
    list(&ours, PODS_PATH, "30k pods", None, report)
}

/// How long a list takes to be here as a whole.
fn list(ours: &ControlPlane, path: &str, what: &str, limit: Option<f64>, report: &mut Report) -> Result<()> {
    let mut api = ours.access.connect()?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..LISTS {
        let begun = Instant::now();
        bytes = api.get(path)?.len();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let words = format!("apiserver: list of {what}, {:.1} MB", bytes as f64 / 1e6);
    report.add(match limit {
        Some(limit) => Figure::limited(words, "ms", &times, limit),
        None => Figure::alone(words, "ms", &times),
    });
    Ok(())
}

/// From a change until the last of many watchers has it, while one reads nothing at all.
fn fan_out(plan: &Plan, report: &mut Report) -> Result<()> {
    let ours = ControlPlane::up(plan, Work::ApiServer)?;
    let mut api = ours.access.connect()?;
    let map = |text: &str| json!({"metadata": {"name": "watched"}, "data": {"text": text}});
    api.create(CONFIG_MAPS_PATH, &map(""))?;
    let path = format!("{CONFIG_MAPS_PATH}?watch=true&fieldSelector=metadata.name%3Dwatched");
    let watchers = Watchers::start(&ours.access, &path, WATCHERS)?;
    let _deaf = Deaf::start(&ours.access, &path)?;
    // Each is told of the object that is there.
    let mut seen = WATCHERS;
    watchers.wait_for(seen)?;

    let patch = format!("{CONFIG_MAPS_PATH}/watched");
    let text = |text: String| json!({"data": {"text": text}});
    let (cpu, mut times) = (process::cpu_seconds(ours.pid)?, Vec::new());
    for change in 0..CHANGES {
        let begun = Instant::now();
        api.patch(&patch, &text(change.to_string()))?;
        seen += WATCHERS;
        watchers.wait_for(seen)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let events = f64::from(CHANGES) * WATCHERS as f64;
    let cpu = (process::cpu_seconds(ours.pid)? - cpu) * 1e6 / events;
    let words = "apiserver: 1,000 watchers, one reads nothing";
    report.add(Figure::alone(format!("{words}: patch to last"), "ms", &times));
    report.add(Figure::alone(format!("{words}: p99"), "ms", &[quantile(&times, 0.99)]));
    report.add(Figure::alone(format!("{words}: CPU of an event"), "us", &[cpu]));

    process::forget_peak(ours.pid)?;
    let (before, _) = process::resident_megabytes(ours.pid)?;
    let begun = Instant::now();
    for change in 0..BURST {
        api.patch(&patch, &text(format!("{change:0BURST_BYTES$}")))?;
    }
    seen += WATCHERS * BURST as usize;
    watchers.wait_for(seen)?;
    let took = begun.elapsed().as_secs_f64();
    let (_, peak) = process::resident_megabytes(ours.pid)?;
    let rate = f64::from(BURST) * WATCHERS as f64 / took;
    report.add(Figure::alone(format!("{words}: 1,000 changes of 8 kB"), "1/s", &[rate]));
    report.add(Figure::alone(format!("{words}: memory grew by"), "MB", &[peak - before]));
    ensure!(api.get(CONFIG_MAPS_PATH).is_ok(), "the API server answers nothing after the burst");
    drop(ours.cluster);
    Ok(())
}

/// Dual-stack, with a selector, as most are.
fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name, "tier": "web"}},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app.kubernetes.io/name": name},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080},
                {"name": "metrics", "protocol": "TCP", "port": 9090},
            ],
        },
    })
}

/// Nobody schedules it: what is measured are pods, not events about them.
fn pod(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("web-6d4cf56db6-{number:05}"),
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
        },
        "spec": {
            "schedulerName": "nobody",
            "containers": [{
                "name": "web", "image": "registry.example.org/team/web:1.2.3",
                "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "POD_IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
            }],
        },
    })
}
