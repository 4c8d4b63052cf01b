//! From a container of the API to one the sandbox can start.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext, Service};

use crate::env::{self, Sources};
use crate::image::Ready;
use crate::sandbox::{Account, ContainerSpec, ImageRoot, Mount, Propagation, root};

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

/// Signals by name. Those of real time count from both ends, as shells do.
const SIGNALS: [(&str, i32); 16] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("WINCH", libc::SIGWINCH),
    ("PWR", libc::SIGPWR),
    ("RTMIN", 34),
    ("RTMIN+3", 37),
    ("RTMAX", 64),
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
    /// Where what it writes goes, if it runs from an image.
    pub(crate) scratch: &'a Path,
    /// The container whose processes it shall see, for an ephemeral one that names it.
    pub(crate) target: Option<&'a str>,
}

/// The file that a container's last words are read from.
pub(crate) fn termination_log(logs: &Path) -> PathBuf {
    logs.join("termination-log")
}

/// The container as the sandbox wants it; the error is a `CreateContainerConfigError`.
pub(crate) fn container_spec(ready: &Ready, input: &Input<'_>) -> Result<ContainerSpec, String> {
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
    let env = environment(ready, input, own);
    let command = env::expand_words(container.command.as_ref(), &env);
    let args = env::expand_words(container.args.as_ref(), &env);
    let security = Security::of(input, ready)?;
    let image = ready.path().map(|path| ImageRoot {
        path,
        scratch: input.scratch.to_owned(),
        read_only: security.read_only,
    });
    let dir = container.working_dir.as_ref().filter(|dir| !dir.is_empty());
    let dir = dir.or(ready.run.working_dir.as_ref().filter(|dir| !dir.is_empty()));
    Ok(ContainerSpec {
        argv: ready.image.argv(&ready.run, command, args)?,
        working_dir: dir.map(|dir| Path::new("/").join(dir)),
        mounts: mounts(input, &env, image.as_ref().is_some_and(|image| !image.read_only))?,
        masked: input.masked.to_vec(),
        user: security.user.unwrap_or(0),
        group: security.group.unwrap_or(0),
        groups: security.groups,
        capabilities: security.capabilities,
        no_new_privileges: security.no_new_privileges,
        privileged: security.privileged,
        log: input.logs.join(format!("{}.log", input.attempt)),
        stdin: container.stdin == Some(true),
        tty: container.tty == Some(true),
        target: input.target.map(str::to_owned),
        stop_signal: stop_signal(container, ready),
        share_processes: input.spec.share_process_namespace == Some(true),
        cgroups: Vec::new(),
        account: image.is_some().then_some(security.account),
        image,
        env,
    })
}

/// The signal that asks a container to end: its own, that of the image, or none in particular.
fn stop_signal(container: &Container, ready: &Ready) -> i32 {
    let own = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let name = own.or(ready.run.stop_signal.as_deref()).unwrap_or_default().to_uppercase();
    let known = SIGNALS.iter().find(|(known, _)| name.strip_prefix("SIG").unwrap_or(&name) == *known);
    let number = name.parse::<i32>().ok().filter(|number| (1..=64).contains(number));
    known.map(|(_, number)| *number).or(number).unwrap_or(0)
}

/// The pod's variables, over those of the image, over what every container has.
fn environment(ready: &Ready, input: &Input<'_>, own: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    if ready.root.is_none() {
        path = format!("{path}:{}", root::PROGRAM_DIR);
    }
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match all.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => all.push((name, value)),
    };
    set("PATH".into(), path);
    set("HOSTNAME".into(), input.hostname.to_owned());
    if ready.root.is_none() {
        // From an image it is that of the user.
        set("HOME".into(), "/root".into());
    }
    if input.container.tty == Some(true) {
        set("TERM".into(), "xterm".into());
    }
    for variable in ready.run.env.iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name.to_owned(), value.to_owned());
    }
    own.into_iter().for_each(|(name, value)| set(name, value));
    all
}

