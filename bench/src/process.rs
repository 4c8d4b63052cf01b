//! What processes use, from `/proc`; and clusters of a bench's own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A local cluster that goes when this is dropped.
pub(crate) struct Cluster {
    dyad: PathBuf,
    home: tempfile::TempDir,
    /// Of other clusters.
    others: BTreeSet<u32>,
    /// What `up` printed, and how long it took.
    pub(crate) status: Value,
    pub(crate) took: Duration,
}

impl Cluster {
    pub(crate) fn up(dyad: &Path, nodes: usize, flags: &[&str]) -> Result<Self> {
        let dyad = dyad.canonicalize().with_context(|| {
            format!("{}: build it by `cargo build --release`, or name it by --dyad", dyad.display())
        })?;
        let home = tempfile::Builder::new().prefix("dyad-bench-").tempdir()?;
        let others = running(&dyad)?;
        let mut cluster = Self { dyad, home, others, status: Value::Null, took: Duration::ZERO };
        let begun = Instant::now();
        let output = cluster.run(&[&["up", "--nodes", &nodes.to_string(), "-o", "json"], flags].concat())?;
        cluster.took = begun.elapsed();
        if !output.status.success() {
            bail!("dyad up: {}", String::from_utf8_lossy(&output.stderr));
        }
        cluster.status = serde_json::from_slice(&output.stdout).context("dyad up printed no JSON")?;
        Ok(cluster)
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        Command::new(&self.dyad)
            .args(args)
            .args(["--name", "bench"])
            .env("XDG_DATA_HOME", self.home.path())
            .env("KUBECONFIG", self.kubeconfig())
            .output()
            .context("can't run dyad")
    }

    /// Where the administrator's access is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// All processes, those of the pods that run the same program (the cluster DNS) among them.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        Ok(running(&self.dyad)?.difference(&self.others).copied().collect())
    }

    /// The process of a node.
    pub(crate) fn node(&self, name: &str) -> Result<u32> {
        let all = self.processes()?;
        let is_node = |pid: &u32| words(*pid).iter().any(|word| word == name);
        all.into_iter().find(is_node).with_context(|| format!("no process of {name}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down"]) {
            eprintln!("the cluster stays behind in {}: {error}", self.home.path().display());
        }
    }
}

fn words(pid: u32) -> Vec<String> {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    cmdline.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Megabytes in memory, where what is shared counts as many times less.
pub(crate) fn proportional_megabytes(pid: u32) -> Result<f64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Megabytes of the process in memory now, and at most since [`forget_peak`].
pub(crate) fn resident_megabytes(pid: u32) -> Result<(f64, f64)> {
    let file = format!("/proc/{pid}/status");
    Ok((field(&file, "VmRSS:")?, field(&file, "VmHWM:")?))
}

/// The largest size begins anew.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn field(file: &str, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in {file}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / 1e6)
}

/// Seconds of CPU a process has used.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields behind it do not.
    let fields: Vec<&str> =
        text.rsplit_once(')').context("unreadable /proc stat")?.1.split_whitespace().collect();
    let field = |index: usize| -> Result<f64> { Ok(fields.get(index).context("short /proc stat")?.parse()?) };
    // Linux reports 100 ticks a second to programs on every architecture we run on.
    Ok((field(11)? + field(12)?) / 100.0)
}

/// The same to the nanosecond, for processes whose threads stay.
pub(crate) fn exact_cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// Seconds of CPU the calling thread has used, in the kernel too.
pub(crate) fn thread_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

/// Percent of a core that processes use in a while, to the nanosecond: what works in short bursts is asleep at most ticks.
pub(crate) fn cpu_percent(pids: &[u32], watched: Duration) -> Result<f64> {
    let begun = Instant::now();
    let (mut threads, mut used) = (threads(pids)?, 0.0);
    while begun.elapsed() < watched {
        // Threads come and go; what one uses in its last second is all that is missed.
        std::thread::sleep(Duration::from_secs(1));
        let now = self::threads(pids)?;
        used += now.iter().map(|(id, used)| used - threads.get(id).copied().unwrap_or(0.0)).sum::<f64>();
        threads = now;
    }
    Ok(used * 100.0 / begun.elapsed().as_secs_f64())
}

/// Seconds of CPU that each thread of the processes has used.
fn threads(pids: &[u32]) -> Result<BTreeMap<String, f64>> {
    let mut all = BTreeMap::new();
    for pid in pids {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?;
            // It may have gone since.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            if let Some(nanoseconds) = text.split(' ').next().and_then(|first| first.parse::<f64>().ok()) {
                all.insert(thread.file_name().to_string_lossy().into_owned(), nanoseconds / 1e9);
            }
        }
    }
    Ok(all)
}

/// Processes that run the program, under whatever path.
fn running(program: &Path) -> Result<BTreeSet<u32>> {
    use std::os::unix::fs::MetadataExt;
    let id = |file: &Path| std::fs::metadata(file).map(|file| (file.dev(), file.ino()));
    let program = id(program)?;
    let pids = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|pid| id(Path::new(&format!("/proc/{pid}/exe"))).is_ok_and(|id| id == program)).collect())
}
