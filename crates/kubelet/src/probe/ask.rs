//! One question of a probe.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Target;
use crate::sandbox::Sandbox;

/// Most bytes of an answer that are read; the status line is what counts.
const ANSWER_BYTES: u64 = 4096;

/// Asks once; the error is the reason of the failure.
pub(crate) async fn ask(probe: &Probe, target: &Target, limit: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        return run_command(exec.command.clone().unwrap_or_default(), target, limit).await;
    }
    let question = async {
        if let Some(http) = &probe.http_get {
            get(http, target).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let at = address(tcp.host.as_deref(), &tcp.port, target).await?;
            TcpStream::connect(at).await.map(drop).map_err(|error| format!("dial tcp {at}: {error}"))
        } else {
            Err("gRPC probes are not supported: use httpGet, tcpSocket or exec".into())
        }
    };
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn run_command(argv: Vec<String>, target: &Target, limit: Duration) -> Result<(), String> {
    let (dir, container) = (target.sandbox.clone(), target.container.clone());
    let run = move || -> Result<(), String> {
        let sandbox =
            Sandbox::adopt(&dir).map_err(|error| error.to_string())?.ok_or("the sandbox has ended")?;
        match sandbox.exec(&container, &argv, limit).map_err(|error| error.to_string())? {
            (exit, _) if exit.code == 0 => Ok(()),
            (exit, said) if said.trim().is_empty() => {
                Err(format!("command ended with exit code {}", exit.code))
            }
            (_, said) => Err(said.trim().to_owned()),
        }
    };
    tokio::task::spawn_blocking(run).await.map_err(|error| error.to_string())?
}

/// Where a probe goes.
async fn address(host: Option<&str>, port: &IntOrString, target: &Target) -> Result<SocketAddr, String> {
    let port = match port {
        IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("{number} is not a port"))?,
        IntOrString::String(name) => {
            let named = target.ports.iter().find(|(known, _)| known == name).map(|(_, port)| *port);
            named
                .or_else(|| name.parse().ok())
                .ok_or_else(|| format!("the container has no port named {name:?}"))?
        }
    };
    match host.filter(|host| !host.is_empty()) {
        None => {
            let ip = target.ip.ok_or("the pod has no address yet")?;
            Ok(SocketAddr::new(ip, port))
        }
        Some(host) => match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => Ok(SocketAddr::new(ip, port)),
            Err(_) => {
                let mut found = tokio::net::lookup_host((host, port))
                    .await
                    .map_err(|error| format!("{host}: {error}"))?;
                found.next().ok_or_else(|| format!("{host} has no address"))
            }
        },
    }
}

async fn get(http: &HTTPGetAction, target: &Target) -> Result<(), String> {
    let at = address(http.host.as_deref(), &http.port, target).await?;
    let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let is_https = http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let url = format!("{}://{at}{path}", if is_https { "https" } else { "http" });
    let answer = async {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let request = request(http, path, at);
        if is_https {
            let name = rustls_pki_types::ServerName::from(at.ip());
            exchange(super::tls::connector()?.connect(name, stream).await?, &request).await
        } else {
            exchange(stream, &request).await
        }
    };
    let answer = answer.await.map_err(|error| format!("Get {url:?}: {error}"))?;
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err(format!("Get {url:?}: the answer is not HTTP")),
    }
}

/// Sends a request and reads the beginning of the answer.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut stream = stream.take(ANSWER_BYTES);
    match stream.read_to_end(&mut answer).await {
        // The status line is what counts; how the connection ends is not.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// The request's text; the probe's own headers replace ours.
fn request(http: &HTTPGetAction, path: &str, at: SocketAddr) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut text = format!("GET {slash}{path} HTTP/1.1\r\n");
    let own = http.http_headers.as_deref().unwrap_or_default();
    let defaults = [
        ("Host", at.to_string()),
        ("User-Agent", "kube-probe/1.36".to_owned()),
        ("Accept", "*/*".to_owned()),
    ];
    for (name, value) in &defaults {
        if !own.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for header in own {
        text.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    text.push_str("Connection: close\r\n\r\n");
    text
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn target(ip: IpAddr, port: u16) -> Target {
        let sandbox = "/does/not/exist".into();
        Target { container: "c".into(), attempt: 0, ip: Some(ip), sandbox, ports: vec![("web".into(), port)] }
    }

    fn probe(value: serde_json::Value) -> Probe {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test]
    async fn b25_the_pods_primary_address_is_asked_whatever_its_family() {
        for (loopback, code, good) in
            [("127.0.0.1", 200, true), ("::1", 302, true), ("127.0.0.1", 500, false), ("::1", 404, false)]
        {
            let ip: IpAddr = loopback.parse().unwrap();
            let server = TcpListener::bind((ip, 0)).await.unwrap();
            let port = server.local_addr().unwrap().port();
            let serve = async {
                let (mut stream, _) = server.accept().await.unwrap();
                let mut head = [0; 512];
                let length = stream.read(&mut head).await.unwrap();
                stream
                    .write_all(format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                String::from_utf8_lossy(&head[..length]).into_owned()
            };
            let question = probe(
                json!({"httpGet": {"path": "/ready", "port": "web", "httpHeaders": [{"name": "host", "value": "me"}]}}),
            );
            let target = target(ip, port);
            let (answer, head) = tokio::join!(ask(&question, &target, Duration::from_secs(5)), serve);
            assert_eq!(answer.is_ok(), good, "{loopback} {code}: {answer:?}");
            assert!(head.starts_with("GET /ready HTTP/1.1\r\n") && head.contains("host: me\r\n"), "{head}");
            assert!(!head.contains("Host:"), "{head}");
        }
    }

    #[tokio::test]
    async fn https_is_asked_without_trusting_anyone() {
        let key = rcgen::generate_simple_self_signed(vec!["somebody.else".into()]).unwrap();
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let config =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![key.cert.der().clone()], der.into())
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let loopback: IpAddr = "::1".parse().unwrap();
        let server = TcpListener::bind((loopback, 0)).await.unwrap();
        let target = target(loopback, server.local_addr().unwrap().port());
        let serve = async {
            let (stream, _) = server.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let question = probe(json!({"httpGet": {"port": "web", "scheme": "HTTPS"}}));
        let (answer, ()) = tokio::join!(ask(&question, &target, Duration::from_secs(5)), serve);
        assert_eq!(answer, Ok(()));
    }

    #[tokio::test]
    async fn failures_say_why() {
        let loopback: IpAddr = "::1".parse().unwrap();
        let server = TcpListener::bind((loopback, 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let target = target(loopback, port);
        let limit = Duration::from_millis(50);
        for (question, want) in [
            (json!({"tcpSocket": {"port": "none"}}), "the container has no port named \"none\""),
            (json!({"httpGet": {"port": "web"}}), "no answer within 50ms"),
            (json!({"grpc": {"port": 1}}), "gRPC probes are not supported"),
            (json!({"exec": {"command": ["true"]}}), "the sandbox has ended"),
        ] {
            let problem = ask(&probe(question.clone()), &target, limit).await.unwrap_err();
            assert!(problem.starts_with(want), "{question}: {problem}");
        }
        let question = probe(json!({"tcpSocket": {"port": port}}));
        assert_eq!(ask(&question, &target, limit).await, Ok(()));
        drop(server);
        let problem = ask(&question, &target, limit).await.unwrap_err();
        assert!(problem.starts_with(&format!("dial tcp [::1]:{port}")), "{problem}");
    }
}
