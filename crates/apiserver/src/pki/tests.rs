//! What is kept, what is made anew, and what is refused.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn config(addresses: &[&str]) -> PkiConfig {
    PkiConfig {
        cluster: "test".into(),
        domain: "cluster.local".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        dns_names: vec!["api.example".into()],
    }
}

/// The subject alternative names as text, and the serial number.
fn parsed(identity: &Identity) -> (Vec<String>, String) {
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::FromDer;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::prelude::X509Certificate::from_der(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap();
    let names = names.map(|names| names.value.general_names.iter().map(ToString::to_string).collect());
    (names.unwrap_or_default(), certificate.raw_serial_as_string())
}

#[test]
fn what_fits_is_kept_and_what_does_not_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pki");
    let open = |addresses: &[&str]| Pki::load_or_create(&path, &config(addresses)).unwrap();
    let first = open(&["10.96.0.1", "fd00:10:96::1"]);
    let kept = (
        first.ca_pem().to_owned(),
        first.serving().unwrap(),
        first.admin().unwrap(),
        first.node("n1").unwrap(),
    );
    // In another order these are the same.
    let again = open(&["fd00:10:96::1", "10.96.0.1"]);
    assert_eq!(
        kept,
        (
            again.ca_pem().to_owned(),
            again.serving().unwrap(),
            again.admin().unwrap(),
            again.node("n1").unwrap()
        )
    );
    let moved = open(&["10.96.0.1", "fd00:10:96::1", "172.18.0.2"]);
    assert_eq!(moved.ca_pem(), kept.0);
    assert_ne!(moved.serving().unwrap(), kept.1);
    assert_eq!(moved.serving().unwrap(), moved.serving().unwrap());
    assert_eq!((moved.admin().unwrap(), moved.node("n1").unwrap()), (kept.2.clone(), kept.3.clone()));
    // Ninety days before its end.
    let purpose = client("kubernetes-admin", "system:masters");
    let late = SystemTime::now() + LIFETIME - RENEW_BEFORE + Duration::from_secs(60);
    assert_eq!(moved.keep("admin", &purpose, late - Duration::from_secs(120)).unwrap(), kept.2);
    assert_ne!(moved.keep("admin", &purpose, late).unwrap(), kept.2);
    // Another user under the same file name, a key that is another's, and damage.
    assert_ne!(moved.keep("node-n1", &client("system:node:n1", "other"), SystemTime::now()).unwrap(), kept.3);
    let node = moved.node("n1").unwrap();
    std::fs::write(path.join("node-n1.key"), &kept.1.key_pem).unwrap();
    let fresh = moved.node("n1").unwrap();
    assert_ne!(fresh, node);
    std::fs::write(
        path.join("node-n1.crt"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert_ne!(moved.node("n1").unwrap(), fresh);
}

#[test]
fn the_serving_certificate_names_every_way_to_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(dir.path(), &config(&["10.96.0.1", "fd00:10:96::1"])).unwrap();
    let (names, _) = parsed(&pki.serving().unwrap());
    for name in [
        "DNSName(kubernetes)",
        "DNSName(kubernetes.default)",
        "DNSName(kubernetes.default.svc)",
        "DNSName(kubernetes.default.svc.cluster.local)",
        "DNSName(localhost)",
        "DNSName(api.example)",
        "IPAddress(7f:00:00:01)",
        "IPAddress(0a:60:00:01)",
        "IPAddress(00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01)",
        "IPAddress(fd:00:00:10:00:96:00:00:00:00:00:00:00:00:00:01)",
    ] {
        assert!(names.iter().any(|own| own == name), "{name} is not among {names:?}");
    }
    assert_eq!(names.len(), 10);
}

#[test]
fn serial_numbers_differ() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(dir.path(), &config(&[])).unwrap();
    let serials = ["a", "b", "c"].map(|user| parsed(&pki.issue_client(user, "g").unwrap()).1);
    assert!(serials[0] != serials[1] && serials[1] != serials[2] && serials[0].len() > 20, "{serials:?}");
}

