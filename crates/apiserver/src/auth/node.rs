//! What a kubelet may do: read what the pods bound to its node refer to, and write what is its node's own (J62). In two
//! parts, as in Kubernetes: by the request alone ([`authorize_node`]), and once the object is known ([`restrict_node`]).

mod graph;
mod references;
mod restriction;

use std::sync::LazyLock;

use dyad_model::rbac::{PolicyRule, RuleTarget};

pub(crate) use graph::Graph;
pub use graph::Thing;
pub(crate) use references::{mirror_fault, of_pod, of_volume, settled};
pub use restriction::restrict_node;

use super::{Decision, ResourceTarget, defaults, grants};

/// What is known of the objects that nodes ask for.
pub trait Surroundings {
    /// Whether pods bound to the node refer to the object, or it is one of them, or attached there.
    fn related(&self, node: &str, thing: Thing, namespace: &str, name: &str) -> bool;
    /// The uid of a Node.
    fn node_uid(&self, name: &str) -> Option<String>;
}

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What nodes may do that does not depend on the object: the rules of the well-known role `system:node`, which nobody
/// needs to be bound to.
static RULES: LazyLock<Vec<PolicyRule>> = LazyLock::new(|| {
    let all = defaults::defaults();
    let role = all.iter().find(|(_, object)| object["metadata"]["name"] == "system:node");
    role.map(|(_, role)| grants::rules(role)).unwrap_or_default()
});

/// Decides by the request, and by what the graph knows of the object's name.
pub(super) fn authorize_node(
    surroundings: &dyn Surroundings,
    user: &str,
    node: &str,
    verb: &str,
    target: &ResourceTarget<'_>,
) -> Decision {
    if node.is_empty() {
        return Decision::Deny(format!("unknown node for user {user:?}"));
    }
    let asked = Asked { surroundings, node, verb, target };
    match (target.group, target.resource) {
        ("", "secrets") => asked.read(Thing::Secret),
        ("", "configmaps") => asked.read(Thing::ConfigMap),
        ("", "persistentvolumeclaims") if target.subresource == "status" => match verb {
            "update" | "patch" => asked.own(Thing::Claim),
            _ => deny("can only get/update/patch this type"),
        },
        ("", "persistentvolumeclaims") => asked.get(Thing::Claim),
        ("", "persistentvolumes") => asked.get(Thing::Volume),
        ("resource.k8s.io", "resourceclaims") => asked.get(Thing::ResourceClaim),
        ("storage.k8s.io", "volumeattachments") => asked.get(Thing::Attachment),
        ("", "serviceaccounts") => asked.account(),
        ("coordination.k8s.io", "leases") => asked.lease(),
        ("storage.k8s.io", "csinodes") => asked.csi_node(),
        ("resource.k8s.io", "resourceslices") => asked.slice(),
        ("", "nodes") => asked.own_node(),
        ("", "pods") => asked.pod(),
        _ => asked.any(),
    }
}

fn deny(reason: &str) -> Decision {
    Decision::Deny(reason.to_owned())
}

struct Asked<'a> {
    surroundings: &'a dyn Surroundings,
    node: &'a str,
    verb: &'a str,
    target: &'a ResourceTarget<'a>,
}

