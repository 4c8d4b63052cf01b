//! What every root directory has of the kernel: `/proc`, `/sys`, `/dev`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use super::{NODEV, NOSUID, RDONLY, Result, at, make_point, tmpfs};
use crate::sandbox::sys;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Kernel switches of the whole machine, and others' secrets, in `/proc`.
const PROC_READ_ONLY: [&str; 5] = ["proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus", "proc/fs"];
const PROC_MASKED: [&str; 8] = [
    "proc/kcore",
    "proc/keys",
    "proc/timer_list",
    "proc/acpi",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
];

/// Mounts `/proc` and `/sys` of this process' namespaces.
pub(super) fn proc_and_sys(root: &Path, privileged: bool) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let proc = root.join("proc");
    // Inside some containers a new /proc is refused; then the node's must do.
    let own = mount("proc", &proc, "proc", flags, None).or_else(|_| mount_bind_recursive("/proc", &proc));
    at("mounting", &proc, own)?;
    let sys_dir = root.join("sys");
    let read_only = if privileged { MountFlags::empty() } else { MountFlags::RDONLY };
    if mount("sysfs", &sys_dir, "sysfs", flags | read_only, None).is_err() {
        at("mounting", &sys_dir, mount_bind_recursive("/sys", &sys_dir))?;
        at("protecting", &sys_dir, sys::set_mount_attributes(&sys_dir, RDONLY | NOSUID | NODEV, true))?;
    }
    if !privileged {
        for path in PROC_READ_ONLY.map(|path| root.join(path)) {
            if path.exists() {
                at("protecting", &path, mount_bind(&path, &path))?;
                at("protecting", &path, sys::set_mount_attributes(&path, RDONLY, false))?;
            }
        }
        for path in PROC_MASKED {
            super::mask(&root.join(path))?;
        }
    }
    Ok(())
}

/// Shows the container its own control group, where there is one hierarchy for all controllers.
pub(super) fn control_groups(root: &Path) {
    let dir = root.join("sys/fs/cgroup");
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        // Who wants to know its limits can do without; not every kernel lets one in a user namespace.
        let _ = mount("cgroup2", &dir, "cgroup2", flags, None);
    }
}

/// Fills `/dev`, a file system of the container's own.
pub(super) fn devices(dev: &Path) -> Result<()> {
    for name in DEVICES {
        device(dev, name)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        at("linking", dev, symlink(target, dev.join(name)))?;
    }
    let (terminals, shared) = (dev.join("pts"), dev.join("shm"));
    at("making", &terminals, fs::create_dir(&terminals))?;
    at("making", &shared, fs::create_dir(&shared))?;
    let options = Some(c"newinstance,ptmxmode=0666,mode=0620");
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    at("mounting", &terminals, mount("devpts", &terminals, "devpts", flags, options))?;
    at("mounting", &shared, tmpfs(&shared, "1777"))
}

fn device(dev: &Path, name: &str) -> Result<()> {
    let (from, to) = (Path::new("/dev").join(name), dev.join(name));
    at("making", &to, fs::File::create(&to))?;
    at("binding", &from, mount_bind(&from, &to))
}

/// Adds the machine's own devices, for containers that are trusted with it; those that cannot be shown are left out.
pub(super) fn all_devices(dev: &Path) {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    for entry in entries {
        let is_device = entry.file_type().is_ok_and(|kind| kind.is_char_device() || kind.is_block_device());
        let to = dev.join(entry.file_name());
        if is_device && !to.exists() && make_point(&to, true).is_ok() {
            let _ = mount_bind(entry.path(), &to);
        }
    }
}
