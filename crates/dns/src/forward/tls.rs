//! Encryption towards upstreams (RFC 7858, RFC 8310: the strict profile).

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::corefile;

/// Why upstreams can't be spoken to over TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of a certificate or key is not what it should be.
    #[error("can't read {0}: {1}")]
    File(String, rustls_pki_types::pem::Error),
    /// What the files hold does not work.
    #[error("can't use the certificates of forward: {0}")]
    Rustls(#[from] rustls::Error),
    /// There are no roots to trust.
    #[error("no CA certificates are found on this machine: name a file of them, as tls CA")]
    NoRoots,
}

/// How to speak to the upstreams of a `forward`: `tls [CERT KEY] [CA]`.
pub(super) fn config(forward: &corefile::Forward) -> Result<Arc<ClientConfig>, TlsError> {
    let (identity, ca) = match forward.tls.as_slice() {
        [] => (None, None),
        [ca] => (None, Some(ca)),
        [cert, key] => (Some((cert, key)), None),
        [cert, key, ca, ..] => (Some((cert, key)), Some(ca)),
    };
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for certificate in certificates(ca)? {
                roots.add(certificate)?;
            }
        }
        None => {
            // What can't be read is left out; what is needed is then missing.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let read =
                PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File(key.clone(), error))?;
            builder.with_client_auth_cert(certificates(cert)?, read)?
        }
    };
    config.alpn_protocols = vec![b"dot".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|error| TlsError::File(file.to_owned(), error))
}
