//! The supervisor: first process of the cluster's PID namespace. It builds the network, starts one process per
//! role and node, starts again what dies, and reaps what is orphaned.
//!
//! It keeps nothing that the kernel doesn't: when it ends, everything else ends with it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::launch::open_log;
use crate::paths::ClusterDir;
use crate::spec::ClusterSpec;
use crate::status::Running;
use crate::{fabric, rooms};

/// A process that lived this long has its back-off forgotten.
const STEADY: Duration = Duration::from_secs(30);
/// The longest wait before a process is started again.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often logs are looked at.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// The longest a log may get, in bytes.
const LOG_LIMIT: u64 = 8 << 20;
/// How long children get to end by themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// `dyad internal supervise DIR`.
pub(crate) fn main(dir: &Path) -> Result<()> {
    crate::control_plane::log_to_stderr();
    // A session of its own: closing the terminal doesn't end the cluster.
    rustix::process::setsid().context("can't start a session")?;
    let started = Instant::now();
    let dir = ClusterDir::at(dir);
    let mut running = Running::default();
    let result = prepare(&dir, &mut running, started).and_then(|(spec, _rooms)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Supervisor::new(dir.clone(), spec, &mut running, started).run())
    });
    if let Err(error) = &result {
        running.failed = Some(format!("{error:#}"));
        running.save(&dir)?;
    }
    result
}

/// Mounts and network, before there is a second thread.
fn prepare(
    dir: &ClusterDir,
    running: &mut Running,
    started: Instant,
) -> Result<(ClusterSpec, Vec<std::fs::File>)> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let spec = ClusterSpec::load(dir)?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("can't keep mounts to this cluster")?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", plain, None).context("can't mount /proc for the cluster's processes")?;
    std::fs::create_dir_all(dir.netns_dir())?;
    mount("dyad", dir.netns_dir(), "tmpfs", plain, None)
        .context("can't mount a place for network namespaces")?;
    fabric::build(dir, &spec)?;
    let rooms = rooms::build(dir, &spec)?;
    running.phases.push(("network".into(), millis(started)));
    running.save(dir)?;
    Ok((spec, rooms))
}

/// How many arenas a process has for its memory. Work goes from thread to thread, and leaves some behind in each: a quarter
/// more. Only the API server writes enough at once for its threads to wait for each other.
fn arenas(process: &str) -> &'static str {
    if process == "control-plane" { "2" } else { "1" }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A process to keep alive.
struct Child {
    /// Arguments behind `internal`.
    args: Vec<String>,
    pid: Option<Pid>,
    since: Instant,
    /// The wait before the next start.
    wait: Duration,
}

/// What happens to the supervisor besides signals.
enum Notice {
    /// A child wrote this line on its standard output.
    Line(String, String),
    /// A child's wait is over.
    Start(String),
}

struct Supervisor<'a> {
    dir: ClusterDir,
    children: BTreeMap<String, Child>,
    running: &'a mut Running,
    started: Instant,
    notices: (mpsc::UnboundedSender<Notice>, mpsc::UnboundedReceiver<Notice>),
    ending: bool,
}

impl<'a> Supervisor<'a> {
    fn new(dir: ClusterDir, spec: ClusterSpec, running: &'a mut Running, started: Instant) -> Self {
        let mut roles =
            vec![("control-plane".to_owned(), vec!["control-plane"]), ("outside".into(), vec!["outside"])];
        roles.extend(spec.nodes.iter().map(|node| (node.name.clone(), vec!["node", &node.name])));
        let children = roles.into_iter().map(|(name, words)| {
            // The role, the directory, and for nodes the name.
            let mut args: Vec<String> = words.into_iter().map(str::to_owned).collect();
            args.insert(1, dir.path().display().to_string());
            (name, Child { args, pid: None, since: started, wait: Duration::ZERO })
        });
        Self {
            children: children.collect(),
            dir,
            running,
            started,
            notices: mpsc::unbounded_channel(),
            ending: false,
        }
    }

