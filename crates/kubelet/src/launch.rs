//! From a container of the API to one the sandbox can start.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext, Service};

use crate::env::{self, Sources};
use crate::image::{self, Image};
use crate::sandbox::{ContainerSpec, Mount, root};

/// Capabilities that container runtimes leave to root by default: chown, dac_override, fowner, fsetid, kill, setgid,
/// setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
/// In the order of their numbers in `capability.h`.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container's specification follows from.
pub(crate) struct Input<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// Its spec.
    pub(crate) spec: &'a PodSpec,
    /// The container.
    pub(crate) container: &'a Container,
    /// The run.
    pub(crate) attempt: u32,
    /// The pod's addresses.
    pub(crate) pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub(crate) host_ips: &'a [IpAddr],
    /// The pod's host name.
    pub(crate) hostname: &'a str,
    /// Paths of the pod's volumes by name.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    /// ConfigMaps that the environment names, as text.
    pub(crate) config_maps: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets that the environment names, as text.
    pub(crate) secrets: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// Services whose addresses go into the environment.
    pub(crate) services: &'a [Service],
    /// What the node can give.
    pub(crate) allocatable: &'a BTreeMap<String, String>,
    /// Host paths that stay hidden.
    pub(crate) masked: &'a [PathBuf],
    /// Where `hosts`, `resolv.conf` and `hostname` are.
    pub(crate) etc: &'a Path,
    /// Where the container's logs and its termination message go.
    pub(crate) logs: &'a Path,
    /// The container whose processes it shall see, for an ephemeral one that names it.
    pub(crate) target: Option<&'a str>,
}

/// The file that a container's last words are read from.
pub(crate) fn termination_log(logs: &Path) -> PathBuf {
    logs.join("termination-log")
}

/// The container as the sandbox wants it; the error is a `CreateContainerConfigError`.
pub(crate) fn container_spec(image: &Image, input: &Input<'_>) -> Result<ContainerSpec, String> {
    let container = input.container;
    let sources = Sources {
        pod: input.pod,
        pod_ips: input.pod_ips,
        host_ips: input.host_ips,
        config_maps: input.config_maps,
        secrets: input.secrets,
        allocatable: input.allocatable,
        services: input.services,
    };
    let own = env::environment(container, &sources)?;
    let tty = container.tty == Some(true);
    let path = format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}", root::PROGRAM_DIR);
    let defaults = [("PATH", path), ("HOSTNAME", input.hostname.to_owned()), ("HOME", "/root".to_owned())];
    let terminal = tty.then(|| ("TERM", "xterm".to_owned()));
    let defaults = defaults.into_iter().chain(terminal).map(|(name, value)| (name.to_owned(), value));
    let defaults = defaults.filter(|(name, _)| own.iter().all(|(known, _)| known != name));
    let env: Vec<(String, String)> = defaults.collect::<Vec<_>>().into_iter().chain(own).collect();
    let command = env::expand_words(container.command.as_ref(), &env);
    let args = env::expand_words(container.args.as_ref(), &env);
    let security = Security::of(input.spec, container)?;
    Ok(ContainerSpec {
        argv: image.argv(command, args)?,
        working_dir: container.working_dir.as_ref().filter(|dir| !dir.is_empty()).map(PathBuf::from),
        mounts: mounts(input, &env)?,
        masked: input.masked.to_vec(),
        user: security.user,
        group: security.group,
        groups: security.groups,
        capabilities: security.capabilities,
        no_new_privileges: security.no_new_privileges,
        privileged: security.privileged,
        log: input.logs.join(format!("{}.log", input.attempt)),
        stdin: container.stdin == Some(true),
        tty,
        target: input.target.map(str::to_owned),
        env,
    })
}

fn mounts(input: &Input<'_>, env: &[(String, String)]) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in input.container.volume_mounts.iter().flatten() {
        let name = &mount.name;
        let base = input.volumes.get(name).ok_or_else(|| format!("there is no volume {name:?}"))?;
        let value =
            |wanted: &str| env.iter().find(|(known, _)| known == wanted).map(|(_, value)| value.as_str());
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(path)) => env::expand(path, value),
            _ => String::new(),
        };
        let generated =
            input.spec.volumes.iter().flatten().any(|volume| {
                volume.name == *name && volume.empty_dir.is_none() && volume.host_path.is_none()
            });
        let source = sub_path_of(base, &sub_path, generated)?;
        let of_host = input
            .spec
            .volumes
            .iter()
            .flatten()
            .any(|volume| volume.name == *name && volume.host_path.is_some());
        if of_host && leads_into(&source, input.masked) {
            return Err(format!(
                "volume {name:?}: hostPath {} belongs to the cluster itself",
                source.display()
            ));
        }
        mounts.push(Mount {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: generated || mount.read_only == Some(true),
        });
    }
    let message = input.container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let own = [
        (input.etc.join("hosts"), "/etc/hosts", true),
        (input.etc.join("resolv.conf"), "/etc/resolv.conf", true),
        (input.etc.join("hostname"), "/etc/hostname", true),
        (termination_log(input.logs), message.unwrap_or("/dev/termination-log"), false),
    ];
    for (source, target, read_only) in own {
        // A volume that the pod mounts there itself wins.
        if mounts.iter().all(|mount| mount.target != Path::new(target)) {
            mounts.push(Mount { source, target: target.into(), read_only });
        }
    }
    Ok(mounts)
}

