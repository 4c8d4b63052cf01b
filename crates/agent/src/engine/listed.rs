//! What is missing from a new list has gone.

use std::collections::BTreeSet;

use dyad_program::Name;

use super::Engine;
use crate::objects::Pod;
use crate::watch::Kind;

impl Engine {
    /// Forgets all objects of a kind that are not among the listed ones.
    pub(super) fn forget_others(&mut self, kind: Kind, listed: &BTreeSet<Name>) {
        if kind == Kind::Pods {
            self.pods.listed(listed);
        }
        let policies = self.compiler.policies();
        let known: Vec<Name> = match kind {
            Kind::Services => self.compiler.service_names().cloned().collect(),
            Kind::Slices => self.compiler.slice_names().cloned().collect(),
            Kind::Nodes => self.nodes.keys().cloned().collect(),
            Kind::Pods => policies.pod_names().cloned().collect(),
            Kind::Namespaces => policies.namespace_names().map(|name| Name::new("", name)).collect(),
            Kind::NetworkPolicies => policies.network_policy_names().cloned().collect(),
            Kind::ClusterPolicies => policies.cluster_policy_names().cloned().collect(),
            Kind::ServiceRanges => self.service_ranges.keys().cloned().collect(),
        };
        for name in known.into_iter().filter(|name| !listed.contains(name)) {
            match kind {
                Kind::Services => self.compiler.set_service(name, None),
                Kind::Slices => self.compiler.set_slice(name, None),
                Kind::Nodes => self.set_node(name, None),
                // One that has only just started may be newer than the listing.
                Kind::Pods if self.pods.is_arriving(&name) => {}
                Kind::Pods => {
                    self.set_pod(name, Pod { uid: String::new(), pod: None, is_plain: false });
                }
                Kind::Namespaces => self.compiler.set_namespace(name.name(), None),
                Kind::NetworkPolicies => self.compiler.set_network_policy(name, None),
                Kind::ClusterPolicies => self.compiler.set_cluster_policy(name, None),
                Kind::ServiceRanges => self.set_service_range(name, None),
            }
        }
    }
}
