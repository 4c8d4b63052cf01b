//! Pulling from registries: where a name leads, whose credentials are shown, and what comes, into the store.
//!
//! The protocol is that of the `oci-client` crate; what it brings is digested here once more. What is there already is not
//! asked for, and of several who want the same blob one brings it.

pub mod credentials;
mod fetch;
pub mod hosts;
mod service;

use std::path::PathBuf;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use oci_client::secrets::RegistryAuth;

pub use credentials::Credentials;
pub use service::Puller;

use crate::manifest::{DOCUMENT_BYTES, Descriptor, Document};
use crate::{Digest, Error, Image, Name, Result, Store, archive};
use fetch::{Endpoint, Trouble};

/// How many blobs of an image come at once.
const AT_ONCE: usize = 3;
/// How often something that may yet work is tried, and the first wait between.
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// What this machine says about registries.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Directories of hosts files, as containerd's `certs.d`; the first that has a registry's counts.
    pub hosts: Vec<PathBuf>,
    /// The user's own credentials, as Docker keeps them.
    pub docker_config: Option<PathBuf>,
}

impl Settings {
    /// Those of the user: `$XDG_CONFIG_HOME/dyad/certs.d`, `/etc/dyad/certs.d`, and Docker's `config.json`.
    pub fn of_user() -> Self {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let config = absolute("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let docker = absolute("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
        let own = config.map(|config| config.join("dyad/certs.d"));
        Self {
            hosts: own.into_iter().chain([PathBuf::from("/etc/dyad/certs.d")]).collect(),
            docker_config: docker.map(|docker| docker.join("config.json")),
        }
    }
}

/// What has come of a pull so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The image has these many blobs and bytes that are not there yet.
    Found {
        /// Blobs.
        blobs: usize,
        /// Bytes.
        bytes: u64,
    },
    /// These many more bytes have come.
    Bytes(u64),
    /// Something did not work and is tried again.
    Again(String),
}

/// Pulls an image and gives it its name. `credentials` are tried in turn, or none if there are none.
pub async fn pull(
    store: &Store,
    name: &Name,
    settings: &Settings,
    credentials: &Credentials,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Image> {
    let _lock = store.hold()?;
    let own = settings.docker_config.as_deref().map(Credentials::of_file).transpose()?;
    let mut auths = credentials.of(name);
    auths.extend(own.unwrap_or_default().of(name));
    if auths.is_empty() {
        auths.push(RegistryAuth::Anonymous);
    }
    let mut problems: Vec<String> = Vec::new();
    let places = hosts::places(name, &settings.hosts)?;
    for place in &places {
        for auth in &auths {
            let result = match Endpoint::new(name, place, auth) {
                Ok(endpoint) => from(store, name, &endpoint, progress).await,
                Err(trouble) => Err(trouble),
            };
            let trouble = match result {
                Ok(image) => return Ok(image),
                Err(trouble) => trouble,
            };
            let text =
                if places.len() > 1 { format!("{}: {}", place.host, trouble.text) } else { trouble.text };
            if !problems.contains(&text) {
                problems.push(text);
            }
        }
    }
    let all = problems.join("; ");
    Err(Error::Registry(format!("failed to pull and unpack image {:?}: {all}", name.to_string())))
}

/// Tries again what may yet work.
async fn patiently<T, F: Future<Output = std::result::Result<T, Trouble>>>(
    progress: &(dyn Fn(Progress) + Sync),
    mut work: impl FnMut() -> F,
) -> std::result::Result<T, Trouble> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match work().await {
            Err(trouble) if trouble.may_pass => progress(Progress::Again(trouble.text)),
            other => return other,
        }
        tokio::time::sleep(wait).await;
        wait *= 3;
    }
    work().await
}

async fn from(
    store: &Store,
    name: &Name,
    endpoint: &Endpoint,
    progress: &(dyn Fn(Progress) + Sync),
) -> std::result::Result<Image, Trouble> {
    let resolving = |trouble: Trouble| Trouble {
        text: format!("failed to resolve reference {:?}: {}", name.to_string(), trouble.text),
        ..trouble
    };
    let mut bytes =
        patiently(progress, || endpoint.manifest(name.digest.as_ref())).await.map_err(resolving)?;
    let top = Digest::of(&bytes);
    if let Some(wanted) = name.digest.as_ref().filter(|wanted| **wanted != top) {
        return Err(Trouble::of(format!("the registry's answer for {wanted} has the digest {top}")));
    }
    let mut document = Document::read(&bytes)?;
    for _ in 0..4 {
        if document.config.is_some() {
            break;
        }
        let wanted = document.suiting()?.digest.clone();
        bytes = patiently(progress, || endpoint.manifest(Some(&wanted))).await?;
        if Digest::of(&bytes) != wanted {
            return Err(Trouble::of(format!("the registry's answer for {wanted} has another digest")));
        }
        document = Document::read(&bytes)?;
    }
    let Some(config) = document.config.clone() else {
        return Err(Trouble::of("the image's indexes lead nowhere".into()));
    };
    if config.size > DOCUMENT_BYTES {
        return Err(Trouble::of("the image's configuration is too large".into()));
    }
    let mut parts: Vec<Descriptor> = [config].into_iter().chain(document.layers.clone()).collect();
    parts.sort_by(|a, b| a.digest.cmp(&b.digest));
    parts.dedup_by(|a, b| a.digest == b.digest);
    parts.retain(|part| !store.has(&part.digest));
    progress(Progress::Found { blobs: parts.len(), bytes: parts.iter().map(|part| part.size).sum() });
    let bring =
        |part: Descriptor| async move { patiently(progress, || endpoint.blob(store, &part, progress)).await };
    futures::stream::iter(parts.into_iter().map(bring))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    archive::check(store, &document)?;
    let manifest = store.put(&bytes)?;
    Ok(store.name(name, &manifest, Some(&top))?)
}

#[cfg(test)]
mod tests;
