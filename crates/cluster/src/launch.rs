//! The step between `dyad up` and the supervisor: into namespaces of the cluster's own, then out of the way.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::paths::ClusterDir;

/// `dyad internal launch DIR`: starts the supervisor as first process of new namespaces and returns.
pub(crate) fn main(dir: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        enter_user_namespace()?;
    }
    // SAFETY: this process has one thread, and no flag given here affects memory or file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS | UnshareFlags::NEWIPC) }
        .map_err(|error| anyhow::anyhow!("can't create namespaces: {error}{}", hint()))?;
    let cluster = ClusterDir::at(dir);
    let log = open_log(&cluster, "supervisor")?;
    Command::new(std::env::current_exe().context("can't find this program")?)
        .args(["internal", "supervise"])
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("can't start the supervisor")?;
    Ok(())
}

/// Opens a process' log for appending.
pub(crate) fn open_log(cluster: &ClusterDir, process: &str) -> Result<fs::File> {
    let path = cluster.log(process);
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("can't open {}", path.display()))
}

fn enter_user_namespace() -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: this process has one thread, and a user namespace affects neither memory nor file descriptors.
    if let Err(error) = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) } {
        bail!(
            "an ordinary user needs a user namespace to run a cluster, and this system refuses it ({error}){}",
            hint()
        );
    }
    fs::write("/proc/self/setgroups", "deny").context("can't set up the user namespace")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))
        .context("can't set up the user namespace")?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
        .context("can't set up the user namespace")
}

/// Which setting of this system stands in the way, as far as it can be read.
fn hint() -> &'static str {
    let setting =
        |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        ": allow it with `sysctl kernel.unprivileged_userns_clone=1`, or run as root"
    } else if setting("/proc/sys/user/max_user_namespaces") == "0" {
        ": allow it with `sysctl user.max_user_namespaces=15000`, or run as root"
    } else if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        ": AppArmor forbids it; give the dyad program a profile with `userns,`, or set \
         `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or run as root"
    } else {
        ": a seccomp filter or a container around this shell may forbid it; run outside of it, or as root"
    }
}
