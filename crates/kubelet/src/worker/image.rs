//! The images of a pod's containers: there, on their way, or not to be had.

use std::time::{Duration, Instant};

use dyad_images::registry::{Credentials, Puller};
use dyad_images::{Name, Store};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use super::{Worker, blocking};
use crate::error::Error;
use crate::image::{self, Image, Ready};
use crate::volumes;

/// How long an image that cannot be had is not asked for again: at first, and at most.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_secs(300);

/// What became of an image.
#[derive(Clone, Debug)]
pub(super) enum Fetch {
    /// It is being brought or unpacked.
    Going,
    /// It is there.
    Done(Box<Ready>),
}

/// What to say of a container whose image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    reason: &'static str,
    message: String,
}

/// How often in a row an image could not be had.
#[derive(Clone, Debug)]
pub(super) struct Tries {
    wait: SignedDuration,
    until: Timestamp,
    problem: String,
}

/// What a fetch gives: the image, and how long it was pulled, if it was.
pub(super) type Fetched = (String, Result<(Ready, Option<(Duration, u64)>), Failure>);

impl Worker {
    /// What a container is started from, if that is there. If not it is on its way, and the worker wakes up when it has
    /// come; or the container's record says why it cannot be had.
    pub(super) async fn image(&mut self, container: &Container, now: Timestamp) -> Option<Ready> {
        let (name, reference) = (container.name.as_str(), image::reference(container));
        match self.fetches.get(name) {
            Some(Fetch::Going) => return None,
            Some(Fetch::Done(ready)) => return Some(Ready::clone(ready)),
            None => {}
        }
        let image = match Image::parse(reference) {
            Ok(image) => image,
            Err(problem) => {
                self.tell(Some(name), true, "InspectFailed", problem.clone());
                self.refuse(name, "InvalidImageName", problem, now);
                return None;
            }
        };
        let Image::Stored(full) = image.clone() else {
            let message = format!("Container image {reference:?} already present on machine");
            self.tell(Some(name), false, "Pulled", message);
            return Some(Ready::built_in(image, reference));
        };
        let Some(store) = self.shared.config.images.clone() else {
            self.refuse(name, "ErrImagePull", "this node has no store for images".into(), now);
            return None;
        };
        let always = container.image_pull_policy.as_deref() == Some("Always");
        let never = container.image_pull_policy.as_deref() == Some("Never");
        let (own, wanted, text) = (store.clone(), full.clone(), reference.to_owned());
        let found = if always { Ok(None) } else { blocking(move || Ok(look(&own, &wanted, &text)?)).await };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let message = format!("Failed to inspect image {reference:?}: {}", error.full());
                self.tell(Some(name), true, "InspectFailed", message.clone());
                self.refuse(name, "ImageInspectError", message, now);
                return None;
            }
        };
        if found.is_none() && never {
            let message = format!("Container image {reference:?} is not present with pull policy of Never");
            self.tell(Some(name), true, "ErrImageNeverPull", message.clone());
            self.refuse(name, "ErrImageNeverPull", message, now);
            return None;
        }
        if found.is_some() {
            let message = format!(
                "Container image {reference:?} already present on machine and can be accessed by the pod"
            );
            self.tell(Some(name), false, "Pulled", message);
        } else {
            if let Some(tries) = self.tries.get(reference).filter(|tries| tries.until > now) {
                let (until, message) = (tries.until, tries.problem.clone());
                let text = format!("Back-off pulling image {reference:?}");
                self.tell(Some(name), false, "BackOff", text.clone());
                self.tell(Some(name), true, "Failed", "Error: ImagePullBackOff".into());
                if let Some(record) = self.records.get_mut(name) {
                    record.hold("ImagePullBackOff", format!("{text}: ErrImagePull: {message}"), until);
                }
                return None;
            }
            self.tell(Some(name), false, "Pulling", format!("Pulling image {reference:?}"));
        }
        let puller = match found {
            Some(_) => None,
            None => Some((self.shared.config.puller.clone(), self.credentials().await)),
        };
        self.fetches.insert(name.to_owned(), Fetch::Going);
        let (sender, name, text) = (self.fetched.0.clone(), name.to_owned(), reference.to_owned());
        self.fetching.spawn(async move {
            let result = fetch(store, full, text, puller).await;
            // Nobody listens: the pod is gone.
            let _ = sender.send((name, result)).await;
        });
        None
    }

    /// What the pod's pull Secrets hold. One that is missing or malformed is told of, and the others do.
    async fn credentials(&self) -> Credentials {
        let mut all = Credentials::default();
        let mut missing = Vec::new();
        for secret in self.spec.image_pull_secrets.iter().flatten() {
            let read = volumes::secret(&self.shared.client, &self.pod, &secret.name).await;
            let data = match read {
                Ok(Some(data)) => data,
                Ok(None) | Err(_) => {
                    missing.push(secret.name.as_str());
                    continue;
                }
            };
            let parsed = match (data.get(".dockerconfigjson"), data.get(".dockercfg")) {
                (Some(bytes), _) => Credentials::of_json(bytes),
                (None, Some(bytes)) => Credentials::of_old_json(bytes),
                (None, None) => continue,
            };
            match parsed {
                Ok(found) => all.extend(found),
                Err(error) => {
                    let text = format!("Secret {:?} in imagePullSecrets: {error}", secret.name);
                    self.tell(None, true, "FailedToRetrieveImagePullSecret", text);
                }
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.tell(None, true, "FailedToRetrieveImagePullSecret", text);
        }
        all
    }

    /// Takes note of an image that has come, or has not.
    pub(super) fn note_image(&mut self, (name, result): Fetched) {
        let Some(container) = crate::pod::find(&self.spec, &name) else { return };
        let reference = image::reference(&container).to_owned();
        let now = Timestamp::now();
        match result {
            Ok((ready, pulled)) => {
                if let Some((took, size)) = pulled {
                    self.tries.remove(&reference);
                    let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                    let message = format!(
                        "Successfully pulled image {reference:?} in {took:?} ({took:?} including waiting). Image size: {size} bytes."
                    );
                    self.tell(Some(&name), false, "Pulled", message);
                }
                self.fetches.insert(name, Fetch::Done(Box::new(ready)));
            }
            Err(Failure { reason, message }) => {
                self.fetches.remove(&name);
                if reason != "ErrImagePull" {
                    self.tell(Some(&name), true, "Failed", message.clone());
                    return self.refuse(&name, reason, message, now);
                }
                self.tell(
                    Some(&name),
                    true,
                    "Failed",
                    format!("Failed to pull image {reference:?}: {message}"),
                );
                let wait = self.tries.get(&reference).map_or(FIRST, |tries| (tries.wait * 2).min(LONGEST));
                let until = now.saturating_add(wait).unwrap_or(now);
                self.tries.insert(reference, Tries { wait, until, problem: message.clone() });
                // Shown for a moment before the wait is, as people know it.
                self.tell(Some(&name), true, "Failed", "Error: ErrImagePull".into());
                let soon = now.saturating_add(SignedDuration::from_secs(2)).unwrap_or(now);
                if let Some(record) = self.records.get_mut(&name) {
                    record.hold("ErrImagePull", message, soon);
                }
            }
        }
    }

    fn refuse(&mut self, name: &str, reason: &'static str, message: String, now: Timestamp) {
        self.tell(Some(name), true, "Failed", format!("Error: {reason}"));
        let until = now.saturating_add(FIRST).unwrap_or(now);
        if let Some(record) = self.records.get_mut(name) {
            record.hold(reason, message, until);
        }
    }
}