/// Whether a path is one of these, or below one.
fn leads_into(path: &Path, masked: &[PathBuf]) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = real(path);
    masked.iter().any(|masked| path.starts_with(real(masked)))
}

/// A part of a volume, made if it is missing from one that can be written. What it leads to must lie in the volume,
/// whatever links a container may have put there.
fn sub_path_of(base: &Path, sub_path: &str, generated: bool) -> Result<PathBuf, String> {
    if sub_path.is_empty() {
        return Ok(base.to_owned());
    }
    let outside = || format!("subPath {sub_path:?} leads out of its volume");
    let wanted = Path::new(sub_path);
    if !wanted
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir))
    {
        return Err(outside());
    }
    let real_base = fs::canonicalize(base).map_err(|error| format!("volume {}: {error}", base.display()))?;
    let mut at = real_base.clone();
    for part in wanted.components() {
        at.push(part);
        if !generated && fs::symlink_metadata(&at).is_err() {
            fs::create_dir(&at).map_err(|error| format!("making subPath {sub_path:?}: {error}"))?;
        }
        at = fs::canonicalize(&at).map_err(|error| format!("subPath {sub_path:?}: {error}"))?;
        if !at.starts_with(&real_base) {
            return Err(outside());
        }
    }
    Ok(at)
}

struct Security {
    user: u32,
    group: u32,
    groups: Vec<u32>,
    capabilities: u64,
    no_new_privileges: bool,
    privileged: bool,
}

impl Security {
    fn of(spec: &PodSpec, container: &Container) -> Result<Self, String> {
        let none = SecurityContext::default();
        let own = container.security_context.as_ref().unwrap_or(&none);
        let pod = spec.security_context.as_ref();
        let id =
            |own: Option<i64>, pod: Option<i64>| own.or(pod).map(|id| u32::try_from(id).unwrap_or(u32::MAX));
        let user = id(own.run_as_user, pod.and_then(|pod| pod.run_as_user)).unwrap_or(0);
        let group = id(own.run_as_group, pod.and_then(|pod| pod.run_as_group)).unwrap_or(0);
        let non_root = own.run_as_non_root.or(pod.and_then(|pod| pod.run_as_non_root)) == Some(true);
        if non_root && user == 0 {
            return Err("container has runAsNonRoot and image will run as root: set runAsUser".into());
        }
        let groups = pod.and_then(|pod| pod.supplemental_groups.clone()).unwrap_or_default();
        let groups = groups.into_iter().chain(pod.and_then(|pod| pod.fs_group));
        let mut capabilities = DEFAULT_CAPABILITIES;
        if let Some(wanted) = &own.capabilities {
            for name in wanted.drop.iter().flatten() {
                capabilities &= !bits(name)?;
            }
            for name in wanted.add.iter().flatten() {
                capabilities |= bits(name)?;
            }
        }
        Ok(Self {
            user,
            group,
            groups: groups.filter_map(|group| u32::try_from(group).ok()).collect(),
            capabilities,
            no_new_privileges: own.allow_privilege_escalation == Some(false),
            privileged: own.privileged == Some(true),
        })
    }
}

fn bits(name: &str) -> Result<u64, String> {
    let upper = name.to_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" {
        return Ok(u64::MAX);
    }
    let number = CAPABILITIES.iter().position(|known| *known == short);
    number.map(|number| 1 << number).ok_or_else(|| format!("unknown capability {name:?}"))
}

/// Why a container cannot be started before anything has been tried.
pub(crate) fn image_of(container: &Container) -> Result<Image, String> {
    Image::parse(image::reference(container))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn capabilities_have_the_numbers_of_the_kernel() {
        for (name, number) in [
            ("CHOWN", 0),
            ("NET_ADMIN", 12),
            ("net_raw", 13),
            ("CAP_SYS_ADMIN", 21),
            ("CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(bits(name), Ok(1 << number), "{name}");
        }
        assert!(bits("FLY").is_err());
    }

    #[test]
    fn the_containers_security_context_comes_before_the_pods() {
        let spec: PodSpec = serde_json::from_value(json!({
            "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000], "fsGroup": 2000},
            "containers": [],
        }))
        .unwrap();
        let container = |value| {
            serde_json::from_value::<Container>(json!({"name": "c", "securityContext": value})).unwrap()
        };
        let found = Security::of(&spec, &container(json!({
            "runAsUser": 5, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": false,
        })))
        .unwrap();
        assert_eq!(
            (found.user, found.group, found.groups, found.capabilities),
            (5, 3000, vec![4000, 2000], 1 << 12)
        );
        assert!(found.no_new_privileges && !found.privileged);
        let problem = Security::of(&PodSpec::default(), &container(json!({"runAsNonRoot": true})));
        assert!(problem.is_err_and(|problem| problem.contains("runAsNonRoot")));
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("volume");
        fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink("/etc", base.join("out")).unwrap();
        assert_eq!(sub_path_of(&base, "a/b", false).unwrap(), fs::canonicalize(&base).unwrap().join("a/b"));
        for path in ["../x", "/etc", "out", "out/passwd", "a/../../x"] {
            assert!(sub_path_of(&base, path, false).is_err(), "{path}");
        }
        assert!(sub_path_of(&base, "missing", true).is_err(), "nothing is made in generated volumes");
    }
}
