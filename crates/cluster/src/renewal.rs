//! Certificates and authorities that are renewed while their users run: files are looked at again, and what is new is used
//! for new connections (J60).

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use dyad_apiserver::pki::{Identity, Pki};
use dyad_apiserver::tls::{Authorities, ServingCertificate};
use tracing::{info, warn};

use crate::control_plane::client_of;

/// Between two looks at files.
const LOOK: Duration = Duration::from_secs(60);

/// A client whose kubeconfig may be another one tomorrow.
pub(crate) struct Renewing {
    path: PathBuf,
    name: &'static str,
    current: Arc<RwLock<kube::Client>>,
    /// The text of the file that it was made of.
    text: Vec<u8>,
}

impl Renewing {
    /// From a kubeconfig file that holds one context, under a name that owners of fields are called by.
    pub(crate) async fn open(path: &Path, name: &'static str) -> Result<Self> {
        let text = read(path)?;
        let current = Arc::new(RwLock::new(client_of(path, name).await?));
        Ok(Self { path: path.to_owned(), name, current, text })
    }

    /// The client that goes on.
    pub(crate) fn client(&self) -> kube::Client {
        let current = Arc::clone(&self.current);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let client = current.read().unwrap_or_else(PoisonError::into_inner).clone();
            async move { client.send(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Uses what the file says now. True if that is something new.
    pub(crate) async fn renew(&mut self) -> Result<bool> {
        let text = read(&self.path)?;
        if text == self.text {
            return Ok(false);
        }
        let fresh = client_of(&self.path, self.name).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.text = text;
        Ok(true)
    }

    /// Does so for as long as it is polled.
    pub(crate) async fn keep(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.renew().await {
                Ok(false) => {}
                Ok(true) => info!(file = %self.path.display(), "the client's certificate is a new one"),
                Err(error) => warn!("a kubeconfig can't be used, the old one still is: {error:#}"),
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

/// What a kubelet serves with, in files: its certificate, its key, and the authorities of its clients.
pub(crate) struct Served {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authorities: PathBuf,
}

/// What is served with, as it was read last.
pub(crate) struct Serving {
    files: Served,
    pub(crate) certificate: Arc<ServingCertificate>,
    pub(crate) authorities: Arc<Authorities>,
    texts: [String; 3],
}

impl Served {
    fn texts(&self) -> Result<[String; 3]> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
        };
        Ok([read(&self.certificate)?, read(&self.key)?, read(&self.authorities)?])
    }
}

fn identity(texts: &[String; 3]) -> Identity {
    Identity { certificate_pem: texts[0].clone(), key_pem: texts[1].clone() }
}

impl Serving {
    /// Reads the files.
    pub(crate) fn open(files: Served) -> Result<Self> {
        let texts = files.texts()?;
        let certificate = Arc::new(ServingCertificate::new(&identity(&texts))?);
        let authorities = Arc::new(Authorities::new(&texts[2])?);
        Ok(Self { files, certificate, authorities, texts })
    }

    /// Serves with what the files say now. True if that is something new.
    pub(crate) fn renew(&mut self) -> Result<bool> {
        let texts = self.files.texts()?;
        if texts == self.texts {
            return Ok(false);
        }
        // A certificate and its key are two files: between their writing they do not fit, and the next look sees both.
        self.certificate.replace(&identity(&texts))?;
        self.authorities.replace(&texts[2])?;
        self.texts = texts;
        Ok(true)
    }

    /// Does so for as long as it is polled.
    pub(crate) async fn keep(mut self) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.renew() {
                Ok(false) => {}
                Ok(true) => info!("the kubelet serves with a new certificate"),
                Err(error) => warn!("the kubelet goes on with its old certificate: {error:#}"),
            }
        }
    }
}

/// Asks the authorities of the control plane's clients again and again.
pub(crate) async fn keep_authorities(pki: &Pki, authorities: &Authorities) -> Infallible {
    let mut known = pki.client_authorities().unwrap_or_default();
    loop {
        tokio::time::sleep(LOOK).await;
        let renewed = pki.client_authorities().map_err(|error| error.to_string());
        match renewed {
            Ok(pem) if pem == known => {}
            Ok(pem) => match authorities.replace(&pem) {
                Ok(()) => {
                    info!("clients are vouched for by other authorities");
                    known = pem;
                }
                Err(error) => warn!(%error, "the authorities of clients stay as they were"),
            },
            Err(error) => warn!(error, "the authorities of clients can't be read"),
        }
    }
}

#[cfg(test)]
mod tests;
