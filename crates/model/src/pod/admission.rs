//! What a cluster's default admission adds to a pod: what its namespace gives containers that ask for nothing, its
//! priority, and tolerations of nodes that went away.

use serde_json::{Value, json};

use crate::{Context, Refusal, limits, priority, wire};

/// How long a pod stays on a node that is not ready or not reachable, in seconds.
const TOLERATION_SECONDS: u32 = 300;

/// Sets requests, limits, priority and tolerations of a new pod.
pub(super) fn on_create(object: &mut Value, cx: &Context<'_>) -> Result<(), Refusal> {
    limits::admit_pod(object, cx)?;
    let spec = wire::child(object, "spec");
    priority::admit(spec, cx)?;
    tolerate(spec);
    match wire::at(spec, &["runtimeClassName"]).as_str() {
        // There are none (the kind is not served).
        Some(class) => Err(Refusal::Forbidden(format!("pod rejected: RuntimeClass {class:?} not found"))),
        None => Ok(()),
    }
}

/// Keeps the priority where the client left it out, and the tolerations.
pub(super) fn on_update(spec: &mut Value, old: &Value) {
    for key in ["priority", "preemptionPolicy"] {
        if !wire::has(spec, key) {
            wire::copy(spec, old, key);
        }
    }
    tolerate(spec);
}

fn tolerate(spec: &mut Value) {
    let mut missing = Vec::new();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = wire::list(spec, "tolerations").iter().any(|toleration| {
            let tolerated = wire::text(toleration, "key");
            (tolerated == key || tolerated.is_empty())
                && matches!(wire::text(toleration, "effect"), "" | "NoExecute")
        });
        if !tolerated {
            missing.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    if !missing.is_empty() {
        let mut tolerations = wire::list(spec, "tolerations").to_vec();
        tolerations.extend(missing);
        wire::set(spec, "tolerations", tolerations);
    }
}