/// The image in the store: by its name, or by its ID if that is what the reference is.
fn look(
    store: &Store,
    name: &Name,
    reference: &str,
) -> Result<Option<dyad_images::Image>, dyad_images::Error> {
    match store.find(name)? {
        None if reference.starts_with("sha256:") => store.find_id(reference),
        found => Ok(found),
    }
}

/// Has the image in the store, pulled with these credentials if it is to be, and unpacked.
async fn fetch(
    store: Store,
    name: Name,
    reference: String,
    puller: Option<(Option<Puller>, Credentials)>,
) -> Result<(Ready, Option<(Duration, u64)>), Failure> {
    let begun = Instant::now();
    let reason = if puller.is_some() { "ErrImagePull" } else { "ImageInspectError" };
    let failed = |error: Error| Failure { reason, message: error.full() };
    let pulled = puller.is_some();
    if let Some((puller, credentials)) = puller {
        let nobody = || Error::Pod("nothing pulls images here: `dyad image load` brings them".into());
        let puller = puller.ok_or_else(nobody).map_err(failed)?;
        puller.pull(name.clone(), credentials).await.map_err(|error| failed(error.into()))?;
    }
    let unpacked = blocking(move || {
        let found = look(&store, &name, &reference)?;
        let found = found.ok_or_else(|| Error::Pod(format!("{name} was removed meanwhile")))?;
        let (root, config) = (store.root(&found)?, store.config(&found)?);
        let root = Some(std::sync::Arc::new(root));
        let ready = Ready { image: Image::Stored(name), id: found.reference(), run: config.run(), root };
        Ok((ready, found.size))
    });
    let (ready, size) = unpacked.await.map_err(failed)?;
    Ok((ready, pulled.then(|| (begun.elapsed(), size))))
}
