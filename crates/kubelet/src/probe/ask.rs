//! One question of a probe.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::site::Site;
use super::{Target, grpc, http};
use crate::sandbox::Sandbox;

/// Asks once, the pod at `ip` unless the probe names a host; the error is the reason of the failure.
pub(crate) async fn ask(
    probe: &Probe,
    target: &Target,
    ip: Option<IpAddr>,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        return run_command(exec.command.clone().unwrap_or_default(), target, limit).await;
    }
    let question = async {
        if let Some(get) = &probe.http_get {
            let at = site(get.host.as_deref(), &get.port, target, ip).await?;
            http::get(get, at).await
        } else if let Some(tcp) = &probe.tcp_socket {
            let at = site(tcp.host.as_deref(), &tcp.port, target, ip).await?;
            at.connect().await.map(drop)
        } else if let Some(grpc) = &probe.grpc {
            let at = site(None, &IntOrString::Int(grpc.port), target, ip).await?;
            grpc::check(&at, grpc.service.as_deref().unwrap_or_default()).await
        } else {
            Err("the probe asks nothing: it needs exec, grpc, httpGet or tcpSocket".into())
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

/// Where a probe goes: to the pod, or to the host it names.
async fn site(
    host: Option<&str>,
    port: &IntOrString,
    target: &Target,
    ip: Option<IpAddr>,
) -> Result<Site, String> {
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
        Some(host) => Site::find(host, port).await,
        None => {
            let ip = ip.ok_or("the pod has no address yet")?;
            Ok(Site::new(&ip.to_string(), port, vec![ip]))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn target(ip: IpAddr, port: u16) -> Target {
        let sandbox = "/does/not/exist".into();
        Target {
            container: "c".into(),
            attempt: 0,
            ips: vec![ip],
            sandbox,
            ports: vec![("web".into(), port)],
            alive_everywhere: false,
        }
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
            let (answer, head) =
                tokio::join!(ask(&question, &target, Some(ip), Duration::from_secs(5)), serve);
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
        let (answer, ()) =
            tokio::join!(ask(&question, &target, Some(loopback), Duration::from_secs(5)), serve);
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
            (json!({"grpc": {"port": 70000}}), "70000 is not a port"),
            (json!({}), "the probe asks nothing"),
            (json!({"exec": {"command": ["true"]}}), "the sandbox has ended"),
        ] {
            let problem = ask(&probe(question.clone()), &target, Some(loopback), limit).await.unwrap_err();
            assert!(problem.starts_with(want), "{question}: {problem}");
        }
        let question = probe(json!({"tcpSocket": {"port": port}}));
        assert_eq!(ask(&question, &target, Some(loopback), limit).await, Ok(()));
        drop(server);
        let problem = ask(&question, &target, Some(loopback), limit).await.unwrap_err();
        assert!(
            problem.starts_with(&format!("dial tcp [::1]:{port}: connect: connection refused")),
            "{problem}"
        );
    }
}
