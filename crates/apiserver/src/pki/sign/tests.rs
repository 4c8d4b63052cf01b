use std::net::IpAddr;

use rcgen::{CertificateParams, DnType, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::pki::{Pki, PkiConfig, certificate_fault};

fn pki() -> (tempfile::TempDir, Pki) {
    let directory = tempfile::tempdir().unwrap();
    let config =
        PkiConfig { cluster: "t".into(), domain: "d".into(), addresses: Vec::new(), dns_names: Vec::new() };
    let pki = Pki::load_or_create(directory.path(), &config).unwrap();
    (directory, pki)
}

/// `spec.request` of somebody who asks.
fn asked(user: &str, group: &str, names: &[SanType], key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.subject_alt_names = names.to_vec();
    STANDARD.encode(params.serialize_request(key).unwrap().pem().unwrap())
}

fn words(usages: &[&str]) -> Vec<String> {
    usages.iter().map(|usage| (*usage).to_owned()).collect()
}

#[test]
fn what_was_asked_for_is_in_the_certificate_and_the_authority_has_signed_it() {
    let (_directory, pki) = pki();
    let key = KeyPair::generate().unwrap();
    let names = [
        SanType::DnsName("n1".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::IpAddress("fd00::1".parse().unwrap()),
    ];
    let request = Request::parse(&asked("system:node:n1", "system:nodes", &names, &key)).unwrap();
    assert_eq!(request.common_name, "system:node:n1");
    assert_eq!(request.organizations, ["system:nodes"]);
    assert_eq!(request.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    let usages = words(&["digital signature", "key encipherment", "server auth"]);
    let pem = pki.sign(&request, &usages, Some(3600)).unwrap();
    assert_eq!(certificate_fault(&STANDARD.encode(&pem)), None);
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (rest, made) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    let authority = CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap();
    let (_, authority) = X509Certificate::from_der(&authority).unwrap();
    made.verify_signature(Some(authority.public_key())).unwrap();
    assert_eq!(made.issuer().as_raw(), authority.subject().as_raw());
    assert_eq!(made.validity().not_after.timestamp() - made.validity().not_before.timestamp(), 3600 + 300);
    let bits = made.key_usage().unwrap().unwrap();
    assert!(bits.critical && bits.value.digital_signature() && bits.value.key_encipherment());
    assert!(!bits.value.key_cert_sign() && !made.is_ca());
    let extended = made.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth);
    assert_eq!(made.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
    // rustls takes it too, which is what counts.
    let identity = crate::pki::Identity { certificate_pem: pem, key_pem: key.serialize_pem() };
    crate::tls::ServingCertificate::new(&identity).unwrap();
}

#[test]
fn lives_are_within_bounds() {
    let (_directory, pki) = pki();
    let key = KeyPair::generate().unwrap();
    let request = Request::parse(&asked("jane", "dev", &[], &key)).unwrap();
    for (seconds, life) in [
        (Some(1), 900),
        (Some(600), 900),
        (Some(7200), 7500),
        (Some(86_400), 86_400),
        (None, LIFETIME as i64),
    ] {
        let pem = pki.sign(&request, &words(&["client auth"]), seconds).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, made) = X509Certificate::from_der(&der).unwrap();
        let validity = made.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), life, "{seconds:?}");
    }
    assert!(pki.sign(&request, &words(&["x"]), None).is_err());
}

#[test]
fn numbers_and_times_are_written_as_x509_has_them() {
    assert_eq!(oid(&[2, 5, 29, 15]), [6, 3, 0x55, 0x1d, 0x0f]);
    assert_eq!(oid(&[1, 2, 840, 10_045, 4, 3, 2]), [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
    assert_eq!(time(0).unwrap(), tlv(0x17, b"700101000000Z"));
    assert_eq!(time(2_524_608_000).unwrap(), tlv(0x18, b"20500101000000Z"));
    assert_eq!(tlv(4, &[0; 200])[..3], [4, 0x81, 200]);
    assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
}

/// Requests are bytes from outside: every one of them is answered.
#[test]
fn any_request_is_answered() {
    let key = KeyPair::generate().unwrap();
    let good = STANDARD.decode(asked("jane", "dev", &[], &key)).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..=next() % 4 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        bytes.truncate(bytes.len() - next() as usize % 3);
        // A panic fails the test; what comes out does not matter.
        let _ = (Request::parse(&STANDARD.encode(&bytes)), certificate_fault(&STANDARD.encode(&bytes)));
    }
    for junk in ["", "!", "eA==", &STANDARD.encode("-----BEGIN CERTIFICATE REQUEST-----\n")] {
        assert!(Request::parse(junk).is_err(), "{junk}");
    }
}
