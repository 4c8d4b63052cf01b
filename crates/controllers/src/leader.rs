//! Leader election by a Lease, as client-go's clients do it (coordination.k8s.io/v1).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use tracing::{debug, warn};

/// Where a Lease is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The Lease of the controllers of a cluster that is ours.
pub(crate) const CONTROLLERS: Place<'static> = Place { namespace: "kube-system", name: "dyad-controllers" };
/// A holder that is silent for this long has lost it.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long stops by itself, well before others may take over.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two renewals. More often than a second time before the deadline is but work for the disk.
const RENEWAL: Duration = Duration::from_secs(5);
/// Between a renewal that has failed and the next one; how long one may take.
const RETRY: Duration = Duration::from_secs(2);
/// Between two looks whether another still holds it.
const LOOK: Duration = Duration::from_millis(500);

fn api(client: &Client, place: Place<'_>) -> Api<Lease> {
    Api::namespaced(client.clone(), place.namespace)
}

/// What is to be written to take or keep the lease; `None` while another holds it. `observed` says for how long the
/// present record has been seen unchanged, by our own clock: clocks of others are not trusted.
fn claim(
    place: Place<'_>,
    current: Option<&Lease>,
    identity: &str,
    now: Timestamp,
    observed: Duration,
) -> Option<Lease> {
    let spec = current.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let mine = holder == identity;
    let duration = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
    if !mine && !holder.is_empty() && observed < Duration::from_secs(duration) {
        return None;
    }
    let transitions = spec.lease_transitions.unwrap_or_default();
    let metadata = current.map_or_else(
        || ObjectMeta {
            name: Some(place.name.into()),
            namespace: Some(place.namespace.into()),
            ..ObjectMeta::default()
        },
        |lease| lease.metadata.clone(),
    );
    let spec = LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if mine { spec.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if mine || current.is_none() { transitions } else { transitions + 1 }),
        ..spec
    };
    Some(Lease { metadata, spec: Some(spec) })
}

/// What was said last. Looks come often, and a right that is missing is for hours: the same is said once.
#[derive(Debug, Default)]
pub(crate) struct Said(Option<String>);

impl Said {
    /// Whether `text` is something else than what was said last, which it is from now on.
    pub(crate) fn is_new(&mut self, text: &str) -> bool {
        self.0.replace(text.to_owned()).as_deref() != Some(text)
    }

    /// It works: what fails from now on is new.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }

    fn complain(&mut self, what: &str, error: &kube::Error) {
        if self.is_new(&format!("{what}: {error}")) {
            warn!(%error, "{what}");
        } else {
            debug!(%error, "{what}");
        }
    }
}

/// Waits until the lease is ours.
pub(crate) async fn acquire(client: &Client, place: Place<'_>, identity: &str) -> Lease {
    let leases = api(client, place);
    let mut seen: Option<(Option<String>, Instant)> = None;
    let mut said = Said::default();
    loop {
        match leases.get_opt(place.name).await {
            Ok(current) => {
                let version = current.as_ref().and_then(|lease| lease.meta().resource_version.clone());
                if seen.as_ref().is_none_or(|(known, _)| *known != version) {
                    seen = Some((version, Instant::now()));
                }
                let observed = seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
                if let Some(wanted) = claim(place, current.as_ref(), identity, Timestamp::now(), observed) {
                    let written = match current {
                        Some(_) => leases.replace(place.name, &PostParams::default(), &wanted).await,
                        None => leases.create(&PostParams::default(), &wanted).await,
                    };
                    match written {
                        Ok(lease) => return lease,
                        Err(error) => said.complain("can't take the lease", &error),
                    }
                }
            }
            Err(error) => said.complain("can't read the lease", &error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Renews the lease; returns when it is lost.
pub(crate) async fn keep(client: &Client, place: Place<'_>, mut lease: Lease) {
    let leases = api(client, place);
    let (mut renewed, mut wait) = (Instant::now(), RENEWAL);
    loop {
        tokio::time::sleep(wait).await;
        wait = RETRY;
        let identity = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let Some(wanted) = claim(place, Some(&lease), &identity, Timestamp::now(), Duration::ZERO) else {
            return;
        };
        match tokio::time::timeout(RETRY, leases.replace(place.name, &PostParams::default(), &wanted)).await {
            Ok(Ok(now)) => {
                lease = now;
                (renewed, wait) = (Instant::now(), RENEWAL);
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => return,
            Ok(Err(error)) => warn!(%error, "can't renew the lease"),
            Err(_) => warn!("the API does not answer; can't renew the lease"),
        }
        if renewed.elapsed() > DEADLINE {
            return;
        }
    }
}

/// Gives the lease back, so that the next instance need not wait for it to run out.
pub(crate) async fn release(client: &Client, place: Place<'_>, identity: &str) {
    let leases = api(client, place);
    let Ok(Some(mut lease)) = leases.get_opt(place.name).await else { return };
    let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(identity))
    else {
        return;
    };
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    // Without it the next instance waits a few seconds longer.
    let _ = leases.replace(place.name, &PostParams::default(), &lease).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once() {
        let mut said = Said::default();
        assert_eq!(["a", "a", "b", "b", "a"].map(|text| said.is_new(text)), [true, false, true, false, true]);
        said.forget();
        assert!(said.is_new("a"), "after it has worked");
    }

    #[test]
    fn a_lease_is_claimed_when_free_ours_or_run_out() {
        let now = Timestamp::UNIX_EPOCH;
        let first = claim(CONTROLLERS, None, "a", now, Duration::ZERO).unwrap();
        assert_eq!(first.spec.as_ref().unwrap().lease_transitions, Some(0));
        assert!(claim(CONTROLLERS, Some(&first), "a", now, Duration::ZERO).is_some(), "ours");
        assert!(claim(CONTROLLERS, Some(&first), "b", now, Duration::from_secs(14)).is_none(), "held");
        let second = claim(CONTROLLERS, Some(&first), "b", now, Duration::from_secs(15)).unwrap();
        assert_eq!(second.spec.as_ref().unwrap().lease_transitions, Some(1), "run out");
        let mut free = second.clone();
        free.spec.as_mut().unwrap().holder_identity = Some(String::new());
        assert!(claim(CONTROLLERS, Some(&free), "a", now, Duration::ZERO).is_some(), "given back");
    }
}
