//! Requests for certificates (PKCS #10, RFC 2986) as clients send them: what they ask for, and whether they hold the key.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest request that is looked at.
const LONGEST: usize = 256 << 10;

const NO_REQUEST: &str = "PEM block type must be CERTIFICATE REQUEST";

/// A request, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// User name, or the name of a server.
    pub common_name: String,
    /// Groups.
    pub organizations: Vec<String>,
    /// Host names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// The subject, DER.
    pub(super) subject: Vec<u8>,
    /// The public key with its algorithm, DER.
    pub(super) key: Vec<u8>,
}

impl Request {
    /// From the base64 of a PEM text, as `spec.request` of a CertificateSigningRequest has it.
    ///
    /// # Errors
    ///
    /// If it is none, or is not signed with the key that it is about.
    pub fn parse(base64: &str) -> Result<Self, String> {
        Self::parse_pem(&STANDARD.decode(base64).map_err(|_| NO_REQUEST)?)
    }

    /// From a PEM text.
    ///
    /// # Errors
    ///
    /// As for [`Self::parse`].
    pub fn parse_pem(pem: &[u8]) -> Result<Self, String> {
        let der = der(pem)?;
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|error| format!("asn1: structure error: {error}"))?;
        if !rest.is_empty() {
            return Err("asn1: syntax error: trailing data".into());
        }
        parsed.verify_signature().map_err(|_| "x509: ECDSA verification failure")?;
        let info = &parsed.certification_request_info;
        let names = info.subject.iter_common_name().chain(info.subject.iter_organization());
        if names.into_iter().any(|name| name.as_str().is_err()) {
            return Err("x509: the subject has names that are no text".into());
        }
        let text = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            name.as_str().unwrap_or_default().to_owned()
        };
        let mut request = Self {
            // The last one counts, as in Kubernetes.
            common_name: info.subject.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: info.subject.iter_organization().map(text).collect(),
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().try_for_each(|name| request.add(name))?;
            }
        }
        Ok(request)
    }

    fn add(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                let wrong = |_| format!("x509: cannot parse IP address of length {}", bytes.len());
                self.addresses.push(address.map_err(wrong)?);
            }
            // Others are passed over, and are in no certificate.
            _ => {}
        }
        Ok(())
    }
}

/// The common name that a request asks for.
pub(crate) fn request_name(base64: &str) -> Result<String, String> {
    Request::parse(base64).map(|request| request.common_name)
}

/// What is wrong with certificates, as `status.certificate` of a CertificateSigningRequest has them.
pub(crate) fn certificate_fault(base64: &str) -> Option<String> {
    if base64.is_empty() {
        return None;
    }
    let text = STANDARD.decode(base64).unwrap_or_default();
    if text.windows(2).any(|pair| pair == b": ") {
        return Some("no PEM block headers are permitted".into());
    }
    let mut blocks = 0;
    for block in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(&text) {
        match block {
            Ok((SectionKind::Certificate, der)) => {
                if let Err(error) = X509Certificate::from_der(&der) {
                    return Some(format!("x509: malformed certificate: {error}"));
                }
                blocks += 1;
            }
            Ok((kind, _)) => {
                let found = match kind {
                    SectionKind::Csr => "CERTIFICATE REQUEST",
                    SectionKind::PublicKey => "PUBLIC KEY",
                    SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
                    SectionKind::PrivateKey => "PRIVATE KEY",
                    SectionKind::EcPrivateKey => "EC PRIVATE KEY",
                    SectionKind::Crl => "X509 CRL",
                    _ => "another one",
                };
                return Some(format!("only CERTIFICATE PEM blocks are allowed, found {found:?}"));
            }
            Err(_) => break,
        }
    }
    (blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".into())
}

/// When the first of some certificates ends, in seconds since 1970.
pub fn ends(pem: &[u8]) -> Option<i64> {
    let (_, der) = <(SectionKind, Vec<u8>) as PemObject>::from_pem_slice(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    if pem.len() > LONGEST {
        return Err(NO_REQUEST.into());
    }
    match <(SectionKind, Vec<u8>) as PemObject>::from_pem_slice(pem) {
        Ok((SectionKind::Csr, der)) => Ok(der),
        _ => Err(NO_REQUEST.into()),
    }
}
