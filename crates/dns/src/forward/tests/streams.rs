//! Connections: many queries at once, ends, and encryption.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

#[tokio::test]
async fn rfc_7766_7_answers_come_in_any_order() {
    for family in IpFamily::BOTH {
        // The first waits for all others.
        let server = Server::start(family, |heard| match heard.before {
            0 => vec![Say::Wait, Say::Answer(good(heard))],
            _ => vec![Say::Answer(good(heard))],
        })
        .await;
        let forwarder = forwarder(&[server.at], |settings| settings.force_tcp = true);
        let first = tokio::spawn({
            let forwarder = forwarder.clone();
            async move { forwarder.ask(&query("a.test.", Rtype::A)).await.unwrap() }
        });
        eventually("the first is there", || server.heard().len() == 1).await;
        for text in ["b.test.", "c.test."] {
            assert!(is_good(&forwarder.ask(&query(text, Rtype::A)).await.unwrap(), text.as_bytes()[0]));
        }
        assert!(!first.is_finished());
        server.go_on();
        assert!(is_good(&first.await.unwrap(), b'a'));
        assert!(server.heard().iter().all(|heard| heard.by == By::Tcp(0)));
        assert_eq!(forwarder.upstreams()[0].counters().connections.load(Relaxed), 1);
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_is_made_anew() {
    let server = Server::start(IpFamily::V6, |heard| vec![Say::Answer(good(heard)), Say::Close]).await;
    let forwarder = forwarder(&[server.at], |settings| settings.force_tcp = true);
    for at in 0..20 {
        assert!(is_good(&forwarder.ask(&query(&format!("a{at}.test."), Rtype::A)).await.unwrap(), b'a'));
    }
    assert_eq!(forwarder.upstreams()[0].counters().failures.load(Relaxed), 0);
    assert!(forwarder.upstreams()[0].counters().connections.load(Relaxed) > 1);
}

#[tokio::test]
async fn a_connection_that_nobody_is_at_the_end_of_is_given_up() {
    // Whatever comes over the first connection after the first query is lost.
    let server = Server::start(IpFamily::V4, |heard| match (heard.by, heard.before) {
        (By::Tcp(0), 1..) => Vec::new(),
        _ => vec![Say::Answer(good(heard))],
    })
    .await;
    let forwarder = forwarder(&[server.at], |settings| settings.force_tcp = true);
    for text in ["a.test.", "b.test.", "c.test."] {
        assert!(is_good(&forwarder.ask(&query(text, Rtype::A)).await.unwrap(), text.as_bytes()[0]));
    }
    assert_eq!(forwarder.upstreams()[0].counters().connections.load(Relaxed), 2);
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    let server = Server::start(IpFamily::V6, |heard| match heard.before {
        0 => vec![Say::Raw(vec![1, 2, 3])],
        1 => vec![Say::Raw(good(heard).to_bytes()[..20].to_vec())],
        _ => vec![Say::Answer(good(heard))],
    })
    .await;
    let forwarder = forwarder(&[server.at], |settings| settings.force_tcp = true);
    assert!(is_good(&forwarder.ask(&query("a.test.", Rtype::A)).await.unwrap(), b'a'));
}

#[tokio::test]
async fn a_connection_that_is_not_used_ends() {
    let server = Server::start(IpFamily::V4, |heard| vec![Say::Answer(good(heard))]).await;
    let forwarder = forwarder(&[server.at], |settings| {
        settings.force_tcp = true;
        settings.expire = Duration::from_millis(1);
    });
    let reused = || forwarder.upstreams()[0].counters().connections.load(Relaxed);
    forwarder.ask(&query("a.test.", Rtype::A)).await.unwrap();
    for at in 0.. {
        forwarder.ask(&query(&format!("a{at}.test."), Rtype::A)).await.unwrap();
        if reused() > 1 {
            break;
        }
        assert!(at < 1000, "it never ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A CA in a file, and what a server presents that it signed.
fn pki(directory: &std::path::Path, name: &str) -> (String, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let file = directory.join(format!("{name}.pem"));
    std::fs::write(&file, ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (file.to_str().unwrap().to_owned(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn rfc_7858_dns_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, acceptor) = pki(directory.path(), "dns.test");
    let (other_ca, _) = pki(directory.path(), "other.test");
    for family in IpFamily::BOTH {
        let server =
            Server::start_tls(family, acceptor.clone(), |heard| vec![Say::Answer(good(heard))]).await;
        let forwarder = |ca: &str, name: Option<&str>| {
            let to = corefile::Upstream::Address {
                transport: corefile::Transport::Tls,
                at: server.at,
                link: None,
                name: name.map(str::to_owned),
            };
            let mut settings = corefile::Forward::new(".", vec![to]);
            settings.tls = vec![ca.to_owned()];
            Forwarder::new(settings, dice(5)).unwrap()
        };
        let fine = forwarder(&ca, Some("dns.test"));
        for text in ["a.test.", "b.test."] {
            assert!(is_good(&fine.ask(&query(text, Rtype::A)).await.unwrap(), text.as_bytes()[0]));
        }
        assert!(server.heard().iter().all(|heard| heard.by == By::Tcp(0)), "one connection");
        // RFC 8310 §8: the name and the chain must be right, or nothing is said.
        let before = server.heard().len();
        for bad in
            [forwarder(&ca, Some("wrong.test")), forwarder(&ca, None), forwarder(&other_ca, Some("dns.test"))]
        {
            let failed = bad.ask(&query("c.test.", Rtype::A)).await;
            assert!(
                matches!(&failed, Err(ForwardError::NoAnswer(why)) if why.contains("certificate")),
                "{failed:?}"
            );
        }
        assert_eq!(server.heard().len(), before);
    }
    let mut settings = corefile::Forward::new(".", vec![]);
    settings.to.push(corefile::Upstream::Address {
        transport: corefile::Transport::Tls,
        at: "127.0.0.1:853".parse().unwrap(),
        link: None,
        name: None,
    });
    settings.tls = vec!["/none".to_owned()];
    let error = Forwarder::new(settings, dice(6)).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("can't read /none: "), "{error}");
}
