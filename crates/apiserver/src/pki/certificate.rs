//! Making certificates, and judging those that are kept.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::request::Request;
use super::sign::Signer;
use super::{Identity, Names, PkiError};

/// Lifetime of the authority: it is never replaced.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates start in the past, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The API server, under these names.
    Serve(Names),
    /// A client with this user name and group.
    Client { user: String, group: Option<String> },
}

impl Purpose {
    fn subject(&self) -> &str {
        match self {
            Self::Serve(_) => "kube-apiserver",
            Self::Client { user, .. } => user,
        }
    }
}

/// The one that signs.
pub(super) struct Authority {
    certificate_pem: String,
    key_id: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn create(cluster: &str, now: SystemTime) -> Result<(Self, Identity), PkiError> {
        let subject = format!("dyad-{cluster}");
        let issue = |source| PkiError::Issue { subject: subject.clone(), source };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = params(&subject, now, AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(issue)?.pem();
        let key_id = params.key_identifier(&key);
        let identity = Identity { certificate_pem: certificate_pem.clone(), key_pem: key.serialize_pem() };
        Ok((Self { certificate_pem, key_id, issuer: Issuer::new(params, key) }, identity))
    }

    /// The error says what is wrong with it.
    pub(super) fn load(identity: &Identity, now: SystemTime) -> Result<Self, String> {
        let key =
            KeyPair::from_pem(&identity.key_pem).map_err(|error| format!("its key is damaged ({error})"))?;
        let der = der(&identity.certificate_pem)?;
        let parsed = parse(&der)?;
        if !belong_together(&parsed, &key) {
            return Err("its key is another one's".into());
        }
        if !parsed.is_ca() {
            return Err("it is no certificate authority".into());
        }
        if !valid_until(&parsed, now) {
            return Err("it has expired".into());
        }
        let key_id = subject_key_id(&parsed).ok_or("it has no key identifier")?.to_vec();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| error.to_string())?;
        Ok(Self { certificate_pem: identity.certificate_pem.clone(), key_id, issuer })
    }

    pub(super) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn issue(
        &self,
        purpose: &Purpose,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Identity, PkiError> {
        let issue = |source| PkiError::Issue { subject: purpose.subject().into(), source };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = match purpose {
            Purpose::Serve(names) => {
                let mut params = params(purpose.subject(), now, lifetime);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for name in &names.dns {
                    let valid = name.as_str().try_into().map_err(|error: rcgen::Error| PkiError::Name {
                        name: name.clone(),
                        why: error.to_string(),
                    })?;
                    params.subject_alt_names.push(SanType::DnsName(valid));
                }
                params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
                params
            }
            Purpose::Client { user, group } => {
                let mut params = params(user, now, lifetime);
                if let Some(group) = group {
                    params.distinguished_name.push(DnType::OrganizationName, group.as_str());
                }
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params
            }
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate of what a client asks for.
    pub(super) fn sign(
        &self,
        request: &Request,
        usages: &[String],
        seconds: Option<u64>,
        now: SystemTime,
    ) -> Result<String, String> {
        let der = der(&self.certificate_pem)?;
        let parsed = parse(&der)?;
        let signer = Signer {
            key: self.issuer.key(),
            name: parsed.subject().as_raw(),
            key_id: &self.key_id,
            ends: u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0),
        };
        signer.sign(request, usages, seconds, now)
    }

    /// Whether a kept certificate is what would be issued, and is so until `until`.
    pub(super) fn check(&self, kept: &Identity, purpose: &Purpose, until: SystemTime) -> Result<(), String> {
        let key =
            KeyPair::from_pem(&kept.key_pem).map_err(|error| format!("the key is damaged ({error})"))?;
        let der = der(&kept.certificate_pem)?;
        let parsed = parse(&der)?;
        if !belong_together(&parsed, &key) {
            return Err("the key is another one's".into());
        }
        if authority_key_id(&parsed) != Some(&self.key_id) {
            return Err("it is from another authority".into());
        }
        if !valid_until(&parsed, until) {
            return Err("it ends soon".into());
        }
        let same = match purpose {
            Purpose::Serve(wanted) => names(&parsed) == *wanted,
            Purpose::Client { user, group } => {
                subject(&parsed) == (Some(user.clone()), group.iter().cloned().collect())
            }
        };
        if same { Ok(()) } else { Err("it has other names".into()) }
    }
}

/// A new key, PEM.
pub(super) fn key_pem(subject: &str) -> Result<String, PkiError> {
    let key = KeyPair::generate().map_err(|source| PkiError::Issue { subject: subject.into(), source })?;
    Ok(key.serialize_pem())
}

fn params(common_name: &str, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
    params
}

fn der(pem: &str) -> Result<CertificateDer<'static>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| format!("the certificate is damaged ({error})"))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (_, parsed) =
        X509Certificate::from_der(der).map_err(|error| format!("the certificate is damaged ({error})"))?;
    Ok(parsed)
}

fn belong_together(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes()
}

fn valid_until(certificate: &X509Certificate<'_>, until: SystemTime) -> bool {
    let until = until.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u64::try_from(certificate.validity().not_after.timestamp()).is_ok_and(|end| end > until)
}

fn subject_key_id<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

fn authority_key_id<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn names(certificate: &X509Certificate<'_>) -> Names {
    let mut names = Names::default();
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return names };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                names.dns.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                names.addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok());
            }
            _ => {}
        }
    }
    names
}

/// Common name and organizations: user and groups.
pub(crate) fn subject(certificate: &X509Certificate<'_>) -> (Option<String>, Vec<String>) {
    let subject = certificate.subject();
    // The last one counts, as in Kubernetes.
    let user = subject.iter_common_name().last().and_then(|name| name.as_str().ok()).map(str::to_owned);
    let groups =
        subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    (user, groups)
}
