//! What a pod is to the kubelet: its containers' records, what to do next, and the status to report. Pure.

pub(crate) mod backoff;
mod families;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod status;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// When containers are started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    /// Whenever they end.
    Always,
    /// When they fail.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// `spec.restartPolicy`.
    pub(crate) fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Of one container: a sidecar's own policy, for an init container never after success.
    pub(crate) fn of_container(spec: &PodSpec, container: &Container, is_init: bool) -> Self {
        match Self::of(spec) {
            _ if is_init && is_sidecar(container) => Self::Always,
            Self::Always if is_init => Self::OnFailure,
            policy => policy,
        }
    }

    /// Whether a container that ended with `code` is started again.
    pub(crate) const fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// Whether an init container runs beside the others (KEP-753).
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Init containers, then containers, each with whether it is one of the first.
pub(crate) fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, bool)> {
    let init = spec.init_containers.iter().flatten().map(|container| (container, true));
    init.chain(spec.containers.iter().map(|container| (container, false)))
}

/// Ephemeral containers, as containers: they differ in what they may not have.
pub(crate) fn ephemeral(spec: &PodSpec) -> impl Iterator<Item = Container> {
    let list = spec.ephemeral_containers.iter().flatten();
    list.filter_map(|one| serde_json::from_value(serde_json::to_value(one).ok()?).ok())
}

/// The container of that name, of whatever sort.
pub(crate) fn find(spec: &PodSpec, name: &str) -> Option<Container> {
    let own = containers(spec).find(|(container, _)| container.name == name);
    own.map(|(container, _)| container.clone())
        .or_else(|| ephemeral(spec).find(|container| container.name == name))
}

/// The container whose processes an ephemeral container wants to see.
pub(crate) fn target_of<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a str> {
    let mut list = spec.ephemeral_containers.iter().flatten();
    let found = list.find(|one| one.name == name)?.target_container_name.as_deref();
    found.filter(|target| !target.is_empty())
}

/// Switches that pods may set: each pod has its own of these.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The switches that a pod sets, or why it may not, in the kubelet's words.
pub(crate) fn sysctls(spec: &PodSpec) -> Result<Vec<(String, String)>, String> {
    let wanted = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    let set = |one: &k8s_openapi::api::core::v1::Sysctl| {
        // Both ways of writing are known.
        let name = one.name.replace('/', ".");
        let is_host = name.starts_with("net.") && spec.host_network == Some(true)
            || name.starts_with("kernel.") && spec.host_ipc == Some(true);
        if is_host || !SAFE_SYSCTLS.contains(&name.as_str()) {
            return Err(format!("forbidden sysctl: {:?} not allowlisted", one.name));
        }
        Ok((name, one.value.clone()))
    };
    wanted.into_iter().flatten().map(set).collect()
}

/// The volumes on disk that may hold only so much, with what that is.
pub(crate) fn limited_volumes(spec: &PodSpec) -> Vec<(String, String)> {
    let volumes = spec.volumes.iter().flatten();
    let limited = volumes.filter_map(|volume| {
        let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref() != Some("Memory"))?;
        Some((volume.name.clone(), empty.size_limit.as_ref()?.0.clone()))
    });
    limited.collect()
}

/// `namespace/name`, for people.
pub(crate) fn title(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}
