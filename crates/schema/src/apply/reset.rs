//! What writers of an endpoint do not come to own, because the endpoint does not change it (J45).

use super::set::Set;

/// What is not owned.
#[derive(Clone, Debug, Default)]
pub enum Reset {
    /// All is owned.
    #[default]
    Nothing,
    /// These paths, and what is below them.
    Paths(Set),
    /// All but what these paths lead to; an empty name is any step.
    AllBut(&'static [&'static [&'static str]]),
}

impl Reset {
    pub(super) fn filter(&self, set: Set) -> Set {
        match self {
            Self::Nothing => set,
            Self::Paths(paths) => set.difference_below(paths),
            Self::AllBut(patterns) => set.matching(patterns),
        }
    }

    /// What the endpoint of a kind of the table leaves as it is.
    pub fn of(group: &str, kind: &str, subresource: &str) -> Self {
        let paths: &[&[&str]] = match (group, kind, subresource) {
            ("", "Pod", "ephemeralcontainers") => return Self::AllBut(&[&["spec", "ephemeralContainers"]]),
            ("", "Pod", "resize") => {
                return Self::AllBut(&[
                    &["spec", "containers", "", "resources"],
                    &["spec", "containers", "", "resizePolicy"],
                    &["spec", "initContainers", "", "resources"],
                    &["spec", "initContainers", "", "resizePolicy"],
                ]);
            }
            ("", "Pod", "status") => {
                &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]
            }
            ("certificates.k8s.io", "CertificateSigningRequest", "approval") => {
                &[&["spec"], &["status", "certificate"]]
            }
            ("certificates.k8s.io", "CertificateSigningRequest", "status") => {
                &[&["spec"], &["status", "conditions"]]
            }
            ("apps", "Deployment", "status") => &[&["spec"], &["metadata", "labels"]],
            ("networking.k8s.io", "ServiceCIDR", "status") => &[&["spec"], &["metadata"]],
            ("", "Namespace", "finalize") => &[&["status"]],
            (_, _, "status") => &[&["spec"]],
            (
                "",
                "Namespace"
                | "Node"
                | "Pod"
                | "Service"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "ReplicationController"
                | "ResourceQuota",
                "",
            )
            | ("apps", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet", "")
            | ("autoscaling", "HorizontalPodAutoscaler", "")
            | ("batch", "CronJob" | "Job", "")
            | ("networking.k8s.io", "Ingress" | "ServiceCIDR", "")
            | ("policy", "PodDisruptionBudget", "")
            | ("policy.networking.k8s.io", "ClusterNetworkPolicy", "")
            | ("storage.k8s.io", "VolumeAttachment", "") => &[&["status"]],
            ("certificates.k8s.io", "CertificateSigningRequest", "") => &[&["spec"], &["status"]],
            _ => return Self::Nothing,
        };
        Self::Paths(Set::of(paths))
    }
}
