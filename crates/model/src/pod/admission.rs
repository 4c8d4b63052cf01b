//! What a cluster's default admission adds to a pod: its priority, and tolerations of nodes that went away.

use serde_json::{Value, json};

use crate::{Refusal, wire};

/// How long a pod stays on a node that is not ready or not reachable, in seconds.
const TOLERATION_SECONDS: u32 = 300;

const POLICY: &str = "PreemptLowerPriority";

/// Sets priority and tolerations of a new pod.
pub(super) fn on_create(object: &mut Value) -> Result<(), Refusal> {
    let forbidden = Refusal::Forbidden;
    let spec = wire::child(object, "spec");
    let class = wire::text(spec, "priorityClassName");
    let priority: i64 = match class {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        class => return Err(forbidden(format!("no PriorityClass with name {class} was found"))),
    };
    if let Some(given) = wire::int(spec, "priority").filter(|given| *given != priority) {
        return Err(forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    let policy = wire::text(spec, "preemptionPolicy");
    if !matches!(policy, "" | POLICY) {
        return Err(forbidden(format!(
            "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission \
             controller computed {POLICY} from the given PriorityClass name"
        )));
    }
    wire::set(spec, "priority", priority);
    wire::set(spec, "preemptionPolicy", POLICY);
    tolerate(spec);
    match wire::at(spec, &["runtimeClassName"]).as_str() {
        // There are none (the kind is not served).
        Some(class) => Err(forbidden(format!("pod rejected: RuntimeClass {class:?} not found"))),
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
