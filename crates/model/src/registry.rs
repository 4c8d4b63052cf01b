//! Which kind has which strategy.

use crate::{
    NoLogic, Strategy, autoscaler, certificate_request, cluster_network_policy, config, cron_job, disruption,
    endpoint_slice, event, foreign, ingress, job, lease, limits, namespace, network_policy, node, pod,
    priority, rbac, replication, revision, service, service_cidr, stateful_set, storage, workloads,
};

static NO_LOGIC: NoLogic = NoLogic;

/// The strategy of a kind, given its API group (`""` for the core group).
///
/// Kinds without logic of their own, custom ones among them, get [`NoLogic`].
pub fn strategy(group: &str, kind: &str) -> &'static dyn Strategy {
    match (group, kind) {
        ("", "ConfigMap") => &config::CONFIG_MAP,
        ("", "Endpoints") => &endpoint_slice::ENDPOINTS,
        ("", "Event") => &event::CORE_EVENT,
        ("", "LimitRange") => &limits::LIMIT_RANGE,
        ("", "Namespace") => &namespace::NAMESPACE,
        ("", "Node") => &node::NODE,
        ("", "PersistentVolume") => &storage::PERSISTENT_VOLUME,
        ("", "PersistentVolumeClaim") => &storage::PERSISTENT_VOLUME_CLAIM,
        ("", "Pod") => &pod::POD,
        ("", "PodTemplate") => &replication::POD_TEMPLATE,
        ("", "ReplicationController") => &replication::REPLICATION_CONTROLLER,
        ("", "ResourceQuota") => &limits::RESOURCE_QUOTA,
        ("", "Secret") => &config::SECRET,
        ("", "Service") => &service::SERVICE,
        ("", "ServiceAccount") => &config::SERVICE_ACCOUNT,
        ("apps", "ControllerRevision") => &revision::CONTROLLER_REVISION,
        ("apps", "DaemonSet") => &workloads::DAEMON_SET,
        ("apps", "Deployment") => &workloads::DEPLOYMENT,
        ("apps", "ReplicaSet") => &workloads::REPLICA_SET,
        ("apps", "StatefulSet") => &stateful_set::STATEFUL_SET,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaler::HORIZONTAL_POD_AUTOSCALER,
        ("batch", "CronJob") => &cron_job::CRON_JOB,
        ("batch", "Job") => &job::JOB,
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            &certificate_request::CERTIFICATE_SIGNING_REQUEST
        }
        ("coordination.k8s.io", "Lease") => &lease::LEASE,
        ("discovery.k8s.io", "EndpointSlice") => &endpoint_slice::ENDPOINT_SLICE,
        ("events.k8s.io", "Event") => &event::EVENT,
        ("networking.k8s.io", "IPAddress") => &service_cidr::IP_ADDRESS,
        ("networking.k8s.io", "Ingress") => &ingress::INGRESS,
        ("networking.k8s.io", "IngressClass") => &ingress::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &network_policy::NETWORK_POLICY,
        ("networking.k8s.io", "ServiceCIDR") => &service_cidr::SERVICE_CIDR,
        ("policy", "PodDisruptionBudget") => &disruption::POD_DISRUPTION_BUDGET,
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => {
            &cluster_network_policy::CLUSTER_NETWORK_POLICY
        }
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::CLUSTER_ROLE_BINDING,
        ("rbac.authorization.k8s.io", "Role") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::ROLE_BINDING,
        ("scheduling.k8s.io", "PriorityClass") => &priority::PRIORITY_CLASS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &foreign::ADMISSION_POLICY,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => &foreign::ADMISSION_BINDING,
        ("node.k8s.io", "RuntimeClass") => &foreign::RUNTIME_CLASS,
        ("resource.k8s.io", _) => &foreign::RESOURCES,
        ("storage.k8s.io", "StorageClass") => &storage::STORAGE_CLASS,
        _ => &NO_LOGIC,
    }
}
