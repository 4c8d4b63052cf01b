//! The kinds of objects that an installation has.

use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) is_namespaced: bool,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    is_namespaced: bool,
) -> Kind {
    Kind { group, version, kind, plural, is_namespaced }
}

pub(crate) const NAMESPACE: Kind = kind("", "v1", "Namespace", "namespaces", false);
pub(crate) const NODE: Kind = kind("", "v1", "Node", "nodes", false);
pub(crate) const POD: Kind = kind("", "v1", "Pod", "pods", true);
pub(crate) const EVENT: Kind = kind("", "v1", "Event", "events", true);
pub(crate) const LEASE: Kind = kind("coordination.k8s.io", "v1", "Lease", "leases", true);
pub(crate) const ENDPOINT_SLICE: Kind =
    kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true);
pub(crate) const SERVICE_CIDR: Kind = kind("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", false);
pub(crate) const IP_ADDRESS: Kind = kind("networking.k8s.io", "v1", "IPAddress", "ipaddresses", false);
pub(crate) const NETWORK_POLICY: Kind =
    kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", true);
pub(crate) const CLUSTER_NETWORK_POLICY: Kind =
    kind("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", false);
pub(crate) const CONFIG_MAP: Kind = kind("", "v1", "ConfigMap", "configmaps", true);
pub(crate) const SERVICE_ACCOUNT: Kind = kind("", "v1", "ServiceAccount", "serviceaccounts", true);
pub(crate) const SERVICE: Kind = kind("", "v1", "Service", "services", true);
pub(crate) const DAEMON_SET: Kind = kind("apps", "v1", "DaemonSet", "daemonsets", true);
pub(crate) const DEPLOYMENT: Kind = kind("apps", "v1", "Deployment", "deployments", true);
pub(crate) const ACCESS_REVIEW: Kind =
    kind("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", false);
pub(crate) const CRD: Kind =
    kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false);
const RBAC: &str = "rbac.authorization.k8s.io";

/// All, in the order in which they are applied: what others need comes first, what runs comes last.
pub(crate) const ALL: [Kind; 11] = [
    NAMESPACE,
    CRD,
    SERVICE_ACCOUNT,
    kind(RBAC, "v1", "ClusterRole", "clusterroles", false),
    kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", false),
    kind(RBAC, "v1", "Role", "roles", true),
    kind(RBAC, "v1", "RoleBinding", "rolebindings", true),
    CONFIG_MAP,
    SERVICE,
    DEPLOYMENT,
    DAEMON_SET,
];

impl Kind {
    /// That of an object.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        ALL.into_iter()
            .find(|kind| object["kind"] == kind.kind && object["apiVersion"] == kind.api_version().as_str())
    }

    /// As objects write it.
    pub(crate) fn api_version(self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Its objects, in `namespace` if they are in namespaces.
    pub(crate) fn api(self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let resource = self.resource();
        match self.is_namespaced {
            true => Api::namespaced_with(client.clone(), namespace, &resource),
            false => Api::all_with(client.clone(), &resource),
        }
    }

    /// All its objects.
    pub(crate) fn all(self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource())
    }

    fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.into(),
            version: self.version.into(),
            api_version: self.api_version(),
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }
}
