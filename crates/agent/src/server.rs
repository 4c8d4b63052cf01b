//! A small HTTP server: answers that are known at once, on sockets of the namespace of the thread that polls it.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use http::StatusCode;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// Answers a request, by its path.
pub type Handler = Arc<dyn Fn(&str) -> Response<Full<Bytes>> + Send + Sync>;

/// Connections a server has at most; further ones wait.
const CONNECTIONS: usize = 128;
/// How long a client may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon is tried again to get an address that somebody else has.
const RETRY: Duration = Duration::from_secs(1);

/// The sockets that make a service reachable in both families: those of the unspecified address and of loopback come
/// in pairs, as people and their scrapers mean them.
pub fn in_both_families(at: SocketAddr) -> Vec<SocketAddr> {
    let pair = |v4: Ipv4Addr, v6: Ipv6Addr| {
        [IpAddr::from(v4), v6.into()].map(|ip| SocketAddr::new(ip, at.port())).to_vec()
    };
    match at.ip() {
        ip if ip.is_unspecified() => pair(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => {
            pair(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
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

/// Whether this machine has no such address, now or ever: one of a family it does not speak.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.kind() == io::ErrorKind::Unsupported
}

/// Serves `what` at an address until it is dropped. An address that can't be had is tried for again.
pub async fn serve(at: SocketAddr, what: String, handler: Handler) {
    let mut has_complained = false;
    let listener = loop {
        match listen(at) {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut has_complained, true) && !is_absent(&error) {
                    warn!(%at, %error, "can't listen for {what}; will try again every second");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    info!(%at, "{what} is served");
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
        let handler = Arc::clone(&handler);
        connections.spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let answer = match *request.method() {
                    Method::GET | Method::HEAD => handler(request.uri().path()),
                    _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served\n"),
                };
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // A client that breaks off is its own affair.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// An answer in plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body)
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, "application/json", body)
}

/// What is not there.
pub(crate) fn not_found() -> Response<Full<Bytes>> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// An answer of some type.
pub(crate) fn answer(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_everybody_or_oneself_are_in_both_families() {
        for (at, expected) in [
            ("0.0.0.0:10256", vec!["0.0.0.0:10256", "[::]:10256"]),
            ("[::]:1", vec!["0.0.0.0:1", "[::]:1"]),
            ("127.0.0.1:10249", vec!["127.0.0.1:10249", "[::1]:10249"]),
            ("[::1]:10249", vec!["127.0.0.1:10249", "[::1]:10249"]),
            ("127.0.0.2:1", vec!["127.0.0.2:1"]),
            ("[2001:db8::1]:1", vec!["[2001:db8::1]:1"]),
        ] {
            let sockets = in_both_families(at.parse().unwrap());
            assert_eq!(sockets.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{at}");
        }
    }
}
