//! `/health`, `/ready` and `/metrics` over HTTP, in both families.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

use super::handler::Current;
use super::names::Names;
use super::report;
use crate::corefile::Corefile;
use crate::metrics::Registry;
use crate::zone::Published;

/// Connections a listener has at most; further ones wait.
const CONNECTIONS: usize = 64;
/// How long a client may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon is tried again, at first, to get an address that somebody else has: perhaps it is our own that is about to go.
const FIRST_RETRY: Duration = Duration::from_millis(10);
/// How soon later.
const RETRY: Duration = Duration::from_secs(1);

/// What a path says now.
type Answer = Arc<dyn Fn() -> (StatusCode, String) + Send + Sync>;
/// Paths of an address.
type Paths = BTreeMap<&'static str, Answer>;

/// What a Corefile wants to be served.
pub(super) fn wanted(
    corefile: &Corefile,
    registry: &Arc<Registry>,
    current: &Arc<Current>,
    names: &Names,
) -> BTreeMap<SocketAddr, Paths> {
    let mut all: BTreeMap<SocketAddr, Paths> = BTreeMap::new();
    for server in &corefile.servers {
        if let Some(health) = &server.health {
            let current = current.clone();
            let answer: Answer = Arc::new(move || match current.is_ending() {
                false => (StatusCode::OK, "OK".into()),
                true => (StatusCode::SERVICE_UNAVAILABLE, "ending".into()),
            });
            all.entry(health.listen).or_default().insert("/health", answer);
        }
        if let Some(at) = server.ready {
            let (current, published) =
                (current.clone(), names.are_wanted().then(|| names.published().clone()));
            let answer: Answer = Arc::new(move || ready(&current, published.as_ref()));
            all.entry(at).or_default().insert("/ready", answer);
        }
        if let Some(at) = server.prometheus {
            let (registry, current) = (registry.clone(), current.clone());
            let answer: Answer = Arc::new(move || {
                let mut text = registry.render();
                report::render(&current.chains(), &mut text);
                (StatusCode::OK, text)
            });
            all.entry(at).or_default().insert("/metrics", answer);
        }
    }
    all
}

/// Ready once the names are all there, as long as nothing goes in circles and no end is near.
fn ready(current: &Current, published: Option<&Arc<Published>>) -> (StatusCode, String) {
    let unready = [
        (published.is_some_and(|published| !published.snapshot().is_synced()), "kubernetes"),
        (current.is_looping(), "loop"),
        (current.is_ending(), "health"),
    ];
    let names: Vec<_> = unready.iter().filter(|(is_unready, _)| *is_unready).map(|(_, name)| *name).collect();
    match names.is_empty() {
        true => (StatusCode::OK, "OK".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, names.join(",")),
    }
}

/// Listeners that run.
#[derive(Default)]
pub(super) struct Servers {
    tasks: JoinSet<()>,
    /// With what is told of new paths.
    running: BTreeMap<SocketAddr, (AbortHandle, watch::Sender<Paths>)>,
}

impl Servers {
    /// Serves this from now on, and nothing else. Whoever listens already goes on: a probe that comes now is answered.
    pub(super) fn set(&mut self, wanted: BTreeMap<SocketAddr, Paths>) {
        let mut before = std::mem::take(&mut self.running);
        for (at, paths) in wanted {
            for at in in_both_families(at) {
                let running = match before.remove(&at) {
                    Some((task, told)) if !task.is_finished() => {
                        told.send_replace(paths.clone());
                        (task, told)
                    }
                    _ => {
                        let (told, heard) = watch::channel(paths.clone());
                        (self.tasks.spawn(serve(at, heard)), told)
                    }
                };
                self.running.insert(at, running);
            }
        }
        for (task, _) in before.into_values() {
            task.abort();
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Everywhere means both families.
fn in_both_families(at: SocketAddr) -> Vec<SocketAddr> {
    match at.ip() {
        ip if ip.is_unspecified() => {
            let both = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
            both.map(|ip| SocketAddr::new(ip, at.port())).into()
        }
        _ => vec![at],
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(CONNECTIONS as u32)
}

/// Serves an address until it is dropped. One that can't be had is tried for again.
async fn serve(at: SocketAddr, paths: watch::Receiver<Paths>) {
    let (mut has_complained, mut wait) = (false, FIRST_RETRY);
    let listener = loop {
        match listen(at) {
            Ok(listener) => break listener,
            // This machine does not speak the family.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return,
            Err(error) => {
                if !std::mem::replace(&mut has_complained, true) {
                    warn!(%at, %error, "can't listen; will try again every second");
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY);
            }
        }
    };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        // Running out of descriptors passes.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let paths = paths.clone();
        connections.spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let (status, body) = match (request.method(), paths.borrow().get(request.uri().path())) {
                    (&Method::GET | &Method::HEAD, Some(answer)) => answer(),
                    (_, Some(_)) => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served\n".into()),
                    (_, None) => (StatusCode::NOT_FOUND, "404 page not found\n".into()),
                };
                std::future::ready(Ok::<_, Infallible>(response(status, body)))
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // A client that breaks off is its own affair.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