impl Asked<'_> {
    /// An object that the node has to do with.
    fn own(&self, thing: Thing) -> Decision {
        let ResourceTarget { namespace, name, .. } = *self.target;
        if name.is_empty() {
            return deny("No Object name found");
        }
        match self.surroundings.related(self.node, thing, namespace, name) {
            true => Decision::Allow,
            false => {
                Decision::Deny(format!("no relationship found between node '{}' and this object", self.node))
            }
        }
    }

    fn read(&self, thing: Thing) -> Decision {
        match () {
            () if !matches!(self.verb, "get" | "list" | "watch") => {
                deny("can only read resources of this type")
            }
            () if !self.target.subresource.is_empty() => deny("cannot read subresource"),
            () if self.target.namespace.is_empty() => deny("can only read namespaced object of this type"),
            () => self.own(thing),
        }
    }

    fn get(&self, thing: Thing) -> Decision {
        match () {
            () if self.verb != "get" => deny("can only get individual resources of this type"),
            () if !self.target.subresource.is_empty() => deny("cannot get subresource"),
            () => self.own(thing),
        }
    }

    fn account(&self) -> Decision {
        let ResourceTarget { subresource, name, .. } = *self.target;
        match self.verb {
            "get" if subresource.is_empty() => self.read(Thing::Account),
            "create" if name.is_empty() => deny("can only create tokens for individual service accounts"),
            "create" if subresource != "token" => deny("can only create token subresource of serviceaccount"),
            "create" => self.own(Thing::Account),
            _ => deny("can only create tokens for individual service accounts"),
        }
    }

    fn lease(&self) -> Decision {
        let ResourceTarget { namespace, name, .. } = *self.target;
        match self.verb {
            "get" | "create" | "update" | "patch" | "delete" if namespace != LEASE_NAMESPACE => {
                Decision::Deny(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
            }
            "create" => Decision::Allow,
            "get" | "update" | "patch" | "delete" if name == self.node => Decision::Allow,
            "get" | "update" | "patch" | "delete" => {
                deny("can only access node lease with the same name as the requesting node")
            }
            _ => deny("can only get, create, update, patch, or delete a node lease"),
        }
    }

    fn csi_node(&self) -> Decision {
        let ResourceTarget { subresource, name, .. } = *self.target;
        match self.verb {
            "get" | "create" | "update" | "patch" | "delete" if !subresource.is_empty() => {
                deny("cannot authorize CSINode subresources")
            }
            "create" => Decision::Allow,
            "get" | "update" | "patch" | "delete" if name == self.node => Decision::Allow,
            "get" | "update" | "patch" | "delete" => {
                deny("can only access CSINode with the same name as the requesting node")
            }
            _ => deny("can only get, create, update, patch, or delete a CSINode"),
        }
    }

    fn slice(&self) -> Decision {
        if !self.target.subresource.is_empty() {
            return deny("cannot authorize ResourceSlice subresources");
        }
        match self.verb {
            "create" => Decision::Allow,
            "get" | "update" | "patch" | "delete" => self.own(Thing::Slice),
            "watch" | "list" | "deletecollection" if self.target.node == self.node => Decision::Allow,
            "watch" | "list" | "deletecollection" => {
                deny("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => deny(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn own_node(&self) -> Decision {
        let ResourceTarget { subresource, name, .. } = *self.target;
        match (subresource, self.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::Allow,
            ("", "get" | "list" | "watch") if name == self.node => Decision::Allow,
            ("", "get" | "list" | "watch") if name.is_empty() => Decision::Deny(format!(
                "node '{}' cannot read all nodes, only its own Node object",
                self.node
            )),
            ("", "get" | "list" | "watch") => {
                Decision::Deny(format!("node '{}' cannot read '{name}', only its own Node object", self.node))
            }
            _ => Decision::DENY,
        }
    }

    fn pod(&self) -> Decision {
        let ResourceTarget { subresource, name, node, .. } = *self.target;
        match (subresource, self.verb) {
            ("", "get") => self.get(Thing::Pod),
            ("", "list" | "watch") if node == self.node => Decision::Allow,
            ("", "list" | "watch") if !name.is_empty() => self.own(Thing::Pod),
            ("", "list" | "watch") => deny("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Decision::Allow
            }
            _ => Decision::DENY,
        }
    }

    fn any(&self) -> Decision {
        let ResourceTarget { group, resource, subresource, name, .. } = *self.target;
        let target = RuleTarget { group, resource, subresource, name };
        match RULES.iter().any(|rule| rule.allows(self.verb, target)) {
            true => Decision::Allow,
            false => Decision::DENY,
        }
    }
}
