//! `dyad up` with three nodes, a fresh cluster each round: time to ready, by phase; memory and CPU of all processes.

use std::time::Duration;

use anyhow::Result;

use crate::figure::{Figure, median};
use crate::process::{self, Cluster};
use crate::{Plan, Report};

/// How long idle CPU is watched.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let (mut total, mut memory, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..plan.rounds {
        let cluster = Cluster::up(&plan.dyad, 3, &[])?;
        total.push(cluster.took.as_secs_f64());
        let processes = cluster.processes()?;
        let megabytes = processes.iter().map(|pid| process::proportional_megabytes(*pid));
        memory.push(megabytes.sum::<Result<f64>>()?);
        // What follows the start (a last lease, a last event) is not idling.
        std::thread::sleep(Duration::from_secs(2));
        idle.push(process::cpu_percent(&processes, IDLE)?);
        for (name, millis) in cluster.status["phasesMillis"].as_object().into_iter().flatten() {
            let seconds = millis.as_f64().unwrap_or(f64::NAN) / 1e3;
            match phases.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push(seconds),
                None => phases.push((name.clone(), vec![seconds])),
            }
        }
    }
    phases.sort_by(|(_, a), (_, b)| median(a).total_cmp(&median(b)));
    for (name, values) in phases {
        report.add(Figure::alone(format!("up: {name}"), "s", &values));
    }
    report.add(Figure::limited("up: three nodes ready", "s", &total, 3.0));
    report.add(Figure::limited("up: memory of all processes (PSS)", "MB", &memory, 200.0));
    report.add(Figure::limited("up: idle CPU of all processes", "%core", &idle, 1.0));
    Ok(())
}
