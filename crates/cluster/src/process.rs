//! Finding and ending a cluster's processes from outside, by what they run and not by remembered numbers.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long after one request to end the next one follows.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A process of a cluster: `dyad internal ROLE DIR [NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its number as this process sees it.
    pub pid: i32,
    /// `launch`, `supervise`, `control-plane`, `node` or `outside`.
    pub role: String,
    /// The node's name.
    pub name: String,
}

/// Every process that serves the cluster in `dir`.
pub(crate) fn of_cluster(dir: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            parse(pid, &cmdline, dir)
        })
        .collect()
}

/// The supervisor of the cluster in `dir`, if it runs.
pub(crate) fn supervisor(dir: &Path) -> Option<Process> {
    of_cluster(dir).into_iter().find(|process| process.role == "supervise")
}

fn parse(pid: i32, cmdline: &[u8], dir: &Path) -> Option<Process> {
    let mut words = cmdline.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let (_, internal, role, at) = (words.next()?, words.next()?, words.next()?, words.next()?);
    (internal == "internal" && Path::new(&at) == dir).then(|| Process {
        pid,
        role,
        name: words.next().unwrap_or_default(),
    })
}

/// A process held by a file descriptor: its number can't come to mean another one.
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// Takes hold of a process of the cluster; `None` if it is gone, or its number means something else now.
    pub(crate) fn open(process: &Process, dir: &Path) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
        let cmdline = std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
        (parse(process.pid, &cmdline, dir).as_ref() == Some(process)).then_some(Self(fd))
    }

    /// Sends a signal; a process that is gone is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("can't signal a process of the cluster"),
        }
    }

    /// Whether it ended within `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout =
                rustix::event::Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Ends every process of the cluster: asks the supervisor first, then insists.
pub(crate) fn end_all(dir: &Path, patience: Duration) -> Result<()> {
    if let Some(handle) = supervisor(dir).and_then(|process| Handle::open(&process, dir)) {
        let deadline = Instant::now() + patience;
        let ended = loop {
            // The first process of a PID namespace never sees what is sent before it asks for it.
            handle.signal(Signal::TERM)?;
            // One that was stopped can't end.
            handle.signal(Signal::CONT)?;
            match deadline.checked_duration_since(Instant::now()) {
                None => break false,
                Some(left) if handle.wait(left.min(ASK_AGAIN)) => break true,
                Some(_) => {}
            }
        };
        if !ended {
            handle.signal(Signal::KILL)?;
            handle.wait(Duration::from_secs(10));
        }
    }
    // The supervisor was the first process of their PID namespace, so the kernel has ended the others with it;
    // what is left are launchers caught in between, and what they start meanwhile.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = of_cluster(dir);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("process {} of the cluster does not end", left[0].pid);
        }
        for handle in left.iter().filter_map(|process| Handle::open(process, dir)) {
            handle.signal(Signal::KILL)?;
            handle.wait(Duration::from_millis(500));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_of_this_directory_count() {
        let dir = Path::new("/x/dyad/a");
        let found = parse(7, b"/usr/bin/dyad\0internal\0node\0/x/dyad/a\0node1\0", dir);
        assert_eq!(found, Some(Process { pid: 7, role: "node".into(), name: "node1".into() }));
        assert_eq!(parse(7, b"/usr/bin/dyad\0internal\0node\0/x/dyad/ab\0node1\0", dir), None);
        assert_eq!(parse(7, b"vi\0/x/dyad/a\0", dir), None);
        assert_eq!(parse(7, b"", dir), None);
    }
}
