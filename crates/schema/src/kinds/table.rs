//! The rows, as Kubernetes 1.36 and, for what is a custom resource there, its authors name them.

use super::event::EVENTS_VIEW;
use super::{Kind, Subresource, Verbs};
use crate::columns::{cluster, event, foreign, limits, network, pod, storage, workload};

const READ_WRITE: Verbs = &["get", "patch", "update"];

const PROXIED: Verbs = &["create", "delete", "get", "patch", "update"];

const fn own(name: &'static str, verbs: Verbs) -> Subresource {
    Subresource { name, group_version: None, kind: None, verbs }
}

const fn of_kind(name: &'static str, kind: &'static str, verbs: Verbs) -> Subresource {
    Subresource { name, group_version: None, kind: Some(kind), verbs }
}

const STATUS: Subresource = own("status", READ_WRITE);
const SCALE: Subresource = Subresource {
    name: "scale",
    group_version: Some(("autoscaling", "v1")),
    kind: Some("Scale"),
    verbs: READ_WRITE,
};
const EVICTION: Subresource = Subresource {
    name: "eviction",
    group_version: Some(("policy", "v1")),
    kind: Some("Eviction"),
    verbs: &["create"],
};

const TOKEN: Subresource = Subresource {
    name: "token",
    group_version: Some((AUTHENTICATION, "v1")),
    kind: Some("TokenRequest"),
    verbs: &["create"],
};

const ADMISSION: &str = "admissionregistration.k8s.io";
const APPS: &str = "apps";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const BATCH: &str = "batch";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

