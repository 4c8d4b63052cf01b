//! One registry, asked with one set of credentials.

use std::io::Write;
use std::time::Duration;

use futures::StreamExt;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use rustix::fs::FlockOperation;

use super::Progress;
use super::hosts::Place;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_BYTES, Descriptor, INDEX, MANIFEST};
use crate::{Digest, Error, Name, Store};

/// How long a registry may take to answer, and between two pieces of what it sends.
const CONNECT: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(60);

/// Why something did not come.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) text: String,
    /// Whether asking once more may help.
    pub(super) may_pass: bool,
}

impl Trouble {
    pub(super) fn of(text: String) -> Self {
        Self { text, may_pass: false }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::of(full(&error))
    }
}

/// An error with its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some say their causes themselves.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

pub(super) struct Endpoint {
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    name: String,
}

impl Endpoint {
    pub(super) fn new(name: &Name, place: &Place, auth: &RegistryAuth) -> Result<Self, Trouble> {
        // Whoever set one before has chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: if place.https { ClientProtocol::Https } else { ClientProtocol::Http },
            accept_invalid_certificates: place.skip_verify,
            extra_root_certificates: place
                .certificates
                .iter()
                .map(|pem| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() })
                .collect(),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("dyad/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // The client panics where it finds no authorities to trust at all.
        let make = std::panic::AssertUnwindSafe(|| Client::try_from(config));
        let client = std::panic::catch_unwind(make).map_err(|_| {
            Trouble::of(
                "this machine trusts no certificate authority: install the package ca-certificates".into(),
            )
        })?;
        let client = client.map_err(|error| Trouble::of(full(&error)))?;
        let repository = format!("{}{}", place.prefix, name.repository);
        let tag = name.tag.clone().unwrap_or_else(|| "latest".into());
        let mut reference = Reference::with_tag(name.registry.clone(), repository, tag);
        reference.set_mirror_registry(place.host.clone());
        Ok(Self { client, auth: auth.clone(), reference, name: name.to_string() })
    }

    fn trouble(&self, error: &OciDistributionError) -> Trouble {
        use OciDistributionError as E;
        let denied = "pull access denied, repository does not exist or may require authorization";
        let (text, may_pass) = match error {
            E::ServerError { code: 404, .. } | E::ImageManifestNotFoundError(_) => {
                (format!("{}: not found", self.name), false)
            }
            E::RegistryError { envelope, .. } => {
                let said: Vec<String> = envelope.errors.iter().map(ToString::to_string).collect();
                let said = said.join(", ");
                let code = said.to_lowercase();
                if code.contains("manifest unknown")
                    || code.contains("manifestunknown")
                    || code.contains("name unknown")
                    || code.contains("nameunknown")
                {
                    (format!("{}: not found", self.name), false)
                } else if code.contains("denied") || code.contains("unauthorized") {
                    (format!("{denied}: {said}"), false)
                } else {
                    (said, code.contains("toomanyrequests") || code.contains("too many"))
                }
            }
            E::UnauthorizedError { .. }
            | E::AuthenticationFailure(_)
            | E::ServerError { code: 401 | 403, .. } => (format!("{denied}: authorization failed"), false),
            E::ServerError { code, .. } => (full(error), *code >= 500 || *code == 429),
            E::RequestError(_) | E::IoError(_) => (format!("failed to do request: {}", full(error)), true),
            _ => (full(error), false),
        };
        Trouble { text, may_pass }
    }

    /// The manifest or index of the image, or that of a digest.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, Trouble> {
        let reference = match digest {
            Some(digest) => self.reference.clone_with_digest(digest.to_string()),
            None => self.reference.clone(),
        };
        let accepted = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST];
        let answer = self.client.pull_manifest_raw(&reference, &self.auth, &accepted).await;
        let (bytes, _) = answer.map_err(|error| self.trouble(&error))?;
        if bytes.len() as u64 > DOCUMENT_BYTES {
            return Err(Trouble::of("the registry's answer is larger than a manifest may be".into()));
        }
        Ok(bytes.to_vec())
    }

    /// Brings a blob into the store, unless somebody else does meanwhile.
    pub(super) async fn blob(
        &self,
        store: &Store,
        part: &Descriptor,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), Trouble> {
        let (own, lock) = (store.clone(), format!("new/{}.lock", part.digest.hex()));
        let locked =
            tokio::task::spawn_blocking(move || own.lock(&lock, FlockOperation::LockExclusive)).await;
        let _alone = locked.map_err(|error| Trouble::of(error.to_string()))??;
        if store.has(&part.digest) {
            progress(Progress::Bytes(part.size));
            return Ok(());
        }
        let descriptor = OciDescriptor {
            media_type: part.media_type.clone(),
            digest: part.digest.to_string(),
            size: i64::try_from(part.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let stream = self.client.pull_blob_stream(&self.reference, &descriptor).await;
        let mut stream = stream.map_err(|error| self.trouble(&error))?.stream;
        let mut writer = store.writer()?;
        while let Some(bytes) = stream.next().await {
            let broken = |error: std::io::Error| Trouble { text: full(&error), may_pass: true };
            let bytes = bytes.map_err(broken)?;
            let written = writer.write_all(&bytes);
            written.map_err(|error| Trouble::of(format!("writing {}: {error}", part.digest)))?;
            progress(Progress::Bytes(bytes.len() as u64));
            if part.size > 0 && writer.size() > part.size {
                return Err(Trouble::of(format!("{} is larger than the manifest says", part.digest)));
            }
        }
        let kept = writer.finish(store, Some(&part.digest));
        // Cut short, or changed on the way.
        kept.map(drop).map_err(|error| Trouble { text: full(&error), may_pass: true })
    }
}