fn mounts(input: &Input<'_>, env: &[(String, String)], writable: bool) -> Result<Vec<Mount>, String> {
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
            propagation: propagation(mount.mount_propagation.as_deref(), privileged(input.container))
                .map_err(|problem| format!("volume {name:?}: {problem}"))?,
        });
    }
    let message = input.container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let own = [
        (input.etc.join("hosts"), "/etc/hosts", !writable),
        (input.etc.join("resolv.conf"), "/etc/resolv.conf", !writable),
        (input.etc.join("hostname"), "/etc/hostname", !writable),
        (termination_log(input.logs), message.unwrap_or("/dev/termination-log"), false),
    ];
    for (source, target, read_only) in own {
        // A volume that the pod mounts there itself wins.
        if mounts.iter().all(|mount| mount.target != Path::new(target)) {
            let target = target.into();
            mounts.push(Mount { source, target, read_only, propagation: Propagation::None });
        }
    }
    Ok(mounts)
}

fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|own| own.privileged) == Some(true)
}

/// `mountPropagation`; what a container mounts is shown to the node only if it is trusted with all of it.
fn propagation(name: Option<&str>, privileged: bool) -> Result<Propagation, String> {
    match name {
        Some("HostToContainer") => Ok(Propagation::HostToContainer),
        Some("Bidirectional") if privileged => Ok(Propagation::Bidirectional),
        Some("Bidirectional") => Err("mountPropagation: Bidirectional is for privileged containers".into()),
        _ => Ok(Propagation::None),
    }
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
    user: Option<u32>,
    group: Option<u32>,
    groups: Vec<u32>,
    account: Account,
    capabilities: u64,
    no_new_privileges: bool,
    privileged: bool,
    read_only: bool,
}

impl Security {
    fn of(input: &Input<'_>, ready: &Ready) -> Result<Self, String> {
        let none = SecurityContext::default();
        let own = input.container.security_context.as_ref().unwrap_or(&none);
        let pod = input.spec.security_context.as_ref();
        let id =
            |own: Option<i64>, pod: Option<i64>| own.or(pod).map(|id| u32::try_from(id).unwrap_or(u32::MAX));
        let user = id(own.run_as_user, pod.and_then(|pod| pod.run_as_user));
        let group = id(own.run_as_group, pod.and_then(|pod| pod.run_as_group));
        let image_user = ready.run.user.as_deref().unwrap_or_default();
        if own.run_as_non_root.or(pod.and_then(|pod| pod.run_as_non_root)) == Some(true) {
            verify_non_root(input, user, image_user)?;
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
        let strict = pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) == Some("Strict");
        Ok(Self {
            user,
            group,
            groups: groups.filter_map(|group| u32::try_from(group).ok()).collect(),
            account: Account {
                user: user.map_or_else(|| image_user.to_owned(), |user| user.to_string()),
                group,
                merge_groups: !strict,
            },
            capabilities,
            no_new_privileges: own.allow_privilege_escalation == Some(false),
            privileged: own.privileged == Some(true),
            read_only: own.read_only_root_filesystem == Some(true),
        })
    }
}

/// `runAsNonRoot`, in the kubelet's words.
fn verify_non_root(input: &Input<'_>, user: Option<u32>, image_user: &str) -> Result<(), String> {
    let meta = &input.pod.metadata;
    let [name, namespace, uid] =
        [&meta.name, &meta.namespace, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
    let of = format!("(pod: \"{name}_{namespace}({uid})\", container: {})", input.container.name);
    let image = image_user.split(':').next().unwrap_or_default();
    match user {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {of}")),
        Some(_) => Ok(()),
        None if image.is_empty() || image.parse() == Ok(0_u32) => {
            Err(format!("container has runAsNonRoot and image will run as root {of}"))
        }
        None if image.parse::<u32>().is_err() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image}), cannot verify user is non-root {of}"
        )),
        None => Ok(()),
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

#[cfg(test)]
mod tests;
