//! Tells the API a pod's status: the newest one, as often as it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use dyad_model::readiness;
use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{debug, warn};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Publishes in the background; what is overtaken before it is sent is never sent.
pub(super) struct Publisher {
    wanted: watch::Sender<Option<PodStatus>>,
    done: watch::Receiver<Option<PodStatus>>,
}

impl Publisher {
    /// For one pod.
    pub(super) fn new(client: Client, pod: &Pod) -> Self {
        let (wanted, newest) = watch::channel(None);
        let (sent, done) = watch::channel(None);
        let meta = &pod.metadata;
        let api = Api::namespaced(client, meta.namespace.as_deref().unwrap_or_default());
        let (name, uid) = (meta.name.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
        let known = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let said = Said(families_of(known));
        tokio::spawn(publish_all(api, name, uid, said, newest, sent));
        Self { wanted, done }
    }

    /// What is to be known of the pod.
    pub(super) fn publish(&self, status: PodStatus) {
        self.wanted.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&status);
            if changed {
                *known = Some(status);
            }
            changed
        });
    }

    /// Tells it once more, as somebody else wrote over it. What waits to be sent is sent anyway.
    pub(super) fn repeat(&self) {
        self.wanted.send_if_modified(|known| known.is_some() && *self.done.borrow() == *known);
    }

    /// What was given to [`publish`](Self::publish) last.
    pub(super) fn last(&self) -> Option<PodStatus> {
        self.wanted.borrow().clone()
    }

    /// Waits until the API knows it, or the pod is gone there.
    pub(super) async fn flush(&mut self) {
        let wanted = self.last();
        // Its task ends only when the pod is gone.
        let _ = self.done.wait_for(|done| *done == wanted).await;
    }
}

/// Ends when the publisher does, or the pod.
async fn publish_all(
    api: Api<Pod>,
    name: String,
    uid: String,
    mut said: Said,
    mut newest: watch::Receiver<Option<PodStatus>>,
    sent: watch::Sender<Option<PodStatus>>,
) {
    let mut wait = RETRY_FIRST;
    while newest.changed().await.is_ok() {
        loop {
            let Some(status) = newest.borrow_and_update().clone() else { break };
            let change = Patch::Strategic(patch(&uid, &status, &said));
            // Whether it arrived or not: what may be there has to go one day.
            said.0.extend(families_of(status.conditions.iter().flatten()));
            match api.patch_status(&name, &PatchParams::default(), &change).await {
                Ok(_) => {
                    wait = RETRY_FIRST;
                    sent.send_replace(Some(status));
                    break;
                }
                // Deleted, or another pod of the same name by now.
                Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => {
                    debug!(pod = %name, "the pod whose status was to be reported is gone");
                    return;
                }
                Err(error) => {
                    warn!(pod = %name, %error, "reporting a pod's status");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        }
    }
}

/// The conditions about families that the API may have: they are taken back when families do not differ any more.
#[derive(Default)]
struct Said(BTreeSet<String>);

fn families_of<'a>(conditions: impl Iterator<Item = &'a PodCondition>) -> BTreeSet<String> {
    let ours = IpFamily::BOTH.map(readiness::condition);
    conditions.map(|condition| condition.type_.clone()).filter(|kind| ours.contains(kind)).collect()
}

/// The strategic merge patch of a status. Conditions are merged by type, so that those of others stay; addresses are
/// keyed by themselves and therefore replaced as a whole (B6). The uid makes it fail on another pod of that name.
fn patch(uid: &str, status: &PodStatus, said: &Said) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for list in ["podIPs", "hostIPs"] {
        if let Some(Value::Array(items)) = value.get_mut(list) {
            items.push(json!({"$patch": "replace"}));
        }
    }
    // What is not said any more is to go.
    let conditions = value.get_mut("conditions").and_then(Value::as_array_mut);
    if let Some(conditions) = conditions {
        conditions.iter_mut().for_each(forget_reason);
        let now = families_of(status.conditions.iter().flatten());
        let gone = said.0.difference(&now).map(|kind| json!({"type": kind, "$patch": "delete"}));
        conditions.extend(gone);
    }
    forget_reason(&mut value);
    json!({"metadata": {"uid": uid}, "status": value})
}

fn forget_reason(value: &mut Value) {
    for field in ["reason", "message"] {
        if value.get(field).is_none() {
            value[field] = Value::Null;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodIP;

    use super::*;

    #[test]
    fn b6_addresses_are_replaced_and_old_reasons_go() {
        let ips = ["fd00::5", "10.0.0.5"].map(|ip| PodIP { ip: ip.into() }).to_vec();
        let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..PodCondition::default() };
        let status = PodStatus {
            pod_ips: Some(ips),
            phase: Some("Running".into()),
            conditions: Some(vec![ready]),
            ..PodStatus::default()
        };
        assert_eq!(
            patch("u", &status, &Said::default()),
            json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "reason": null, "message": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
                "podIPs": [{"ip": "fd00::5"}, {"ip": "10.0.0.5"}, {"$patch": "replace"}],
            }})
        );
    }
    #[test]
    fn what_was_said_of_families_is_taken_back() {
        let condition = |kind: &str| PodCondition {
            type_: kind.into(),
            status: "True".into(),
            ..PodCondition::default()
        };
        let differs = ["Ready", "dyad.io/ReadyIPv4", "dyad.io/ReadyIPv6", "example.org/mine"].map(condition);
        let said = Said(families_of(differs.iter()));
        let status = |kinds: &[&str]| PodStatus {
            conditions: Some(kinds.iter().map(|kind| condition(kind)).collect()),
            ..PodStatus::default()
        };
        let gone = |kinds: &[&str]| -> Vec<Value> {
            let value = patch("u", &status(kinds), &said);
            let list = value["status"]["conditions"].as_array().unwrap();
            list.iter().filter(|one| one["$patch"] == "delete").map(|one| one["type"].clone()).collect()
        };
        assert_eq!(gone(&["Ready"]), ["dyad.io/ReadyIPv4", "dyad.io/ReadyIPv6"]);
        assert_eq!(gone(&["Ready", "dyad.io/ReadyIPv4", "dyad.io/ReadyIPv6"]), [Value::Null; 0]);
    }
}
