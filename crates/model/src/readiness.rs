//! Readiness per family: a pod that answers its readiness probes at one of its addresses only is an endpoint of that
//! family for the Services that ask for it. Everybody else goes by the pod's `Ready`, which is that of its first
//! address (B25).

use dyad_net::IpFamily;
use serde_json::Value;

use crate::wire;

/// With the value `true`, a Service's endpoints are ready in each family by what pods say of that family.
pub const ANNOTATION: &str = "dyad.io/readiness-per-family";

/// The condition in which a pod says that it is ready in a family; there only while its families differ.
pub fn condition(family: IpFamily) -> String {
    format!("dyad.io/Ready{family}")
}

/// Whether a Service asks for it.
pub(crate) fn is_wanted(service: &Value) -> bool {
    wire::text(wire::at(service, &["metadata", "annotations"]), ANNOTATION) == "true"
}

/// Whether a pod is ready at its addresses of a family, as far as the Service cares.
pub(crate) fn is_ready(service: &Value, pod: &Value, family: IpFamily) -> bool {
    let own = is_wanted(service).then(|| is_true(pod, &condition(family))).flatten();
    own.or_else(|| is_true(pod, "Ready")).unwrap_or_default()
}

/// What a condition of a pod says; nothing if it has none of that type.
fn is_true(pod: &Value, kind: &str) -> Option<bool> {
    let conditions = wire::list(wire::at(pod, &["status"]), "conditions");
    let found = conditions.iter().find(|condition| wire::text(condition, "type") == kind)?;
    Some(wire::text(found, "status") == "True")
}
