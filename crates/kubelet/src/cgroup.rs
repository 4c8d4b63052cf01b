//! Control groups: what the containers of a pod may use.
//!
//! With version 2 a pod's group holds one for its sandbox and one for each container (processes live in leaves only); with
//! version 1 each controller has a tree of its own. What a machine does not let one set is told of, and not enforced.

use std::fs;
use std::path::{Path, PathBuf};

use dyad_model::quantity::Quantity;
use k8s_openapi::api::core::v1::Container;

/// The group of version 2 in which a pod's sandbox is.
pub(crate) const SANDBOX: &str = "sandbox";
/// Controllers that are used.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// The period over which processor time is counted, in microseconds.
const PERIOD: u64 = 100_000;
/// The least that may be given of it.
const QUOTA_LEAST: u64 = 1_000;

/// What a container may use; nothing for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Thousandths of a processor.
    pub(crate) cpu: Option<u64>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Thousandths of a processor that it gets when others want some too.
    pub(crate) cpu_request: Option<u64>,
}

impl Limits {
    /// What a container asks for.
    pub(crate) fn of(container: &Container) -> Self {
        let Some(resources) = &container.resources else { return Self::default() };
        let get = |list: &Option<
            std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
        >,
                   name: &str| { Quantity::parse(&list.as_ref()?.get(name)?.0) };
        Self {
            cpu: get(&resources.limits, "cpu").map(Quantity::millis).filter(|millis| *millis > 0),
            memory: get(&resources.limits, "memory").map(Quantity::whole).filter(|bytes| *bytes > 0),
            cpu_request: get(&resources.requests, "cpu").map(Quantity::millis),
        }
    }

    /// Whether any has to be enforced.
    const fn any(self) -> bool {
        self.cpu.is_some() || self.memory.is_some()
    }

    /// Shares of version 1, from which the weight of version 2 follows.
    fn shares(self) -> u64 {
        // A container without a request counts its limit as one.
        let millis = self.cpu_request.or(self.cpu).unwrap_or(0);
        (millis * 1024 / 1000).clamp(2, 262_144)
    }

    fn quota(self) -> Option<u64> {
        self.cpu.map(|millis| (millis * PERIOD / 1000).max(QUOTA_LEAST))
    }

    /// Controller, file and value, with version 2 or one controller of version 1.
    fn settings(self, controller: Option<&str>) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        match controller {
            None => {
                all.push(("cpu.weight", (1 + (self.shares() - 2) * 9999 / 262_142).to_string()));
                all.extend(self.quota().map(|quota| ("cpu.max", format!("{quota} {PERIOD}"))));
                if let Some(bytes) = self.memory {
                    all.push(("memory.max", bytes.to_string()));
                    // Without swap, as kubelets have it; and who is too large ends as a whole.
                    all.push(("memory.swap.max", "0".into()));
                    all.push(("memory.oom.group", "1".into()));
                }
            }
            Some("cpu") => {
                all.push(("cpu.shares", self.shares().to_string()));
                if let Some(quota) = self.quota() {
                    all.push(("cpu.cfs_period_us", PERIOD.to_string()));
                    all.push(("cpu.cfs_quota_us", quota.to_string()));
                }
            }
            Some("memory") => {
                if let Some(bytes) = self.memory {
                    all.push(("memory.limit_in_bytes", bytes.to_string()));
                    all.push(("memory.memsw.limit_in_bytes", bytes.to_string()));
                }
            }
            Some(_) => {}
        }
        all
    }
}

/// Files that not every kernel has, and which nothing depends on.
const OPTIONAL: [&str; 4] =
    ["memory.swap.max", "memory.oom.group", "memory.memsw.limit_in_bytes", "cpu.weight"];

/// The groups of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodGroups {
    /// With version 2.
    pub(crate) unified: Option<PathBuf>,
    /// With version 1, by controller.
    pub(crate) single: Vec<(String, PathBuf)>,
}

/// The groups of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Those its processes join.
    pub(crate) joined: Vec<PathBuf>,
    /// Why limits are not enforced, if they are not.
    pub(crate) problem: Option<String>,
}

impl PodGroups {
    /// Makes the groups for a pod's sandbox; the one of version 2 that it joins, if there is one.
    pub(crate) fn make(&self) -> Option<PathBuf> {
        let pod = self.unified.as_ref()?;
        fs::create_dir_all(pod).ok()?;
        let sandbox = pod.join(SANDBOX);
        fs::create_dir_all(&sandbox).ok()?;
        enable(pod);
        Some(sandbox)
    }

