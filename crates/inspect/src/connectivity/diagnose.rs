//! Which hop lost a packet, by what else got through.

/// What is known besides the failure itself; `None` where nothing of the kind was tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// The failed client is a process of the node, not a pod.
    pub(super) from_host: bool,
    /// It asked a Service, NodePort or the API, not an address of a pod or node.
    pub(super) service: bool,
    /// The target is on another node.
    pub(super) far: bool,
    /// The target is in the cluster.
    pub(super) inside: bool,
    /// A pod reached something on its own node without a Service.
    pub(super) pod_to_here: Option<bool>,
    /// A pod reached the target's place without a Service.
    pub(super) pod_to_target: Option<bool>,
    /// The node reached the target's place without a Service.
    pub(super) host_to_target: Option<bool>,
}

/// The hop, in words; `here` is the client's node and `there` the other one.
pub(super) fn lost_at(evidence: &Evidence, here: &str, there: &str) -> String {
    let direct = if evidence.from_host { evidence.host_to_target } else { evidence.pod_to_target };
    if evidence.service && direct != Some(false) {
        return format!("Service rules of {here}: the target itself answers");
    }
    if !evidence.from_host && evidence.pod_to_here == Some(false) {
        return format!("the pod's link to {here}: the pod reaches nothing");
    }
    if !evidence.inside {
        return format!("beyond {here}: its default route, its masquerading, or the way back");
    }
    match (evidence.far, evidence.from_host, evidence.host_to_target) {
        (true, false, Some(true)) => format!("forwarding on {here}: the node itself reaches {there}"),
        (true, _, Some(false)) => format!("between {here} and {there}, or the target's link on {there}"),
        (false, _, Some(false)) => format!("the target's link on {here}: not even its node reaches it"),
        _ => format!("on {here}"),
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
            // from_host, service, far, inside, pod_to_here, pod_to_target, host_to_target, says
            (false, true,  true,  true,  yes, yes,  yes,  "Service rules of a"),
            (true,  true,  true,  true,  yes, no,   yes,  "Service rules of a"),
            (false, true,  false, true,  no,  no,   yes,  "the pod's link to a"),
            (false, false, true,  true,  no,  no,   no,   "the pod's link to a"),
            (false, false, true,  true,  yes, no,   yes,  "forwarding on a"),
            (false, false, true,  true,  yes, no,   no,   "between a and b"),
            (true,  true,  true,  true,  yes, no,   no,   "between a and b"),
            (true,  false, false, true,  yes, no,   no,   "the target's link on a"),
            (false, false, false, false, yes, no,   None, "beyond a"),
            (false, true,  false, false, yes, None, None, "Service rules of a"),
        ];
        for (from_host, service, far, inside, pod_to_here, pod_to_target, host_to_target, says) in cases {
            let evidence =
                Evidence { from_host, service, far, inside, pod_to_here, pod_to_target, host_to_target };
            let text = lost_at(&evidence, "a", "b");
            assert!(text.starts_with(says), "{evidence:?}: {text}");
        }
    }
}
