//! Which hop lost a packet, by what else got through.

/// What is known besides the failure itself; `None` where nothing of the kind was tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'a> {
    /// The failed client is a process of the node, not a pod.
    pub(super) from_host: bool,
    /// The node that translates the address asked into that of a pod, if it needs translation.
    pub(super) translated_by: Option<&'a str>,
    /// The target is on another node.
    pub(super) far: bool,
    /// The target is in the cluster.
    pub(super) inside: bool,
    /// A pod reached an address of its own node.
    pub(super) pod_to_node: Option<bool>,
    /// A pod reached the pod behind the target by its own address.
    pub(super) pod_to_pod: Option<bool>,
    /// The node reached that pod.
    pub(super) host_to_pod: Option<bool>,
    /// The node reached the node of that pod.
    pub(super) host_to_node: Option<bool>,
}

/// The hop, in words; `here` is the client's node and `there` the other one.
pub(super) fn lost_at(evidence: &Evidence<'_>, here: &str, there: &str) -> String {
    let direct = if evidence.from_host { evidence.host_to_pod } else { evidence.pod_to_pod };
    if let Some(node) = evidence.translated_by.filter(|_| direct != Some(false)) {
        return format!("the Service rules of {node}: the pod behind the Service answers");
    }
    if !evidence.from_host && evidence.pod_to_node == Some(false) {
        return format!("the pod's link to {here}: the pod does not even reach its node");
    }
    if !evidence.inside {
        return format!("beyond {here}: its default route, its masquerading, or the way back");
    }
    if !evidence.far {
        return format!("the target's link on {here}");
    }
    match (evidence.host_to_node, evidence.host_to_pod) {
        (Some(false), _) => format!("between {here} and {there}: the nodes do not reach each other"),
        (_, Some(true)) if !evidence.from_host => {
            format!("forwarding on {here}: the node itself reaches the pod")
        }
        _ => format!(
            "the route of {here} to the pods of {there}, or the target's link there: the nodes reach each other"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hop_follows_from_what_got_through() {
        let (yes, no) = (Some(true), Some(false));
        #[rustfmt::skip]
        let cases = [
            // from_host, translated_by, far, inside, pod_to_node, pod_to_pod, host_to_pod, host_to_node, says
            (false, Some("a"), true,  true,  yes, yes,  yes,  yes,  "the Service rules of a"),
            (true,  Some("b"), true,  true,  yes, no,   yes,  yes,  "the Service rules of b"),
            (false, Some("a"), false, false, yes, None, None, None, "the Service rules of a"),
            (false, Some("a"), false, true,  no,  no,   yes,  yes,  "the pod's link to a"),
            (false, None,      true,  true,  no,  no,   no,   no,   "the pod's link to a"),
            (false, None,      false, false, yes, None, None, None, "beyond a"),
            (false, None,      false, true,  yes, no,   yes,  yes,  "the target's link on a"),
            (false, None,      true,  true,  yes, no,   yes,  yes,  "forwarding on a"),
            (false, Some("a"), true,  true,  yes, no,   no,   yes,  "the route of a to the pods of b"),
            (true,  Some("a"), true,  true,  yes, no,   no,   yes,  "the route of a to the pods of b"),
            (false, None,      true,  true,  yes, no,   no,   no,   "between a and b"),
        ];
        for (
            from_host,
            translated_by,
            far,
            inside,
            pod_to_node,
            pod_to_pod,
            host_to_pod,
            host_to_node,
            says,
        ) in cases
        {
            let evidence = Evidence {
                from_host,
                translated_by,
                far,
                inside,
                pod_to_node,
                pod_to_pod,
                host_to_pod,
                host_to_node,
            };
            let text = lost_at(&evidence, "a", "b");
            assert!(text.starts_with(says), "{evidence:?}: {text}");
        }
    }
}