    async fn run(mut self) -> Result<()> {
        let mut child_signal = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let names: Vec<String> = self.children.keys().cloned().collect();
        for name in names {
            self.start(&name)?;
        }
        self.running.phases.push(("processes".into(), millis(self.started)));
        self.running.save(&self.dir)?;
        let mut trim = tokio::time::interval(TRIM_EVERY);
        loop {
            tokio::select! {
                _ = child_signal.recv() => self.reap(),
                Some(notice) = self.notices.1.recv() => self.notice(notice),
                _ = trim.tick() => self.trim_logs(),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.end(&mut child_signal).await
    }

    fn start(&mut self, name: &str) -> Result<()> {
        let Some(child) = self.children.get_mut(name) else { return Ok(()) };
        let log = open_log(&self.dir, name)?;
        let spawned = Command::new("/proc/self/exe")
            .arg0_is_program()
            .arg("internal")
            .env("MALLOC_ARENA_MAX", arenas(name))
            .args(&child.args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        child.pid = Pid::from_raw(i32::try_from(spawned.id()).unwrap_or_default());
        child.since = Instant::now();
        info!(process = name, pid = spawned.id(), "started");
        if let Some(stdout) = spawned.stdout {
            tokio::spawn(listen(name.to_owned(), stdout.into(), self.notices.0.clone()));
        }
        Ok(())
    }

    /// Collects every ended process, ours and orphans, and plans the next start of ours.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some((name, child)) = self.children.iter_mut().find(|(_, child)| child.pid == Some(pid))
            else {
                continue;
            };
            child.pid = None;
            if self.ending {
                continue;
            }
            let name = name.clone();
            warn!(process = name, ?status, "ended");
            // One that gave up will do so again; one that was killed may succeed the next time.
            if !self.running.api_ready && name == "control-plane" && status.exit_status().is_some() {
                let why = last_line(&self.dir.log(&name));
                self.running.failed = Some(format!("the control plane ended: {why}"));
            }
            *self.running.restarts.entry(name.clone()).or_default() += 1;
            child.wait = match child.since.elapsed() > STEADY {
                true => Duration::ZERO,
                false => (child.wait * 2).clamp(Duration::from_millis(50), LONGEST_WAIT),
            };
            let wait = child.wait;
            self.start_later(name, wait);
            self.save();
        }
    }

    fn start_later(&self, name: String, wait: Duration) {
        let notices = self.notices.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The receiver lives as long as the supervisor.
            let _ = notices.send(Notice::Start(name));
        });
    }

    /// Says how things stand. A full disk keeps others from reading it, and must not end the cluster.
    fn save(&self) {
        if let Err(why) = self.running.save(&self.dir) {
            error!("{why:#}");
        }
    }

    /// Keeps logs from growing without end.
    fn trim_logs(&self) {
        for name in self.children.keys().map(String::as_str).chain(["supervisor"]) {
            if let Err(why) = trim(&self.dir.log(name), LOG_LIMIT) {
                warn!(log = name, %why, "can't shorten the log");
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Start(name) => {
                if let Err(why) = self.start(&name) {
                    error!("{why:#}");
                    self.start_later(name, LONGEST_WAIT);
                }
            }
            Notice::Line(name, line) => {
                if name == "control-plane" && line == "ready" {
                    self.running.api_ready = true;
                    self.running.failed = None;
                }
                if !self.running.restarts.contains_key(&name) {
                    self.running.phases.push((format!("{name} {line}"), millis(self.started)));
                }
                self.save();
            }
        }
    }

    /// Nodes first, so that they can still tell the API; then the rest.
    async fn end(&mut self, child_signal: &mut tokio::signal::unix::Signal) -> Result<()> {
        self.ending = true;
        for last in [false, true] {
            let mine = |name: &str| (name == "control-plane" || name == "outside") == last;
            let asked: Vec<Pid> = self
                .children
                .iter()
                .filter(|(name, _)| mine(name))
                .filter_map(|(_, child)| child.pid)
                .collect();
            for pid in &asked {
                // It may have ended this very moment; if it was stopped, it must go on to end.
                let _ = rustix::process::kill_process(*pid, Signal::TERM);
                let _ = rustix::process::kill_process(*pid, Signal::CONT);
            }
            let gone = async {
                while self.children.values().any(|child| child.pid.is_some_and(|pid| asked.contains(&pid))) {
                    child_signal.recv().await;
                    self.reap();
                }
            };
            if tokio::time::timeout(PATIENCE, gone).await.is_err() {
                warn!("some processes did not end in time");
            }
        }
        Ok(())
    }
}

/// Names the program after its file and not after the `/proc` link it is started through.
trait Named {
    fn arg0_is_program(&mut self) -> &mut Self;
}

impl Named for Command {
    fn arg0_is_program(&mut self) -> &mut Self {
        use std::os::unix::process::CommandExt;
        self.arg0("dyad")
    }
}

/// Hands a child's lines on until it closes its output.
async fn listen(name: String, stdout: OwnedFd, notices: mpsc::UnboundedSender<Notice>) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let Ok(pipe) = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout) else { return };
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if notices.send(Notice::Line(name.clone(), line)).is_err() {
            return;
        }
    }
}

/// Cuts a log that is longer than `limit` down to its last quarter of that. Writers append, so they go on behind it;
/// what they write at this very moment is lost.
fn trim(log: &Path, limit: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut file = match std::fs::OpenOptions::new().read(true).append(true).open(log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    let length = file.metadata()?.len();
    if length <= limit {
        return Ok(());
    }
    file.seek(SeekFrom::Start(length - limit / 4))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole_lines = tail.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(0)?;
    file.write_all(&tail[whole_lines..])
}

/// The last line a process has logged, which is where it says why it gave up.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it left no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    #[test]
    fn a_long_log_keeps_its_last_lines_and_its_writers() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        super::trim(&log, 100).unwrap();
        let mut writer = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        for line in 0..100 {
            writeln!(writer, "line {line}").unwrap();
        }
        super::trim(&log, 1_000_000).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 100);
        super::trim(&log, 100).unwrap();
        writeln!(writer, "after").unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "line 97\nline 98\nline 99\nafter\n");
    }
}