pub(super) static KINDS: &[Kind] = &[
    Kind::namespaced("", "ConfigMap", "configmaps", "configmap", cluster::CONFIG_MAP).short(&["cm"]),
    Kind::namespaced("", "Endpoints", "endpoints", "endpoints", network::ENDPOINTS).short(&["ep"]),
    Kind::namespaced("", "Event", "events", "event", event::EVENT).short(&["ev"]),
    Kind::namespaced("", "LimitRange", "limitranges", "limitrange", limits::LIMIT_RANGE).short(&["limits"]),
    Kind::cluster("", "Namespace", "namespaces", "namespace", cluster::NAMESPACE)
        .short(&["ns"])
        .verbs(&["create", "delete", "get", "list", "patch", "update", "watch"])
        .below(&[own("finalize", &["update"]), STATUS])
        .returned_when_deleted(),
    Kind::cluster("", "Node", "nodes", "node", cluster::NODE)
        .short(&["no"])
        .below(&[of_kind("proxy", "NodeProxyOptions", PROXIED), STATUS]),
    Kind::namespaced(
        "",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        storage::CLAIM,
    )
    .short(&["pvc"])
    .below(&[STATUS])
    .returned_when_deleted(),
    Kind::cluster(
        "",
        "PersistentVolume",
        "persistentvolumes",
        "persistentvolume",
        storage::PERSISTENT_VOLUME,
    )
    .short(&["pv"])
    .below(&[STATUS])
    .returned_when_deleted(),
    Kind::namespaced("", "Pod", "pods", "pod", pod::POD)
        .short(&["po"])
        .in_all()
        .below(&[
            of_kind("attach", "PodAttachOptions", &["create", "get"]),
            of_kind("binding", "Binding", &["create"]),
            own("ephemeralcontainers", READ_WRITE),
            EVICTION,
            of_kind("exec", "PodExecOptions", &["create", "get"]),
            own("log", &["get"]),
            of_kind("portforward", "PodPortForwardOptions", &["create", "get"]),
            of_kind("proxy", "PodProxyOptions", PROXIED),
            STATUS,
        ])
        .returned_when_deleted(),
    Kind::namespaced("", "PodTemplate", "podtemplates", "podtemplate", workload::POD_TEMPLATE)
        .returned_when_deleted(),
    Kind::namespaced(
        "",
        "ReplicationController",
        "replicationcontrollers",
        "replicationcontroller",
        workload::REPLICATION_CONTROLLER,
    )
    .short(&["rc"])
    .in_all()
    .below(&[SCALE, STATUS]),
    Kind::namespaced("", "ResourceQuota", "resourcequotas", "resourcequota", limits::RESOURCE_QUOTA)
        .short(&["quota"])
        .below(&[STATUS])
        .returned_when_deleted(),
    Kind::namespaced("", "Secret", "secrets", "secret", cluster::SECRET),
    Kind::namespaced("", "ServiceAccount", "serviceaccounts", "serviceaccount", cluster::NAMED)
        .short(&["sa"])
        .below(&[TOKEN])
        .returned_when_deleted(),
    Kind::namespaced("", "Service", "services", "service", network::SERVICE)
        .short(&["svc"])
        .in_all()
        .below(&[of_kind("proxy", "ServiceProxyOptions", PROXIED), STATUS])
        .returned_when_deleted(),
    Kind::namespaced(
        APPS,
        "ControllerRevision",
        "controllerrevisions",
        "controllerrevision",
        workload::CONTROLLER_REVISION,
    ),
    Kind::namespaced(APPS, "DaemonSet", "daemonsets", "daemonset", workload::DAEMON_SET)
        .short(&["ds"])
        .in_all()
        .below(&[STATUS]),
    Kind::namespaced(APPS, "Deployment", "deployments", "deployment", workload::DEPLOYMENT)
        .short(&["deploy"])
        .in_all()
        .below(&[SCALE, STATUS]),
    Kind::namespaced(APPS, "ReplicaSet", "replicasets", "replicaset", workload::REPLICA_SET)
        .short(&["rs"])
        .in_all()
        .below(&[SCALE, STATUS]),
    Kind::namespaced(APPS, "StatefulSet", "statefulsets", "statefulset", workload::STATEFUL_SET)
        .short(&["sts"])
        .in_all()
        .below(&[SCALE, STATUS]),
    Kind::namespaced("events.k8s.io", "Event", "events", "event", event::EVENT)
        .short(&["ev"])
        .view_of_another(&EVENTS_VIEW),
    Kind::cluster(
        AUTHENTICATION,
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        cluster::NAMED,
    )
    .review(),
    Kind::cluster(AUTHENTICATION, "TokenReview", "tokenreviews", "tokenreview", cluster::NAMED).review(),
    Kind::namespaced(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        cluster::NAMED,
    )
    .review(),
    Kind::cluster(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        cluster::NAMED,
    )
    .review(),
    Kind::cluster(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        cluster::NAMED,
    )
    .review(),
    Kind::cluster(
        AUTHORIZATION,
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
        cluster::NAMED,
    )
    .review(),
    Kind::namespaced(
        "autoscaling",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "horizontalpodautoscaler",
        limits::AUTOSCALER,
    )
    .version("v2")
    .short(&["hpa"])
    .in_all()
    .below(&[STATUS]),
    Kind::namespaced(BATCH, "CronJob", "cronjobs", "cronjob", workload::CRON_JOB)
        .short(&["cj"])
        .in_all()
        .below(&[STATUS]),
    Kind::namespaced(BATCH, "Job", "jobs", "job", workload::JOB).in_all().below(&[STATUS]),
    Kind::cluster(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificatesigningrequest",
        cluster::CERTIFICATE_SIGNING_REQUEST,
    )
    .short(&["csr"])
    .below(&[own("approval", READ_WRITE), STATUS]),
    Kind::cluster(NETWORKING, "IngressClass", "ingressclasses", "ingressclass", network::INGRESS_CLASS),
    Kind::namespaced(NETWORKING, "Ingress", "ingresses", "ingress", network::INGRESS)
        .short(&["ing"])
        .below(&[STATUS]),
    Kind::cluster(NETWORKING, "IPAddress", "ipaddresses", "ipaddress", network::IP_ADDRESS).short(&["ip"]),
    Kind::namespaced(
        NETWORKING,
        "NetworkPolicy",
        "networkpolicies",
        "networkpolicy",
        network::NETWORK_POLICY,
    )
    .short(&["netpol"]),
    Kind::cluster(NETWORKING, "ServiceCIDR", "servicecidrs", "servicecidr", network::SERVICE_CIDR)
        .below(&[STATUS]),
    Kind::namespaced(
        "policy",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        workload::DISRUPTION_BUDGET,
    )
    .short(&["pdb"])
    .below(&[STATUS]),
    Kind::cluster(
        "policy.networking.k8s.io",
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        "clusternetworkpolicy",
        network::CLUSTER_NETWORK_POLICY,
    )
    .version("v1alpha2")
    .short(&["cnp"])
    .below(&[STATUS]),
    Kind::cluster(
        RBAC,
        "ClusterRoleBinding",
        "clusterrolebindings",
        "clusterrolebinding",
        cluster::ROLE_BINDING,
    ),
    Kind::cluster(RBAC, "ClusterRole", "clusterroles", "clusterrole", cluster::ROLE),
    Kind::namespaced(RBAC, "RoleBinding", "rolebindings", "rolebinding", cluster::ROLE_BINDING),
    Kind::namespaced(RBAC, "Role", "roles", "role", cluster::ROLE),
    Kind::cluster(STORAGE, "CSIDriver", "csidrivers", "csidriver", storage::CSI_DRIVER)
        .returned_when_deleted(),
    Kind::cluster(STORAGE, "CSINode", "csinodes", "csinode", storage::CSI_NODE).returned_when_deleted(),
    Kind::cluster(STORAGE, "StorageClass", "storageclasses", "storageclass", storage::STORAGE_CLASS)
        .short(&["sc"])
        .returned_when_deleted(),
    Kind::cluster(
        STORAGE,
        "VolumeAttachment",
        "volumeattachments",
        "volumeattachment",
        storage::VOLUME_ATTACHMENT,
    )
    .below(&[STATUS])
    .returned_when_deleted(),
    Kind::cluster(
        STORAGE,
        "VolumeAttributesClass",
        "volumeattributesclasses",
        "volumeattributesclass",
        foreign::ATTRIBUTES_CLASS,
    )
    .short(&["vac"])
    .returned_when_deleted(),
    Kind::namespaced(
        STORAGE,
        "CSIStorageCapacity",
        "csistoragecapacities",
        "csistoragecapacity",
        foreign::STORAGE_CAPACITY,
    ),
    Kind::cluster(
        ADMISSION,
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "validatingadmissionpolicy",
        foreign::ADMISSION_POLICY,
    )
    .in_category(&["api-extensions"])
    .below(&[STATUS]),
    Kind::cluster(
        ADMISSION,
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "validatingadmissionpolicybinding",
        foreign::ADMISSION_BINDING,
    )
    .in_category(&["api-extensions"]),
    Kind::cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "customresourcedefinition",
        cluster::CUSTOM_RESOURCE_DEFINITION,
    )
    .short(&["crd", "crds"])
    .in_category(&["api-extensions"])
    .below(&[STATUS]),
    Kind::cluster(
        "scheduling.k8s.io",
        "PriorityClass",
        "priorityclasses",
        "priorityclass",
        limits::PRIORITY_CLASS,
    )
    .short(&["pc"]),
    Kind::namespaced("coordination.k8s.io", "Lease", "leases", "lease", cluster::LEASE),
    Kind::cluster("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclass", foreign::RUNTIME_CLASS),
    Kind::namespaced(
        "discovery.k8s.io",
        "EndpointSlice",
        "endpointslices",
        "endpointslice",
        network::ENDPOINT_SLICE,
    ),
    Kind::cluster(RESOURCE, "DeviceClass", "deviceclasses", "deviceclass", foreign::NAMED)
        .returned_when_deleted(),
    Kind::namespaced(RESOURCE, "ResourceClaim", "resourceclaims", "resourceclaim", foreign::RESOURCE_CLAIM)
        .below(&[STATUS])
        .returned_when_deleted(),
    Kind::namespaced(
        RESOURCE,
        "ResourceClaimTemplate",
        "resourceclaimtemplates",
        "resourceclaimtemplate",
        foreign::NAMED,
    )
    .returned_when_deleted(),
    Kind::cluster(RESOURCE, "ResourceSlice", "resourceslices", "resourceslice", foreign::RESOURCE_SLICE)
        .returned_when_deleted(),
];
