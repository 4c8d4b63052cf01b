//! Which kind has which strategy.

use crate::{NoLogic, Strategy, config, event, lease, namespace, node, pod, rbac, service, workloads};

static NO_LOGIC: NoLogic = NoLogic;

/// The strategy of a kind, given its API group (`""` for the core group).
///
/// Kinds without logic of their own, custom ones among them, get [`NoLogic`].
pub fn strategy(group: &str, kind: &str) -> &'static dyn Strategy {
    match (group, kind) {
        ("", "ConfigMap") => &config::CONFIG_MAP,
        ("", "Event") => &event::CORE_EVENT,
        ("", "Namespace") => &namespace::NAMESPACE,
        ("", "Node") => &node::NODE,
        ("", "Pod") => &pod::POD,
        ("", "Secret") => &config::SECRET,
        ("", "Service") => &service::SERVICE,
        ("", "ServiceAccount") => &config::SERVICE_ACCOUNT,
        ("apps", "DaemonSet") => &workloads::DAEMON_SET,
        ("apps", "Deployment") => &workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => &workloads::REPLICA_SET,
        ("coordination.k8s.io", "Lease") => &lease::LEASE,
        ("events.k8s.io", "Event") => &event::EVENT,
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::CLUSTER_ROLE_BINDING,
        ("rbac.authorization.k8s.io", "Role") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::ROLE_BINDING,
        _ => &NO_LOGIC,
    }
}
