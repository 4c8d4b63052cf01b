//! Over sockets: TLS, HTTP/1.1 and HTTP/2, client certificates (J16, J60).

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bytes::Bytes;
use dyad_apiserver::Server;
use dyad_apiserver::pki::Identity;
use dyad_store::MemoryStore;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{DUAL, Identities, PATIENCE, config, identities, pki};

/// A server on loopback, and where.
async fn serve() -> (Server, Vec<SocketAddr>) {
    let listeners: Vec<TcpListener> =
        ["127.0.0.1:0", "[::1]:0"].into_iter().filter_map(|at| TcpListener::bind(at).ok()).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let server = Server::start(config(DUAL, Arc::new(MemoryStore::new()), listeners)).await.unwrap();
    (server, addresses)
}

async fn connect(to: SocketAddr, identity: Option<&Identity>, alpn: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki().ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(to).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(to.ip()), stream).await.unwrap()
}

async fn get(to: SocketAddr, identity: Option<&Identity>, path: &str, http_2: bool) -> (u16, Value) {
    let request = Request::get(format!("https://{to}{path}"))
        .header("host", to.to_string())
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = if http_2 {
        let io = TokioIo::new(connect(to, identity, b"h2").await);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let io = TokioIo::new(connect(to, identity, b"http/1.1").await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    };
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()),
    )
}

#[tokio::test]
async fn j60_clients_are_who_their_certificates_say() {
    let (server, addresses) = serve().await;
    let Identities { admin, node, .. } = identities();
    assert!(!addresses.is_empty());
    for address in addresses {
        for http_2 in [false, true] {
            let (code, list) = get(address, Some(admin), "/api/v1/namespaces", http_2).await;
            assert_eq!((code, list["kind"].as_str()), (200, Some("NamespaceList")), "{address}");
            let (code, status) = get(address, None, "/api/v1/namespaces", http_2).await;
            assert_eq!(code, 403);
            assert!(status["message"].as_str().unwrap().contains("User \"system:anonymous\" cannot list"));
            assert_eq!(get(address, None, "/livez", http_2).await, (200, "ok".into()));
            let (code, status) = get(address, Some(node), "/api/v1/secrets", http_2).await;
            assert_eq!(code, 403, "{status}");
            assert!(status["message"].as_str().unwrap().contains("system:node:n1"), "{status}");
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_watch_is_flushed_event_by_event_and_ends_cleanly_on_shutdown() {
    let (server, addresses) = serve().await;
    let admin = &identities().admin;
    let mut bodies = Vec::new();
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let stream = TokioIo::new(connect(addresses[0], Some(admin), alpn).await);
        let request = Request::get(format!("https://{}/api/v1/namespaces?watch=true", addresses[0]))
            .header("host", addresses[0].to_string())
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = if alpn == b"h2" {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        bodies.push(response.into_body());
    }
    for body in &mut bodies {
        // What is there comes at once, although the answer goes on.
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.starts_with(b"{\"type\":\"ADDED\",\"object\":{"));
    }
    let shutdown = tokio::spawn(server.shutdown());
    for mut body in bodies {
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
    }
    shutdown.await.unwrap();
}

#[tokio::test]
async fn a_flood_of_connections_that_say_nothing_leaves_room() {
    let (server, addresses) = serve().await;
    let mut silent = Vec::new();
    // More than there may be handshakes at once.
    for _ in 0..300 {
        silent.push(TcpStream::connect(addresses[0]).await.unwrap());
    }
    let (code, _) = get(addresses[0], Some(&identities().node), "/api/v1/services", true).await;
    assert_eq!(code, 200);
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut silent[0], &mut byte);
    let ended = tokio::time::timeout(PATIENCE, read).await.expect("the oldest gives way");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn malformed_http_ends_its_own_connection_only() {
    let (server, addresses) = serve().await;
    let admin = &identities().admin;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    #[rustfmt::skip]
    let rows: [(&[u8], Vec<u8>); 8] = [
        (b"h2", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        // SETTINGS of an odd length, DATA on no stream, a window of nothing, a frame of 16 MiB, headers that are none.
        (b"h2", [preface, &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat()),
        (b"h2", [preface, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 7, 1]].concat()),
        (b"h2", [preface, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()),
        (b"h2", [preface, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        (b"h2", [preface, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()),
        (b"http/1.1", b"\x00\x01\x02 nonsense\r\n\r\n".to_vec()),
        (b"http/1.1", [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 1 << 20]].concat()),
    ];
    for (index, (alpn, bytes)) in rows.into_iter().enumerate() {
        let mut stream = connect(addresses[0], Some(admin), alpn).await;
        // The server may be gone before it has read all of it.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await;
        let mut rest = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        let ended = tokio::time::timeout(PATIENCE, end).await;
        assert!(ended.is_ok(), "row {index}: the connection goes on");
        assert_eq!(get(addresses[0], Some(admin), "/livez", true).await.0, 200);
    }
    server.shutdown().await;
}
