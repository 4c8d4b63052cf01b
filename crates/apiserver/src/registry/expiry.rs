//! Events are forgotten an hour after they last happened.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::options::DeleteOptions;
use super::write::Scope;
use super::{Registry, closed};
use crate::auth::UserInfo;

/// How long an Event is kept, as Kubernetes keeps it by default.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(60);

impl Registry {
    /// Deletes old Events until the server shuts down.
    pub(crate) async fn expire_events(self: Arc<Self>) {
        let user = UserInfo::server();
        let mut closing = self.closing.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => self.expire_events_before(Timestamp::now() - KEPT, &user).await,
                () = closed(&mut closing) => return,
            }
        }
    }

    async fn expire_events_before(&self, oldest: Timestamp, user: &UserInfo) {
        let served = self.builtin_served("", "events");
        for stored in served.resource.cache.snapshot("").items {
            if last_seen(&stored.bare()).is_none_or(|seen| seen >= oldest) {
                continue;
            }
            let (namespace, name) = (&*stored.meta.namespace, &*stored.meta.name);
            let scope = Scope { served, namespace, name, subresource: "", user, verb: "delete" };
            let options =
                DeleteOptions { uid: Some(stored.meta.uid.to_string()), ..DeleteOptions::default() };
            if let Err(error) = self.delete(scope, &options).await {
                tracing::debug!(%error, namespace, name, "an old event stays");
            }
        }
    }
}

/// When the event last happened, as far as it says so.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let times = [
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().filter_map(|time| time.as_str()?.parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_as_old_as_its_last_repetition() {
        let event = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "series": {"lastObservedTime": "2026-01-01T02:00:00.000000Z"},
            "lastTimestamp": null,
        });
        assert_eq!(last_seen(&event), Some("2026-01-01T02:00:00Z".parse().unwrap()));
        assert_eq!(last_seen(&json!({})), None);
    }
}
