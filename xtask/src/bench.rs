//! Benches: each prints one line with our figure, what it is held against, the ratio and the spread.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Rounds of a bench; the median counts.
const ROUNDS: usize = 5;
/// How long idle CPU is watched.
const IDLE: Duration = Duration::from_secs(10);

/// One measured figure.
struct Figure {
    name: String,
    unit: &'static str,
    /// One per round, sorted.
    values: Vec<f64>,
    /// What it is held against, if anything.
    limit: Option<f64>,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, mut values: Vec<f64>, limit: Option<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { name: name.into(), unit, values, limit }
    }

    fn median(&self) -> f64 {
        self.values.get(self.values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn spread(&self) -> (f64, f64) {
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (end(self.values.first()), end(self.values.last()))
    }

    fn line(&self) -> String {
        let (low, high) = self.spread();
        let held = match self.limit {
            Some(limit) => format!("{limit:>8.2} {:<6} ratio {:.2}", self.unit, self.median() / limit),
            None => String::new(),
        };
        format!(
            "{:<36} {:>9.2} {:<6} {held:<30} spread {low:.2} to {high:.2}",
            self.name,
            self.median(),
            self.unit
        )
    }

    fn json(&self) -> Value {
        let (low, high) = self.spread();
        json!({"name": self.name, "unit": self.unit, "ours": self.median(), "limit": self.limit,
               "ratio": self.limit.map(|limit| self.median() / limit), "low": low, "high": high})
    }
}

/// A bench: its name, and what runs it.
type Bench = (&'static str, fn() -> Result<Vec<Figure>>);

/// Runs the named benches, or all.
pub(crate) fn run(names: &[String], as_json: bool) -> Result<()> {
    let known: [Bench; 1] = [("up", up)];
    if let Some(unknown) = names.iter().find(|name| !known.iter().any(|(known, _)| known == name)) {
        bail!("there is no bench {unknown:?}: there is {}", known.map(|(name, _)| name).join(", "));
    }
    let mut figures = Vec::new();
    for (name, bench) in known {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            figures.extend(bench().with_context(|| format!("bench {name}"))?);
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&figures.iter().map(Figure::json).collect::<Vec<_>>())?);
    } else {
        figures.iter().for_each(|figure| println!("{}", figure.line()));
    }
    Ok(())
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--locked",
            "--release",
            "--bin",
            "dyad",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    program.filter(|_| output.status.success()).context("dyad does not build")
}

/// `dyad up` with three nodes, a fresh cluster each round: time to ready, by phase; memory and CPU of all processes.
fn up() -> Result<Vec<Figure>> {
    let dyad = build()?;
    let (mut total, mut memory, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases: Vec<(String, Vec<f64>)> = Vec::new();
    for round in 0..ROUNDS {
        let home = std::env::temp_dir().join(format!("dyad-bench-{}-{round}", std::process::id()));
        std::fs::create_dir_all(&home)?;
        let run = |args: &[&str]| {
            let mut command = Command::new(&dyad);
            command
                .args(args)
                .args(["--name", "bench"])
                .env("XDG_DATA_HOME", &home)
                .env("KUBECONFIG", home.join("config"));
            command.output().context("can't run dyad")
        };
        let begun = Instant::now();
        let output = run(&["up", "--nodes", "3", "-o", "json"])?;
        let took = begun.elapsed();
        let measured = measure(&home, &output.stdout);
        run(&["down"])?;
        std::fs::remove_dir_all(&home)?;
        if !output.status.success() {
            bail!("dyad up: {}", String::from_utf8_lossy(&output.stderr));
        }
        let (status, bytes, share) = measured?;
        total.push(took.as_secs_f64());
        memory.push(bytes / 1e6);
        idle.push(share * 100.0);
        for (name, millis) in status["phasesMillis"].as_object().into_iter().flatten() {
            let seconds = millis.as_f64().unwrap_or(f64::NAN) / 1e3;
            match phases.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push(seconds),
                None => phases.push((name.clone(), vec![seconds])),
            }
        }
    }
    let mut figures: Vec<Figure> = phases
        .into_iter()
        .map(|(name, values)| Figure::new(format!("up: {name}"), "s", values, None))
        .collect();
    figures.sort_by(|a, b| a.median().total_cmp(&b.median()));
    figures.push(Figure::new("up: three nodes ready", "s", total, Some(3.0)));
    figures.push(Figure::new("up: memory of all processes (PSS)", "MB", memory, Some(200.0)));
    figures.push(Figure::new("up: idle CPU of all processes", "% core", idle, Some(1.0)));
    Ok(figures)
}

/// The status that `up` printed, bytes of memory, and the share of one core used while idle.
fn measure(home: &Path, printed: &[u8]) -> Result<(Value, f64, f64)> {
    let status: Value = serde_json::from_slice(printed).context("dyad up printed no JSON")?;
    let dir = home.join("dyad/bench");
    let processes = processes(&dir)?;
    let memory = processes.iter().map(|pid| proportional_bytes(*pid)).sum::<Result<f64>>()?;
    // What follows the start (a last lease, a last event) is not idling.
    std::thread::sleep(Duration::from_secs(2));
    let ticks = |pids: &[u32]| pids.iter().map(|pid| cpu_ticks(*pid)).sum::<Result<f64>>();
    let (before, begun) = (ticks(&processes)?, Instant::now());
    std::thread::sleep(IDLE);
    // Linux reports 100 ticks a second to programs on every architecture we run on.
    let share = (ticks(&processes)? - before) / 100.0 / begun.elapsed().as_secs_f64();
    Ok((status, memory, share))
}

fn processes(dir: &Path) -> Result<Vec<u32>> {
    let dir = dir.to_str().context("a directory in UTF-8")?;
    let pids = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: &u32| {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.split(|byte| *byte == 0).any(|word| word == dir.as_bytes())
    };
    Ok(pids.filter(ours).collect())
}

fn proportional_bytes(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

fn cpu_ticks(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields behind it do not.
    let fields: Vec<&str> =
        text.rsplit_once(')').context("unreadable /proc stat")?.1.split_whitespace().collect();
    let field = |index: usize| -> Result<f64> { Ok(fields.get(index).context("short /proc stat")?.parse()?) };
    Ok(field(11)? + field(12)?)
}
