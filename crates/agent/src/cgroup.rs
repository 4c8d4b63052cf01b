//! The control group that a kubelet keeps all of its pods in, found by its name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How far below a hierarchy's root it may be: two where the kubelet was given a root of its own, as kind's is.
const DEPTH: usize = 2;

/// Why it was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoCgroup {
    /// There is no cgroup v2 hierarchy to look in.
    #[error("no cgroup2 file system is mounted")]
    NoMount,
    /// There is none with that name that has pods.
    #[error(
        "no control group of a kubelet's pods is below {}: in a container, mount the machine's /sys/fs/cgroup there, or \
         name it (--cgroup-root)",
        .0.display()
    )]
    None(PathBuf),
    /// There are several.
    #[error("both {} and {} have a kubelet's pods: say which (--cgroup-root)", .0.display(), .1.display())]
    Several(PathBuf, PathBuf),
    /// It was not looked for.
    #[error("no cgroup is given whose processes to serve")]
    NotGiven,
}

/// The control group of all pods of this machine's kubelet.
pub fn pods_cgroup() -> Result<PathBuf, NoCgroup> {
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let found: Vec<PathBuf> = mounts.iter().flat_map(|mount| below(mount)).collect();
    match (found.as_slice(), mounts.first()) {
        (_, None) => Err(NoCgroup::NoMount),
        ([], Some(mount)) => Err(NoCgroup::None(mount.clone())),
        ([only], _) => Ok(only.clone()),
        ([one, other, ..], _) => Err(NoCgroup::Several(one.clone(), other.clone())),
    }
}

/// Where cgroup2 is mounted (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &str) -> BTreeSet<PathBuf> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// Whether kubelets call the one for their pods so: `kubepods` (cgroupfs), `kubepods.slice` (systemd), or with the name of
/// the group it is in before it.
fn is_name(name: &str) -> bool {
    matches!(name, "kubepods" | "kubepods.slice") || name.ends_with("-kubepods.slice")
}

/// Those in a hierarchy that have processes: what is left of one that was set up otherwise has none.
fn below(mount: &Path) -> Vec<PathBuf> {
    let (mut found, mut level) = (Vec::new(), vec![mount.to_path_buf()]);
    for _ in 0..DEPTH {
        let entries = level.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().filter_map(Result::ok);
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let (of_pods, others): (Vec<_>, Vec<_>) =
            dirs.partition(|entry| entry.file_name().to_str().is_some_and(is_name));
        found.extend(of_pods.into_iter().map(|entry| entry.path()).filter(|path| is_populated(path)));
        level = others.into_iter().map(|entry| entry.path()).collect();
    }
    found.sort();
    found
}

fn is_populated(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_those_of_version_2() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n\
                    31 23 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                    900 800 0:26 / /sys/fs/cgroup ro,nosuid master:4 - cgroup2 cgroup rw,nsdelegate\n\
                    901 800 0:26 /../.. /host/cgroup ro - cgroup2 cgroup2 rw\nnonsense\n - cgroup2 \n";
        let expected: Vec<PathBuf> = ["/host/cgroup", "/sys/fs/cgroup"].map(PathBuf::from).to_vec();
        assert_eq!(mounts(text).into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_group_of_pods_is_found_whoever_made_it() {
        #[rustfmt::skip]
        let cases: [(&[&str], &[&str], &[&str]); 7] = [
            // Groups with processes, without, and what is found.
            (&["system.slice/ssh.service", "kubepods.slice/kubepods-burstable.slice"], &[], &["kubepods.slice"]),
            (&["kubepods/besteffort", "init.scope"], &["kubepods.slice"], &["kubepods"]),
            (&["kubelet.slice/kubelet-kubepods.slice/x.slice"], &[], &["kubelet.slice/kubelet-kubepods.slice"]),
            (&["kubelet/kubepods/burstable"], &[], &["kubelet/kubepods"]),
            (&["kubepods.slice", "kubelet/kubepods"], &[], &["kubelet/kubepods", "kubepods.slice"]),
            // Another machine's, in a container of this one.
            (&["system.slice/docker-1.scope/kubelet.slice/kubelet-kubepods.slice"], &[], &[]),
            (&[], &["kubepods"], &[]),
        ];
        for (populated, empty, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            for (groups, events) in
                [(populated, "populated 1\nfrozen 0\n"), (empty, "populated 0\nfrozen 0\n")]
            {
                for group in groups {
                    let mut at = root.path().to_path_buf();
                    for part in group.split('/') {
                        at.push(part);
                        fs::create_dir_all(&at).unwrap();
                        fs::write(at.join("cgroup.events"), events).unwrap();
                    }
                }
            }
            let found = below(root.path());
            let found: Vec<&Path> =
                found.iter().map(|path| path.strip_prefix(root.path()).unwrap()).collect();
            assert_eq!(found, expected.iter().map(Path::new).collect::<Vec<_>>(), "{populated:?}");
        }
    }
}
