//! TLS of the API server: its certificate, and whom a client's certificate makes of the client.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::auth::{AUTHENTICATED, UserInfo};
use crate::pki::{Identity, Pki, PkiError, certificate_subject};

/// TLS can't be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate or key is no PEM.
    #[error("the {what} is not in PEM form")]
    Pem {
        /// Which one.
        what: &'static str,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// rustls refuses what it was given.
    #[error("the {what} can't be used")]
    Unusable {
        /// What it was.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The certificate that new connections are shown; can be replaced while serving.
pub struct ServingCertificate(RwLock<Arc<CertifiedKey>>);

impl ServingCertificate {
    /// Starts with this one.
    ///
    /// # Errors
    ///
    /// If certificate and key are no PEM or don't belong together.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(certified_key(identity)?)))
    }

    /// Shows this one to connections from now on.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`]; the old one then stays.
    pub fn replace(&self, identity: &Identity) -> Result<(), TlsError> {
        let fresh = certified_key(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Renews it before it ends, for as long as this is polled.
    pub async fn keep_fresh(&self, pki: &Pki) -> Infallible {
        self.keep(|| pki.serving()).await
    }

    /// Asks `renew` for one every day, for as long as this is polled.
    pub async fn keep(&self, renew: impl Fn() -> Result<Identity, PkiError>) -> Infallible {
        let mut days = tokio::time::interval(Duration::from_secs(86_400));
        loop {
            days.tick().await;
            let renewed = renew().map_err(|error| error.to_string());
            if let Err(error) =
                renewed.and_then(|fresh| self.replace(&fresh).map_err(|error| error.to_string()))
            {
                // Tried again tomorrow; there are weeks left.
                tracing::error!(error, "can't renew a certificate");
            }
        }
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate").finish_non_exhaustive()
    }
}

/// Shown to servers, it is who asks them.
impl ResolvesClientCert for ServingCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified_key(identity: &Identity) -> Result<Arc<CertifiedKey>, TlsError> {
    let pem = |what| move |source| TlsError::Pem { what, source };
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(pem("serving certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(pem("serving key"))?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|source| TlsError::Unusable { what: "serving certificate", source: source.into() })?;
    Ok(Arc::new(certified))
}

/// Who vouches for clients; can be replaced while serving.
pub struct Authorities(RwLock<Arc<dyn ClientCertVerifier>>);

impl Authorities {
    /// Starts with these, PEM.
    ///
    /// # Errors
    ///
    /// If one of them can't be used, or there is none.
    pub fn new(pem: &str) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(verifier(pem)?)))
    }

    /// Asks these about connections from now on.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`]; the old ones then stay.
    pub fn replace(&self, pem: &str) -> Result<(), TlsError> {
        let fresh = verifier(pem)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn verifier(pem: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let authority = "certificate authority";
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let root = root.map_err(|source| TlsError::Pem { what: authority, source })?;
        roots.add(root).map_err(unusable(authority))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(unusable(authority))
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Authorities {
    /// No names: those of today may not be those of tomorrow, and clients have one certificate to show anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.current().verify_client_cert(leaf, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current().verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}

/// A server configuration: HTTP/2 and HTTP/1.1, client certificates of the authority accepted but not demanded.
/// A client that shows a certificate of anyone else is refused.
///
/// # Errors
///
/// If the authority's certificate can't be used.
pub fn server_config(ca_pem: &str, certificate: Arc<ServingCertificate>) -> Result<ServerConfig, TlsError> {
    server_config_of(Arc::new(Authorities::new(ca_pem)?), certificate)
}

/// The same for authorities that can be replaced while serving.
///
/// # Errors
///
/// If rustls refuses what it is made of.
pub fn server_config_of(
    authorities: Arc<Authorities>,
    certificate: Arc<ServingCertificate>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable("set of protocol versions"))?
        .with_client_cert_verifier(authorities)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn unusable<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl Fn(E) -> TlsError {
    move |source| TlsError::Unusable { what, source: Box::new(source) }
}

/// The user whom a verified client certificate stands for (J60): common name and organizations; `None` without a
/// common name. Give it what `ServerConnection::peer_certificates` answers after the handshake.
pub fn peer_user(chain: &[CertificateDer<'_>]) -> Option<UserInfo> {
    let leaf = chain.first()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let (name, mut groups) = certificate_subject(&parsed);
    let name = name.filter(|name| !name.is_empty())?;
    groups.push(AUTHENTICATED.into());
    let fingerprint = Sha256::digest(leaf);
    let credential =
        fingerprint.iter().fold(String::from("X509SHA256="), |text, byte| text + &format!("{byte:02x}"));
    let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])]);
    Some(UserInfo { name, uid: String::new(), groups, extra })
}

#[cfg(test)]
mod tests;
