//! Answers load balancers that ask, at a Service's `healthCheckNodePort`, whether this node has endpoints (A169).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dyad_program::HealthCheck;
use http::{Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How soon a port that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for a request on a connection.
const HEADER_MAX: Duration = Duration::from_secs(5);

type Checks = watch::Receiver<BTreeMap<u16, HealthCheck>>;

/// Serves the ports that are wanted, for as long as it is polled; each answers with what is true when it is asked.
pub(crate) async fn serve(mut checks: Checks) {
    let mut servers: BTreeMap<u16, JoinSet<()>> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = checks.borrow_and_update().keys().copied().collect();
        servers.retain(|port, _| wanted.contains(port));
        for port in wanted {
            servers.entry(port).or_insert_with(|| {
                let mut server = JoinSet::new();
                server.spawn(keep(port, checks.clone()));
                server
            });
        }
        if checks.changed().await.is_err() {
            return;
        }
    }
}

/// Serves one port, as soon as it can be had.
async fn keep(port: u16, checks: Checks) {
    let mut told = false;
    let listener = loop {
        match bind(port).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(port, %error, "can't serve a health check node port; will be tried again");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, perhaps.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let checks = checks.clone();
        connections.spawn(async move {
            let service = service_fn(move |_| {
                let answer = answer(checks.borrow().get(&port));
                async { Ok::<_, Infallible>(answer) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_MAX);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(port, %error, "a health check was broken off");
            }
        });
    }
}

/// All addresses of both families, or of IPv4 where there is no other.
async fn bind(port: u16) -> std::io::Result<TcpListener> {
    let (v6, v4) = (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into());
    TcpListener::bind([SocketAddr::new(v6, port), SocketAddr::new(v4, port)].as_slice()).await
}

fn answer(check: Option<&HealthCheck>) -> Response<String> {
    let Some(check) = check else {
        let mut gone = Response::new(String::new());
        *gone.status_mut() = StatusCode::NOT_FOUND;
        return gone;
    };
    // Endpoints of both families are the same pods, most of the time.
    let count = check.local_endpoints.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let body = json!({
        "service": {"namespace": check.service.namespace(), "name": check.service.name()},
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    });
    let mut answer = Response::new(format!("{body:#}"));
    *answer.status_mut() = if count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = answer.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", count.into());
    answer
}