    /// Makes the groups of a container that has limits or requests, new for each run so that what they count is its own.
    pub(crate) fn make_container(&self, name: &str, limits: Limits) -> Groups {
        let mut groups = Groups::default();
        if limits == Limits::default() {
            return groups;
        }
        let mut enforced = [false; 2];
        let mut problems = Vec::new();
        let unified = self.unified.iter().map(|dir| (None, dir.join(format!("container-{name}"))));
        let single =
            self.single.iter().map(|(one, dir)| (Some(one.as_str()), dir.join(format!("container-{name}"))));
        for (controller, dir) in unified.chain(single) {
            // Busy for a moment after its last process, or there for the first time.
            let _ = fs::remove_dir(&dir);
            if let Err(error) = fs::create_dir_all(&dir) {
                problems.push(format!("{}: {error}", dir.display()));
                continue;
            }
            for (file, value) in limits.settings(controller) {
                match fs::write(dir.join(file), &value) {
                    Ok(()) => {
                        enforced[0] |= file.starts_with("cpu.max") || file == "cpu.cfs_quota_us";
                        enforced[1] |= file == "memory.max" || file == "memory.limit_in_bytes";
                    }
                    Err(_) if OPTIONAL.contains(&file) => {}
                    // The other version may have the controller.
                    Err(error) => problems.push(format!("{}: {error}", dir.join(file).display())),
                }
            }
            groups.joined.push(dir);
        }
        let lacks = limits.cpu.is_some() && !enforced[0] || limits.memory.is_some() && !enforced[1];
        if limits.any() && lacks {
            // One says it; the others are mostly the same.
            let why =
                problems.into_iter().next().unwrap_or_else(|| "no control groups can be had".to_owned());
            groups.problem = Some(why);
        }
        groups
    }

    /// How many processes of a container were ended because it used too much memory.
    pub(crate) fn ooms(&self, name: &str) -> u64 {
        let unified = self.unified.iter().map(|dir| (dir, "memory.events"));
        let single =
            self.single.iter().filter(|(one, _)| one == "memory").map(|(_, dir)| (dir, "memory.oom_control"));
        let counts = unified.chain(single).filter_map(|(dir, file)| {
            count(&fs::read_to_string(dir.join(format!("container-{name}")).join(file)).ok()?)
        });
        counts.max().unwrap_or(0)
    }

    /// Removes all; groups may be busy for a moment after their last process.
    pub(crate) fn remove(&self) {
        for dir in self.unified.iter().chain(self.single.iter().map(|(_, dir)| dir)) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Hands the controllers down to a group of version 2, from the top on; what cannot be had is noticed where it is used.
fn enable(group: &Path) {
    let mut above: Vec<&Path> =
        group.ancestors().take_while(|dir| dir.join("cgroup.subtree_control").exists()).collect();
    above.reverse();
    for dir in above {
        let there = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in
            CONTROLLERS.iter().filter(|one| there.split_whitespace().any(|known| known == **one))
        {
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_become_settings_as_kubelets_have_them() {
        let limits = |value| {
            let container = json!({"name": "c", "resources": value});
            Limits::of(&serde_json::from_value(container).unwrap())
        };
        let shown = |limits: Limits, controller| {
            let all = limits.settings(controller).into_iter().map(|(file, value)| format!("{file}={value}"));
            all.collect::<Vec<_>>().join(" ")
        };
        for (resources, unified, cpu, memory) in [
            (json!({}), "cpu.weight=1", "cpu.shares=2", ""),
            (
                json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "1"}}),
                "cpu.weight=39 cpu.max=50000 100000 memory.max=67108864 memory.swap.max=0 memory.oom.group=1",
                "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=67108864 memory.memsw.limit_in_bytes=67108864",
            ),
            (
                json!({"limits": {"cpu": "1m"}}),
                "cpu.weight=1 cpu.max=1000 100000",
                "cpu.shares=2 cpu.cfs_period_us=100000 cpu.cfs_quota_us=1000",
                "",
            ),
        ] {
            let limits = limits(resources);
            assert_eq!(shown(limits, None), unified);
            assert_eq!(shown(limits, Some("cpu")), cpu);
            assert_eq!(shown(limits, Some("memory")), memory);
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_told() {
        let nowhere = PodGroups { unified: Some("/proc/no/such".into()), single: Vec::new() };
        let limits = Limits { memory: Some(1), ..Limits::default() };
        assert!(nowhere.make_container("c", limits).problem.is_some_and(|why| why.contains("/proc/no/such")));
        assert_eq!(PodGroups::default().make_container("c", Limits::default()), Groups::default());
        assert_eq!(count("low 0\noom 1\noom_kill 3\n"), Some(3));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
    }
}