#[test]
fn keys_are_for_their_owner_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pki");
    let pki = Pki::load_or_create(&path, &config(&[])).unwrap();
    let identities = [pki.serving().unwrap(), pki.admin().unwrap(), pki.node("n1").unwrap()];
    let mut keys = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let is_key = entry.file_name().to_string_lossy().ends_with(".key");
        assert_eq!(mode, if is_key { 0o600 } else { 0o644 }, "{:?}", entry.file_name());
        keys += usize::from(is_key);
    }
    assert_eq!(keys, 4);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for identity in &identities {
        assert!(identity.key_pem.contains("PRIVATE KEY"));
        assert!(!format!("{identity:?}").contains("PRIVATE") && !format!("{pki:?}").contains("PRIVATE"));
    }
}

#[test]
fn a_broken_authority_is_refused_and_left_alone() {
    let whole = tempfile::tempdir().unwrap();
    Pki::load_or_create(whole.path(), &config(&[])).unwrap();
    let read = |name: &str| std::fs::read_to_string(whole.path().join(name)).unwrap();
    let (certificate, key) = (read("ca.crt"), read("ca.key"));
    let other = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(other.path(), &config(&[])).unwrap();
    let (other_key, leaf) =
        (std::fs::read_to_string(other.path().join("ca.key")).unwrap(), pki.admin().unwrap());
    for (certificate, key, why) in [
        (Some(&certificate), None, "missing"),
        (Some(&certificate), Some(&other_key), "another"),
        (Some(&certificate), Some(&String::new()), "key is damaged"),
        (Some(&"nonsense".to_owned()), Some(&key), "certificate is damaged"),
        (Some(&leaf.certificate_pem), Some(&leaf.key_pem), "no certificate authority"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("ca.crt", certificate), ("ca.key", key)] {
            content.inspect(|content| std::fs::write(dir.path().join(name), content).unwrap());
        }
        let error = Pki::load_or_create(dir.path(), &config(&[])).expect_err(why);
        assert!(matches!(error, PkiError::Authority { .. }) && error.to_string().contains(why), "{error}");
        let left = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!((left("ca.crt").as_ref(), left("ca.key").as_ref()), (certificate, key));
    }
    // Cut short after its key was written: nobody knows this authority yet.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.key"), &key).unwrap();
    Pki::load_or_create(dir.path(), &config(&[])).unwrap();
}

#[test]
fn an_expired_authority_says_so() {
    let (_, identity) =
        Authority::create("test", SystemTime::now() - Duration::from_secs(11 * 365 * 86_400)).unwrap();
    assert_eq!(Authority::load(&identity, SystemTime::now()).err().unwrap(), "it has expired");
}

#[test]
fn names_that_are_no_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(dir.path(), &config(&[])).unwrap();
    for name in ["", "../n1", "n/1", "N1", ".", "n1\0", "n 1"] {
        assert!(matches!(pki.node(name), Err(PkiError::Name { .. })), "{name:?}");
    }
    let odd = PkiConfig { dns_names: vec!["grüße".into()], ..config(&[]) };
    let pki = Pki::load_or_create(dir.path(), &odd).unwrap();
    assert!(matches!(pki.serving(), Err(PkiError::Name { .. })));
}

#[test]
fn j62_nobody_but_the_administrator_is_in_masters() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::load_or_create(dir.path(), &config(&[])).unwrap();
    let masters = |identity: Identity| {
        use rustls_pki_types::pem::PemObject;
        use x509_parser::prelude::FromDer;
        let der =
            rustls_pki_types::CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::prelude::X509Certificate::from_der(&der).unwrap();
        certificate_subject(&parsed).1.iter().any(|group| group == MASTERS)
    };
    assert!(masters(pki.admin().unwrap()));
    for (who, identity) in [
        ("node", pki.node("n1")),
        ("agent", pki.agent("n1")),
        ("dns", pki.dns()),
        ("kubelet client", pki.kubelet_client()),
        ("serving", pki.serving()),
        ("kubelet", pki.node_serving("n1", &[])),
    ] {
        assert!(!masters(identity.unwrap()), "{who}");
    }
    assert!(pki.agent("../x").is_err());
}
