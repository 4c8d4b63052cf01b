//! Real handshakes over a loopback socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::pki::PkiConfig;

fn pki(dir: &std::path::Path) -> Pki {
    let config = PkiConfig {
        cluster: "test".into(),
        domain: "cluster.local".into(),
        addresses: vec!["fd00:10:96::1".parse().unwrap(), "10.96.0.1".parse().unwrap()],
        dns_names: vec![],
    };
    Pki::load_or_create(dir, &config).unwrap()
}

fn client_config(ca_pem: &str, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Whom the server takes the client for, if both agree to talk, and the server's certificate.
async fn handshake(
    server: &Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> Result<(Option<UserInfo>, Vec<u8>), std::io::Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let accept = async {
        let (stream, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(stream).await?;
        stream.write_all(b"!").await?;
        stream.shutdown().await?;
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
        Ok::<_, std::io::Error>(connection.peer_certificates().and_then(peer_user))
    };
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(client).connect(name, stream).await?;
        // In TLS 1.3 a refusal of the client's certificate comes after the client's side is done.
        stream.read_exact(&mut [0]).await?;
        let (_, connection) = stream.get_ref();
        Ok::<_, std::io::Error>(connection.peer_certificates().unwrap()[0].to_vec())
    };
    let (user, certificate) = tokio::join!(accept, connect);
    Ok((user?, certificate?))
}

#[tokio::test]
async fn client_certificates_make_users_and_strangers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki(&dir.path().join("ours"));
    let serving = Arc::new(ServingCertificate::new(&pki.serving().unwrap()).unwrap());
    let server = Arc::new(server_config(pki.ca_pem(), Arc::clone(&serving)).unwrap());
    let user = async |identity: Option<&Identity>| {
        handshake(&server, client_config(pki.ca_pem(), identity), "localhost").await.map(|(user, _)| user)
    };
    assert_eq!(user(None).await.unwrap(), None);
    let node = user(Some(&pki.node("n1").unwrap())).await.unwrap().unwrap();
    assert_eq!(node.name, "system:node:n1");
    assert_eq!(node.groups, ["system:nodes", "system:authenticated"]);
    assert_eq!(node.node(), Some("n1"));
    let credential = &node.extra["authentication.kubernetes.io/credential-id"][0];
    assert_eq!((credential.len(), &credential[..11]), (11 + 64, "X509SHA256="));
    let admin = user(Some(&pki.admin().unwrap())).await.unwrap().unwrap();
    assert_eq!(admin.groups, ["system:masters", "system:authenticated"]);

    let stranger = self::pki(&dir.path().join("theirs")).admin().unwrap();
    user(Some(&stranger)).await.expect_err("another authority's certificate");
    user(Some(&pki.serving().unwrap())).await.expect_err("a certificate for servers");
}

#[tokio::test]
async fn the_server_is_who_it_says_under_every_name_and_address() {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki(dir.path());
    let serving = Arc::new(ServingCertificate::new(&pki.serving().unwrap()).unwrap());
    let server = Arc::new(server_config(pki.ca_pem(), serving).unwrap());
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let addresses = loopback.map(|address| address.to_string());
    let names =
        ["localhost", "kubernetes", "kubernetes.default.svc.cluster.local", "10.96.0.1", "fd00:10:96::1"];
    for name in names.into_iter().chain(addresses.iter().map(String::as_str)) {
        handshake(&server, client_config(pki.ca_pem(), None), name)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["example.com", "10.96.0.2", "fd00:10:96::2"] {
        handshake(&server, client_config(pki.ca_pem(), None), name).await.expect_err(name);
    }
}

#[tokio::test]
async fn authorities_can_be_replaced_while_serving() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (pki(&dir.path().join("ours")), pki(&dir.path().join("theirs")));
    let serving = Arc::new(ServingCertificate::new(&ours.serving().unwrap()).unwrap());
    let authorities = Arc::new(Authorities::new(ours.ca_pem()).unwrap());
    let server = Arc::new(server_config_of(Arc::clone(&authorities), serving).unwrap());
    let admitted = async |identity: &Identity| {
        handshake(&server, client_config(ours.ca_pem(), Some(identity)), "localhost").await.is_ok()
    };
    let [own, other] = [&ours, &theirs].map(|pki| pki.admin().unwrap());
    assert_eq!([admitted(&own).await, admitted(&other).await], [true, false]);
    authorities.replace(&format!("{}{}", ours.ca_pem(), theirs.ca_pem())).unwrap();
    assert_eq!([admitted(&own).await, admitted(&other).await], [true, true]);
    authorities.replace(theirs.ca_pem()).unwrap();
    assert_eq!([admitted(&own).await, admitted(&other).await], [false, true]);
    assert!(authorities.replace("").is_err() && admitted(&other).await, "nobody is no authority");
}

#[tokio::test]
async fn the_certificate_can_be_replaced_while_serving() {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki(dir.path());
    let serving = Arc::new(ServingCertificate::new(&pki.serving().unwrap()).unwrap());
    let server = Arc::new(server_config(pki.ca_pem(), Arc::clone(&serving)).unwrap());
    let shown = async || handshake(&server, client_config(pki.ca_pem(), None), "localhost").await.unwrap().1;
    let first = shown().await;
    assert_eq!(shown().await, first);
    std::fs::remove_file(dir.path().join("apiserver.crt")).unwrap();
    let changed = async { while shown().await == first {} };
    tokio::select! {
        never = serving.keep_fresh(&pki) => match never {},
        changed = tokio::time::timeout(Duration::from_secs(20), changed) => changed.expect("a new certificate"),
    }
    let mixed = Identity { key_pem: pki.admin().unwrap().key_pem, ..pki.serving().unwrap() };
    assert!(matches!(serving.replace(&mixed), Err(TlsError::Unusable { .. })));
    let nonsense = Identity { certificate_pem: String::new(), key_pem: "x".into() };
    assert!(serving.replace(&nonsense).is_err());
}

#[test]
fn a_kubeconfig_holds_what_a_client_needs() {
    let dir = tempfile::tempdir().unwrap();
    let pki = pki(dir.path());
    let config =
        crate::pki::kubeconfig("dyad-test", "https://[::1]:6443", pki.ca_pem(), &pki.admin().unwrap());
    let read: serde_json::Value = serde_saphyr::from_str(&config.to_string()).unwrap();
    assert_eq!(read, config);
    assert_eq!(config["current-context"], "dyad-test");
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://[::1]:6443");
}
