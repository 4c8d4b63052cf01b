//! What the agent and the kubelet of a node may do: read what the data plane and pods need, write what is their
//! node's own. In two parts, as in Kubernetes: by the request alone ([`authorize_node`]), and once the object is
//! known ([`restrict_node`]).
//!
//! Deviation: Kubernetes lets a kubelet read only its own Node and pods; here one identity also serves the network
//! agent, which needs those of all nodes. Secrets can be read one at a time only, but any of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Attributes, Decision, ResourceTarget, Target, UserInfo};

/// Kinds that nodes get, list and watch.
const READ: [(&str, &str); 13] = [
    ("", "nodes"),
    ("", "pods"),
    ("", "services"),
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "configmaps"),
    ("", "serviceaccounts"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy.networking.k8s.io", "clusternetworkpolicies"),
    ("networking.k8s.io", "servicecidrs"),
    ("networking.k8s.io", "ipaddresses"),
    ("node.k8s.io", "runtimeclasses"),
];

/// Kinds and subresources that nodes write, with the verbs. Whether the object is their own is decided once it is
/// known.
const WRITE: [(&str, &str, &str, &[&str]); 9] = [
    ("", "nodes", "", &["create", "update", "patch"]),
    ("", "nodes", "status", &["update", "patch"]),
    ("", "pods", "", &["delete"]),
    ("", "pods", "status", &["update", "patch"]),
    ("", "serviceaccounts", "token", &["create"]),
    ("", "events", "", &["create", "update", "patch"]),
    ("events.k8s.io", "events", "", &["create", "update", "patch"]),
    // Who asks the kubelet, and may he?
    ("authentication.k8s.io", "tokenreviews", "", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", "", &["create"]),
];

const LEASE_NAMESPACE: &str = "kube-node-lease";

pub(super) fn authorize_node(
    user: &UserInfo,
    node: &str,
    verb: &str,
    target: &ResourceTarget<'_>,
) -> Decision {
    let deny = |reason: &str| Decision::Deny(reason.into());
    if node.is_empty() {
        return Decision::Deny(format!("unknown node for user {:?}", user.name));
    }
    let ResourceTarget { group, resource, subresource, namespace, name } = *target;
    let reads = matches!(verb, "get" | "list" | "watch");
    match (group, resource) {
        ("", "secrets") if !reads => deny("can only read resources of this type"),
        ("", "secrets") if !subresource.is_empty() => deny("cannot read subresource"),
        ("", "secrets") if namespace.is_empty() => deny("can only read namespaced object of this type"),
        ("", "secrets") if name.is_empty() => deny("No Object name found"),
        ("", "secrets") => Decision::Allow,
        ("coordination.k8s.io", "leases") => {
            if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
                deny("can only get, create, update, patch, or delete a node lease")
            } else if namespace != LEASE_NAMESPACE {
                deny(&format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
            } else if verb != "create" && name != node {
                deny("can only access node lease with the same name as the requesting node")
            } else {
                Decision::Allow
            }
        }
        _ if reads && subresource.is_empty() && READ.contains(&(group, resource)) => Decision::Allow,
        _ => {
            let written =
                |&&(g, r, s, _): &&(&str, &str, &str, &[&str])| (g, r, s) == (group, resource, subresource);
            match WRITE.iter().find(written) {
                Some((.., verbs)) if verbs.contains(&verb) => Decision::Allow,
                _ => Decision::DENY,
            }
        }
    }
}

/// Refuses writes of a node to what is another's, or to what of its own must be decided by others. For users that
/// are no nodes, and for kinds without such rules, there is nothing to refuse. `old` is the stored object, `new` the
/// one to be stored (`None` for a deletion).
///
/// # Errors
///
/// Why not, for a 403 about the object.
pub fn restrict_node(
    user: &UserInfo,
    attributes: &Attributes<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), String> {
    let (Some(node), Target::Resource(target)) = (user.node(), attributes.target) else { return Ok(()) };
    if node.is_empty() {
        return Err(format!("could not determine node from user {:?}", user.name));
    }
    let name = match target.name {
        // A creation names its object inside.
        "" => text(new, "/metadata/name"),
        name => name,
    };
    match (target.group, target.resource, target.subresource) {
        ("", "nodes", _) => restrict_own_node(node, name, old, new),
        ("coordination.k8s.io", "leases", "") if target.namespace == LEASE_NAMESPACE && name != node => {
            Err("can only access node lease with the same name as the requesting node".into())
        }
        ("", "pods", "") if text(old, "/spec/nodeName") != node => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        ("", "pods", "status") if text(old, "/spec/nodeName") != node => {
            Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
        }
        ("", "pods", "status") if at(old, "/metadata/labels") != at(new, "/metadata/labels") => {
            Err(format!("node {node:?} cannot update labels through pod status"))
        }
        _ => Ok(()),
    }
}

fn restrict_own_node(node: &str, name: &str, old: Option<&Value>, new: Option<&Value>) -> Result<(), String> {
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let labels: Vec<&str> =
        changed_labels(old, new).into_iter().filter(|label| is_reserved_label(label)).collect();
    match old {
        None if !labels.is_empty() => {
            Err(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", ")))
        }
        None => Ok(()),
        Some(_) => {
            for (field, pointer) in
                [("taints", "/spec/taints"), ("ownerReferences", "/metadata/ownerReferences")]
            {
                if at(old, pointer) != at(new, pointer) {
                    return Err(format!("node {node:?} is not allowed to modify {field}"));
                }
            }
            match labels.as_slice() {
                [] => Ok(()),
                labels => Err(format!("is not allowed to modify labels: {}", labels.join(", "))),
            }
        }
    }
}

/// What stands at a JSON pointer; nothing, null and empty are the same.
fn at<'a>(object: Option<&'a Value>, pointer: &str) -> Option<&'a Value> {
    let empty = |value: &&Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    object?.pointer(pointer).filter(|value| !empty(value))
}

fn text<'a>(object: Option<&'a Value>, pointer: &str) -> &'a str {
    at(object, pointer).and_then(Value::as_str).unwrap_or_default()
}

fn changed_labels<'a>(old: Option<&'a Value>, new: Option<&'a Value>) -> BTreeSet<&'a str> {
    let labels = |object| at(object, "/metadata/labels").and_then(Value::as_object);
    let differs = |key: &str| {
        labels(old).and_then(|labels| labels.get(key)) != labels(new).and_then(|labels| labels.get(key))
    };
    [old, new]
        .into_iter()
        .filter_map(labels)
        .flat_map(|labels| labels.keys())
        .map(String::as_str)
        .filter(|key| differs(key))
        .collect()
}

/// Labels of Kubernetes' own domains that a node may set on itself.
const NODE_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Whether workloads may be steered by this label, so that a node must not set it on itself.
fn is_reserved_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    let reserved = within("kubernetes.io") || within("k8s.io");
    let own = NODE_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    reserved && !own
}
