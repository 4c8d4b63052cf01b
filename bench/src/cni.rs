//! CNI plugins as runtimes call them, process start included: ours and the reference plugins, in turn, in the same
//! namespace of a host.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use dyad_links::netns;
use serde_json::{Value, json};

use crate::figure::{Figure, median, quantile};
use crate::{Plan, Report};

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";
/// Containers that are connected and disconnected.
const COUNT: usize = 100;
/// Fewer where the reference takes seconds for each.
const FEW: usize = 5;
/// What an ADD may take, in milliseconds.
const LIMIT: f64 = 5.0;

/// A plugin, where it is, and what it is told.
struct Plugin {
    program: PathBuf,
    bin: PathBuf,
    config: Value,
}

struct Lab {
    dir: tempfile::TempDir,
    host: OwnedFd,
    bin: PathBuf,
}

impl Lab {
    fn new(program: &Path) -> Result<Self> {
        let program = program
            .canonicalize()
            .with_context(|| format!("{}: build it, or name it by --cni", program.display()))?;
        let dir = tempfile::Builder::new().prefix("dyad-bench-").tempdir()?;
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin)?;
        for name in ["dyad", "bridge", "ptp", "host-local"] {
            std::os::unix::fs::symlink(&program, bin.join(name))?;
        }
        Ok(Self { dir, host: netns::create()?, bin })
    }

    /// A plugin with ranges of its own.
    fn plugin(&self, bin: &Path, kind: &str, number: u8) -> Plugin {
        let ranges = json!([[{ "subnet": format!("10.{number}.0.0/16") }], [{ "subnet": format!("fd00:{number}::/64") }]]);
        let ipam = json!({
            "type": "host-local", "dataDir": self.dir.path().join("networks"), "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        });
        let config = json!({
            "cniVersion": "1.0.0", "name": format!("net{number}"), "type": kind, "bridge": format!("br{number}"),
            "isGateway": true, "socket": self.dir.path().join("none"), "mtu": 1500,
            "ipam": ipam,
        });
        Plugin { program: bin.join(kind), bin: bin.into(), config }
    }

    fn containers(&self, what: &str, count: usize) -> Result<Vec<Container>> {
        (0..count).map(|at| Container::new(self.dir.path().join(format!("{what}{at}")))).collect()
    }

    /// What a call takes, in milliseconds.
    fn call(&self, plugin: &Plugin, command: &str, container: &Container) -> Result<f64> {
        let mut process = Command::new(&plugin.program);
        process
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container.path.file_name().unwrap_or_default())
            .env("CNI_NETNS", &container.path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &plugin.bin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let config = plugin.config.to_string();
        let call = || -> Result<f64> {
            let begun = Instant::now();
            let mut child = process.spawn()?;
            child.stdin.take().context("no standard input")?.write_all(config.as_bytes())?;
            let output = child.wait_with_output()?;
            let took = begun.elapsed().as_secs_f64() * 1e3;
            if !output.status.success() {
                bail!(
                    "{command} of {}: {}",
                    plugin.program.display(),
                    String::from_utf8_lossy(&output.stdout)
                );
            }
            Ok(took)
        };
        netns::within(self.host.as_fd(), call)?
    }

    /// Connects and disconnects containers by both plugins in turn; what ADD and DEL took, in pairs.
    fn in_turn(&self, ours: &Plugin, theirs: &Plugin, count: usize) -> Result<[Vec<(f64, f64)>; 2]> {
        let (mine, other) = (self.containers("ours", count)?, self.containers("theirs", count)?);
        let run = |command: &str| {
            let pair =
                |(mine, other)| Ok((self.call(ours, command, mine)?, self.call(theirs, command, other)?));
            mine.iter().zip(&other).map(pair).collect::<Result<Vec<_>>>()
        };
        Ok([run("ADD")?, run("DEL")?])
    }
}

/// A namespace with a name.
struct Container {
    path: PathBuf,
}

impl Container {
    fn new(path: PathBuf) -> Result<Self> {
        netns::create_at(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What stays mounted goes with the machine; the figures are there.
        let _ = netns::delete(&self.path);
    }
}

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let lab = Lab::new(&plan.cni)?;
    let dyad = lab.plugin(&lab.bin, "dyad", 1);
    // In a row, nobody in between.
    let (mut adds, mut dels, mut each) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let containers = lab.containers("row", COUNT)?;
        let row = |command: &str| -> Result<Vec<f64>> {
            containers.iter().map(|container| lab.call(&dyad, command, container)).collect()
        };
        let took = row("ADD")?;
        adds.push(took.iter().sum::<f64>() / 1e3);
        each.extend(took);
        dels.push(row("DEL")?.iter().sum::<f64>() / 1e3);
    }
    report.add(Figure::limited("cni: dyad, dual-stack ADD, process start included", "ms", &each, LIMIT));
    report.add(Figure::alone("cni: the same, p99", "ms", &[quantile(&each, 0.99)]));
    report.add(Figure::alone(format!("cni: {COUNT} ADDs in a row"), "s", &adds));
    report.add(Figure::alone(format!("cni: {COUNT} DELs in a row"), "s", &dels));
    let reference = Path::new(REFERENCE);
    if !reference.join("bridge").exists() {
        let why = format!("there is no {REFERENCE}/bridge (Debian: containernetworking-plugins)");
        report.add(Figure::skipped("cni: the reference plugins", why));
        return Ok(());
    }
    let cases = [
        ("dyad", "bridge", "ref. bridge", COUNT),
        ("bridge", "bridge", "ref. bridge", COUNT),
        ("ptp", "ptp", "ref. ptp", FEW),
    ];
    for (number, (kind, theirs, name, count)) in (2..).step_by(2).zip(cases) {
        let (ours, theirs) = (lab.plugin(&lab.bin, kind, number), lab.plugin(reference, theirs, number + 1));
        let [adds, dels] = lab.in_turn(&ours, &theirs, count)?;
        for (command, pairs) in [("ADD", adds), ("DEL", dels)] {
            report.add(Figure::paired(
                format!("cni: {kind}, dual-stack {command}, in turn"),
                "ms",
                name,
                &pairs,
            ));
        }
    }
    // What a process costs that does nothing.
    let nothing: Vec<f64> = (0..COUNT)
        .map(|_| {
            let begun = Instant::now();
            Command::new(lab.bin.join("dyad"))
                .env("CNI_COMMAND", "VERSION")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .status()?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        })
        .collect::<Result<_>>()?;
    report.add(Figure::alone("cni: VERSION, which is to say the process", "ms", &[median(&nothing)]));
    Ok(())
}
