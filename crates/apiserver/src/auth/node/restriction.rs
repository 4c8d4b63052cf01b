//! NodeRestriction: what nodes may not do to an object, once it is known (J62, J64).

use std::collections::BTreeSet;

use serde_json::Value;

use super::references::of_mirror;
use super::{LEASE_NAMESPACE, Surroundings};
use crate::auth::{Attributes, Target, UserInfo};
use crate::pki::request_name;

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Signers of certificates by which nodes are known.
const NODE_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

/// Refuses writes of a node to what is another's, or to what of its own must be decided by others. For users that
/// are no nodes, and for kinds without such rules, there is nothing to refuse. `old` is the stored object, `new` the
/// one to be stored (`None` for a deletion).
///
/// # Errors
///
/// Why not, for a 403 about the object.
pub fn restrict_node(
    user: &UserInfo,
    surroundings: &dyn Surroundings,
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
    let own_name = |what: &str| match name == node {
        true => Ok(()),
        false => Err(format!("can only access {what} with the same name as the requesting node")),
    };
    match (target.group, target.resource, target.subresource) {
        ("", "nodes", _) => restrict_own_node(node, name, old, new),
        ("", "pods", part) => restrict_pod(node, surroundings, part, old, new),
        ("", "persistentvolumeclaims", "status") => restrict_claim(node, old, new),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
        ("coordination.k8s.io", "leases", _) if target.namespace != LEASE_NAMESPACE => {
            Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"))
        }
        ("coordination.k8s.io", "leases", _) => own_name("node lease"),
        ("storage.k8s.io", "csinodes", _) => own_name("CSINode"),
        ("resource.k8s.io", "resourceslices", _) => restrict_slice(node, old, new),
        ("certificates.k8s.io", "certificatesigningrequests", "") if old.is_none() => {
            restrict_request(node, new)
        }
        _ => Ok(()),
    }
}

fn restrict_pod(
    node: &str,
    surroundings: &dyn Surroundings,
    part: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), String> {
    let elsewhere = text(old, "/spec/nodeName") != node;
    match (part, old, new) {
        ("", None, Some(pod)) => restrict_mirror(node, surroundings, pod),
        ("", Some(_), None) if elsewhere => {
            Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
        }
        ("", _, None) => Ok(()),
        ("", _, _) => Err(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
        ("status", _, _) if elsewhere => {
            Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
        }
        ("status", _, _) => {
            for (pointer, what) in [
                ("/metadata/labels", "labels through pod status"),
                ("/status/resourceClaimStatuses", "resource claim statues"),
                ("/status/extendedResourceClaimStatus", "extended resource claim status"),
            ] {
                if at(old, pointer) != at(new, pointer) {
                    return Err(format!("node {node:?} cannot update {what}"));
                }
            }
            Ok(())
        }
        ("eviction", _, _) if elsewhere => {
            Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
        }
        ("eviction", _, _) => Ok(()),
        (part, ..) => {
            Err(format!("unexpected pod subresource {part:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

/// A node makes pods only to show what it runs by itself, and those refer to nothing but the node.
fn restrict_mirror(node: &str, surroundings: &dyn Surroundings, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    let own = |what: &str| Err(format!("node {node:?} can only create pods with {what} set to itself"));
    if text(Some(pod), "/spec/nodeName") != node {
        return own("spec.nodeName");
    }
    let owner = match pod["metadata"]["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice) {
        [] => return own("an owner reference"),
        [owner] => owner,
        _ => return own("a single owner reference"),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return own("an owner reference");
    }
    if owner["controller"] != true {
        return own("a controller owner reference");
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let (given, uid) = (text(Some(owner), "/uid"), surroundings.node_uid(node).unwrap_or_default());
    if given != uid {
        return Err(format!("node {node} UID mismatch: expected {given} got {uid}"));
    }
    match of_mirror(pod) {
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// A node tells of its own devices; of a change the authorizer has seen whose they are.
fn restrict_slice(node: &str, old: Option<&Value>, new: Option<&Value>) -> Result<(), String> {
    let (what, whose) = match (old, new) {
        (None, Some(_)) => ("create", new),
        (Some(_), None) => ("delete", old),
        _ => return Ok(()),
    };
    match text(whose, "/spec/nodeName") == node {
        true => Ok(()),
        false => Err(format!("can only {what} ResourceSlice with the same NodeName as the requesting node")),
    }
}

fn restrict_claim(node: &str, old: Option<&Value>, new: Option<&Value>) -> Result<(), String> {
    let rest = |object: Option<&Value>| {
        let mut object = object.cloned().unwrap_or_default();
        for (of, keys) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"]),
        ] {
            if let Some(map) = object[of].as_object_mut() {
                keys.iter().for_each(|key| _ = map.remove(*key));
            }
        }
        object
    };
    match rest(old) == rest(new) {
        true => Ok(()),
        false => Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )),
    }
}

/// A node asks for certificates in its own name only.
fn restrict_request(node: &str, new: Option<&Value>) -> Result<(), String> {
    if !NODE_SIGNERS.contains(&text(new, "/spec/signerName")) {
        return Ok(());
    }
    let name =
        request_name(text(new, "/spec/request")).map_err(|why| format!("unable to parse csr: {why}"))?;
    match name == format!("system:node:{node}") {
        true => Ok(()),
        false => Err(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

fn restrict_own_node(node: &str, name: &str, old: Option<&Value>, new: Option<&Value>) -> Result<(), String> {
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if new.is_none() {
        return Ok(());
    }
    let labels: Vec<&str> =
        changed_labels(old, new).into_iter().filter(|label| is_reserved_label(label)).collect();
    let source = "/spec/configSource";
    match old {
        None if at(new, source).is_some() => {
            Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"))
        }
        None if !labels.is_empty() => {
            Err(format!("node {node:?} is not allowed to set the following labels: {}", labels.join(", ")))
        }
        None => Ok(()),
        Some(_) => {
            if at(new, source).is_some() && at(old, source) != at(new, source) {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
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
    reserved && !own || within("node-restriction.kubernetes.io")
}
